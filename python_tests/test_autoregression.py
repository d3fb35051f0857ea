"""Orders, the sampler and the likelihood of models of codes."""

from __future__ import annotations

import math

import pytest
import torch
from code_models import awake, sequence, some_codes
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from visgen_fast import ops
from visgen_fast.autoregression import (
    Cascade,
    CodeModel,
    Order,
    columns,
    in_turn,
    nll,
    plane_by_plane,
    raster,
    sample,
    scale_by_scale,
    shuffled,
    snake,
    tile_by_tile,
)

SEEDS = ops.derive_seeds(0, torch.arange(4))


def test_orders_are_what_their_names_say():
    assert raster((2, 3, 1)).steps[..., 0].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert columns((2, 3, 1)).steps[..., 0].tolist() == [[0, 2, 4], [1, 3, 5]]
    assert columns((1, 2, 2)).steps.tolist() == [[[0, 1], [2, 3]]]
    assert snake((3, 3, 1)).steps[..., 0].tolist() == [[0, 1, 2], [5, 4, 3], [6, 7, 8]]
    assert snake((2, 2, 2)).steps.tolist() == [[[0, 1], [2, 3]], [[6, 7], [4, 5]]]
    assert plane_by_plane((2, 2, 2)).steps.tolist() == [[[0, 4], [1, 5]], [[2, 6], [3, 7]]]
    assert plane_by_plane((3, 2)).steps.tolist() == [[0, 3], [1, 4], [2, 5]]
    tiles = [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    assert tile_by_tile((4, 4, 1), 2).steps[..., 0].tolist() == tiles
    assert scale_by_scale((1, (1, 2), 2)).steps[:, 0].tolist() == [0, 1, 1, 2, 2, 2, 2]
    both = in_turn(scale_by_scale((1, 2)), raster((2, 2, 1)))
    assert both.shape == (9, 1) and both.steps[:, 0].tolist() == [0, 1, 1, 1, 1, 2, 3, 4, 5]
    assert both.sizes == [1, 4, 1, 1, 1, 1] and both.count == 6 and both.length == 9


@given(shape=st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3)), seed=st.integers(0, 2**62))
def test_every_order_of_single_codes_is_a_permutation(shape, seed):
    codes = torch.arange(math.prod(shape)).view(1, *shape)
    for order in (raster(shape), columns(shape), snake(shape), plane_by_plane(shape), shuffled(shape, seed)):
        assert order.shape == shape and order.count == order.length == math.prod(shape)
        assert torch.equal(order.steps.flatten()[order.places], torch.arange(order.length))
        assert torch.equal(order.to_array(order.to_sequence(codes)), codes)


def test_a_shuffled_order_is_its_seeds():
    first, again, other = shuffled((4, 4, 1), 1), shuffled((4, 4, 1), 1), shuffled((4, 4, 1), 2)
    assert first == again and hash(first) == hash(again) and first != other and first != raster((4, 4, 1))


WRONG_ORDERS = {
    "gap": (lambda: Order(torch.tensor([0, 2])), "steps must be 0, 1, … without gaps, got none that is 1"),
    "negative": (lambda: Order(torch.tensor([-1, 0])), "steps must be 0, 1, … without gaps, got none that is 1"),
    "type": (lambda: Order(torch.tensor([0.0])), "steps must be int64 [*grid, Q], got torch.float32 of shape [1]"),
    "empty": (
        lambda: Order(torch.zeros(0, 1).long()),
        "steps must be int64 [*grid, Q], got torch.int64 of shape [0, 1]",
    ),
    "tile": (lambda: tile_by_tile((4, 6, 1), 4), "tile must divide both sides of the grid, 4 and 6, got 4"),
    "grid": (lambda: columns((4, 1)), "columns is an order of a grid [H, W, Q], got the shape [4, 1]"),
    "depths": (
        lambda: in_turn(raster((2, 1)), raster((2, 2))),
        "orders in turn must be of arrays with one number of codes at a place, got [1, 2]",
    ),
}


