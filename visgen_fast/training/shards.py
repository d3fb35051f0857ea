"""A system's weights in shards, one on each rank, which are gathered block by block where they are used.

This is PyTorch's `fully_shard` (Zhao et al., "PyTorch FSDP: experiences on scaling fully sharded data parallel", 2023).
Parameters, their gradients, the optimizer's moments and the moving average are cut along their first dimension. Every
rank holds whole: what is frozen, what is `replicated` (codebooks), parameters of no dimensions, parameters that several
modules share, and all buffers.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from .. import ops
from . import optimizer_state, sharded_checkpoint
from .adamw import gradients_of, local
from .average import MovingAverage
from .blocks import blocks_of, prepare_blocks, replicated
from .checkpoint import Checkpoint
from .copies import Loss, kept
from .settings import TrainingSettings
from .system import Player, System


class Shards:
    """A system that every rank holds a share of.

    The main rank's weights are those of all. On the other ranks it may be on the meta device: they need memory for
    their share alone.
    """

    sharded = True

    def __init__(self, system: System, settings: TrainingSettings, accelerator: Accelerator) -> None:
        self.system, self.accelerator = system, accelerator
        whole = _whole(system)
        self.average = ShardedAverage(system, settings.ema_decay, whole)
        prepare_blocks(system, settings)
        # Of the CPUs, for what checkpoints tell one another, beside the training and at the same time.
        self.group = dist.new_group(backend="gloo")
        values = dict(_tensors(system)) if accelerator.is_main_process else {}
        mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
        half = torch.bfloat16 if settings.mixed_precision == "bf16" else None
        # As autocast would round the weights of matrix products; what stands beside them in a block is little.
        policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32, cast_forward_inputs=False)
        for block in reversed(blocks_of(system)):
            fully_shard(block, mesh=mesh, mp_policy=policy, ignored_params=whole)
        root = fully_shard(_Call(system), mesh=mesh, ignored_params=whole)
        _take_over(system, values, accelerator)
        self.average.begin()
        self._root = cast(Any, accelerator.prepare_model(root, evaluation_mode=True))
        # Blocks hand on views, which nothing here changes in place.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")

    def loss(self, player: Player) -> Loss:
        def loss(batch: Any) -> Tensor:
            # A loss may take gradients on its way, and then go on with the weights that they gathered.
            self._root.set_reshard_after_backward(False)
            losses = self._root(player.loss, batch)
            self._root.set_reshard_after_backward(True)
            return losses

        return loss

    def micro_batch(self, loss: Loss, *, last: bool) -> AbstractContextManager[Any]:
        """Every micro-batch's gradients are averaged at once, so that no rank ever holds a whole gradient."""
        return nullcontext()

    def gradient_norm(self, parameters: Sequence[nn.Parameter]) -> Tensor:
        """The norm of the whole gradient; first the gradients of what is whole on all ranks are averaged."""
        whole = [parameter for parameter in parameters if not isinstance(parameter, DTensor)]
        parts = [local(gradient) for gradient in gradients_of(parameters) if isinstance(gradient, DTensor)]
        self._average_over_ranks(gradients_of(whole))
        total = self._square(parts)
        dist.all_reduce(total)
        return (total + self._square(gradients_of(whole))).sqrt().float()

    def _square(self, gradients: Sequence[Tensor]) -> Tensor:
        some = [gradient for gradient in gradients if gradient.numel()]
        if not some:
            return torch.zeros((), dtype=torch.float64, device=self.accelerator.device)
        return ops.gradient_norm(some).double().square()

    def _average_over_ranks(self, gradients: Sequence[Tensor]) -> None:
        for gradient in gradients:
            dist.all_reduce(gradient)
            gradient /= self.accelerator.num_processes

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """function(*arguments), which may look at the system's weights and use its networks; all ranks call it."""
        if getattr(function, "__func__", None) is System.before_step:
            return None  # it does nothing, where a system does not say otherwise

        def in_full_precision() -> Any:
            with torch.autocast(self.accelerator.device.type, enabled=False):
                return function(*arguments)

        result = self._root(in_full_precision)
        for module in self._root.modules():
            if isinstance(module, FSDPModule):
                module.reshard()
        return result

    def tensors(self, optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, dict[str, Tensor]]:
        """What a checkpoint keeps; of what is sharded, this rank's shares."""
        return kept(self.system, self.average, optimizers)

    def load(self, saved: Checkpoint, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Takes over a checkpoint of any number of ranks; `UserError` where it is damaged, or of another network."""
        moments = _moments(sharded_checkpoint.names(saved, "optimizer"), optimizers, self.system, saved)
        tensors = {name: {key: one.detach() for key, one in some.items()} for name, some in self.tensors([]).items()}
        sharded_checkpoint.load(saved, {**tensors, "optimizer": moments}, self.group)
        frozen = saved.frozen()
        try:
            for name in self.system.frozen:
                own = {key.removeprefix(f"{name}."): one for key, one in frozen.items() if key.startswith(f"{name}.")}
                self.system.get_submodule(name).load_state_dict(own)
        except RuntimeError as error:
            raise saved.of_another_network() from error

    @contextmanager
    def drawing(self) -> Iterator[System]:
        """The system with the averaged weights, which every rank holds whole while this lasts."""
        with self.average.whole():
            yield self.average.module


class ShardedAverage(MovingAverage[System]):
    """A moving average that is sharded as the trained weights are, and whole only inside `whole`.

    `begin` must be called when these have been sharded.
    """

    def __init__(self, system: System, decay: float, whole: set[nn.Parameter]) -> None:
        self._stand_ins: dict[int, Any] = {
            id(parameter): nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False)
            for parameter in system.parameters()
            if parameter not in whole
        }
        super().__init__(system, decay)
        self._shards: dict[str, Tensor] = {}

    def _memo(self, system: System) -> dict[int, Any]:
        return {**super()._memo(system), **self._stand_ins}

    def begin(self) -> None:
        """Starts the average from the trained weights as they are."""
        for name, tensor in _tensors(self._trained):
            module, own = _owner(self.weights, name)
            if module is _owner(self._trained, name)[0]:
                continue  # frozen, and in both
            if isinstance(tensor, DTensor):
                self._shards[name] = tensor.clone()
            elif own in module._buffers:
                module._buffers[own] = tensor.clone()
            else:
                module._parameters[own] = nn.Parameter(tensor.clone(), requires_grad=False)

    @property
    def of(self) -> dict[Tensor, Tensor]:
        own = dict(self.weights.named_parameters())
        pairs = {trained: self._shards.get(name, own[name]) for name, trained in self._trained.named_parameters()}
        return {trained: average for trained, average in pairs.items() if trained is not average}

    def tensors(self) -> dict[str, Tensor]:
        return {name: self._shards.get(name, tensor) for name, tensor in super().tensors().items()}

    @contextmanager
    def whole(self) -> Iterator[None]:
        """While this lasts, `module` has all its weights on every rank."""
        hollow: dict[str, nn.Parameter | None] = {}
        try:
            for name, shard in self._shards.items():
                module, own = _owner(self.weights, name)
                hollow[name] = module._parameters[own]
                module._parameters[own] = nn.Parameter(cast(DTensor, shard).full_tensor(), requires_grad=False)
            yield
        finally:
            for name, parameter in hollow.items():
                module, own = _owner(self.weights, name)
                module._parameters[own] = parameter


class _Call(nn.Module):
    """A system whose forward is a call of anything that uses its networks."""

    def __init__(self, system: System) -> None:
        super().__init__()
        self.system = system

    def forward(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)


def _moments(
    names: set[str], optimizers: Sequence[torch.optim.Optimizer], system: System, saved: Checkpoint
) -> dict[str, Tensor]:
    """Room in the optimizers' states for the tensors `names`, which `optimizer_state.tensors` named."""
    known = dict(system.named_parameters())
    for name in sorted(names):
        of, _, kind = name.rpartition(".")
        own = [one for one in optimizers if any(known.get(of) is mine for mine in one.param_groups[0]["params"])]
        if not own:
            raise saved.damaged(f"optimizer.safetensors has {name} of a weight that is not trained")
        parameter = known[of]
        own[0].state[parameter][kind] = torch.zeros(()) if kind == "step" else torch.zeros_like(parameter)
    return optimizer_state.tensors(optimizers, system)


def _whole(system: System) -> set[nn.Parameter]:
    """The parameters that every rank holds whole."""
    uses = Counter(parameter for _, parameter in system.named_parameters(remove_duplicate=False))
    kept = {parameter for module in replicated(system.modules()) for parameter in module.parameters()}
    return kept | {
        parameter
        for parameter, count in uses.items()
        if count > 1 or not parameter.requires_grad or parameter.dim() == 0 or not parameter.is_contiguous()
    }


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """All parameters and buffers, detached, by every name that they have."""
    for name, parameter in module.named_parameters(remove_duplicate=False):
        yield name, parameter.detach()
    yield from module.named_buffers(remove_duplicate=False)


def _owner(root: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, own = name.rpartition(".")
    return root.get_submodule(path), own


@torch.no_grad()
def _take_over(system: System, values: dict[str, Tensor], accelerator: Accelerator) -> None:
    """Gives all ranks the main rank's `values`, and memory to what is on the meta device.

    At any time one tensor is whole on a rank's device.
    """
    slots = {name: _slot(system, name) for name, _ in _tensors(system)}
    first: dict[int, str] = {}
    same = {name: first.setdefault(id(held[own]), name) for name, (held, own) in slots.items()}
    on_meta = any(tensor.is_meta for _, tensor in _tensors(system))
    system.to_empty(device=accelerator.device) if on_meta else system.to(accelerator.device)
    for name, (held, own) in slots.items():
        earlier, place = slots[same[name]]
        held[own] = earlier[place]  # what two modules share stays one
        if same[name] == name:
            _receive(held[own], values.get(name), accelerator)


def _receive(tensor: Tensor, value: Tensor | None, accelerator: Accelerator) -> None:
    """Copies this rank's share of the main rank's `value`, or all of it, into `tensor`."""
    if not tensor.numel():
        return
    whole = torch.empty(tensor.shape, dtype=tensor.dtype, device=accelerator.device) if value is None else value
    whole = whole.to(accelerator.device).contiguous()
    dist.broadcast(whole.view(-1).view(torch.uint8), 0)
    if not isinstance(tensor, DTensor):
        tensor.copy_(whole)
        return
    shares = whole.chunk(accelerator.num_processes)
    if accelerator.process_index < len(shares):
        tensor.to_local().copy_(shares[accelerator.process_index])


def _slot(root: nn.Module, name: str) -> tuple[dict[str, Any], str]:
    """Where a module holds the parameter or buffer `name`."""
    module, own = _owner(root, name)
    return (module._parameters if own in module._parameters else module._buffers), own
