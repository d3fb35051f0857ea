"""What every model of codes promises: a distribution, one pass that equals the steps, no leak and no deaf spot."""

from __future__ import annotations

import pytest
import torch
from code_models import (
    BLOCKS,
    LARGER,
    TINY,
    all_codes,
    awake,
    labels_for,
    loss,
    masked,
    one_pass,
    probabilities,
    scales,
    sequence,
    some_codes,
)
from scipy import stats

from visgen_fast import ops
from visgen_fast.autoregression import nll, raster, sample, scale_by_scale
from visgen_fast.models import PixelCNN, PixelRNN, SequenceModel, SpaceDepthModel, Transformer
from visgen_fast.nn import Condition

each_tiny = pytest.mark.parametrize("make", TINY.values(), ids=TINY)
each_larger = pytest.mark.parametrize("make", LARGER.values(), ids=LARGER)
each_model = pytest.mark.parametrize(
    "make", [*TINY.values(), *LARGER.values()], ids=[*TINY, *(f"larger {n}" for n in LARGER)]
)


@each_tiny
def test_probabilities_of_all_arrays_sum_to_one(make):
    model = awake(make)
    for label in (None,) if model.null_label is None else range(model.null_label + 1):
        p = probabilities(model, label)
        assert abs(p.sum().item() - 1) < 1e-9 and p.max() > 2 / len(p)  # and it is not uniform


@each_tiny
def test_draws_follow_the_probabilities(make):
    model, count = awake(make), 100_000
    label = None if model.null_label is None else 1
    condition = None if label is None else torch.full((count,), label)
    codes = sample(model, condition, ops.derive_seeds(3, torch.arange(count)))
    digits = model.size ** torch.arange(model.order.length - 1, -1, -1)
    assert torch.equal((all_codes(model).flatten(1) * digits).sum(1), torch.arange(model.size**model.order.length))
    found = torch.bincount((codes.flatten(1) * digits).sum(1), minlength=model.size**model.order.length)
    expected = count * probabilities(model, label)
    rare = expected < 5
    pairs = [torch.cat((x[~rare], x[rare].sum()[None])).double() for x in (found, expected)]
    if pairs[1][-1] < 5:
        pairs = [x[:-1] for x in pairs]
    pairs[1] *= pairs[0].sum() / pairs[1].sum()
    assert stats.chisquare(*(x.numpy() for x in pairs)).pvalue > 1e-4


@each_model
@pytest.mark.parametrize("dtype, most", [(torch.float64, 1e-9), (torch.float32, 1e-3)], ids=["float64", "float32"])
def test_one_pass_equals_step_by_step(make, dtype, most):
    model = awake(make, dtype)
    codes, labels = some_codes(model, 3), labels_for(model, 3)
    at_once, steps = loss(model, codes, labels), nll(model, codes, labels, stepwise=True)
    if model.one_pass:
        assert torch.equal(nll(model, codes, labels), at_once)
    assert at_once.dtype == steps.dtype == dtype and (at_once - steps).abs().max() <= most


@each_model
@torch.no_grad()
def test_later_codes_move_no_earlier_logits(make):
    """Bit for bit, whatever becomes of all codes of a step and of those after it."""
    model = awake(make)
    order, labels = model.order, labels_for(model, 2)
    before = order.to_sequence(one_pass(model, some_codes(model, 2), labels))
    sequence, other = (order.to_sequence(some_codes(model, 2, key)) for key in (0, 1))
    for step in range(order.count):
        first = sum(order.sizes[:step])
        changed = torch.cat((sequence[:, :first], other[:, first:]), 1)
        after = order.to_sequence(one_pass(model, order.to_array(changed), labels))
        seen = first + order.sizes[step]
        assert torch.equal(before[:, :seen], after[:, :seen])


def moved(model) -> torch.Tensor:
    """bool [i, j]: whether another i-th code moves the logits of the j-th, for any of some arrays of codes."""
    order, count = model.order, model.order.length
    labels = None if model.null_label is None else torch.zeros(count, dtype=torch.int64)
    found = torch.zeros(count, count, dtype=torch.bool)
    for key in range(5):  # in one of them a saturated unit may hide what is seen
        base = order.to_sequence(some_codes(model, 1, key)).expand(count, -1)
        changed = (base + torch.eye(count, dtype=torch.int64)) % model.size
        with torch.no_grad():
            before, after = (
                order.to_sequence(one_pass(model, order.to_array(codes), labels)) for codes in (base, changed)
            )
        found |= (before != after).any(-1)
    return found


