"""Masked models: how many codes are hidden, what they learn from, and the order that they find while drawing."""

from __future__ import annotations

import math

import pytest
import torch
from code_models import awake, masked, one_pass, sequence, some_codes
from torch.nn import functional as F

from visgen_fast import ops
from visgen_fast.autoregression import (
    Order,
    mask_counts,
    masked_loss,
    masked_share,
    nll,
    random_mask,
    raster,
    sample_by_confidence,
    shuffled,
)

SEEDS = ops.derive_seeds(0, torch.arange(4))


def test_codes_are_hidden_again_in_the_published_numbers():
    counts = mask_counts(torch.tensor([256, 3, 1, 0]), 8)
    assert counts[:, 0].tolist() == [251, 236, 212, 181, 142, 97, 49, 1]
    assert counts[:, 1].tolist() == [2, 1, 1, 1, 1, 1, 1, 1] and (counts[:, 2:] == 1).all()
    assert mask_counts(torch.tensor([10]), 5, "linear")[:, 0].tolist() == [8, 6, 4, 2, 1]


@pytest.mark.parametrize("name", ["cosine", "linear", "arccos"])
def test_schedules_fall_from_all_to_none(name):
    r = torch.linspace(0, 1, 101, dtype=torch.float64)
    share = masked_share(r, name)
    assert share[0] == 1 and abs(share[-1]) < 1e-9 and (share.diff() < 0).all()
    expected = {"cosine": math.sqrt(0.5), "linear": 0.5, "arccos": 2 / 3}[name]
    assert share[50].item() == pytest.approx(expected)


def test_a_random_mask_hides_so_many_of_the_candidates_each_as_often():
    seeds = ops.derive_seeds(1, torch.arange(4000))
    candidates = torch.arange(9).expand(4000, -1) < 8
    hidden = random_mask(seeds, torch.tensor([0.3, 0.0]).repeat(2000), candidates)
    assert hidden.sum(1).tolist() == [3, 1] * 2000 and not hidden[:, 8].any()
    assert (hidden[::2, :8].double().mean(0) - 3 / 8).abs().max() < 0.05
    assert torch.equal(random_mask(seeds[7:8], torch.zeros(1), candidates[:1])[0], hidden[7])


def test_the_loss_is_of_hidden_codes_alone_and_the_model_does_not_see_them():
    model = awake(lambda: masked(raster((2, 3, 1)), 4, classes=3))
    codes, labels = some_codes(model, 4), torch.tensor([0, 1, 2, 3])
    told = []
    model.register_forward_pre_hook(lambda module, inputs: told.append(inputs[0]))
    losses = masked_loss(model, codes, labels, SEEDS, label_smoothing=0.1)
    hidden = told[0] < 0
    assert torch.equal(told[0][~hidden], codes[~hidden]) and hidden.flatten(1).any(1).all() and not hidden.all()
    logits = model(told[0], labels)
    for i in range(4):
        expected = F.cross_entropy(logits[i][hidden[i]], codes[i][hidden[i]], label_smoothing=0.1)
        torch.testing.assert_close(losses[i], expected)
    changed = torch.where(hidden, (codes + 1) % 4, codes)
    masked_loss(model, changed, labels, SEEDS)
    assert torch.equal(told[-1], told[0])


def test_codes_that_are_no_candidates_are_always_seen():
    model = awake(lambda: masked(raster((2, 3, 1)), 4))
    told = []
    model.register_forward_pre_hook(lambda module, inputs: told.append(inputs[0]))
    candidates = torch.tensor([[True], [False], [True]]).expand(2, 3, 1)
    masked_loss(model, some_codes(model, 4), None, SEEDS, candidates=candidates)
    assert (told[0][:, :, 1] >= 0).all() and (told[0] < 0).any()


@pytest.mark.parametrize("steps", [1, 3, 8])
def test_each_step_keeps_as_many_codes_as_the_schedule_says_and_none_stays_hidden(steps):
    model = awake(lambda: masked(raster((4, 4, 1)), 5, classes=3))
    seen = []
    labels = torch.tensor([0, 1, 2, 0])
    codes = sample_by_confidence(
        model, labels, SEEDS, steps=steps, guidance=2.0, callback=lambda step, codes: seen.append(codes)
    )
    counts = mask_counts(torch.full((4,), 16), steps)
    for step, some in enumerate(seen):
        assert ((some < 0).flatten(1).sum(1) == (counts[step] if step + 1 < steps else 0)).all()
        assert torch.equal(torch.where(some < 0, codes, some), codes)  # a code that was kept stays
    assert len(seen) == steps and torch.equal(seen[-1], codes) and 0 <= codes.min() and codes.max() < 5
    alone = sample_by_confidence(model, labels[2:3], SEEDS[2:3], steps=steps, guidance=2.0)
    assert torch.equal(alone[0], codes[2])


