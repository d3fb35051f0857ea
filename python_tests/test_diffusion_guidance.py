"""Guidance: outputs and weights whose sum is the published formula."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from visgen_fast.diffusion import ClassifierFree, RectifiedFlow, plan
from visgen_fast.diffusion.guidance import Call, Guidance
from visgen_fast.nn.conditions import AnyCondition, Condition, null_like

STEPS = plan("euler", RectifiedFlow(), "velocity", steps=4)


class Recorder:
    """A linear network in x, t and label that counts its calls."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        self.batches.append(len(x_t))
        return self.answer(x_t, t, labels)

    @staticmethod
    def answer(x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        return x_t * (1 + labels[:, None]) + t[:, None]


def combined(guidance: Guidance, model, x_t: Tensor, t: Tensor, labels: AnyCondition, began: float = 0.5) -> Tensor:
    """The prediction that a sampler's step makes of what the guidance gives."""
    guided = guidance.begin().evaluate(Call(model, x_t, t, labels, 0, began, STEPS))
    if guided.weights is None:
        return guided.outputs[0]
    weights = guided.weights if guided.weights.dim() == 1 else guided.weights[0]
    weights = weights.expand(len(x_t), len(guided.outputs))
    shape = -1, *[1] * (x_t.dim() - 1)
    return sum(weights[:, j].view(shape) * output for j, output in enumerate(guided.outputs))


@given(scale=st.floats(0, 10).filter(lambda scale: scale != 1))
def test_guidance_forms_agree_and_take_one_doubled_call(scale: float) -> None:
    model, x_t, t, labels = Recorder(), torch.tensor([[1.0], [-2.0]]), torch.tensor([0.2, 0.7]), torch.tensor([3, 5])
    result = combined(ClassifierFree(scale, 10), model, x_t, t, labels)
    assert model.batches == [4]
    conditional, unconditional = model(x_t, t, labels), model(x_t, t, torch.tensor([10, 10]))
    w = scale - 1
    expected = ((1 + w) * conditional - w * unconditional).double()
    torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-4)
    other = combined(ClassifierFree.from_weight(w, 10), model, x_t, t, labels)
    torch.testing.assert_close(other, result, rtol=1e-5, atol=1e-4)


def test_guidance_one_is_one_call_of_the_conditional_network() -> None:
    model, x_t, t, labels = Recorder(), torch.ones(2, 1), torch.ones(2), torch.tensor([3, 5])
    result = combined(ClassifierFree(1.0), model, x_t, t, labels)
    assert model.batches == [2] and torch.equal(result, Recorder()(x_t, t, labels))


def test_each_sample_may_have_its_own_scale() -> None:
    x_t, t, labels = torch.tensor([[1.0], [-2.0]]), torch.tensor([0.2, 0.7]), torch.tensor([3, 5])
    together = combined(ClassifierFree(torch.tensor([2.0, 5.0]), 10), Recorder(), x_t, t, labels)
    for place, scale in enumerate((2.0, 5.0)):
        alone = combined(ClassifierFree(scale, 10), Recorder(), x_t, t, labels)
        torch.testing.assert_close(together[place], alone[place])


def test_an_interval_is_decided_by_the_time_at_which_the_step_began() -> None:
    model, x_t, t, labels = Recorder(), torch.ones(2, 1), torch.full((2,), 0.3), torch.tensor([3, 5])
    guidance = ClassifierFree(2.0, 10, interval=(0.4, 0.6))
    for began in (0.39, 0.4, 0.6, 0.61):  # the time of this call, 0.3, is a stage's
        combined(guidance, model, x_t, t, labels, began)
    assert model.batches == [2, 4, 4, 2]


@given(share=st.floats(0.05, 1), scale=st.floats(1.5, 9))
def test_rescaling_moves_the_spread_of_each_sample_towards_the_conditional_one_s(share: float, scale: float) -> None:
    """diffusers' rescale_noise_cfg, with the unbiased standard deviation."""
    generator = torch.Generator().manual_seed(0)
    x_t, t, labels = torch.randn(2, 3, 4, 4, generator=generator), torch.rand(2), torch.tensor([3, 5])
    conditional, unconditional = torch.randn(2, 2, 3, 4, 4, generator=generator).double()

    def model(x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        return torch.cat((conditional, unconditional))

    guided = unconditional + scale * (conditional - unconditional)
    spread = [some.flatten(1).std(1).view(-1, 1, 1, 1) for some in (conditional, guided)]
    expected = share * guided * spread[0] / spread[1] + (1 - share) * guided
    result = combined(ClassifierFree(scale, 10, rescale=share), model, x_t, t, labels)
    torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-9)


def test_guidance_takes_any_condition() -> None:
    def model(x_t: Tensor, t: Tensor, some: Condition) -> Tensor:
        assert some.pooled is not None
        return x_t * some.pooled.mean(1)[:, None]

    whole, null = Condition(pooled=torch.rand(3, 4)), Condition(pooled=torch.rand(1, 4))
    x_t, t = torch.randn(3, 2), torch.rand(3)
    plain, absent = model(x_t, t, whole), model(x_t, t, null_like(whole, null))
    result = combined(ClassifierFree(3.0, null), model, x_t, t, whole)
    torch.testing.assert_close(result.float(), absent + 3 * (plain - absent))


def test_guidance_without_a_null_label_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="null_label must be given for a guidance scale other than 1, got scale 2"):
        ClassifierFree(2.0)
