"""What a family hands to the harness: cases, and the ways to compute each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Inputs = Any  # one set of tensors, made by the workload and understood by its contenders


@dataclass(frozen=True)
class Contender:
    """One way to compute a workload."""

    name: str
    run: Callable[[Inputs], Tensor | Sequence[Tensor]]
    is_peer: bool = False  # the fastest peer is what ours is compared with
    # Tensors computed and tensors exact (float64); None where nothing exact exists, as for another's random numbers.
    accuracy: Callable[[Inputs], tuple[Sequence[Tensor], Sequence[Tensor]]] | None = None
    instruction_set: str | None = None  # the CPU kernels' own; None leaves what the library chose


@dataclass(frozen=True)
class Workload:
    """One case of a family: what it moves at least, and who computes it."""

    name: str
    make_inputs: Callable[[int], Inputs]  # from the number of the set
    contenders: Sequence[Contender]
    read_bytes: int  # inputs, once
    written_bytes: int  # outputs, once
    vector_operations: float  # lanes of vector instructions, a multiply-add being one
    images: int | None = None  # that a call of a contender trains on, told as images a second
    # Further numbers by what they are and by contender, found after the timings.
    details: Callable[[Inputs], Mapping[str, Mapping[str, float]]] | None = None

    @property
    def moved_bytes(self) -> int:
        return self.read_bytes + self.written_bytes


def inputs_bytes(tensors: Sequence[Tensor | None]) -> int:
    """Bytes of the tensors given."""
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)
