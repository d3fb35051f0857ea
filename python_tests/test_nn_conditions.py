"""Conditions of every kind are dropped, joined and moved by the same functions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from visgen_fast import ops
from visgen_fast.diffusion import drop_labels
from visgen_fast.nn.conditions import Condition, apply_to_parts, concatenate, drop, null_like


def condition(batch: int, *, length: int = 4, masked: bool = True, seed: int = 0) -> Condition:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(batch, length, generator=generator) < 0.7 if masked else None
    shapes = (batch, 3), (batch, length, 2), (batch, 1, 5, 5)
    pooled, tokens, image = (torch.randn(shape, generator=generator) for shape in shapes)
    return Condition(pooled, tokens, mask, image)


def mean_of_tokens(some: Condition) -> Tensor:
    """What a network that respects the mask sees: padding must not change it."""
    assert some.tokens is not None
    mask = torch.ones(some.tokens.shape[:2]) if some.mask is None else some.mask.float()
    return (some.tokens * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp_min(1)


@given(batch=st.integers(1, 5), lengths=st.tuples(st.integers(1, 6), st.integers(1, 6)), masked=st.booleans())
def test_joined_conditions_hold_each_one_s_samples_whatever_their_lengths(batch, lengths, masked) -> None:
    first = condition(batch, length=lengths[0], masked=masked, seed=1)
    second = condition(2, length=lengths[1], masked=False, seed=2)
    both = concatenate((first, second))
    assert isinstance(both, Condition) and len(both.pooled) == batch + 2
    assert torch.equal(both.pooled, torch.cat((first.pooled, second.pooled)))
    assert torch.equal(both.image, torch.cat((first.image, second.image)))
    torch.testing.assert_close(mean_of_tokens(both), torch.cat((mean_of_tokens(first), mean_of_tokens(second))))


def test_a_mask_stays_absent_where_nothing_is_padded() -> None:
    both = concatenate((condition(2, masked=False), condition(3, masked=False)))
    assert isinstance(both, Condition) and both.mask is None


def test_labels_and_nothing_are_joined_too() -> None:
    assert torch.equal(concatenate((torch.tensor([1, 2]), torch.tensor([3]))), torch.tensor([1, 2, 3]))
    assert concatenate((None, None)) is None
    with pytest.raises(ValueError, match="of one kind, got labels and Condition"):
        concatenate((torch.tensor([1]), condition(1)))
    with pytest.raises(ValueError, match="of one kind, got a Condition and Tensor"):
        concatenate((condition(1), torch.tensor([1])))


@given(length=st.integers(1, 6))
def test_a_dropped_sample_is_the_null_and_a_kept_one_is_itself(length) -> None:
    whole, null = condition(5), condition(1, length=length, masked=False, seed=9)
    dropped = torch.tensor([True, False, False, True, False])
    result = drop(whole, dropped, null)
    assert isinstance(result, Condition)
    for place, is_dropped in enumerate(dropped.tolist()):
        expected, at = (null, 0) if is_dropped else (whole, place)
        assert torch.equal(result.pooled[place], expected.pooled[at])
        assert torch.equal(result.image[place], expected.image[at])
        torch.testing.assert_close(mean_of_tokens(result)[place], mean_of_tokens(expected)[at])


def test_gradients_reach_a_learned_null_where_it_is_used() -> None:
    null = torch.zeros(1, 3, requires_grad=True)
    result = drop(Condition(pooled=torch.ones(4, 3)), torch.tensor([True, False, True, False]), Condition(pooled=null))
    assert isinstance(result, Condition)
    (gradient,) = torch.autograd.grad(result.pooled.sum(), null)
    assert torch.equal(gradient, torch.full((1, 3), 2.0))


def test_labels_are_dropped_to_the_null_label_and_nothing_to_nothing() -> None:
    dropped = torch.tensor([True, False])
    assert torch.equal(drop(torch.tensor([3, 4]), dropped, 9), torch.tensor([9, 4]))
    assert drop(None, dropped, None) is None and null_like(None, None) is None


@pytest.mark.parametrize(
    ("some", "null", "said"),
    [
        (torch.tensor([1]), condition(1), "the null of labels must be a label, got Condition"),
        (condition(2), 3, "the null of a Condition must be a Condition, got int"),
        (
            Condition(pooled=torch.zeros(2, 3)),
            condition(1),
            r"must have the condition's parts \['pooled'\], got \['image', 'pooled', 'tokens'\]",
        ),
    ],
)
def test_a_null_of_another_kind_is_refused(some, null, said) -> None:
    with pytest.raises(ValueError, match=said):
        null_like(some, null)


def test_parts_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match="one batch size"):
        Condition(pooled=torch.zeros(2, 3), image=torch.zeros(3, 1, 4, 4))
    with pytest.raises(ValueError, match=r"mask must be \[B, L\] for tokens \[B, L, D\], got \[2, 3\] for None"):
        Condition(mask=torch.zeros(2, 3, dtype=torch.bool))


def test_every_part_is_moved_or_cut_by_one_function() -> None:
    whole = condition(5)
    some = apply_to_parts(whole, lambda part: part[1:3])
    assert isinstance(some, Condition)
    assert all(torch.equal(part, whole.parts()[name][1:3]) for name, part in some.parts().items())
    assert apply_to_parts(None, torch.neg) is None


def test_dropping_takes_any_condition() -> None:
    whole, null = condition(3), condition(1, length=2, masked=False, seed=5)
    seeds = ops.derive_seeds(0, torch.arange(3))
    assert torch.equal(drop_labels(whole, seeds, 0.0, null).pooled, whole.pooled)
    assert torch.equal(drop_labels(whole, seeds, 1.0, null).pooled, null.pooled.expand(3, -1))
