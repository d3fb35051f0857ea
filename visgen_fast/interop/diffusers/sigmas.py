"""Euler's method and Heun's, by `sigmas`."""

from __future__ import annotations

import logging
import math
from typing import Any

import diffusers
import torch
from diffusers.schedulers.scheduling_euler_ancestral_discrete import EulerAncestralDiscreteSchedulerOutput
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteSchedulerOutput
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteSchedulerOutput
from diffusers.schedulers.scheduling_heun_discrete import HeunDiscreteSchedulerOutput
from torch import Tensor

from ... import ops
from .sigma_rows import churn_of, euler, euler_ancestral, flow_euler, heun
from .stepping import NO_STEP, NO_TABLE, Stepping, begun, step_, unfit


class EulerDiscreteScheduler(Stepping, diffusers.EulerDiscreteScheduler):
    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = float("inf"),
        s_noise: float = 1.0,
        generator: torch.Generator | None = None,
        return_dict: bool = True,
    ) -> EulerDiscreteSchedulerOutput | tuple:
        prediction, sigmas = self.config.prediction_type, self._host("sigmas")
        table = self._table(euler, prediction, (s_churn, s_tmin, s_tmax), sigmas)
        reason = unfit(model_output, sample) or _not_a_time(timestep) or (table is None and NO_TABLE)
        reason = reason or begun(self, timestep)
        if reason or table is None:
            options: dict[str, Any] = {"s_churn": s_churn, "s_tmin": s_tmin, "s_tmax": s_tmax, "s_noise": s_noise}
            options |= {"generator": generator, "return_dict": return_dict}
            return self._own_step(reason, model_output, timestep, sample, **options)
        _warn_of_scale(self)
        sigma = sigmas[self._step_index]
        raised = 1 + churn_of(s_churn, s_tmin, s_tmax, sigma, len(sigmas) - 1)
        if raised > 1:
            level = s_noise * sigma * math.sqrt(raised**2 - 1)
            sample = torch.add(sample.to(_computed(sample)), self._drawn(model_output, generator), alpha=level)
        denoised = _like(sample, model_output, prediction)
        row, dtype = self._step_index, model_output.dtype
        following = step_(sample, (model_output,), table, row, dtype, (denoised,))
        self._step_index += 1
        if not return_dict:
            return following, denoised
        return EulerDiscreteSchedulerOutput(prev_sample=following, pred_original_sample=denoised)

    def _drawn(self, output: Tensor, generator: Any) -> Tensor:
        noise = self._noise(output, output.dtype, generator)
        return noise["noise"] if "noise" in noise else ops.gaussian(noise["seeds"], output.shape[1:])


class EulerAncestralDiscreteScheduler(Stepping, diffusers.EulerAncestralDiscreteScheduler):
    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: torch.Generator | None = None,
        return_dict: bool = True,
    ) -> EulerAncestralDiscreteSchedulerOutput | tuple:
        prediction = self.config.prediction_type
        table = self._table(euler_ancestral, prediction, self._host("sigmas"))
        reason = unfit(model_output, sample) or _not_a_time(timestep) or (table is None and NO_TABLE)
        reason = reason or begun(self, timestep)
        if reason or table is None:
            options: dict[str, Any] = {"generator": generator, "return_dict": return_dict}
            return self._own_step(reason, model_output, timestep, sample, **options)
        _warn_of_scale(self)
        noise = self._noise(model_output, model_output.dtype, generator)
        denoised = _like(sample, model_output, prediction)
        row, dtype = self._step_index, model_output.dtype
        following = step_(sample, (model_output,), table, row, dtype, (denoised,), **noise)
        self._step_index += 1
        if not return_dict:
            return following, denoised
        return EulerAncestralDiscreteSchedulerOutput(prev_sample=following, pred_original_sample=denoised)


