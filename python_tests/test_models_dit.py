"""The diffusion transformer."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from benchmarks.published import as_published
from visgen_fast import ops
from visgen_fast.diffusion import ClassifierFree, DiffusionObjective, LogitNormalTimes, RectifiedFlow, plan, sample
from visgen_fast.models import DiT
from visgen_fast.models.layers.attention import Attention
from visgen_fast.models.layers.embeddings import sincos_positions
from visgen_fast.models.layers.modulation import Modulation
from visgen_fast.models.layers.patches import patchify, unpatchify
from visgen_fast.nn import ResidualStream


def small(**changes: object) -> DiT:
    torch.manual_seed(0)
    settings = {"image_size": 8, "channels": 1, "patch_size": 2, "width": 32, "depth": 2, "heads": 4, "classes": 10}
    return DiT(**{**settings, **changes})


def awake(model: DiT) -> DiT:
    """Random instead of zero gates and output, as after training, so that every part shows in the output."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1, generator=generator)
    return model


def inputs(model: DiT, batch: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    seeds = ops.derive_seeds(2, torch.arange(batch))
    x = ops.gaussian(seeds, (model.channels, *model.image_size))
    return x, ops.uniform(seeds, (1,))[:, 0], torch.arange(batch) % (model.null_label + 1)


@settings(max_examples=20)
@given(
    grid=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    patch_size=st.integers(1, 3),
    channels=st.integers(1, 4),
    batch=st.integers(1, 3),
)
def test_output_is_zero_at_the_start_and_has_the_shape_of_the_input(
    grid: tuple[int, int], patch_size: int, channels: int, batch: int
) -> None:
    model = small(image_size=tuple(side * patch_size for side in grid), patch_size=patch_size, channels=channels)
    x, t, labels = inputs(model, batch)
    output = model(x, t, labels)
    assert output.shape == x.shape and torch.equal(output, torch.zeros_like(x))


def test_blocks_are_the_identity_at_the_start() -> None:
    model = small()
    tokens, condition = torch.randn(2, 16, 32), torch.randn(2, 1, 32)
    assert all(torch.equal(block(ResidualStream(tokens), condition).total(), tokens) for block in model.blocks)


def test_gradients_reach_every_parameter_once_the_gates_are_open() -> None:
    model = awake(small())
    model(*inputs(model, batch=16)).square().sum().backward()
    untouched = [name for name, parameter in model.named_parameters() if not parameter.grad.any()]
    assert untouched == []


def test_initial_weights_are_the_papers() -> None:
    model = small(width=128)
    for linear in (module for module in model.modules() if isinstance(module, nn.Linear)):
        assert not linear.bias.any()
    qkv = model.blocks[0].attention.qkv.weight
    bound = (6 / (128 + 3 * 128)) ** 0.5
    assert qkv.abs().max() <= bound and qkv.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
    for embedding in (model.embed_label, model.embed_time.input, model.embed_time.output):
        assert embedding.weight.std().item() == pytest.approx(0.02, rel=0.1)
    modulations = [module.linear for module in model.modules() if isinstance(module, Modulation)]
    assert len(modulations) == 3 and not any(linear.weight.any() for linear in (*modulations, model.output.linear))


def test_the_number_of_parameters_is_that_of_the_papers_architecture() -> None:
    """DiT-S/2 on 32×32×4 latents with 1000 classes has 33.0 million (its table 1), positions not counted."""
    model = DiT(image_size=32, channels=4, patch_size=2, width=384, depth=12, heads=6, classes=1000)
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(33.0e6, rel=0.01)


@given(grid=st.tuples(st.integers(1, 4), st.integers(1, 4)), patch_size=st.integers(1, 3), channels=st.integers(1, 3))
def test_unpatchify_inverts_patchify_and_a_token_is_one_patch(
    grid: tuple[int, int], patch_size: int, channels: int
) -> None:
    height, width = (side * patch_size for side in grid)
    x = torch.arange(2.0 * channels * height * width).view(2, channels, height, width)
    tokens = patchify(x, patch_size)
    assert tokens.shape == (2, grid[0] * grid[1], patch_size**2 * channels)
    assert torch.equal(unpatchify(tokens, patch_size, (height, width)), x)
    last = x[:, :, -patch_size:, -patch_size:]
    assert torch.equal(tokens[:, -1], last.permute(0, 2, 3, 1).flatten(1))


@pytest.mark.parametrize("grid", [(8, 8), (3, 7), (1, 5)])
def test_every_position_is_different_and_of_the_same_length(grid: tuple[int, int]) -> None:
    positions = sincos_positions(*grid, 32)
    assert positions.shape == (grid[0] * grid[1], 32)
    distances = torch.cdist(positions, positions) + 10 * torch.eye(len(positions))
    assert distances.min() > 0.1
    torch.testing.assert_close(positions.square().sum(1), torch.full((len(positions),), 16.0))


def test_positions_run_row_by_row() -> None:
    positions = sincos_positions(3, 7, 32).view(3, 7, 32)
    assert torch.equal(positions[..., :16], positions[:, :1, :16].expand(3, 7, 16))
    assert torch.equal(positions[..., 16:], positions[:1, :, 16:].expand(3, 7, 16))


def test_attention_is_torchs_multi_head_attention() -> None:
    ours, theirs = Attention(32, 4), nn.MultiheadAttention(32, 4, batch_first=True)
    theirs.in_proj_weight, theirs.in_proj_bias = ours.qkv.weight, ours.qkv.bias
    theirs.out_proj.weight, theirs.out_proj.bias = ours.project.weight, ours.project.bias
    x = ops.gaussian(ops.derive_seeds(7, torch.arange(2)), (5, 32))
    torch.testing.assert_close(ours(x), theirs(x, x, x, need_weights=False)[0])


def test_the_network_sees_where_a_patch_is_by_its_position_alone() -> None:
    model = awake(small())
    x, t, labels = inputs(model)

    def moved(x: Tensor) -> Tensor:
        return torch.cat((x[..., 2:], x[..., :2]), -1)

    def change() -> float:
        return (model(moved(x), t, labels) - moved(model(x, t, labels))).abs().max().item()

    assert change() > 1e-2
    nn.init.zeros_(model.positions)
    assert change() < 1e-5


def test_a_bottleneck_changes_the_patch_embedding_alone() -> None:
    model, plain = small(bottleneck=3, patch_size=4, channels=3), small(patch_size=4, channels=3)
    shapes = {name: value.shape for name, value in model.named_parameters()}
    there = {"embed_patch.0.weight": (3, 48), "embed_patch.1.weight": (32, 3), "embed_patch.1.bias": (32,)}
    assert {name: tuple(shapes.pop(name)) for name in there} == there
    without = {name: value.shape for name, value in plain.named_parameters()}
    assert {name: without.pop(f"embed_patch.{name}") for name in ("weight", "bias")} == {
        "weight": (32, 48),
        "bias": (32,),
    }
    assert shapes == without


def test_a_bottleneck_leaves_as_many_directions_of_a_patch_as_it_has_features() -> None:
    model = awake(small(bottleneck=3, patch_size=4, channels=3)).eval()
    x, t, labels = inputs(model)
    unseen = torch.linalg.svd(model.embed_patch[0].weight).Vh[3:]
    assert unseen.shape == (45, 48)
    moved = unpatchify(patchify(x, 4) + unseen[0], 4, model.image_size)
    torch.testing.assert_close(model(moved, t, labels), model(x, t, labels), rtol=1e-4, atol=1e-5)
    assert (model(x + 0.1, t, labels) - model(x, t, labels)).abs().max() > 1e-2


def test_time_and_label_change_the_output_and_samples_do_not_see_each_other() -> None:
    model = awake(small()).eval()
    x, t, labels = inputs(model)
    output = model(x, t, labels)
    for changed in (model(x, t.flip(0), labels), model(x, t, torch.full_like(labels, model.null_label))):
        assert (changed - output).abs().amax((1, 2, 3)).min() > 1e-3
    alone = torch.cat([model(x[i : i + 1], t[i : i + 1], labels[i : i + 1]) for i in range(len(x))])
    torch.testing.assert_close(alone, output, rtol=1e-4, atol=1e-5)


def test_nearby_times_are_told_apart_and_near_ones_are_close() -> None:
    embedding = small().embed_time
    with torch.no_grad():
        base, near, far = embedding(torch.tensor([0.5, 0.5 + 1e-6, 0.501]))
    assert (near - base).norm() < 0.01 * (far - base).norm()


def test_dropout_acts_in_training_only() -> None:
    model = awake(small(dropout=0.5))
    arguments = inputs(model)
    assert not torch.equal(model(*arguments), model(*arguments))
    model.eval()
    assert torch.equal(model(*arguments), model(*arguments))
    assert torch.equal(model(*arguments), awake(small()).eval()(*arguments))


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # torch's own
def test_compiles_without_graph_breaks_to_the_same_result() -> None:
    model = awake(small(image_size=(4, 6), depth=1)).eval()
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


def test_the_state_dict_is_what_it_has_always_been() -> None:
    block = {
        **{"attention.qkv.weight": (96, 32), "attention.qkv.bias": (96,)},
        **{"attention.project.weight": (32, 32), "attention.project.bias": (32,)},
        **{"mlp.0.weight": (128, 32), "mlp.0.bias": (128,), "mlp.2.weight": (32, 128), "mlp.2.bias": (32,)},
        **{"modulation.linear.weight": (192, 32), "modulation.linear.bias": (192,)},
    }
    expected = {
        **{"embed_patch.weight": (32, 4), "embed_patch.bias": (32,)},
        **{"embed_time.input.weight": (32, 256), "embed_time.input.bias": (32,)},
        **{"embed_time.output.weight": (32, 32), "embed_time.output.bias": (32,), "embed_label.weight": (11, 32)},
        **{f"blocks.{number}.{name}": shape for number in range(2) for name, shape in block.items()},
        **{"output.modulation.linear.weight": (64, 32), "output.modulation.linear.bias": (64,)},
        **{"output.linear.weight": (4, 32), "output.linear.bias": (4,)},
    }
    assert {name: tuple(value.shape) for name, value in small().state_dict().items()} == expected


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=str)
def test_outputs_and_gradients_are_those_of_the_authors_lines(dtype: torch.dtype, tolerance: float) -> None:
    model = awake(small()).to(dtype)
    x, t, labels = inputs(model)
    found = []
    for network in (model, as_published(model)):
        output = network(x.to(dtype), t.to(dtype), labels)
        found.append([output, *torch.autograd.grad(output.square().sum(), list(network.parameters()))])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance * other.abs().max().item())