@each_model
def test_every_earlier_code_moves_every_later_one(make):
    model = awake(make)
    steps = model.order.to_sequence(model.order.steps[None])[0]
    expected = steps[:, None] < steps[None]
    if not isinstance(model, PixelRNN):
        assert torch.equal(moved(model), expected)
        return
    found, pixel = moved(model), torch.arange(model.order.length) // model.channels
    assert not (found & ~expected).any()
    row, column = pixel // model.breadth, pixel % model.breadth
    down, across = row[None] - row[:, None], (column[None] - column[:, None]).abs()
    sees = torch.where(down > 0, across <= down, across <= 3 + len(model.layers))  # its triangle, and a part of its row
    assert found[sees & expected].all()


def test_a_pixel_cnn_without_enough_layers_is_deaf_far_away_alone():
    """So the test above can fail: two layers don't reach the other end of a row of nine."""
    found = moved(awake(lambda: PixelCNN((2, 9, 1), 4, width=8, depth=2)))
    assert not found[8, 9] and found[0, 9]


def slices(order) -> list[slice]:
    """Where the codes of each step are in the sequence."""
    ends = torch.tensor(order.sizes).cumsum(0).tolist()
    return [slice(end - size, end) for end, size in zip(ends, order.sizes, strict=True)]


@each_larger
def test_drawing_from_caches_gives_the_codes_of_drawing_without(make):
    model = awake(make)
    seeds = ops.derive_seeds(0, torch.arange(2))
    cached = sample(model, None, seeds, temperature=0.7, top_p=0.9)
    codes = torch.zeros(2, model.order.length, dtype=torch.int64)
    with torch.no_grad():
        for step, here in enumerate(slices(model.order)):
            logits = model.order.to_sequence(one_pass(model, model.order.to_array(codes)))[:, here]
            stream = ops.Purpose.CODE.stream(step)
            codes[:, here] = ops.sample_tokens(logits, seeds, temperature=0.7, top_p=0.9, stream=stream)
    assert torch.equal(cached, model.order.to_array(codes))


@each_model
def test_a_seed_s_codes_are_the_same_alone_and_in_a_batch(make):
    model, seeds = awake(make), ops.derive_seeds(5, torch.arange(4))
    labels, guidance = labels_for(model, 4), 1.0 if model.null_label is None else 2.0
    together = sample(model, labels, seeds, guidance=guidance)
    for i in (0, 3):
        told = None if labels is None else labels[i : i + 1]
        assert torch.equal(sample(model, told, seeds[i : i + 1], guidance=guidance)[0], together[i])


