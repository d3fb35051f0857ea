"""HDiT: what a token sees at each level, what a level more costs, and what does not fit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from visgen_fast.models import HDiT
from visgen_fast.models.layers.windows import WindowAttention, to_grid, to_windows, window_of

SIZES = {
    **{"image_size": (16, 24), "channels": 1, "patch_size": 1, "widths": (8, 16), "depths": (2, 1), "heads": (2, 2)},
    **{"classes": 3, "window": 4},
}


def awake(network: nn.Module) -> nn.Module:
    """Random weights in the place of zeros, as after training, so that every part shows in the output."""
    generator = torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.3, generator=generator)
    return network


def small(**changes: object) -> HDiT:
    torch.manual_seed(0)
    return HDiT(**{**SIZES, **changes})


def inputs(model: HDiT, batch: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    x = torch.randn(batch, model.channels + model.given, *model.image_size)
    return x, torch.rand(batch), torch.arange(batch) % (model.null_label + 1)


@pytest.mark.parametrize("given", [0, 2])
def test_it_begins_as_the_zero_function_and_all_its_weights_learn(given: int) -> None:
    model = small(given=given)
    x, t, labels = inputs(model, 8)
    assert torch.equal(model(x, t, labels), torch.zeros(8, 1, 16, 24))
    awake(model)(x, t, labels).square().sum().backward()
    assert [name for name, parameter in model.named_parameters() if not parameter.grad.any()] == []


def seen(function: object, grid: tuple[int, int], place: tuple[int, int], features: int) -> Tensor:
    """Which places of the input the output at one place depends on: bool [height, width]."""
    x = torch.randn(1, *grid, features, requires_grad=True)
    function(x)[0, place[0], place[1]].sum().backward()
    return x.grad[0].abs().sum(-1) > 0


@pytest.mark.parametrize(
    ("shifted", "place", "rows", "columns"),
    [
        (False, (5, 9), slice(4, 8), slice(8, 12)),
        (True, (5, 9), slice(2, 6), slice(6, 10)),
        (True, (0, 11), slice(0, 2), slice(10, 12)),  # at the border it sees less, and never the other side
        (True, (7, 4), slice(6, 8), slice(2, 6)),
    ],
)
def test_a_token_sees_its_window_alone(shifted: bool, place: tuple[int, int], rows: slice, columns: slice) -> None:
    attention = WindowAttention((8, 12), 8, 2, (4, 4), shifted=shifted)
    expected = torch.zeros(8, 12, dtype=torch.bool)
    expected[rows, columns] = True
    assert torch.equal(seen(attention, (8, 12), place, 8), expected)


def test_windows_of_the_grid_s_size_are_attention_to_all_in_rotary_positions() -> None:
    torch.manual_seed(0)
    whole = WindowAttention((4, 6), 8, 2, (4, 6), shifted=True)
    assert seen(whole, (4, 6), (0, 0), 8).all()
    x = torch.randn(1, 4, 6, 8)
    with torch.no_grad():
        assert not torch.allclose(whole(x.flip(1)).flip(1), whole(x), atol=1e-4)  # it knows where tokens are


def test_only_the_lowest_level_carries_what_is_far_away() -> None:
    model = awake(small())
    x, t, labels = inputs(model, 1)
    x.requires_grad_()

    def far() -> bool:
        x.grad = None
        model(x, t, labels)[0, 0, 0, 0].backward()
        return bool(x.grad[0, 0, -1, -1])

    assert far()
    with torch.no_grad():
        model.body.share.zero_()  # the skip alone
    assert not far()


def test_windows_and_their_inverse_and_the_window_that_fits() -> None:
    x = torch.arange(2 * 8 * 12 * 3).view(2, 8, 12, 3)
    for shift in ((0, 0), (2, 3), (0, 3)):
        assert torch.equal(to_grid(to_windows(x, (4, 6), shift), (8, 12), (4, 6), shift), x)
    assert to_windows(x, (2, 2))[0, 0, :, 0].tolist() == [0, 3, 36, 39]
    assert [window_of(grid, 8) for grid in ((14, 28), (32, 32), (5, 8))] == [(7, 7), (8, 8), (5, 8)]
    with pytest.raises(ValueError, match=r"divided by one number from 4 to 8, got 22×22"):
        window_of((22, 22), 8)


def test_twice_the_resolution_and_one_level_more_costs_less_than_four_and_a_half_times() -> None:
    """Counted in products, with the new level as wide as the finest one before; benchmarks measure the time."""

    def cost(side: int, *levels: int) -> int:
        count = [2] * len(levels)
        with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
            model = HDiT(image_size=side, channels=3, patch_size=4, widths=levels, depths=count, heads=count, classes=2)
            model(torch.empty(1, 3, side, side), torch.empty(1), torch.empty(1, dtype=torch.int64))
        return counter.get_total_flops()

    assert cost(128, 64, 64, 128) <= 4.5 * cost(64, 64, 128)
    assert cost(256, 64, 64, 64, 128) <= 4.5 * cost(128, 64, 64, 128)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"depths": (1,)}, "widths, depths and heads must have a number for each level, got 2, 1 and 2"),
        ({"heads": (3, 2)}, "heads must divide a level's width into parts of a multiple of 4, got 3 for 8"),
        ({"image_size": 9}, r"doubled for each level after the first, must divide image_size \(9, 9\), got 2"),
        ({"widths": (0, 16)}, "widths must be at least 1, got 0"),
    ],
)
def test_sizes_that_do_not_fit_are_one_sentence(changes: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        small(**changes)