def test_given_codes_stay_and_are_seen_from_the_first_step_on():
    model = awake(lambda: masked(raster((4, 4, 1)), 5))
    known = torch.where(torch.arange(16).view(4, 4, 1) < 8, some_codes(model, 4), -1)
    known[0] = -1
    codes = sample_by_confidence(model, None, SEEDS, steps=3, known=known)
    assert torch.equal(torch.where(known < 0, codes, known), codes)
    at_once = sample_by_confidence(model, None, SEEDS, steps=1, known=known)
    drawn = ops.sample_tokens(model(known), SEEDS, stream=ops.Purpose.CODE.stream(0))
    assert torch.equal(at_once, torch.where(known < 0, drawn, known))
    full = some_codes(model, 4)
    assert torch.equal(sample_by_confidence(model, None, SEEDS, steps=3, known=full), full)


def test_without_chance_the_surest_codes_are_kept():
    model, seen = awake(lambda: masked(raster((3, 3, 1)), 4)), []
    sample_by_confidence(
        model, None, SEEDS, steps=4, choice_temperature=0, callback=lambda step, codes: seen.append(codes)
    )
    none = torch.full((4, 3, 3, 1), -1)
    drawn, sure = ops.sample_tokens(model(none), SEEDS, stream=ops.Purpose.CODE.stream(0), log_probability=True)
    kept = seen[0] >= 0
    assert torch.equal(seen[0][kept], drawn[kept])
    for i in range(4):
        assert sure[i][kept[i]].min() >= sure[i][~kept[i]].max()


def test_a_masked_model_takes_any_order_and_its_likelihood_is_that_order_s():
    model = awake(lambda: masked(raster((2, 3, 1)), 3))
    codes, order = some_codes(model, 2), shuffled((2, 3, 1), 3)
    found = nll(model, codes, order=order, stepwise=True)
    asked = model.in_order(order)
    logits = one_pass(asked, codes)
    expected = F.cross_entropy(logits.flatten(0, -2), codes.flatten(), reduction="none").view(codes.shape)
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, nll(model, codes, stepwise=True))
    assert model.order == raster((2, 3, 1)) and asked.head.weight is model.head.weight


def test_a_masked_model_learns_what_its_codes_are():
    torch.manual_seed(0)
    model = masked(raster((2, 4, 1)), 3)
    codes = (torch.arange(8).view(1, 2, 4, 1) % 3).expand(4, -1, -1, -1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(60):
        optimizer.zero_grad()
        masked_loss(model, codes, None, SEEDS + step).mean().backward()
        optimizer.step()
    assert torch.equal(sample_by_confidence(model.eval(), None, SEEDS, steps=3), codes)


def plain():
    return masked(raster((2, 1)), 3)


WRONG = {
    "schedule": (
        lambda: sample_by_confidence(plain(), None, SEEDS, steps=2, schedule="sine"),
        "schedule must be one of cosine, linear, arccos, got 'sine'",
    ),
    "steps": (lambda: sample_by_confidence(plain(), None, SEEDS, steps=0), "steps must be at least 1, got 0"),
    "choice_temperature": (
        lambda: sample_by_confidence(plain(), None, SEEDS, steps=2, choice_temperature=-1.0),
        "choice_temperature must be at least 0 and finite, got -1.0",
    ),
    "a model with an order": (
        lambda: sample_by_confidence(sequence(raster((2, 1)), 3), None, SEEDS, steps=2),
        "model must be a masked one, which finds its order, got SequenceModel with its own",
    ),
    "an order of another array": (
        lambda: nll(plain(), torch.zeros(1, 2, 1).long(), order=raster((3, 1)), stepwise=True),
        "order must be of codes [2, 1], got Order(3 codes [3, 1] in 3 steps)",
    ),
    "one pass": (
        lambda: nll(plain(), torch.zeros(1, 2, 1).long(), order=Order(torch.zeros(2, 1).long())),
        "a masked model has a stepwise likelihood alone: stepwise must be True",
    ),
}


@pytest.mark.parametrize("call, sentence", WRONG.values(), ids=WRONG)
def test_what_cannot_be_gets_a_sentence(call, sentence):
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value) == sentence
