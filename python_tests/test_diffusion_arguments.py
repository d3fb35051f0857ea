"""Arguments that do not fit are answered in one sentence: what it is about, what was expected, and what came."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from visgen_fast.diffusion import (
    Auto,
    Classifier,
    ClassifierFree,
    CosineVP,
    DynamicThresholding,
    PlusPlus,
    Previews,
    ProgressBar,
    Projected,
    TwoConditions,
    Upsample,
    ZeroStar,
    elbo,
    invert,
    likelihood,
    plan,
    sample,
    slerp,
)
from visgen_fast.nn.conditions import Condition

SHAPE, IMAGES = (3, 4, 4), torch.randn(2, 3, 4, 4)
LABELS, SEEDS = torch.zeros(2, dtype=torch.int64), torch.arange(2)
PLAN = plan("dpm++2m", CosineVP(), "v", steps=2)
RISING = plan("ddim", CosineVP(), "v", times=[0.1, 0.5, 0.9])


def network(x, t, labels):
    return 0.1 * x


def drawn(**changed: Any):
    given = {"model": network, "plan": PLAN, "shape": SHAPE, "labels": LABELS, "seeds": SEEDS, **changed}
    return sample(**given)


def planned(sampler: Any = "dpm++2m", schedule: Any = None, prediction: Any = "v", **options: Any):
    return plan(sampler, CosineVP() if schedule is None else schedule, prediction, **options)


def judged(function, **changed: Any):
    given = {"model": network, "x": IMAGES, "labels": LABELS, "seeds": SEEDS, **changed}
    return function(**{"schedule": CosineVP(), "prediction": "v", **given})


BOTH = "labels and seeds must both have shape [B], got "
DRAWN = [
    ({"seeds": [1, 2]}, "seeds must be a tensor, got list"),
    ({"seeds": 1}, "seeds must be a tensor, got int"),
    ({"seeds": torch.tensor(1)}, "seeds must be int64 of shape [B], got torch.int64 of shape []"),
    ({"seeds": torch.zeros(2)}, "seeds must be int64 of shape [B], got torch.float32 of shape [2]"),
    ({"labels": [1, 2]}, "labels must be int64 [B], a Condition or None, got list"),
    ({"labels": "a cat"}, "labels must be int64 [B], a Condition or None, got str"),
    ({"labels": torch.tensor(1)}, BOTH + "[] and [2]"),
    ({"labels": LABELS[:, None]}, BOTH + "[2, 1] and [2]"),
    ({"labels": Condition(pooled=torch.zeros(3, 5))}, "labels must have one sample for each of the 2 seeds, got 3"),
    ({"model": 3}, "model must be a function model(x, t, labels), got int"),
    ({"model": lambda x, t, y: None}, "the model must return a tensor of shape [2, 3, 4, 4], got NoneType"),
    ({"model": lambda x, t, y: (x,)}, "the model must return a tensor of shape [2, 3, 4, 4], got tuple"),
    (
        {"model": lambda x, t, y: x[:1]},
        "the model must return a tensor of the shape that it is given, [2, 3, 4, 4], or of twice the channels, got "
        "[1, 3, 4, 4]",
    ),
    ({"plan": "dpm++2m"}, "plan must be a Plan, as plan(sampler, schedule, prediction) makes it, got 'dpm++2m'"),
    ({"shape": 3}, "shape must be a sequence of integers, got int"),
    ({"shape": (3, 4.0, 4)}, "shape must be integers, got float"),
    ({"shape": (3, -4, 4)}, "shape must be at least 0, got -4"),
    ({"dtype": "float32"}, "dtype must be float32, bfloat16, float16 or float64, got float32"),
    ({"dtype": torch.int64}, "dtype must be float32, bfloat16, float16 or float64, got torch.int64"),
    ({"callback": 3}, "callback must be a function callback(step, t, x, denoised), got int"),
    ({"initial": IMAGES}, "initial must be (images, strength), got Tensor"),
    ({"initial": (IMAGES,)}, "initial must be (images, strength), got 1 of them"),
    ({"initial": ([1], 0.5)}, "the initial images must be a tensor, got list"),
    ({"initial": (IMAGES, "a")}, "the strength of the initial images must be a number, got str"),
    ({"initial": (IMAGES.byte(), 0.5)}, "the initial images must be float32, bfloat16, float16 or float64, got "
     "torch.uint8"),
    ({"known": IMAGES}, "known must be (images, mask), got Tensor"),
    ({"known": (IMAGES, 1.0)}, "the mask of the known images must be a tensor, got float"),
    ({"known": (IMAGES.byte(), IMAGES)}, "the known images must be float32, bfloat16, float16 or float64, got "
     "torch.uint8"),
    ({"noise": 1.0}, "noise must be a tensor, got float"),
    ({"noise": IMAGES.long()}, "noise must be float32, bfloat16, float16 or float64, got torch.int64"),
]  # fmt: skip


@pytest.mark.parametrize(("changed", "said"), DRAWN)
def test_of_sample(changed: dict[str, Any], said: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        drawn(**changed)
    assert str(caught.value) == said


PLANNED = [
    ({"steps": "3"}, "steps must be a number, got str"),
    ({"steps": 2.5}, "steps must be a whole number of at least 1, got 2.5"),
    ({"steps": math.inf}, "steps must be a whole number of at least 1, got inf"),
    ({"sampler": "unipc", "order": 2.0}, "order must be an integer, got float"),
    ({"sampler": "deis", "order": "2"}, "order must be an integer, got str"),
    ({"sampler": "adams-bashforth", "order": 2.0}, "order must be an integer, got float"),
    ({"sampler": "sa-solver", "order": 2.0}, "order must be an integer, got float"),
    ({"sampler": "sa-solver", "corrector_order": "2"}, "corrector_order must be an integer, got str"),
    ({"sampler": "sa-solver", "interval": 3}, "interval must be (low, high) with 0 ≤ low ≤ high ≤ 1, got 3"),
    ({"sampler": "sa-solver", "interval": (0.8, 0.2)},
     "interval must be (low, high) with 0 ≤ low ≤ high ≤ 1, got (0.8, 0.2)"),
    ({"sampler": "ddim", "eta": "1"}, "eta must be a number, got str"),
    ({"sampler": "ddim", "eta": torch.ones(2)}, "eta must be a number, got Tensor"),
    ({"sampler": "heun", "churn": "a"}, "churn must be a number, got str"),
    ({"sampler": "euler", "churn": 1, "churn_min": "a"}, "churn_min must be a number, got str"),
    ({"sampler": "heun", "churn": 1, "churn_noise": math.nan}, "churn_noise must be at least 0, got nan"),
    ({"sampler": "dpm++sde", "fraction": "a"}, "fraction must be a number, got str"),
    ({"sampler": lambda path: None}, "<lambda> must yield rows of which 50 end a step, the last row among them, got 0"),
    ({"sampler": lambda path: [1, 2]}, "<lambda> must yield rows, each a Row of solvers.rows, got [1, 2]"),
    ({"prediction": ["v"]}, "prediction must be one of x, epsilon, v, velocity, edm; got ['v']"),
    ({"spacing": lambda schedule, steps: "ab"},
     "what spacing makes must be a tensor or a sequence of numbers, got 'ab'"),
    ({"times": "ab"}, "times must be a tensor or a sequence of numbers, got 'ab'"),
    ({"times": [1, None]}, "times must be a tensor or a sequence of numbers, got [1, None]"),
    ({"shift": "3"}, "shift must be a number, got str"),
    ({"shift": math.inf}, "shift must be positive, got inf"),
    ({"clamp": None}, "clamp must be a number, got NoneType"),
]  # fmt: skip


@pytest.mark.parametrize(("changed", "said"), PLANNED)
def test_of_plan(changed: dict[str, Any], said: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        planned(**changed)
    assert str(caught.value) == said


def test_the_sentence_about_many_times_is_short() -> None:
    with pytest.raises(ValueError, match="times must be two or more numbers") as caught:
        planned(times=torch.zeros(1000))
    assert len(str(caught.value)) < 200


def test_a_spacing_may_give_a_list() -> None:
    assert planned(steps=2, spacing=lambda schedule, steps: [1, 0.5, 0]).steps == 2


INTERVAL = "interval must be (low, high) with 0 ≤ low ≤ high ≤ 1, got "
GUIDED = [
    (lambda: drawn(guidance=3.0), "guidance must be one, for example ClassifierFree(3.0, null_label), got 3.0"),
    (lambda: drawn(guidance=ClassifierFree("3", 0)), "scale must be a number or numbers [B], got str"),
    (lambda: drawn(guidance=ClassifierFree(lambda t: None, 0)), "scale must be a number or numbers [B], got NoneType"),
    (lambda: ClassifierFree.from_weight("a", 0), "weight must be a number or numbers [B], got str"),
    (lambda: ClassifierFree(3.0, 0, interval="ab"), INTERVAL + "ab"),
    (lambda: ClassifierFree(3.0, 0, interval=(None, 0.2)), INTERVAL + "(None, 0.2)"),
    (lambda: ClassifierFree(3.0, 0, rescale="a"), "rescale must be a number, got str"),
    (lambda: PlusPlus("a", 0), "scale must be a number or numbers [B], got str"),
    (lambda: Projected(3.0, 0, eta=math.nan), "eta must be finite, got nan"),
    (lambda: Projected(3.0, 0, momentum="a"), "momentum must be a number, got str"),
    (lambda: Projected(3.0, 0, limit="a"), "limit must be a number, got str"),
    (lambda: ZeroStar(3.0, 0, zero_steps=1.5), "zero_steps must be an integer, got float"),
    (lambda: Auto(2.0, None), "guide must be a function guide(x, t, labels), got NoneType"),
    (lambda: drawn(guidance=Auto(2.0, lambda x, t, y: (x,))),
     "the model must return a tensor of shape [2, 3, 4, 4], got tuple"),
    (lambda: TwoConditions(2.0, 1.5, 0, None), "first must be a function first(condition), got NoneType"),
    (lambda: Classifier(2.0, None), "log_probability must be a function log_probability(x_t, t, condition), got "
     "NoneType"),
    (lambda: drawn(guidance=Classifier(2.0, lambda x, t, y: x.flatten(1))),
     "log_probability must return [2] that is differentiable in x_t, got [2, 48]"),
    (lambda: drawn(guidance=Classifier(2.0, lambda x, t, y: t)),
     "log_probability must return [2] that is differentiable in x_t, got [2]"),
    (lambda: Upsample(1.0, 2.5), "factor must be an integer, got float"),
    (lambda: Upsample(1.0, 2, None), "guidance must be one, for example ClassifierFree(3.0, null_label), got None"),
    (lambda: DynamicThresholding(3.0), "guidance must be one, for example ClassifierFree(3.0, null_label), got 3.0"),
    (lambda: DynamicThresholding(ClassifierFree(), "a"), "quantile must be a number, got str"),
    (lambda: drawn(shape=(0, 4), guidance=DynamicThresholding(ClassifierFree())),
     "x must have elements in each sample, of which there is a quantile, got [2, 0, 4]"),
]  # fmt: skip


@pytest.mark.parametrize(("act", "said"), GUIDED)
def test_of_guidance(act, said: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        act()
    assert str(caught.value) == said


JUDGED = [
    ({"seeds": [1, 2]}, "seeds must be a tensor, got list"),
    ({"labels": [1, 2]}, "labels must be int64 [B], a Condition or None, got list"),
    ({"labels": torch.tensor(1)}, BOTH + "[] and [2]"),
    ({"x": [1]}, "x must be a tensor, got list"),
    ({"x": IMAGES.byte()}, "x must be float32, bfloat16, float16 or float64, got torch.uint8"),
    ({"x": IMAGES[:1]}, "x must be [2, ...], a sample of some numbers for each seed, got shape [1, 3, 4, 4]"),
    ({"x": IMAGES[:, :0]}, "x must be [2, ...], a sample of some numbers for each seed, got shape [2, 0, 4, 4]"),
    ({"model": None}, "model must be a function model(x, t, labels), got NoneType"),
    ({"model": lambda x, t, y: (x,)}, "the model must return a tensor of shape [2, 3, 4, 4], got tuple"),
    ({"schedule": "cosine"}, "schedule must be a Schedule, for example CosineVP(), got 'cosine'"),
]


@pytest.mark.parametrize(("changed", "said"), JUDGED)
@pytest.mark.parametrize("function", [likelihood, elbo])
def test_of_likelihood_and_elbo(function, changed: dict[str, Any], said: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        judged(function, **changed)
    assert str(caught.value) == said


SPAN = "span must be two rising times in [0, 1], with noise at the first, got "
OTHERS = [
    (lambda: judged(likelihood, tolerance="a"), "tolerance must be a number, got str"),
    (lambda: judged(likelihood, start="a"), "start must be a number, got str"),
    (lambda: judged(likelihood, model=lambda x, t, y: x.detach()),
     "the model must be differentiable in x_t, and what it returned has no gradient"),
    (lambda: judged(elbo, calls=2.5), "calls must be an integer, got float"),
    (lambda: judged(elbo, span=0.5), SPAN + "0.5"),
    (lambda: judged(elbo, span=(0.1, 0.2, 0.3)), SPAN + "(0.1, 0.2, 0.3)"),
    (lambda: invert(network, RISING, [1], LABELS), "images must be a tensor, got list"),
    (lambda: invert(network, "ddim", IMAGES, LABELS),
     "plan must be a Plan, as plan(sampler, schedule, prediction) makes it, got 'ddim'"),
    (lambda: invert(network, RISING, IMAGES, [1, 2]), "labels must be int64 [B], a Condition or None, got list"),
    (lambda: slerp([1], [2], 0.5), "a must be a tensor, got list"),
    (lambda: slerp(IMAGES, IMAGES, "a"), "weight must be a number or numbers [B], got str"),
    (lambda: Condition(pooled=[1.0, 2.0]), "pooled must be a tensor, got list"),
    (lambda: Previews(every=1.5), "every must be an integer, got float"),
    (lambda: ProgressBar("a"), "steps must be an integer, got str"),
]  # fmt: skip


@pytest.mark.parametrize(("act", "said"), OTHERS)
def test_of_what_goes_with_them(act, said: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        act()
    assert str(caught.value) == said


@pytest.mark.parametrize("function", [likelihood, elbo])
@pytest.mark.parametrize("batch", [0, 2])
def test_a_sample_may_be_one_number_and_a_batch_empty(function, batch: int) -> None:
    x = torch.randn(batch)
    found = judged(function, x=x, labels=LABELS[:batch], seeds=SEEDS[:batch])
    assert found.shape == (batch,) and bool(found.isfinite().all())
    wide = judged(function, x=x[:, None, None], labels=LABELS[:batch], seeds=SEEDS[:batch])
    torch.testing.assert_close(found, wide)


def test_the_variance_that_a_network_learned_is_no_part_of_the_likelihood() -> None:
    doubled = {"model": lambda x, t, y: torch.cat((network(x, t, y), x), 1)}
    for function in (likelihood, elbo):
        torch.testing.assert_close(judged(function, **doubled), judged(function))
