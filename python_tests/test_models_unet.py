"""The U-Net."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from visgen_fast import ops
from visgen_fast.models import UNet
from visgen_fast.models.layers.attention import SpatialAttention
from visgen_fast.models.layers.modulation import Modulation


def small(**changes: object) -> UNet:
    torch.manual_seed(0)
    settings = {"image_size": 8, "channels": 1, "width": 8, "multipliers": (1, 2), "depth": 1, "classes": 10}
    return UNet(**{**settings, "attention_resolutions": (4,), "heads": 2, **changes})


def awake(model: UNet) -> UNet:
    """Random weights in the place of zeros, as after training, so that every part shows in the output."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1, generator=generator)
    return model


def inputs(model: UNet, batch: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    seeds = ops.derive_seeds(2, torch.arange(batch))
    x = ops.gaussian(seeds, (model.channels, *model.image_size))
    return x, ops.uniform(seeds, (1,))[:, 0], torch.arange(batch) % (model.null_label + 1)


@settings(max_examples=20)
@given(
    grid=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    multipliers=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    depth=st.integers(1, 2),
    channels=st.integers(1, 3),
    frequencies=st.sampled_from([(), (2,), (7, 8)]),
)
def test_output_is_zero_at_the_start_and_of_the_input_s_shape_later(
    grid: tuple[int, int], multipliers: list[int], depth: int, channels: int, frequencies: tuple[int, ...]
) -> None:
    sizes = tuple(side * 2 ** (len(multipliers) - 1) for side in grid)
    options = {"image_size": sizes, "multipliers": multipliers, "depth": depth, "channels": channels}
    model = small(**options, attention_resolutions=(sizes[0],), frequencies=frequencies)
    x, t, labels = inputs(model, 2)
    assert torch.equal(model(x, t, labels), torch.zeros_like(x))
    output = awake(model)(x, t, labels)
    assert output.shape == x.shape and output.flatten(1).any(1).all()


def test_blocks_are_the_identity_at_the_start() -> None:
    model = small()
    x, condition = torch.randn(2, 16, 4, 4), torch.randn(2, 32)
    assert all(torch.equal(block(x, condition), x) for block in model.middle)


def test_gradients_reach_every_parameter() -> None:
    model = awake(small(depth=2, frequencies=(3,)))
    model(*inputs(model, batch=16)).square().sum().backward()
    assert [name for name, parameter in model.named_parameters() if not parameter.grad.any()] == []


def test_the_number_of_parameters_is_that_of_the_paper_s_architecture() -> None:
    """35.7 million for CIFAR-10 in DDPM's appendix B, which adds the time, where here it also scales; no classes."""
    sizes = {"image_size": 32, "channels": 3, "width": 128, "multipliers": (1, 2, 2, 2), "depth": 2, "heads": 1}
    with torch.device("meta"):
        model = UNet(**sizes, attention_resolutions=(16,), classes=0)
    scales = sum(parameter.numel() for part in _of(model, Modulation) for parameter in part.parameters()) // 2
    assert sum(parameter.numel() for parameter in model.parameters()) - scales == pytest.approx(35.7e6, rel=0.01)


def _of(model: nn.Module, kind: type) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, kind)]


@pytest.mark.parametrize(("resolutions", "down", "up"), [((), 0, 0), ((16,), 2, 3), ((4, 8), 4, 6)])
def test_attention_is_at_the_resolutions_given_and_in_the_middle(
    resolutions: tuple[int, ...], down: int, up: int
) -> None:
    model = small(image_size=(16, 32), multipliers=(1, 2, 2), depth=2, attention_resolutions=resolutions)
    assert [len(_of(part, SpatialAttention)) for part in (model.down, model.middle, model.up)] == [down, 1, up]


