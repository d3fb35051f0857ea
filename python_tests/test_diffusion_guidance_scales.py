"""Scales of guidance for each sample and each step, intervals, and calls that are spared."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from guided import LABELS, STEPS, Recorder, began, combined, images, network, summed
from torch import Tensor

from visgen_fast.diffusion import (
    Auto,
    Classifier,
    ClassifierFree,
    PlusPlus,
    Projected,
    RectifiedFlow,
    TwoConditions,
    Upsample,
    ZeroStar,
    plan,
    sample,
)
from visgen_fast.diffusion.guiding import Guidance


def test_where_one_output_is_all_the_other_is_not_computed() -> None:
    model, x_t, t = Recorder(), torch.ones(2, 1, dtype=torch.float64), STEPS.times[2].expand(2)
    for guidance, label in ((ClassifierFree(1.0), None), (ClassifierFree(0.0, 10), 10), (Auto(1.0, model), None)):
        told = LABELS if label is None else torch.full_like(LABELS, label)
        assert torch.equal(combined(guidance, model, x_t, LABELS), Recorder.answer(x_t, t, told))
    assert model.batches == [2, 2, 2]


def test_where_a_weight_is_zero_its_condition_is_not_computed() -> None:
    """Of u + first·(f − u) + scale·(c − f)."""
    x_t = torch.ones(2, 1, dtype=torch.float64)
    for scale, first, calls in ((3.0, 1.0, [4]), (2.0, 2.0, [4]), (0.0, 1.0, [2]), (1.0, 1.0, [2]), (2.0, 3.0, [6])):
        model = Recorder()
        kept = [TwoConditions(s, first, 10, lambda y: y + 1) for s in (scale, torch.tensor([scale, scale]))]
        fewer, whole = (combined(guidance, model, x_t, LABELS) for guidance in kept)
        torch.testing.assert_close(fewer, whole)
        assert model.batches == [*calls, 6]
    model, asked = Recorder(), []
    combined(Classifier(0.0, lambda *_: asked.append(1)), model, x_t, LABELS)
    assert model.batches == [2] and not asked


def plus_one(labels: Tensor) -> Tensor:
    return labels + 1


def total(x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    return x.sin().sum((1, 2, 3))


# With a scale of s, which PlusPlus takes a tenth of.
SCALED: dict[str, Callable] = {
    "ClassifierFree": lambda s: ClassifierFree(s, 10),
    "rescaled": lambda s: ClassifierFree(s, 10, rescale=0.5),
    "from_weight": lambda s: ClassifierFree.from_weight(s, 10),
    "Projected": lambda s: Projected(s, 10),
    "ZeroStar": lambda s: ZeroStar(s, 10, zero_steps=0),
    "PlusPlus": lambda s: PlusPlus((lambda t: s(t) / 10) if callable(s) else s / 10, 10),
    "Auto": lambda s: Auto(s, network),
    "TwoConditions": lambda s: TwoConditions(s, 1.5, 10, plus_one),
    "its other scale": lambda s: TwoConditions(1.5, s, 10, plus_one),
    "Classifier": lambda s: Classifier(s, total),
    "Upsample": lambda s: Upsample(s, 2),
}


@pytest.mark.parametrize("name", SCALED)
def test_each_step_may_have_its_own_scale_the_same_for_all_its_stages(name: str) -> None:
    steps, kind = plan("heun", RectifiedFlow(), "velocity", times=[1.0, 0.6, 0.3, 0.0]), SCALED[name]

    def scale(time: float) -> float:
        return {1.0: 2.0, 0.6: 1.0, 0.3: 3.0}[time]

    by_step = began(kind(scale), network, LABELS, 2, steps)
    for row in range(steps.calls):
        x, t = images(row), steps.times[row].expand(2)
        began_at = steps.ends[steps.step_of_row[row]].time
        alone = began(kind(scale(began_at)), network, LABELS, 2, steps)
        torch.testing.assert_close(*(summed(one.evaluate(x, t, row), row) for one in (by_step, alone)))


def test_where_the_scale_of_a_step_is_one_the_network_is_called_once() -> None:
    def scale(time: float) -> float:
        return 1.0 if time > 0.4 else 2.0

    for kind in (ClassifierFree, Projected, ZeroStar):
        model = Recorder()
        options = {"zero_steps": 0} if kind is ZeroStar else {}
        sample(model, STEPS, (1,), LABELS, LABELS, guidance=kind(scale, 10, **options))
        assert model.batches == [2, 2, 2, 4]


def test_a_step_may_have_a_scale_for_each_sample_and_the_start_of_a_plan_does_not_matter() -> None:
    def scale(time: float) -> Tensor:
        return torch.tensor([1 + time, 3 - time])

    def drawn(part: slice, guidance: Guidance) -> Tensor:
        begin = images(3)[part], 0.5
        return sample(
            network, STEPS, (3, 4, 4), LABELS[part], LABELS[part], guidance=guidance, initial=begin, dtype=torch.float64
        )

    x, whole = images(0), drawn(slice(None), ClassifierFree(scale, 10))
    for kind, part in ((lambda t: 1 + t, slice(0, 1)), (lambda t: 3 - t, slice(1, 2))):
        torch.testing.assert_close(whole[part], drawn(part, ClassifierFree(kind, 10)))
    with pytest.raises(ValueError, match=r"scale must be a number or \[2\], got a tensor of shape \[3\]"):
        combined(ClassifierFree(lambda t: torch.ones(3), 10), network, x, LABELS)
    with pytest.raises(ValueError, match=r"the scale of CFG\+\+ must lie in \[0, 1\]"):
        combined(PlusPlus(lambda t: 7.0, 10), network, x, LABELS)


def test_one_call_at_twice_the_batch_or_two_calls_give_the_same() -> None:
    x_t = images(0)[:, :, 0, 0]
    for guidance in (ClassifierFree, PlusPlus, Projected, ZeroStar):
        counts = []
        for batched in (True, False):
            model = Recorder()
            counts.append((combined(guidance(0.5, 10, batched=batched), model, x_t, LABELS), model.batches))
        torch.testing.assert_close(counts[0][0], counts[1][0])
        assert counts[0][1] == [4] and counts[1][1] == [2, 2]
    model = Recorder()
    both = [TwoConditions(3.0, 2.0, 10, plus_one, batched=batched) for batched in (True, False)]
    torch.testing.assert_close(*(combined(guidance, model, x_t, LABELS) for guidance in both))
    assert model.batches == [6, 2, 2, 2]


def test_each_sample_may_have_its_own_scale() -> None:
    x_t, scales = images(0), (2.0, 5.0)

    def plus(labels: Tensor) -> Tensor:
        return labels + 1

    def total(x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        return x.sin().sum((1, 2, 3))

    kinds = [lambda s: ClassifierFree(s, 10), lambda s: ClassifierFree(s, 10, rescale=0.5), lambda s: Projected(s, 10)]
    kinds += [lambda s: ZeroStar(s, 10), lambda s: PlusPlus(s / 10, 10), lambda s: Auto(s, network)]
    kinds += [
        lambda s: TwoConditions(s, 2 * s, 10, plus),
        lambda s: Classifier(s, total),
    ]
    for kind in kinds:
        together = combined(kind(torch.tensor(scales)), network, x_t, LABELS)
        for place, scale in enumerate(scales):
            torch.testing.assert_close(together[place], combined(kind(scale), network, x_t, LABELS)[place])


def test_an_interval_is_decided_by_the_time_at_which_the_step_began() -> None:
    steps = plan("heun", RectifiedFlow(), "velocity", times=[1.0, 0.6, 0.4, 0.35, 0.0])
    for guidance in (ClassifierFree, PlusPlus, Projected, ZeroStar):
        model = Recorder()
        options = {"zero_steps": 0} if guidance is ZeroStar else {}
        guiding = began(guidance(0.5, 10, interval=(0.4, 0.6), **options), model, LABELS, 2, steps)
        for row in range(steps.calls):
            guiding.evaluate(torch.ones(2, 1, dtype=torch.float64), steps.times[row].expand(2), row)
        assert model.batches == [2, 2, 4, 4, 4, 4, 2]  # of the second call of the third step the time is 0.35