def test_state_holds_parameters_only() -> None:
    model = small()
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}


def test_sampled_images_are_the_same_in_any_batch() -> None:
    model = awake(small()).eval()
    seeds, labels = ops.derive_seeds(4, torch.arange(6)), torch.arange(6)

    def draw(index: slice) -> Tensor:
        return sample(
            model,
            plan("euler", RectifiedFlow(), "velocity", steps=4),
            (1, 8, 8),
            labels[index],
            seeds[index],
            guidance=ClassifierFree(2.0, model.null_label),
        )

    together = draw(slice(0, 6))
    torch.testing.assert_close(torch.cat((draw(slice(0, 1)), draw(slice(1, 6)))), together, rtol=1e-4, atol=1e-4)


def test_learns_to_tell_two_classes_apart() -> None:
    """Class 0 is black, class 1 white: after a short training, images drawn are of their class."""
    model = small(classes=2, image_size=4)
    objective = DiffusionObjective(
        RectifiedFlow(), "velocity", LogitNormalTimes(), label_drop=0.1, null_label=model.null_label
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    labels = torch.arange(32) % 2
    images = (2.0 * labels - 1).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous()
    for step in range(120):
        loss = objective(model, images, labels, ops.derive_seeds(0, 32 * step + torch.arange(32))).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    drawn = sample(
        model.eval(),
        plan("euler", RectifiedFlow(), "velocity", steps=20),
        (1, 4, 4),
        torch.tensor([0, 1, 0, 1]),
        ops.derive_seeds(9, torch.arange(4)),
    )
    assert (drawn.mean((1, 2, 3)) - torch.tensor([-1.0, 1.0, -1.0, 1.0])).abs().max() < 0.3


def test_sizes_that_do_not_fit_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"patch_size must divide image_size \(8, 9\), got 2"):
        small(image_size=(8, 9))
    for name in ("image_size", "channels", "patch_size", "width", "depth", "heads", "bottleneck"):
        for wrong in (0, -2):
            with pytest.raises(ValueError, match=f"{name} must be at least 1, got {wrong}"):
                small(**{name: wrong})
    with pytest.raises(ValueError, match="heads must divide width 32, got 5"):
        small(heads=5)
    with pytest.raises(ValueError, match="width must be a multiple of 4"):
        small(width=30, heads=5)
    model = small()
    with pytest.raises(ValueError, match=r"x_t must have shape \[B, 1, 8, 8\], got \[2, 3, 8, 8\]"):
        model(torch.zeros(2, 3, 8, 8), torch.zeros(2), torch.zeros(2, dtype=torch.int64))
