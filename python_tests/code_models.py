"""Small models of codes for the tests, one of each kind, and what is exact about so small ones."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visgen_fast.autoregression import (
    Cascade,
    CodeModel,
    columns,
    in_turn,
    plane_by_plane,
    raster,
    scale_by_scale,
    shuffled,
    snake,
)
from visgen_fast.models import MaskedModel, PixelCNN, PixelRNN, ScaleModel, SequenceModel, SpaceDepthModel
from visgen_fast.nn import MultiscaleQuantizer

BLOCKS = {"width": 16, "depth": 2, "heads": 2}
SMALL = {"width": 8, "depth": 1}  # of a network that passes once for each step


def sequence(order, size: int, **options) -> SequenceModel:
    return SequenceModel(order, size, **{**BLOCKS, **options})


def scales(patch_numbers, size: int, **options) -> ScaleModel:
    return ScaleModel(MultiscaleQuantizer(size, 4, patch_numbers), **{**BLOCKS, **options})


def masked(order, size: int, **options) -> MaskedModel:
    return MaskedModel(order, size, **{**BLOCKS, **options})


# At most a few hundred arrays of codes each, so that all of them can be looked at.
TINY: dict[str, Callable[[], CodeModel]] = {
    "sequence": lambda: sequence(raster((2, 2, 2)), 2),
    "sequence of classes": lambda: sequence(columns((2, 3, 1)), 2, classes=3),
    "sequence, snake": lambda: sequence(snake((2, 2, 1)), 3),
    "sequence, planes": lambda: sequence(plane_by_plane((2, 2, 2)), 2),
    "sequence, hierarchy": lambda: sequence(in_turn(raster((1, 1, 1)), raster((2, 2, 1))), 3),
    "sequence, shuffled": lambda: sequence(shuffled((2, 3, 1), 5), 2),
    "sequence of one code": lambda: sequence(raster((1, 1)), 5),
    "space and depth": lambda: SpaceDepthModel((2, 2), 2, 2, inner_depth=1, **BLOCKS),
    "space and depth of classes": lambda: SpaceDepthModel((3,), 2, 2, inner_depth=2, classes=2, **BLOCKS),
    "depth alone": lambda: SpaceDepthModel((1,), 4, 3, inner_depth=1, **BLOCKS),
    "PixelCNN": lambda: PixelCNN((2, 3, 1), 2, width=8, depth=2),
    "PixelCNN of classes": lambda: PixelCNN((2, 2, 2), 2, width=8, depth=2, classes=3),
    "PixelCNN, one column": lambda: PixelCNN((4, 1, 1), 3, width=8, depth=1, kernel=5),
    "PixelRNN": lambda: PixelRNN((2, 3, 1), 2, width=8, depth=2),
    "PixelRNN of classes": lambda: PixelRNN((2, 2, 2), 2, width=8, depth=2, classes=3),
    "scales of classes": lambda: scales(((1, 1), (2, 2)), 3, classes=2),
    "one scale": lambda: scales(((1, 2),), 4),
    "masked": lambda: masked(shuffled((3, 1), 4), 4, **SMALL),
    "masked of classes, several codes a step": lambda: masked(scale_by_scale((1, 2)), 3, classes=2, **SMALL),
    "cascade": lambda: Cascade(sequence(snake((1, 2, 1)), 3), masked(in_turn(*[raster((2, 1))] * 2), 3, **SMALL)),
}
# Large enough for a blind spot.
LARGER: dict[str, Callable[[], CodeModel]] = {
    "sequence": lambda: sequence(raster((3, 4, 2)), 4),
    "sequence, shuffled": lambda: sequence(shuffled((3, 4, 2), 1), 4),
    "space and depth": lambda: SpaceDepthModel((3, 4), 3, 4, inner_depth=2, **BLOCKS),
    "PixelCNN": lambda: PixelCNN((4, 6, 1), 4, width=8, depth=5),
    "PixelCNN, three channels": lambda: PixelCNN((3, 4, 3), 4, width=12, depth=4),
    "PixelCNN, wide kernel": lambda: PixelCNN((5, 5, 2), 4, width=8, depth=3, kernel=5),
    "PixelRNN": lambda: PixelRNN((4, 5, 1), 4, width=8, depth=2),
    "PixelRNN, three channels": lambda: PixelRNN((3, 4, 3), 4, width=12, depth=2),
    "scales": lambda: scales((1, 2, (3, 4)), 4),
    "masked, several codes a step": lambda: masked(scale_by_scale((1, 2, 3)), 4),
}


def awake(make: Callable[[], CodeModel], dtype: torch.dtype = torch.float64) -> CodeModel:
    """The model with weights as large as after training, so that every part shows in the logits."""
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(0)
    model = make().to(dtype).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)
    return model


def labels_for(model: CodeModel, batch: int) -> Tensor | None:
    """Labels of all classes in turn, the null among them."""
    return None if model.null_label is None else torch.arange(batch) % (model.null_label + 1)


def some_codes(model: CodeModel, batch: int, key: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(key)
    return torch.randint(model.size, (batch, *model.order.shape), generator=generator)


def all_codes(model: CodeModel) -> Tensor:
    """Every array of codes: [V^N, *grid, Q]."""
    return torch.tensor(list(itertools.product(range(model.size), repeat=model.order.length))).view(
        -1, *model.order.shape
    )


def one_pass(model: CodeModel, codes: Tensor, condition: Tensor | None = None) -> Tensor:
    """The logits of every code from those of earlier steps; of a masked model by a pass for each step."""
    if model.one_pass:
        return model(codes, condition)
    steps, found = model.order.steps, torch.zeros(())
    for step in range(model.order.count):
        logits = model(torch.where(steps < step, codes, -1), condition)
        found = torch.where(steps[..., None] == step, logits, found)
    return found


def loss(model: CodeModel, codes: Tensor, condition: Tensor | None = None) -> Tensor:
    """−ln p of each code, by `one_pass`."""
    logits = one_pass(model, codes, condition)
    return F.cross_entropy(logits.flatten(0, -2), codes.flatten(), reduction="none").view(codes.shape)


@torch.no_grad()
def probabilities(model: CodeModel, label: int | None) -> Tensor:
    """Of every array, float64."""
    arrays = all_codes(model)
    condition = None if label is None else torch.full((len(arrays),), label)
    return (-loss(model, arrays, condition).double().flatten(1).sum(1)).exp()
