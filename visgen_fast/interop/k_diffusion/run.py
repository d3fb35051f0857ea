"""A run of one of k-diffusion's samplers: all that it needs is read before the loop, and a row is one operation.

What k-diffusion's module holds (`torch.randn_like`, `trange`, `BrownianTreeNoiseSampler`, …) is taken from there at
each run, so that whoever puts something else into that module has it here too.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ... import ops
from ..._library import has_kernels
from ...diffusion.plan import Plan
from ...reference.solve import NEXT
from .samplers import Sampler, planned

Noise = Callable[[int, Tensor], Tensor]  # of a row, for the state after it
_Z = NEXT + 7


class Run:
    """Prepared from the arguments of a call. ValueError, in words, where no table stands for them."""

    def __init__(self, peer: ModuleType, sampler: Sampler, given: dict[str, Any]) -> None:
        self.peer, self.sampler, self.given = peer, sampler, given
        x = given["x"]
        if type(x) is not Tensor or not x.is_floating_point() or not 1 <= x.dim() <= 9:
            raise ValueError("x is not a plain floating-point tensor of 1 to 9 dimensions")
        if not has_kernels(x.device):
            raise ValueError(f"there is no compiled library for {x.device.type}")
        fixed = dict(sampler.fixed)
        if "n" in given:
            self.sigmas, fixed["orders"] = _levels_of_dpm_fast(given)
        else:
            self.sigmas = given["sigmas"]
        if type(self.sigmas) is not Tensor or not self.sigmas.is_floating_point() or self.sigmas.dim() != 1:
            raise ValueError("its sigmas are not a floating-point vector")
        options = {ours: self._number(theirs) for theirs, ours in sampler.options.items()}
        self.plan = planned(sampler.solver, tuple(self.sigmas.tolist()), tuple({**fixed, **options}.items()))
        self.table = self.plan.table.clone()
        self.table[:, _Z] *= float(given.get("s_noise", 1.0))
        # In the type that k-diffusion computes levels in; those of `sigmas` come through as they are.
        levels = [level.ratio for level in self.plan.levels]
        self.levels = torch.tensor(levels, dtype=self.sigmas.dtype, device=self.sigmas.device)

    def _number(self, name: str) -> Any:
        """An option as the solver takes it: bounds on σ are compared in the type of `sigmas`."""
        value = self.given[name]
        if isinstance(value, (str, int)):
            return value
        return torch.as_tensor(value, dtype=self.sigmas.dtype if name in ("s_tmin", "s_tmax") else torch.float64).item()

    def __call__(self) -> Tensor:
        given, steps = self.given, self.plan.steps
        if "n" not in given:
            bar = self.peer.trange(steps, disable=given["disable"])
            return self._loop(given["model"], bar, given["callback"])
        with self.peer.tqdm(total=given["n"], disable=given["disable"]) as bar:  # counts calls, not steps

            def counted(*arguments: Any, **options: Any) -> Any:
                denoised = given["model"](*arguments, **options)
                bar.update()
                return denoised

            return self._loop(counted, range(steps), self._callback_of_dpm_fast())

    def _loop(self, model: Callable[..., Tensor], bar: Any, callback: Callable[[dict[str, Any]], Any] | None) -> Tensor:
        x, extra = self.given["x"], self.given["extra_args"] or {}
        told = self.levels.to(x)[:, None].repeat(1, len(x)).unbind()
        sigmas, hats, table = self.sigmas.unbind(), self.levels.unbind(), self.table.to(x.device)
        x, draws, noise = self._noise(x)
        rows = _rows_of_steps(self.plan)
        slots: tuple[Tensor, ...] = ()
        for i in bar:
            for row in rows[i]:
                denoised = model(x, told[row], **extra)
                if callback is not None and row == rows[i][0]:
                    callback({"x": x, "i": i, "sigma": sigmas[i], "sigma_hat": hats[row], "denoised": denoised})
                x = x.to(self._type(x, denoised, len(rows[i])))
                slots = slots or tuple(torch.empty_like(x) for _ in range(self.plan.slots))
                z = noise(row, x).expand_as(x) if draws[row] else None
                # What a callback or the model has seen stays what it was.
                after = torch.empty_like(x, dtype=x.dtype if z is None else torch.promote_types(x.dtype, z.dtype))
                x = ops.solver_step_(x, denoised.expand_as(x), table, row, slots=slots, noise=z, out=after)
        return x

    def _type(self, x: Tensor, denoised: Tensor, calls: int) -> torch.dtype:
        """k-diffusion's type of the state after a step of so many calls."""
        both = torch.promote_types(x.dtype, denoised.dtype)
        divided = self.sampler.slopes == "all" or (self.sampler.slopes == "one call" and calls == 1)
        return torch.promote_types(both, self.sigmas.dtype) if divided else both

    def _noise(self, x: Tensor) -> tuple[Tensor, list[bool], Noise]:
        """The state to begin with, the rows after which noise is drawn, and what draws it.

        k-diffusion's draws in the same order, so that seeds give the same noise; but none in a run that adds none.
        """
        adds, steps = (self.table[:, _Z] != 0).tolist(), self.plan.step_of_row
        ends = [step != following for step, following in itertools.pairwise((*steps, None))]
        if self.sampler.churns:
            below, start = self.plan.ends[0].sigma, self.plan.levels[0].sigma
            raised = math.sqrt(start**2 - below**2) * float(self.given["s_noise"])
            if raised or any(adds):
                noise = self.peer.torch.randn_like(x)
                x = torch.add(x, noise, alpha=raised) if raised else x
                adds = [*ends[:-1], False]
            return x, adds, lambda row, x: self.peer.torch.randn_like(x)
        if not any(adds):
            return x, adds, _none
        return x, ends if "n" in self.given else adds, self._sampler_of_noise(x)

    def _sampler_of_noise(self, x: Tensor) -> Noise:
        between = _between_middles(self.sigmas, self.given["r"]) if "r" in self.given else self._between_levels()
        sampler = self.given["noise_sampler"]
        if sampler is None and self.sampler.brownian:
            host = self.sigmas.cpu()
            sampler = self.peer.BrownianTreeNoiseSampler(x, host[host > 0].min(), host.max())
            # A Brownian path reads its times: here, before the loop.
            numbers = torch.stack([sigma for pair in between for sigma in pair]).cpu().unbind()
            between = list(zip(numbers[::2], numbers[1::2], strict=True))
        elif sampler is None:
            sampler = self.peer.default_noise_sampler(x)
        return lambda row, _: sampler(*between[row])

    def _between_levels(self) -> list[tuple[Tensor, Tensor]]:
        """What a noise sampler is told with each row: where the step begins and ends."""
        sigmas = self.sigmas.unbind()
        return [(sigmas[step], sigmas[step + 1]) for step in self.plan.step_of_row]

    def _callback_of_dpm_fast(self) -> Callable[[dict[str, Any]], Any] | None:
        callback, times = self.given["callback"], self.sigmas.log().neg().unbind()
        if callback is None:
            return None
        return lambda info: callback({**info, "t": times[info["i"]], "t_up": times[info["i"]]})


