"""DPM-Solver and UniPC, which remember earlier outputs."""

from __future__ import annotations

import functools
from typing import Any

import diffusers
import torch
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from torch import Tensor

from .multistep_rows import dpm_solver, unipc
from .stepping import NO_TABLE, NOT_SET, Stepping, begun, given_noise, limits, step_, unfit


class DPMSolverMultistepScheduler(Stepping, diffusers.DPMSolverMultistepScheduler):
    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        generator: torch.Generator | None = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple:
        config, prediction = self.config, self.config.prediction_type
        output = model_output
        if prediction == "epsilon" and config.variance_type in ("learned", "learned_range"):
            output = model_output[:, :3]
        table = self._table(
            *(dpm_solver, config.algorithm_type, config.solver_type, config.solver_order, prediction),
            *(config.use_flow_sigmas, config.thresholding, self._host("sigmas")),
        )
        reason = (table is None and NO_TABLE) or (self.num_inference_steps is None and NOT_SET) or begun(self, timestep)
        if not reason:
            order = self._order()
            history = tuple(self.model_outputs[-1:-order:-1])
            reason = unfit(output, sample, history)
        if reason or table is None:
            options: dict[str, Any] = {"generator": generator, "variance_noise": variance_noise}
            return self._own_step(reason, model_output, timestep, sample, return_dict=return_dict, **options)
        row = self._step_index * config.solver_order + order - 1
        options = {}
        if config.algorithm_type.startswith("sde-"):
            drawn = variance_noise is None
            options = self._noise(output, torch.float32, generator) if drawn else given_noise(variance_noise, output)
        if config.thresholding:
            options["limit"] = limits(config, sample, output, table, row)
        kept = torch.empty_like(sample, dtype=self._kept_dtype(sample, output))
        following = step_(sample, (output,), table, row, kept.dtype, (kept, *history), **options)
        self.model_outputs[:] = [*self.model_outputs[1:], kept]
        if self.lower_order_nums < config.solver_order:
            self.lower_order_nums += 1
        self._step_index += 1
        return SchedulerOutput(prev_sample=following) if return_dict else (following,)

    def _order(self) -> int:
        config, steps, step = self.config, len(self.timesteps), self._step_index
        few = config.lower_order_final and steps < 15
        if step == steps - 1 and (config.euler_at_final or few or config.final_sigmas_type == "zero"):
            return 1
        most = min(config.solver_order, 2) if step == steps - 2 and few else config.solver_order
        return min(most, max(self.lower_order_nums, 0) + 1)

    def _kept_dtype(self, sample: Tensor, output: Tensor) -> torch.dtype:
        if output.dtype is sample.dtype:
            return output.dtype
        config = self.config
        by_noise = config.algorithm_type in ("dpmsolver", "sde-dpmsolver")
        if config.prediction_type == ("epsilon" if by_noise else "sample") and not (by_noise and config.thresholding):
            return output.dtype
        return torch.result_type(sample, output)


class UniPCMultistepScheduler(Stepping, diffusers.UniPCMultistepScheduler):
    def step(
        self, model_output: Tensor, timestep: int | Tensor, sample: Tensor, return_dict: bool = True
    ) -> SchedulerOutput | tuple:
        config, most = self.config, self.config.solver_order
        table = self._table(
            *(unipc, config.solver_type, most, config.prediction_type, config.use_flow_sigmas),
            *(self.predict_x0, self._host("sigmas")),
        )
        reason = ((table is None or self.solver_p) and NO_TABLE) or (self.num_inference_steps is None and NOT_SET)
        reason = reason or begun(self, timestep)
        if not reason:
            corrector, predictor = self._orders()
            history = tuple(self.model_outputs[-1 : -max(corrector, predictor - 1) - 1 : -1])
            kept = (*history, self.last_sample) if corrector else history
            reason = unfit(model_output, sample, kept) or ("the steps are over" if predictor < 1 else "")
        if reason or table is None:
            return self._own_step(reason, model_output, timestep, sample, return_dict=return_dict)
        row = (self._step_index * (most + 1) + corrector) * most + predictor - 1
        outputs: tuple[Tensor, ...] = (model_output,)
        options: dict[str, Any] = {}
        if len(history) == 3:  # one more than there are slots for
            outputs, options = (model_output, history[2]), {"weights": _of_the_first(sample.device)}
        if config.thresholding and self.predict_x0:
            options["limit"] = limits(config, sample, outputs, table, row, options.get("weights"))
        dtype = model_output.dtype
        if dtype is not sample.dtype and config.prediction_type != ("sample" if self.predict_x0 else "epsilon"):
            dtype = torch.result_type(sample, model_output)
        converted, state = torch.empty_like(sample, dtype=dtype), sample
        slots = (converted, *history[:2])
        if corrector:
            state = torch.empty_like(sample, dtype=self.last_sample.dtype)
            slots, options["noise"] = (*slots, state), self.last_sample
        following = step_(sample, outputs, table, row, state.dtype, slots, **options)
        self.model_outputs[:] = [*self.model_outputs[1:], converted]
        self.timestep_list[:] = [*self.timestep_list[1:], timestep]
        self.this_order, self.last_sample = predictor, state
        if self.lower_order_nums < most:
            self.lower_order_nums += 1
        self._step_index += 1
        return SchedulerOutput(prev_sample=following) if return_dict else (following,)

    def _orders(self) -> tuple[int, int]:
        """Of the corrector, 0 where it does not run, and of the predictor."""
        step, most = self._step_index, self.config.solver_order
        corrects = step > 0 and step - 1 not in self.disable_corrector and self.last_sample is not None
        left = len(self.timesteps) - step if self.config.lower_order_final else most
        return self.this_order if corrects else 0, min(most, left, self.lower_order_nums + 1)


@functools.cache
def _of_the_first(device: torch.device) -> Tensor:
    """The weights of two outputs of which the first is the network's."""
    return torch.tensor([[[1.0, 0.0]]], dtype=torch.float64, device=device)