@pytest.mark.parametrize("call, sentence", WRONG_ORDERS.values(), ids=WRONG_ORDERS)
def test_a_wrong_order_gets_a_sentence(call, sentence):
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value) == sentence


class Counting(CodeModel):
    """Logits that say which step of which batch this is, several codes a step; remembers what it was told."""

    def __init__(self, order: Order, size: int) -> None:
        super().__init__()
        self.order, self.size, self.null_label = order, size, 9
        self.told: list[list[list[int]]] = []

    def forward(self, codes, condition=None):
        return torch.zeros(*codes.shape, self.size)

    def begin(self, condition=None):
        self.condition, self.step = condition, 0
        return self

    def advance(self, state, codes):
        self.told.append(codes.tolist())
        logits = torch.zeros(len(codes), self.order.sizes[self.step], self.size)
        logits[:, :, self.step] = 50.0
        self.step += 1
        return logits


def test_the_model_is_told_the_codes_of_the_step_before_and_of_nothing_else():
    model = Counting(scale_by_scale((1, 2)), 3)
    codes = sample(model, torch.tensor([4, 5]), SEEDS[:2], guidance=2.0)
    assert model.condition.tolist() == [4, 5, 9, 9]  # conditional and unconditional in one call
    assert model.told == [[[]] * 4, [[0]] * 4] and codes[..., 0].tolist() == [[0, 1, 1, 1, 1]] * 2


def test_step_t_draws_from_its_own_stream():
    model = awake(lambda: sequence(raster((2, 2, 1)), 5))
    codes = sample(model, None, SEEDS, top_k=3)
    logits = model(codes).flatten(1, 3)
    for step in range(4):
        stream = ops.Purpose.CODE.stream(step)
        drawn = ops.sample_tokens(logits[:, step : step + 1], SEEDS, top_k=3, stream=stream)
        assert torch.equal(drawn[:, 0], codes.flatten(1)[:, step])


@pytest.mark.parametrize(
    "guidance, expected",
    [(2.5, [2.5] * 4), (lambda progress: 1 + 3 * progress, [1, 2, 3, 4])],
    ids=["number", "function of progress"],
)
def test_guidance_weighs_conditional_against_unconditional(guidance, expected):
    model = awake(lambda: sequence(raster((2, 2, 1)), 5, classes=3))
    labels = torch.tensor([0, 1, 2, 0])
    codes = sample(model, labels, SEEDS, guidance=guidance)
    conditional, unconditional = (model(codes, told).flatten(1, 3) for told in (labels, torch.full((4,), 3)))
    for step, scale in enumerate(expected):
        drawn = ops.sample_tokens(
            conditional[:, step],
            SEEDS,
            unconditional=unconditional[:, step],
            guidance=float(scale),
            stream=ops.Purpose.CODE.stream(step),
        )
        assert torch.equal(drawn, codes.flatten(1)[:, step])


def test_a_guidance_for_each_sample():
    model = awake(lambda: sequence(raster((2, 2, 1)), 5, classes=3))
    labels = torch.tensor([0, 1, 2, 0])
    together = sample(model, labels, SEEDS, guidance=torch.tensor([1.0, 0.0, 2.0, 4.0]))
    for i, scale in enumerate((1.0, 0.0, 2.0, 4.0)):
        assert torch.equal(sample(model, labels[i : i + 1], SEEDS[i : i + 1], guidance=scale)[0], together[i])


def test_a_sample_has_its_codes_alone_and_in_any_batch():
    model = awake(lambda: sequence(snake((3, 3, 1)), 4, classes=2))
    labels = torch.tensor([0, 1, 2, 0])
    together = sample(model, labels, SEEDS)
    assert torch.equal(sample(model, labels[2:3], SEEDS[2:3])[0], together[2])


