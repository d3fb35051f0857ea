"""What modules promise of their state: its types under casts, its values after loading, that it can be frozen."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from typing import Self


def state_dtype() -> torch.dtype:
    """The type of state that is made now: torch's default type, but float32 where that has 16 bits."""
    return torch.promote_types(torch.get_default_dtype(), torch.float32)


def converted(function: Callable[[Tensor], Tensor], tensor: Tensor) -> Tensor:
    """function(tensor) as float64 or else float32; integers keep their type."""
    result = function(tensor)
    dtype = tensor.dtype
    if dtype.is_floating_point:
        dtype = torch.float64 if result.dtype == torch.float64 else torch.float32
    return result if result.dtype == dtype else tensor.to(result.device, dtype)


class Float32State(nn.Module):
    """A module whose tensors, and those of the modules in it, stay float32 where it is cast to 16 bits.

    `double()` makes them float64. Averages, counts and sums of many vectors would be wrong in 16 bits.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_load_state_dict_post_hook(_widen)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        return super()._apply(lambda tensor: converted(fn, tensor), recurse)


def _widen(module: nn.Module, _: object) -> None:
    """After `load_state_dict(assign=True)`, which takes tensors of any type."""
    state = (*module.parameters(), *module.buffers())
    if any(tensor.is_floating_point() and tensor.dtype.itemsize < 4 for tensor in state):
        module._apply(lambda tensor: tensor)


class RefilledBuffers(nn.Module):
    """A module that fills the buffers outside its state dict again where PyTorch leaves them without values.

    That is so once `to_empty` has taken the module off the meta device, and after a state dict was loaded: into tensors
    of `to_empty`, or with `assign=True` into a module that is still on the meta device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_load_state_dict_post_hook(_refill)

    def fresh_buffers(self) -> dict[str, Tensor]:
        """Each buffer outside the state dict as a new module has it, by its name."""
        raise NotImplementedError

    def register_fresh_buffers(self) -> None:
        for name, tensor in self.fresh_buffers().items():
            self.register_buffer(name, tensor, persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        on_meta = {name for name, tensor in self._buffers.items() if tensor is not None and tensor.is_meta}
        super()._apply(fn, recurse)
        if any(not getattr(self, name).is_meta for name in on_meta & self._non_persistent_buffers_set):
            _refill(self)
        return self


def _refill(module: RefilledBuffers, _: object = None) -> None:
    for name, fresh in module.fresh_buffers().items():
        buffer = getattr(module, name)
        if buffer.is_meta:
            setattr(module, name, fresh.to(_device_of_state(module), buffer.dtype))
        else:
            buffer.copy_(fresh)


def _device_of_state(module: nn.Module) -> torch.device:
    """Where the module's other tensors are, or where new ones would be."""
    state: list[Any] = [*module.parameters(), *module.buffers()]
    return next((tensor.device for tensor in state if not tensor.is_meta), torch.get_default_device())


class Freezable(nn.Module):
    """A module that `requires_grad_(False)` freezes with all of this kind in it, also where they need no gradients."""

    _frozen = False

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        for module in self.modules():
            if isinstance(module, Freezable):
                module._frozen = not requires_grad
        return super().requires_grad_(requires_grad)