@pytest.mark.parametrize("heads", [1, 4])
def test_spatial_attention_is_torch_s_multi_head_attention(heads: int) -> None:
    ours, theirs = SpatialAttention(32, heads), nn.MultiheadAttention(32, heads, batch_first=True)
    theirs.in_proj_weight, theirs.in_proj_bias = nn.Parameter(ours.qkv.weight[:, :, 0, 0]), ours.qkv.bias
    theirs.out_proj.weight, theirs.out_proj.bias = nn.Parameter(ours.project.weight[:, :, 0, 0]), ours.project.bias
    x = torch.randn(2, 32, 3, 5)
    tokens = ours.norm(x).flatten(2).transpose(1, 2)
    mixed = theirs(tokens, tokens, tokens, need_weights=False)[0].transpose(1, 2).unflatten(2, (3, 5))
    torch.testing.assert_close(ours(x), x + mixed)


def test_frequencies_show_the_input_its_finest_steps() -> None:
    step = 2 / 255
    shown = small(frequencies=(7, 8)).waves(torch.tensor([0, step]).view(2, 1, 1, 1)).flatten(1)
    angles = torch.tensor([2**7, 2**8]) * torch.pi * step
    waves = torch.stack((angles.sin(), angles.cos()), 1).flatten().tolist()
    torch.testing.assert_close(shown, torch.tensor([[0, 0, 1, 0, 1], [step, *waves]]))


def test_what_the_network_is_told_changes_the_output_and_samples_do_not_see_each_other() -> None:
    model = awake(small()).eval()
    x, t, labels = inputs(model)
    output = model(x, t, labels)
    for changed in (model(x, t.flip(0), labels), model(x, t, torch.full_like(labels, model.null_label))):
        assert (changed - output).abs().amax((1, 2, 3)).min() > 1e-4
    alone = torch.cat([model(x[i : i + 1], t[i : i + 1], labels[i : i + 1]) for i in range(len(x))])
    torch.testing.assert_close(alone, output, rtol=1e-4, atol=1e-5)


def test_dropout_acts_in_training_only() -> None:
    model = awake(small(dropout=0.5))
    arguments = inputs(model)
    assert not torch.equal(model(*arguments), model(*arguments))
    assert torch.equal(model.eval()(*arguments), awake(small()).eval()(*arguments))


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # torch's own
def test_compiles_without_graph_breaks_to_the_same_result() -> None:
    model = awake(small(image_size=(4, 6), attention_resolutions=(2,))).eval()
    arguments = inputs(model)
    compiled = torch.compile(model, fullgraph=True)
    torch.testing.assert_close(compiled(*arguments), model(*arguments), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("autocast", [True, False], ids=["autocast", "bfloat16 weights"])
def test_works_in_bfloat16(autocast: bool) -> None:
    model = awake(small()).eval()
    x, t, labels = inputs(model)
    expected = model(x, t, labels)
    if autocast:
        with torch.autocast("cpu", torch.bfloat16):
            output = model(x, t, labels)
    else:
        output = model.bfloat16()(x.bfloat16(), t, labels)
    assert output.dtype == torch.bfloat16
    assert (output.float() - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        *(({name: 0}, f"{name} must be at least 1, got 0") for name in ("image_size", "channels", "width", "depth")),
        ({"heads": -1}, "heads must be at least 1, got -1"),
        ({"multipliers": ()}, r"multipliers must be one positive number a level, got \(\)"),
        ({"multipliers": (1, 0)}, r"multipliers must be one positive number a level, got \(1, 0\)"),
        ({"image_size": (8, 9)}, r"2\^\(levels − 1\) must divide image_size \(8, 9\), got 2"),
        ({"attention_resolutions": (4, 2)}, r"must be heights of levels, which are 8, 4, got \(4, 2\)"),
        ({"heads": 3}, "heads must divide the features that attention sees, 16, got 3"),
        ({"conditioning": "sigma"}, "conditioning must be time or log_snr, got 'sigma'"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_by_name(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        small(**changes)


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"x_t must have shape \[B, 1, 8, 8\], got \[2, 3, 8, 8\]"):
        small()(torch.zeros(2, 3, 8, 8), torch.zeros(2), torch.zeros(2, dtype=torch.int64))