def _none(row: int, x: Tensor) -> Tensor:
    raise AssertionError(f"row {row} adds no noise")


def _rows_of_steps(plan: Plan) -> list[list[int]]:
    steps = plan.step_of_row
    return [list(rows) for _, rows in itertools.groupby(range(plan.calls), key=steps.__getitem__)]


def _between_middles(sigmas: Tensor, share: float) -> list[tuple[Tensor, Tensor]]:
    """What `sample_dpmpp_sde` tells its noise sampler in its rows: from where a step begins to its middle and its end.

    In the operations that it uses itself: a Brownian path is rough, and the last bit of a level changes its noise.
    """
    times, pairs = [sigma.log().neg() for sigma in sigmas.unbind()], []
    for time, following in itertools.pairwise(times):
        middle = time + (following - time) * share
        start = time.neg().exp()
        pairs += [(start, middle.neg().exp()), (start, following.neg().exp())]
    return pairs


def _levels_of_dpm_fast(given: dict[str, Any]) -> tuple[Tensor, tuple[int, ...]]:
    """The levels of `sample_dpm_fast`, uniform in ln σ, and the order of each step: n calls in all."""
    calls, device = given["n"], given["x"].device
    if not isinstance(calls, int) or calls < 1:
        raise ValueError(f"n is not a positive int: {calls}")
    first, last = (-torch.as_tensor(given[name]).log() for name in ("sigma_max", "sigma_min"))
    steps = calls // 3 + 1
    orders = [3] * (steps - 2) + [2, 1] if calls % 3 == 0 else [3] * (steps - 1) + [calls % 3]
    return torch.linspace(first, last, steps + 1, device=device).neg().exp(), tuple(orders)
