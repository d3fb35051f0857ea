"""What our schedulers share: when a table may stand for a step, the table itself, noise, and diffusers' own step.

Our classes are diffusers' in all but `step`. Nothing about a run is kept but in diffusers' own attributes, which
pipelines rewrite in the middle of a loop; tables are made from those and made again where they changed.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor
from torch.autograd import forward_ad

from ... import ops
from ..._library import has_kernels
from .._own_code import say_once
from .tables import Table

_CACHES = ("_visgen_host", "_visgen_table")
_step = torch.ops.visgen_fast.solver_step_.default


class Stepping:
    """The base beside one of diffusers' classes, whose name, state, files and signatures a subclass keeps."""

    visgen_noise = "torch"  # or "visgen": from seeds, the same whatever the batch, device and number of threads
    _stock: Any  # diffusers' class
    # diffusers' own, as far as steps read or set it.
    config: Any
    timesteps: Any
    sigmas: Any
    num_inference_steps: Any
    model_outputs: Any
    timestep_list: Any
    last_sample: Any
    solver_p: Any
    dt: Any
    prev_derivative: Any
    sample: Any
    this_order: Any
    lower_order_nums: Any
    disable_corrector: Any
    predict_x0: Any
    variance_type: Any
    _begin_index: Any
    _step_index: Any
    _repeats_times = False  # a time that stands twice among the timesteps means the second, for a start inside a step

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if hasattr(cls, "_stock"):
            return  # a user's own subclass
        cls._stock = stock = cls.__mro__[2]
        cls.__module__, cls.__qualname__, cls.__doc__ = stock.__module__, stock.__qualname__, stock.__doc__
        cls.set_timesteps = _with_host_copies(stock.set_timesteps)  # type: ignore[attr-defined]
        for name in ("add_noise", "get_velocity"):
            if hasattr(stock, name):
                setattr(cls, name, _moving_shares(stock, name))

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """For pickle and copies: pickle finds classes by their names, and ours has diffusers'."""
        if "_stock" not in vars(type(self)):
            return super().__reduce_ex__(protocol)  # type: ignore[return-value]
        state = {name: value for name, value in vars(self).items() if name not in _CACHES}
        return _rebuilt, (type(self).__name__,), state

    def _own_step(self, reason: str, *arguments: Any, **options: Any) -> Any:
        """diffusers' own step; says why, once."""
        say_once(f"{type(self).__name__}.step", "diffusers", reason)
        return self._stock.step(self, *arguments, **options)

    def _init_step_index(self, timestep: Any) -> None:
        place = self._place(timestep) if self._begin_index is None else None
        if place is None:
            self._stock._init_step_index(self, timestep)
            return
        if self._repeats_times:
            host = self._host("timesteps")
            place = [k for k, time in enumerate(host) if time == host[place]][:2][-1]
        self._step_index = place

    def _place(self, timestep: Any) -> int | None:
        """Which of `timesteps` this is, for a view of it: known from its address, without reading the device."""
        every = self.timesteps
        if not isinstance(timestep, Tensor) or timestep.dim() or timestep.dtype != every.dtype:
            return None
        if timestep.device != every.device or not every.is_contiguous():
            return None
        place, between = divmod(timestep.data_ptr() - every.data_ptr(), every.element_size())
        return place if between == 0 and 0 <= place < len(every) else None

    def _time(self, timestep: Any) -> int | float:
        """The timestep as a number, without reading the device where it is one of `timesteps`."""
        if not isinstance(timestep, Tensor):
            return timestep
        place = self._place(timestep)
        return timestep.item() if place is None else self._host("timesteps")[place]

    def _host(self, name: str) -> tuple[Any, ...]:
        """The numbers in a tensor of the state; the same tuple as long as nobody has rewritten them."""
        tensor = getattr(self, name)
        copies = self.__dict__.setdefault("_visgen_host", {})
        known = copies.get(name)
        if known is not None and known[0] is tensor and (known[1] is None or known[1] == tensor._version):
            return known[2]
        if not isinstance(tensor, Tensor):
            return tuple(map(float, tensor))
        numbers = tuple(tensor.reshape(-1).tolist())
        copies[name] = (tensor, _version(tensor), numbers)
        return numbers

    def _table(self, make: Callable[..., Table | None], *key: Any) -> Table | None:
        """What `make` makes of the key, kept as long as the key stays what it is."""
        known = self.__dict__.get("_visgen_table")
        if known is None or known[0] is not make or known[1] != key:
            known = self._visgen_table = (make, key, make(*key))
        return known[2]

    def _noise(self, like: Tensor, dtype: torch.dtype, generator: Any) -> dict[str, Any]:
        """Noise for `ops.solver_step_`: diffusers' draw, or seeds, drawn likewise."""
        if self.visgen_noise == "torch":
            return {"noise": randn_tensor(like.shape, generator=generator, device=like.device, dtype=dtype)}
        if not isinstance(generator, list):
            return {"seeds": ops.draw_seeds(len(like), device=like.device, generator=generator)}
        seeds = [ops.draw_seeds(len(like) // len(generator), device=like.device, generator=one) for one in generator]
        return {"seeds": torch.cat(seeds)}


def unfit(output: Any, sample: Any, kept: tuple[Any, ...] = ()) -> str:
    """Why no table can take this step, with what earlier ones `kept`; or nothing."""
    if type(output) is not Tensor or type(sample) is not Tensor:
        return "the sample and the output must be plain tensors"
    if torch.is_grad_enabled() and torch._C._any_requires_grad(output, sample, *kept):
        return "a gradient is asked for, which our step does not have"
    shape = sample.shape
    if output.shape != shape or not 1 <= len(shape) <= 9:
        return "the sample and the output differ in shape"
    if not (output.is_floating_point() and sample.is_floating_point()):
        return "the sample and the output must be floating-point"
    for one in kept:
        if type(one) is not Tensor or one.shape != shape:
            return "what it remembers was rewritten"
    if forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active() or torch.compiler.is_compiling():
        return "it is transformed or compiled"
    if not has_kernels(sample.device):
        return f"there is no compiled library for {sample.device.type}"
    return ""


NOT_SET = "set_timesteps was not called"
NO_TABLE = "no table stands for its settings"

NO_STEP = (
    "there is no finite step: the scheduler's levels are NaN or increase, or no signal is left at this one and "
    "prediction_type must be 'sample', 'v_prediction' or 'flow_prediction'"
)


def begun(scheduler: Any, timestep: Any) -> str:
    """Finds the step; why there is none, or nothing."""
    if scheduler._step_index is None:
        scheduler._init_step_index(timestep)
    return "" if 0 <= scheduler._step_index < len(scheduler.sigmas) - 1 else "the steps are over"


def given_noise(noise: Any, output: Tensor) -> dict[str, Any]:
    """Noise from the caller, for `step_`; diffusers lets it be broadcast."""
    return {"noise": noise.to(output.device).expand(output.shape)}


def limits(config: Any, sample: Tensor, output: Any, table: Table, row: int, weights: Tensor | None = None) -> Tensor:
    """[B], what dynamic thresholding holds each denoised image within."""
    quantile = ops.denoised_quantile(
        sample, output, table.on(sample.device), row, config.dynamic_thresholding_ratio, weights
    )
    return quantile.clamp(min=1, max=config.sample_max_value)


def step_(
    sample: Tensor,
    outputs: tuple[Tensor, ...],
    table: Table,
    row: int,
    dtype: torch.dtype,
    slots: tuple[Tensor, ...],
    *,
    weights: Tensor | None = None,
    noise: Tensor | None = None,
    seeds: Tensor | None = None,
    variance: Tensor | None = None,
    limit: Tensor | None = None,
) -> Tensor:
    """The next state, in memory of its own. ValueError where the noise levels leave no finite step.

    The kernel is called as `ops.solver_step_` calls it, less what `unfit` has seen to and what no memory of ours needs.
    """
    if not table.finite[row]:
        raise ValueError(NO_STEP)
    out, rows = torch.empty_like(sample, dtype=dtype), table.rows if sample.is_cpu else table.on(sample.device)
    output, other = outputs if len(outputs) == 2 else (outputs[0], None)
    four = (*slots, None, None, None, None)[:4]
    _step(sample, output, other, None, rows, None, row, *four, weights, seeds, noise, 0, variance, limit, out)
    return out


def _version(tensor: Tensor) -> int | None:
    """How often a tensor was written to; inference tensors don't count."""
    return None if tensor.is_inference() else tensor._version


def _with_host_copies(set_timesteps: Callable[..., Any]) -> Callable[..., Any]:
    """Reads what is on a device before the loop, so that no step has to."""

    @functools.wraps(set_timesteps)
    def wrapped(self: Any, *arguments: Any, **options: Any) -> Any:
        done = set_timesteps(self, *arguments, **options)
        for name in ("timesteps", "sigmas", "alphas_cumprod"):
            if isinstance(self.__dict__.get(name), Tensor):
                self._host(name)
        return done

    return wrapped


def _moving_shares(stock: Any, name: str) -> Callable[..., Any]:
    """These move `alphas_cumprod` to the samples' device: its numbers are known, and are not read back."""

    @functools.wraps(getattr(stock, name))
    def wrapped(self: Any, *arguments: Any, **options: Any) -> Any:
        before = self.__dict__.get("alphas_cumprod")
        numbers = self._host("alphas_cumprod") if isinstance(before, Tensor) else ()
        done = getattr(stock, name)(self, *arguments, **options)
        after = self.__dict__.get("alphas_cumprod")
        if after is not before and isinstance(after, Tensor):
            self._visgen_host["alphas_cumprod"] = (after, _version(after), numbers)
        return done

    return wrapped


def _rebuilt(name: str) -> Any:
    cls = getattr(sys.modules[__package__], name)
    return cls.__new__(cls)
