"""What people run today to quantize residuals. Each gives (quantized, codes [N, Q], errors [N, Q])."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Outputs = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Vectors:
    """What there is to quantize, and with what."""

    x: Tensor  # [N, D]
    codebooks: Tensor  # [Q, K, D]
    incoming: Tensor  # [N, D], a gradient of the quantized vectors


Peer = tuple[str, Callable[[Vectors], Outputs]]


def all_of(device: str) -> list[Peer]:
    """Every way that this machine has: the two packages only where they are installed, and FAISS on a CPU alone."""
    package = [("vector-quantize-pytorch", VectorQuantizePytorch())] * _installed("vector_quantize_pytorch")
    return [("cdist", _by_cdist), *in_pytorch(), *package, *(exact() if device == "cpu" else [])]


def exact() -> list[Peer]:
    """What searches exactly, on a CPU."""
    return [("FAISS", Faiss())] * _installed("faiss")


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def in_pytorch() -> list[Peer]:
    """The lines that people write by hand, differentiable as they stand."""
    return [("addmm + argmin", _by_addmm), ("addmm + argmin, compiled", torch.compile(_by_addmm, dynamic=False))]


def _by_cdist(inputs: Vectors) -> Outputs:
    return _loop(inputs, lambda residual, codebook: torch.cdist(residual, codebook).argmin(-1))


def _by_addmm(inputs: Vectors) -> Outputs:
    def nearest(residual: Tensor, codebook: Tensor) -> Tensor:
        return torch.addmm(codebook.square().sum(-1), residual, codebook.T, alpha=-2).argmin(-1)

    return _loop(inputs, nearest)


def _loop(inputs: Vectors, nearest: Callable[[Tensor, Tensor], Tensor]) -> Outputs:
    residual, total, codes, errors = inputs.x, torch.zeros_like(inputs.x), [], []
    for codebook in inputs.codebooks.unbind(0):
        code = nearest(residual.detach(), codebook)
        embedding = codebook[code]
        errors.append((residual - embedding).square().mean(-1))
        total = total + embedding
        residual = residual - embedding.detach()
        codes.append(code)
    quantized = inputs.x + (total - inputs.x).detach()
    return quantized, torch.stack(codes, -1), torch.stack(errors, -1)


class Faiss:
    """IndexFlatL2: an exact search, whose users subtract the residuals themselves."""

    def __call__(self, inputs: Vectors) -> Outputs:
        import faiss

        faiss.omp_set_num_threads(torch.get_num_threads())

        def nearest(residual: Tensor, codebook: Tensor) -> Tensor:
            index = faiss.IndexFlatL2(codebook.shape[-1])
            index.add(codebook.numpy())
            return torch.from_numpy(index.search(residual.numpy(), 1)[1][:, 0])

        return _loop(inputs, nearest)


class VectorQuantizePytorch:
    """ResidualVQ in evaluation mode: no update of the codebooks."""

    def __init__(self) -> None:
        self._module: torch.nn.Module | None = None

    def __call__(self, inputs: Vectors) -> Outputs:
        from vector_quantize_pytorch import ResidualVQ

        if self._module is None:
            depth, size, dimensions = inputs.codebooks.shape
            self._module = ResidualVQ(dim=dimensions, num_quantizers=depth, codebook_size=size)
            self._module.to(inputs.x.device).eval()
        for layer, codebook in zip(self._module.layers, inputs.codebooks, strict=True):
            layer._codebook.embed = codebook[None]
        quantized, codes, _ = self._module(inputs.x[None])
        return quantized[0], codes[0], (inputs.x - quantized[0]).square().mean(-1)