@each_larger
@torch.no_grad()
def test_codes_are_completed_by_what_the_model_says_after_the_known_ones(make):
    model, seeds = awake(make), ops.derive_seeds(1, torch.arange(3))
    order = model.order
    known = torch.where(order.steps < order.count // 2, some_codes(model, 3), -1)
    codes = order.to_sequence(sample(model, None, seeds, known=known))
    logits = order.to_sequence(one_pass(model, order.to_array(codes)))
    given = order.to_sequence(known)
    for step, here in enumerate(slices(order)):
        drawn = ops.sample_tokens(logits[:, here], seeds, stream=ops.Purpose.CODE.stream(step))
        assert torch.equal(codes[:, here], given[:, here] if step < order.count // 2 else drawn)


@each_model
def test_a_state_dict_brings_back_the_same_logits_also_off_the_meta_device(make):
    model = awake(make, torch.float32)
    codes, labels = some_codes(model, 2), labels_for(model, 2)
    with torch.device("meta"):
        empty = make()
    empty.to_empty(device="cpu").load_state_dict(model.state_dict())
    assert torch.equal(empty.eval()(codes, labels), model(codes, labels))


@each_model
def test_gradients_reach_every_parameter(make):
    model = awake(make)
    loss(model, some_codes(model, 8), labels_for(model, 8)).sum().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (not name.startswith("quantizer.")), name  # which stays as it is


def test_slots_of_one_step_see_each_other_and_none_of_later_ones():
    steps = scale_by_scale((1, 2, 3)).steps.flatten()
    transformer = Transformer(steps, width=8, depth=2, heads=2).double()
    slots = torch.randn(2, 14, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    together = transformer(slots)
    reached = torch.stack(
        [torch.autograd.grad(together[0, i].sum(), slots, retain_graph=True)[0][0] for i in range(14)]
    )
    assert torch.equal(reached.abs().sum(-1) > 0, steps[None] <= steps[:, None])
    cache = transformer.begin(2, slots)
    with torch.no_grad():
        pieces = [transformer.advance(cache, piece) for piece in slots.split([1, 4, 9], 1)]
    torch.testing.assert_close(torch.cat(pieces, 1), together, rtol=1e-12, atol=1e-12)


WRONG = {
    "heads": (lambda: SequenceModel(raster((2, 1)), 3, width=9, depth=1, heads=2), "heads must divide width 9, got 2"),
    "depth": (lambda: SequenceModel(raster((2, 1)), 3, width=8, depth=0, heads=2), "depth must be at least 1, got 0"),
    "size": (lambda: SequenceModel(raster((2, 1)), 0, width=8, depth=1, heads=2), "size must be at least 1, got 0"),
    "classes": (
        lambda: SequenceModel(raster((2, 1)), 3, width=8, depth=1, heads=2, classes=-1),
        "classes must be at least 0, got -1",
    ),
    "several codes a step": (
        lambda: SequenceModel(scale_by_scale((1, 2)), 3, width=8, depth=1, heads=2),
        "order must have one code a step for a sequence, got Order(5 codes [5, 1] in 2 steps)",
    ),
    "codes_per_place": (
        lambda: SpaceDepthModel((2, 2), 0, 3, width=8, depth=1, inner_depth=1, heads=2),
        "codes_per_place must be at least 1, got 0",
    ),
    "shape": (lambda: PixelCNN((2, 2), 3, width=8, depth=1), "shape must be (H, W, C), each at least 1, got (2, 2)"),
    "width": (
        lambda: PixelCNN((2, 2, 3), 3, width=8, depth=1),
        "width must be a multiple of the 3 channels, got 8",
    ),
    "kernel": (lambda: PixelCNN((2, 2, 1), 3, width=8, depth=1, kernel=4), "kernel must be odd and at least 3, got 4"),
    "layers": (lambda: PixelRNN((2, 2, 1), 3, width=8, depth=0), "depth must be at least 1, got 0"),
    "falling steps": (
        lambda: Transformer(torch.tensor([0, 2, 1]), width=8, depth=1, heads=1),
        "the steps of slots must not fall",
    ),
    "a label too many": (
        lambda: PixelCNN((2, 2, 1), 3, width=8, depth=1)(torch.zeros(1, 2, 2, 1).long(), torch.zeros(1).long()),
        "the condition must be None for a model without classes",
    ),
    "no label": (
        lambda: PixelCNN((2, 2, 1), 3, width=8, depth=1, classes=2)(torch.zeros(1, 2, 2, 1).long()),
        "the condition must be labels int64 [B], got NoneType",
    ),
}


@pytest.mark.parametrize("call, sentence", WRONG.values(), ids=WRONG)
def test_a_wrong_argument_gets_a_sentence(call, sentence):
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value) == sentence


TOLD = {
    "sequence": lambda **told: sequence(raster((2, 2, 1)), 3, **told),
    "masked": lambda **told: masked(raster((3, 1)), 3, **told),
    "scales": lambda **told: scales((1, 2), 3, **told),
    "space and depth": lambda **told: SpaceDepthModel((2,), 2, 3, inner_depth=1, **BLOCKS, **told),
}


@pytest.mark.parametrize("make", TOLD.values(), ids=TOLD)
@torch.no_grad()
def test_a_model_is_told_the_pooled_part_of_a_condition_in_the_place_of_labels(make):
    model, seeds = awake(lambda: make(pooled=6)), ops.derive_seeds(0, torch.arange(40))
    told, nothing = torch.randn(40, 6, dtype=torch.float64), torch.zeros(1, 6, dtype=torch.float64)
    codes, null = some_codes(model, 40), Condition(nothing)
    steps = nll(model, codes, Condition(told), stepwise=True)
    torch.testing.assert_close(steps, loss(model, codes, Condition(told)), rtol=1e-9, atol=1e-9)
    assert not torch.allclose(steps, nll(model, codes, Condition(told.flip(0)), stepwise=True))
    drawn = sample(model, Condition(told), seeds, null=null, guidance=0.0)
    assert torch.equal(drawn, sample(model, Condition(nothing.expand(40, -1)), seeds))
    assert not torch.equal(drawn, sample(model, Condition(told), seeds))
    with pytest.raises(ValueError, match="guidance must be 1 for a model without a null"):
        sample(model, Condition(told), seeds, guidance=2.0)
    with pytest.raises(ValueError, match="this network is told a Condition with a pooled part, got a condition of lab"):
        model(codes, torch.zeros(40, dtype=torch.int64))
    with pytest.raises(ValueError, match="either classes or pooled may be given, not both"):
        make(pooled=6, classes=3)
