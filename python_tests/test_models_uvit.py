"""U-ViT, with each first stage and each kind of skip."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from visgen_fast import ops
from visgen_fast.diffusion import CosineVP, DiffusionObjective, UniformTimes, plan, sample
from visgen_fast.models import UViT
from visgen_fast.models.layers.attention import Attention
from visgen_fast.models.layers.residual import ModulatedResidualBlock
from visgen_fast.models.layers.transformer import Block
from visgen_fast.models.uvit import Stage

VARIANTS = {
    f"{first}, {skips}": {"first": first, "skips": skips}
    for first in ("patches", "wavelet")
    for skips in ("blocks", "residual")
}
SIZES = {
    **{"image_size": 16, "channels": 1, "patch_size": 2, "stages": (8, 12), "blocks": 1},
    **{"width": 16, "depth": 2, "heads": 4, "classes": 10},
}


def small(**changes: object) -> UViT:
    torch.manual_seed(0)
    return UViT(**{**SIZES, **changes})


def awake(model: UViT) -> UViT:
    """Random weights in the place of zeros, as after training, so that every part shows in the output."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1, generator=generator)
    return model


def inputs(model: UViT, batch: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    seeds = ops.derive_seeds(2, torch.arange(batch))
    x = ops.gaussian(seeds, (model.channels, *model.image_size))
    return x, ops.uniform(seeds, (1,))[:, 0], torch.arange(batch) % (model.null_label + 1)


@settings(max_examples=20)
@given(
    variant=st.sampled_from(sorted(VARIANTS)),
    grid=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    patch_size=st.sampled_from([1, 2, 4]),
    stages=st.lists(st.sampled_from([4, 8, 10]), max_size=2),
    blocks=st.integers(1, 2),
    channels=st.integers(1, 3),
)
def test_output_is_zero_at_the_start_and_of_the_input_s_shape_later(
    variant: str, grid: tuple[int, int], patch_size: int, stages: list[int], blocks: int, channels: int
) -> None:
    size = tuple(side * patch_size * 2 ** len(stages) for side in grid)
    options = {"patch_size": patch_size, "stages": stages, "blocks": blocks, "channels": channels}
    model = small(image_size=size, **options, **VARIANTS[variant])
    x, t, labels = inputs(model, 2)
    output = model(x, t, labels)
    assert output.shape == x.shape and torch.equal(output, torch.zeros_like(x))
    output = awake(model)(x, t, labels)
    assert output.shape == x.shape and output.flatten(1).any(1).all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_reach_every_parameter(variant: str) -> None:
    model = awake(small(blocks=2, **VARIANTS[variant]))
    model(*inputs(model, batch=16)).square().sum().backward()
    assert [name for name, parameter in model.named_parameters() if not parameter.grad.any()] == []


def test_attention_and_dropout_are_at_the_lowest_resolution_alone() -> None:
    model = small(image_size=(16, 24), dropout=0.3)
    seen: dict[type, set[tuple[int, ...]]] = {Attention: set(), ModulatedResidualBlock: set(), Block: set()}
    dropped = set()
    for module in model.modules():
        if type(module) in seen:
            module.register_forward_pre_hook(
                lambda module, x: seen[type(module)].add(tuple(getattr(x[0], "x", x[0]).shape[1:]))
            )
        if isinstance(module, nn.Dropout) and module.p > 0:
            module.register_forward_pre_hook(lambda _, x: dropped.add(tuple(x[0].shape[1:])))
    model(*inputs(model))
    assert seen[Attention] == seen[Block] == dropped == {(2 * 3, 16)}
    convolutional = {(8, 8, 12), (16, 8, 12), (12, 4, 6), (24, 4, 6)}  # the way up has its counterpart's output beside
    assert seen[ModulatedResidualBlock] == convolutional


class Times(nn.Module):
    """A stand-in for what is below a stage."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return self.factor * x


def test_residual_stages_add_to_what_they_had_what_is_new_below() -> None:
    """up(h − low) + high, by hand."""
    stage = awake(small(skips="residual")).body
    assert isinstance(stage, Stage)
    stage.below = Times(3)
    x, condition = torch.randn(2, 8, 8, 8), torch.randn(2, 16)
    high = stage.down[0](x, condition)
    low = stage.shrink(high)
    expected = stage.up[0](stage.enlarge(2 * low) + high, condition)
    torch.testing.assert_close(stage(x, condition), expected)


def test_block_skips_take_the_outputs_of_the_way_down_the_last_one_first() -> None:
    stage = awake(small(blocks=2)).body
    assert isinstance(stage, Stage)
    stage.below = Times(0)
    x, condition = torch.randn(2, 8, 8, 8), torch.randn(2, 16)
    one = stage.down[0](x, condition)
    two = stage.down[1](one, condition)
    h = stage.enlarge(torch.zeros(2, 12, 4, 4))
    for block, skip in zip(stage.up, (two, one), strict=True):
        h = block(torch.cat((h, skip), 1), condition)
    torch.testing.assert_close(stage(x, condition), h)


@pytest.mark.parametrize("variant", VARIANTS)
def test_time_and_label_change_the_output_and_samples_do_not_see_each_other(variant: str) -> None:
    model = awake(small(**VARIANTS[variant])).eval()
    x, t, labels = inputs(model)
    output = model(x, t, labels)
    for changed in (model(x, t.flip(0), labels), model(x, t, torch.full_like(labels, model.null_label))):
        assert (changed - output).abs().amax((1, 2, 3)).min() > 1e-4
    alone = torch.cat([model(x[i : i + 1], t[i : i + 1], labels[i : i + 1]) for i in range(len(x))])
    torch.testing.assert_close(alone, output, rtol=1e-4, atol=1e-5)


def test_a_network_told_the_level_is_that_told_the_time_at_another_scale() -> None:
    of_time = awake(small()).eval()
    of_level = small(conditioning="log_snr").eval()
    of_level.load_state_dict(of_time.state_dict())
    x, t, labels = inputs(of_time)
    torch.testing.assert_close(of_level(x, 40 * t, labels), of_time(x, t, labels), rtol=1e-3, atol=1e-4)


def test_the_transformer_sees_where_its_positions_are() -> None:
    """Nothing else in it does: without them features moved give the output moved."""
    model = awake(small(stages=(), patch_size=2))
    tokens, condition = torch.randn(2, 16, 8, 8), torch.randn(2, 16)

    def change() -> float:
        moved = model.body(tokens.roll(1, 3), condition)
        return (moved - model.body(tokens, condition).roll(1, 3)).abs().max().item()

    assert change() > 1e-2
    nn.init.zeros_(model.body.positions)
    assert change() < 1e-5


@pytest.mark.parametrize("first", ["patches", "wavelet"])
def test_the_first_stage_loses_nothing(first: str) -> None:
    model = small(first=first, patch_size=4, image_size=(16, 32), channels=3)
    x = torch.randn(2, 3, 16, 32)
    positions = model._positions_of(x)
    assert positions.shape == (2, 48, 4, 8)
    torch.testing.assert_close(model._pixels_of(positions), x)


def test_dropout_acts_in_training_only() -> None:
    model = awake(small(dropout=0.5))
    arguments = inputs(model)
    assert not torch.equal(model(*arguments), model(*arguments))
    model.eval()
    assert torch.equal(model(*arguments), awake(small()).eval()(*arguments))


@pytest.mark.parametrize("variant", VARIANTS)
def test_is_one_graph_with_the_same_result(variant: str) -> None:
    model = awake(small(depth=1, **VARIANTS[variant])).eval()
    arguments = inputs(model)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")  # the default one takes a minute
    torch.testing.assert_close(compiled(*arguments), model(*arguments), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("autocast", [True, False], ids=["autocast", "bfloat16 weights"])
def test_works_in_bfloat16(variant: str, autocast: bool) -> None:
    model = awake(small(**VARIANTS[variant])).eval()
    x, t, labels = inputs(model)
    expected = model(x, t, labels)
    if autocast:
        with torch.autocast("cpu", torch.bfloat16):
            output = model(x, t, labels)
    else:
        output = model.bfloat16()(x.bfloat16(), t, labels)
    assert output.dtype == torch.bfloat16
    assert (output.float() - expected).norm() < 0.05 * expected.norm()


def test_state_holds_parameters_only() -> None:
    model = small()
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("skips", ["blocks", "residual"])
def test_learns_to_tell_two_classes_apart(skips: str) -> None:
    """Class 0 is black, class 1 white: after a short training, images drawn are of their class."""
    model = small(classes=2, image_size=8, stages=(8,), skips=skips, conditioning="log_snr")
    objective = DiffusionObjective(
        CosineVP(), "v", UniformTimes(), label_drop=0.1, null_label=model.null_label, conditioning="log_snr"
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    labels = torch.arange(32) % 2
    images = (2.0 * labels - 1).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()
    for step in range(120):
        loss = objective(model, images, labels, ops.derive_seeds(0, 32 * step + torch.arange(32))).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    drawn = sample(
        objective.network(model.eval()),
        plan("euler", CosineVP(), "v", steps=20),
        (1, 8, 8),
        torch.tensor([0, 1, 0, 1]),
        ops.derive_seeds(9, torch.arange(4)),
    )
    assert (drawn.mean((1, 2, 3)) - torch.tensor([-1.0, 1.0, -1.0, 1.0])).abs().max() < 0.3


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        *(({name: 0}, f"{name} must be at least 1, got 0") for name in SIZES if name not in ("stages", "classes")),
        ({"stages": (8, -1)}, "stages must be at least 1, got -1"),
        ({"image_size": (16, 20)}, r"patch_size, doubled for each stage, must divide image_size \(16, 20\), got 8"),
        ({"heads": 5}, "heads must divide width 16, got 5"),
        ({"width": 18, "heads": 3}, "width must be a multiple of 4"),
        (
            {"patch_size": 3, "image_size": 24, "first": "wavelet"},
            "patch_size must be a power of 2 for a wavelet, got 3",
        ),
        ({"first": "haar"}, "first must be patches or wavelet, got 'haar'"),
        ({"skips": "none"}, "skips must be blocks or residual, got 'none'"),
        ({"conditioning": "sigma"}, "conditioning must be time or log_snr, got 'sigma'"),
    ],
)
def test_what_makes_no_network_is_refused_by_name(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        small(**wrong)


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"x_t must have shape \[B, 1, 16, 16\], got \[2, 3, 16, 16\]"):
        small()(torch.zeros(2, 3, 16, 16), torch.zeros(2), torch.zeros(2, dtype=torch.int64))