def test_known_codes_stay_and_the_others_follow_them():
    model = awake(lambda: sequence(columns((2, 3, 1)), 4))
    known = torch.full((1, 2, 3, 1), -1)
    known[:, :, 0], known[:, 1, 2] = 3, 2
    codes = sample(model, None, SEEDS, known=known)
    assert torch.equal(torch.where(known < 0, codes, known), codes)
    logits = model.order.to_sequence(model(codes))
    drawn = ops.sample_tokens(logits[:, 2:3], SEEDS, stream=ops.Purpose.CODE.stream(2))
    assert torch.equal(drawn[:, 0], codes[:, 0, 1, 0])  # the first that is drawn, after two known ones
    full = some_codes(model, 4)
    assert torch.equal(sample(model, None, SEEDS, known=full), full)


def test_a_callback_sees_the_codes_after_each_step():
    model, seen = awake(lambda: sequence(columns((2, 2, 1)), 4)), []
    codes = sample(model, None, SEEDS, callback=lambda step, codes: seen.append((step, codes)))
    in_rows = awake(lambda: sequence(raster((2, 2, 1)), 4))
    spoiled = sample(in_rows, None, SEEDS, callback=lambda step, codes: codes.zero_())
    assert torch.equal(spoiled, sample(in_rows, None, SEEDS))  # a callback has a copy
    assert [step for step, _ in seen] == [0, 1, 2, 3] and torch.equal(seen[-1][1], codes)
    assert torch.equal(seen[1][1], torch.where(model.order.steps <= 1, codes, -1))


def test_seeds_say_all_and_more_of_them_say_more():
    model = awake(lambda: sequence(raster((3, 3, 1)), 4))
    first, again = sample(model, None, SEEDS), sample(model, None, SEEDS)
    assert torch.equal(first, again) and len(first.flatten(1).unique(dim=0)) == 4


class Broken(Counting):
    """NaN at the second step."""

    def advance(self, state, codes):
        return super().advance(state, codes) + (math.nan if self.step == 2 else 0.0)


def plain() -> CodeModel:
    return sequence(raster((2, 2, 1)), 4)


SAMPLE = {
    "guidance": (
        lambda: sample(plain(), None, SEEDS, guidance=2.0),
        "guidance must be 1 for a model without a null label: it has nothing to be guided by",
    ),
    "known of another shape": (
        lambda: sample(plain(), None, SEEDS, known=torch.zeros(2, 2, 2).long()),
        "known must be broadcastable to [4, 2, 2, 1], got [2, 2, 2]",
    ),
    "known of other codes": (
        lambda: sample(plain(), None, SEEDS, known=torch.full((2, 2, 1), 4)),
        "known must be int64 codes in [0, 4), or −1 where one is drawn",
    ),
    "not finite": (
        lambda: sample(Broken(scale_by_scale((1, 2)), 3), None, SEEDS),
        "the model's logits must be finite, or −∞ for some codes; at step 1 they are not",
    ),
    "shape of codes": (
        lambda: nll(plain(), torch.zeros(1, 2, 1).long()),
        "codes must be [B, 2, 2, 1], got [1, 2, 1]",
    ),
    "foreign order": (
        lambda: nll(plain(), torch.zeros(1, 2, 2, 1).long(), order=snake((2, 2, 1))),
        "order must be the model's own, Order(4 codes [2, 2, 1] in 4 steps), got Order(4 codes [2, 2, 1] in 4 steps): "
        "it can't be asked in another",
    ),
    "a fine model without fine codes": (
        lambda: cascade(3, raster((4, 1))),
        "fine must be of codes [L, 1], more than the coarse ones, got Order(4 codes [4, 1] in 4 steps)",
    ),
    "coarse codes that are not first": (
        lambda: cascade(3, shuffled((10, 1), 0)),
        "the order of fine must have the coarse codes before all others",
    ),
    "coarse codes of more values": (
        lambda: cascade(6, raster((10, 1))),
        "coarse must have at most as many values, 5, and the same classes as fine, got 6",
    ),
    "masked in one pass": (
        lambda: nll(Masked(raster((2, 1)), 3), torch.zeros(1, 2, 1).long()),
        "a masked model has a stepwise likelihood alone: stepwise must be True",
    ),
}