class HeunDiscreteScheduler(Stepping, diffusers.HeunDiscreteScheduler):
    _repeats_times = True

    def step(
        self, model_output: Tensor, timestep: float | Tensor, sample: Tensor, return_dict: bool = True
    ) -> HeunDiscreteSchedulerOutput | tuple:
        config, first = self.config, self.dt is None
        clamp = float(config.clip_sample_range) if config.clip_sample else 0.0
        table = self._table(heun, config.prediction_type, clamp, self._host("sigmas"))
        kept = () if first else (self.prev_derivative, self.sample)
        reason = unfit(model_output, sample, kept) or (table is None and NO_TABLE) or begun(self, timestep)
        if reason or table is None:
            return self._own_step(reason, model_output, timestep, sample, return_dict=return_dict)
        step, dtype = self._step_index, torch.result_type(sample, model_output)
        given = config.prediction_type == "sample"
        denoised = torch.empty_like(sample, dtype=model_output.dtype if given else dtype)
        slope = torch.empty_like(sample, dtype=dtype) if first else self.prev_derivative
        slots = (denoised, slope) if first else (denoised, slope, self.sample)
        following = step_(sample, (model_output,), table, 2 * step + (not first), dtype, slots)
        self.prev_derivative, self.dt, self.sample = None, None, None
        if first:
            self.prev_derivative, self.dt, self.sample = slope, self.sigmas[step + 1] - self.sigmas[step], sample
        self._step_index += 1
        if not return_dict:
            return following, denoised
        return HeunDiscreteSchedulerOutput(prev_sample=following, pred_original_sample=denoised)


class FlowMatchEulerDiscreteScheduler(Stepping, diffusers.FlowMatchEulerDiscreteScheduler):
    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = float("inf"),
        s_noise: float = 1.0,
        generator: torch.Generator | None = None,
        per_token_timesteps: Tensor | None = None,
        return_dict: bool = True,
    ) -> FlowMatchEulerDiscreteSchedulerOutput | tuple:
        stochastic = bool(self.config.stochastic_sampling)
        reason = "a step for each token" if per_token_timesteps is not None else ""
        reason = reason or unfit(model_output, sample) or _not_a_time(timestep) or begun(self, timestep)
        if reason:
            options: dict[str, Any] = {"s_churn": s_churn, "s_tmin": s_tmin, "s_tmax": s_tmax, "s_noise": s_noise}
            options |= {"per_token_timesteps": per_token_timesteps, "return_dict": return_dict}
            return self._own_step(reason, model_output, timestep, sample, generator=generator, **options)
        sigmas, step = self._host("sigmas"), self._step_index
        if not stochastic and sample.dtype == model_output.dtype == _computed(sample):
            change = sigmas[step + 1] - sigmas[step]
            if not math.isfinite(change):
                raise ValueError(NO_STEP)
            following: Any = torch.add(sample, model_output, alpha=change)  # one pass by itself
        else:
            table = flow_euler(stochastic, sigmas)
            noise = self._noise(sample, _computed(sample), generator) if stochastic else {}
            following = step_(sample, (model_output,), table, step, model_output.dtype, (), **noise)
        self._step_index += 1
        return FlowMatchEulerDiscreteSchedulerOutput(prev_sample=following) if return_dict else (following,)


def _not_a_time(timestep: Any) -> str:
    """diffusers refuses whole numbers, which are rather indices than times."""
    whole = isinstance(timestep, int) or (isinstance(timestep, Tensor) and not timestep.is_floating_point())
    return "the timestep is a whole number" if whole else ""


def _warn_of_scale(scheduler: Any) -> None:
    if not scheduler.is_scale_input_called:
        logging.getLogger(type(scheduler).__module__).warning("scale_model_input must be called before step")


def _computed(sample: Tensor) -> torch.dtype:
    return torch.promote_types(sample.dtype, torch.float32)


def _like(sample: Tensor, output: Tensor, prediction: str) -> Tensor:
    """Memory for x̂, in diffusers' dtype."""
    given = prediction in ("sample", "original_sample")
    dtype = output.dtype if given else torch.promote_types(output.dtype, torch.float32)
    return torch.empty_like(sample, dtype=dtype)
