"""Every module that quantizes, for tests that put each through the same: how it is made, and what it takes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from visgen_fast.nn import (
    BSQ,
    FSQ,
    LookupFree,
    MultiscaleQuantizer,
    Quantizer,
    QuantizerSequence,
    ResidualQuantizer,
    VectorQuantizer,
)

DIMENSIONS = 6
GRIDS = (1, 2, 3)


# No count of vectors takes an average from 1 to what it is dead below, 0.8 + 0.2·n: rounding decides nothing.


def _residual(**options: object) -> Quantizer:
    return ResidualQuantizer(3, 16, DIMENSIONS, **{"dead_below": 2.1, "decay": 0.8, **options})


def _multiscale(**options: object) -> Quantizer:
    return MultiscaleQuantizer(16, DIMENSIONS, GRIDS, phi_count=2, **{"dead_below": 2.1, "decay": 0.8, **options})


MODULES: dict[str, Callable[[], Quantizer]] = {
    "vector": lambda: VectorQuantizer(16, DIMENSIONS, decay=0.8),
    "vector, by gradient": lambda: VectorQuantizer(16, DIMENSIONS, learning="gradient", dead_below=2.1),
    "vector, by gradient alone": lambda: VectorQuantizer(16, DIMENSIONS, learning="gradient", dead_below=0),
    "vector, cosine": lambda: VectorQuantizer(16, DIMENSIONS, metric="cosine", decay=0.8),
    "vector, cosine by gradient": lambda: VectorQuantizer(
        16, DIMENSIONS, metric="cosine", learning="gradient", dead_below=2.1
    ),
    "residual": _residual,
    "residual, rotation": lambda: _residual(gradient="rotation_per_depth", zero_code=True),
    "residual, k-means": lambda: _residual(kmeans_iterations=2),
    "residual, manual": lambda: _residual(commit="manual"),
    "residual, by gradient": lambda: _residual(learning="gradient", zero_code=True),
    "residual, shared": lambda: _residual(shared=True, commit="manual"),
    "residual, sequential": lambda: _residual(shared=True, update="sequential"),
    "residual, beam": lambda: _residual(beam=3),
    "multiscale": _multiscale,
    "multiscale, averages": lambda: _multiscale(learning="ema"),
    "multiscale, manual": lambda: _multiscale(learning="ema", commit="manual", kmeans_iterations=2),
    "lookup-free": lambda: LookupFree(DIMENSIONS),
    "finite scalar": lambda: FSQ((5,) * DIMENSIONS),
    "spherical": lambda: BSQ(DIMENSIONS),
    "sequence": lambda: QuantizerSequence(
        [VectorQuantizer(16, DIMENSIONS, decay=0.8), VectorQuantizer(8, DIMENSIONS, commit="manual")], (2, 7)
    ),
}

# Those whose codebook a forward or a commit moves.
LEARNING = [
    name for name in MODULES if name not in ("vector, by gradient alone", "lookup-free", "finite scalar", "spherical")
]


def made(name: str) -> Quantizer:
    """The module, with codes that lie among the inputs."""
    torch.manual_seed(0)
    module = MODULES[name]()
    for part in module.modules():
        embedding = getattr(part, "embedding", None)
        if isinstance(embedding, Tensor):
            with torch.no_grad():
                embedding.normal_()
                if part.zero_code:
                    embedding[..., 0, :] = 0
                if part.cosine:
                    embedding.copy_(nn.functional.normalize(embedding, dim=-1))
                if part.average_sum is not None:
                    part.average_sum.copy_(embedding)
    return module


def inputs(module: Quantizer, seed: int = 0, batch: int = 8) -> Tensor:
    """What the module takes: vectors [B, 9, D], or feature maps [B, D, 3, 3]."""
    x = torch.randn(batch, 9, DIMENSIONS, generator=torch.Generator().manual_seed(seed))
    return x.transpose(1, 2).unflatten(2, (3, 3)) if isinstance(module, MultiscaleQuantizer) else x


def state(module: nn.Module) -> dict[str, Tensor]:
    """A copy of all tensors of a module, those outside its state dict too."""
    return {name: tensor.detach().clone() for name, tensor in [*module.named_parameters(), *module.named_buffers()]}


def assert_same_state(got: dict[str, Tensor], expected: dict[str, Tensor], **tolerance: float) -> None:
    assert got.keys() == expected.keys()
    for name, tensor in got.items():
        torch.testing.assert_close(
            tensor,
            expected[name],
            **(tolerance or {"rtol": 0, "atol": 0}),
            msg=lambda text, name=name: f"{name}: {text}",
        )


def results(quantizer: Quantizer, *seeds: int) -> list[Tensor]:
    """What forwards of some batches give, each followed by a commit."""
    found: list[Tensor] = []
    for seed in seeds:
        found += quantizer(inputs(quantizer, seed))
        quantizer.commit()
    return [tensor.detach() for tensor in found]


def assert_same(got: list[Tensor], expected: list[Tensor]) -> None:
    torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True)


def go_on_alike(quantizer: Quantizer, other: Quantizer) -> None:
    assert_same(results(other, 5, 6), results(quantizer, 5, 6))
    assert_same_state(state(other), state(quantizer))
    assert_same(results(other.eval(), 7), results(quantizer.eval(), 7))
    for got, expected in zip(other.usage(), quantizer.usage(), strict=True):
        assert torch.equal(got, expected)