@pytest.mark.parametrize("call, sentence", SAMPLE.values(), ids=SAMPLE)
def test_what_cannot_be_gets_a_sentence(call, sentence):
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value) == sentence


class Masked(CodeModel):
    """A masked model: any order, logits from the sum of the known codes and from their number."""

    one_pass = False

    def __init__(self, order: Order, size: int) -> None:
        super().__init__()
        self.order, self.size = order, size

    def in_order(self, order: Order) -> CodeModel:
        return Masked(order, self.size)

    def forward(self, codes, condition=None):
        raise NotImplementedError

    def begin(self, condition=None):
        return {"step": 0, "sum": 0}

    def advance(self, state, codes):
        size = self.order.sizes[state["step"]]
        state["step"], state["sum"] = state["step"] + 1, state["sum"] + codes.sum(1)
        scale = torch.arange(self.size) * (state["sum"] + 0.1 * state["step"]).view(-1, 1, 1)
        return scale.expand(len(codes), size, -1).double()


def test_a_masked_model_is_as_likely_as_the_order_in_which_it_is_asked():
    model, codes = Masked(raster((3, 1)), 3), torch.tensor([[[2], [0], [1]]])
    forward = nll(model, codes, stepwise=True)
    backward = nll(model, codes, order=Order(torch.tensor([[2], [1], [0]])), stepwise=True)

    def loss(scale: float, code: int) -> float:
        return -(scale * torch.arange(3.0)).log_softmax(0)[code].item()

    assert forward.flatten().tolist() == pytest.approx([loss(0.1, 2), loss(2.2, 0), loss(2.3, 1)], abs=1e-5)
    assert backward.flatten().tolist() == pytest.approx([loss(1.3, 2), loss(1.2, 0), loss(0.1, 1)], abs=1e-5)


def test_the_likelihood_is_the_loss_and_its_own_order_is_no_foreign_one():
    model = awake(plain)
    codes = some_codes(model, 2)
    losses = nll(model, codes, order=raster((2, 2, 1)))
    assert losses.shape == codes.shape and losses.requires_grad
    assert not nll(model, codes, stepwise=True).requires_grad
    low = awake(plain, torch.bfloat16)
    assert nll(low, codes).dtype == torch.float32


def cascade(size: int, order: Order, **options) -> Cascade:
    return Cascade(awake(lambda: sequence(raster((2, 2, 1)), size)), awake(lambda: sequence(order, 5, **options)))


def test_coarse_codes_of_a_cascade_have_their_own_values_and_the_fine_model_is_told_them():
    model = cascade(3, in_turn(columns((2, 2, 1)), snake((2, 3, 1))))
    seeds = ops.derive_seeds(7, torch.arange(50))
    codes = sample(model, None, seeds)
    coarse, fine = codes.split([4, 6], 1)
    assert coarse.max() == 2 and fine.max() == 4
    assert torch.equal(coarse, sample(model.coarse, None, seeds).flatten(1, 2))
    logits = model.fine.order.to_sequence(model.fine(codes))[:, 4:]
    drawn = [ops.sample_tokens(logits[:, i], seeds, stream=ops.Purpose.CODE.stream(4 + i)) for i in range(6)]
    assert torch.equal(model.fine.order.to_sequence(codes)[:, 4:], torch.stack(drawn, 1))


def test_a_model_learns_what_its_codes_are():
    torch.manual_seed(0)
    model = sequence(raster((2, 4, 1)), 3)
    codes = torch.arange(8).view(1, 2, 4, 1) % 3
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        nll(model, codes).mean().backward()
        optimizer.step()
    drawn: Tensor = sample(model.eval(), None, SEEDS)
    assert torch.equal(drawn, codes.expand(4, -1, -1, -1))
