"""DDPM, DDIM, LCM and TCD, which look the signal's share up by the timestep."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from diffusers.schedulers.scheduling_ddpm import DDPMSchedulerOutput
from diffusers.schedulers.scheduling_lcm import LCMSchedulerOutput
from diffusers.schedulers.scheduling_tcd import TCDSchedulerOutput
from torch import Tensor

from .stepping import NO_TABLE, NOT_SET, Stepping, given_noise, limits, step_, unfit
from .tables import Table
from .timestep_rows import DATA_STD, consistency, ddim, ddpm, trajectory_consistency

_ELSEWHERE = "the timestep is not that of its place in timesteps"


class DDPMScheduler(Stepping, diffusers.DDPMScheduler):
    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> DDPMSchedulerOutput | tuple:
        config, variance = self.config, None
        output = model_output
        learned = self.variance_type == "learned_range"
        if learned and model_output.shape[1] == 2 * sample.shape[1]:
            output, variance = model_output.split(sample.shape[1], 1)
        reason, table, row = unfit(output, sample) or (learned and variance is None and NO_TABLE), None, None
        if not reason and self.variance_type == config.variance_type:
            key = (config.prediction_type, self.variance_type, clamp_of(config), self._host("alphas_cumprod"))
            table = self._table(ddpm, *key, self._host("timesteps"))
            row, reason = row_of(self, table, timestep)
        if reason or table is None or row is None:
            options: dict[str, Any] = {"generator": generator, "return_dict": return_dict}
            return self._own_step(reason or NO_TABLE, model_output, timestep, sample, **options)
        options = {"variance": variance}
        if self._host("timesteps")[row] > 0:
            options |= self._noise(output, output.dtype, generator)
        if config.thresholding:
            options["limit"] = limits(config, sample, output, table, row)
        following, denoised = both(config, sample, output, table, row, **options)
        if not return_dict:
            return following, denoised
        return DDPMSchedulerOutput(prev_sample=following, pred_original_sample=denoised)


class DDIMScheduler(Stepping, diffusers.DDIMScheduler):
    def step(
        self,
        model_output: Tensor,
        timestep: int,
        sample: Tensor,
        eta: float = 0.0,
        use_clipped_model_output: bool = False,
        generator: torch.Generator | None = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
    ) -> DDIMSchedulerOutput | tuple:
        config = self.config
        reason, table, row = unfit(model_output, sample), None, None
        if self.num_inference_steps is None or (eta > 0 and variance_noise is not None and generator is not None):
            reason = "its arguments are refused"
        if not reason:
            table = self._table(
                *(ddim, config.prediction_type, float(eta), bool(use_clipped_model_output), clamp_of(config)),
                *(self._host("alphas_cumprod"), self._host("final_alpha_cumprod")[0], self._host("timesteps")),
                config.num_train_timesteps // self.num_inference_steps,
            )
            row, reason = row_of(self, table, timestep)
        if reason or table is None or row is None:
            options: dict[str, Any] = {"eta": eta, "use_clipped_model_output": use_clipped_model_output}
            options |= {"generator": generator, "variance_noise": variance_noise, "return_dict": return_dict}
            return self._own_step(reason or NO_TABLE, model_output, timestep, sample, **options)
        options = {}
        if eta > 0:
            if variance_noise is None:
                options = self._noise(model_output, model_output.dtype, generator)
            else:
                options = given_noise(variance_noise, model_output)
        if config.thresholding:
            options["limit"] = limits(config, sample, model_output, table, row)
        following, denoised = both(config, sample, model_output, table, row, **options)
        if not return_dict:
            return following, denoised
        return DDIMSchedulerOutput(prev_sample=following, pred_original_sample=denoised)


class LCMScheduler(Stepping, diffusers.LCMScheduler):
    def step(
        self,
        model_output: Tensor,
        timestep: int,
        sample: Tensor,
        generator: torch.Generator | None = None,
        return_dict: bool = True,
    ) -> LCMSchedulerOutput | tuple:
        config = self.config
        reason = unfit(model_output, sample)
        key = (config.prediction_type, clamp_of(config), config.timestep_scaling, self._host("alphas_cumprod"))
        table = self._table(consistency, *key, self.num_inference_steps, self._host("timesteps"))
        reason = reason or placed(self, table, timestep)
        if reason or table is None:
            options: dict[str, Any] = {"generator": generator, "return_dict": return_dict}
            return self._own_step(reason, model_output, timestep, sample, **options)
        row, dtype = self._step_index, torch.result_type(sample, model_output)
        options = {}
        if row != self.num_inference_steps - 1:
            options = self._noise(model_output, dtype, generator)
        if config.thresholding:
            options["limit"] = limits(config, sample, model_output, table, row)
        denoised = torch.empty_like(sample, dtype=dtype)
        following = step_(sample, (model_output,), table, row, dtype, (denoised,), **options)
        self._step_index += 1
        self.sigma_data = DATA_STD
        if not return_dict:
            return following, denoised
        return LCMSchedulerOutput(prev_sample=following, denoised=denoised)


class TCDScheduler(Stepping, diffusers.TCDScheduler):
    def step(
        self,
        model_output: Tensor,
        timestep: int,
        sample: Tensor,
        eta: float = 0.3,
        generator: torch.Generator | None = None,
        return_dict: bool = True,
    ) -> TCDSchedulerOutput | tuple:
        table, reason = None, unfit(model_output, sample) or ("" if 0 <= eta <= 1 else "eta lies outside [0, 1]")
        if not reason:
            key = (self.config.prediction_type, float(eta), self._host("alphas_cumprod"), self.num_inference_steps)
            table = self._table(trajectory_consistency, *key, self._host("timesteps"))
            reason = placed(self, table, timestep)
        if reason or table is None:
            options: dict[str, Any] = {"eta": eta, "generator": generator, "return_dict": return_dict}
            return self._own_step(reason, model_output, timestep, sample, **options)
        row, dtype = self._step_index, torch.result_type(sample, model_output)
        options = {}
        if eta > 0 and row != self.num_inference_steps - 1:
            options = self._noise(model_output, dtype, generator)
        noised = torch.empty_like(sample, dtype=dtype)
        following = step_(sample, (model_output,), table, row, dtype, (noised,), **options)
        self._step_index += 1
        if not return_dict:
            return following, noised
        return TCDSchedulerOutput(prev_sample=following, pred_noised_sample=noised)


def clamp_of(config: Any) -> float:
    return float(config.clip_sample_range) if config.clip_sample and not config.thresholding else 0.0


def row_of(scheduler: Any, table: Table | None, timestep: Any) -> tuple[int | None, str]:
    """The row of a timestep; or why there is none."""
    if table is None or (isinstance(timestep, Tensor) and timestep.numel() != 1):
        return None, NO_TABLE
    row = table.row_of.get(scheduler._time(timestep))
    return row, _ELSEWHERE if row is None else ""


def placed(scheduler: Any, table: Table | None, timestep: Any) -> str:
    """Finds the step; why there is none, or nothing."""
    if scheduler.num_inference_steps is None:
        return NOT_SET
    if table is None or (isinstance(timestep, Tensor) and timestep.numel() != 1):
        return NO_TABLE
    if scheduler._step_index is None:
        scheduler._init_step_index(timestep)
    step, every = scheduler._step_index, scheduler._host("timesteps")
    return "" if 0 <= step < len(every) and scheduler._time(timestep) == every[step] else _ELSEWHERE


def both(config: Any, sample: Tensor, output: Tensor, table: Table, row: int, **options: Any) -> tuple[Tensor, Tensor]:
    """The next state and x̂, in diffusers' dtypes."""
    dtype = torch.result_type(sample, output)
    given = config.prediction_type == "sample"
    denoised = torch.empty_like(sample, dtype=output.dtype if given else dtype)
    return step_(sample, (output,), table, row, dtype, (denoised,), **options), denoised
