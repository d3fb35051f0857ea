"""Any schedule × prediction × sampler × spacing × guidance × shape: finite, or refused in a sentence."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest
import torch
from torch import Tensor

from visgen_fast import ops
from visgen_fast.diffusion import (
    PREDICTIONS,
    SAMPLERS,
    SPACINGS,
    Auto,
    Cauchy,
    Classifier,
    ClassifierFree,
    CosineVP,
    DiscreteVP,
    DynamicThresholding,
    FromDensity,
    KarrasVE,
    Plan,
    PlusPlus,
    Prediction,
    Projected,
    RectifiedFlow,
    Shifted,
    SigmoidVP,
    Table,
    TwoConditions,
    Unguided,
    Upsample,
    ZeroStar,
    edm,
    plan,
    sample,
)

COMBINATIONS, GROUPS = 1000, 20
SCHEDULES = [
    RectifiedFlow(), CosineVP(), CosineVP(-6.0, 9.0), CosineVP(-60.0, 60.0), SigmoidVP(), KarrasVE(),
    KarrasVE(1e-5, 1e4), DiscreteVP.linear(), DiscreteVP([0.9, 0.5, 0.1, 0.0]), Shifted(CosineVP(), 64, 256),
    Table([0.0, 0.3, 1.0], [9.0, 1.0, -8.0]), FromDensity(Cauchy()),
]  # fmt: skip
SCORE = Prediction("score", lambda alpha, sigma: (0 * alpha, -1 / sigma))
KINDS = [*PREDICTIONS, edm(1.3), SCORE]
SHAPES = [(3, 4, 4), (1, 2, 6), (4, 2, 2, 2), (5,), ()]
IMAGES = [shape for shape in SHAPES if len(shape) >= 3]
REFUSED = [
    r"prediction '(epsilon|score)' says nothing of the image at t = \S+, where the signal is 0 and the noise 1: ",
    r"an inversion, whose times rise, must add no noise, but \S+ does: give eta=0, or another sampler",
]


def network(x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    shape = -1, *[1] * (x.dim() - 1)
    return torch.sin(2 * x + labels.view(shape)) * (1 - t.view(shape) / 2) + 0.1


def log_probability(x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    return x.sin().reshape(len(x), -1).sum(1)


def drawn_guidance(roll: random.Random, shape: tuple[int, ...]):
    """Any guidance, with any scale that it takes, for images of this shape."""
    scale = roll.choice([0.0, 1.0, 2.5, 7.0, torch.tensor([0.0, 1.0, 3.0]), lambda t: 1 + 3 * t])
    interval = roll.choice([None, None, (0.2, 0.7), (0.5, 0.5)])
    options = {"interval": interval, "batched": roll.random() < 0.5}
    kinds = [
        lambda: Unguided(),
        lambda: ClassifierFree(scale, 9, rescale=roll.choice([0.0, 0.7, 1.0]), **options),
        lambda: PlusPlus(roll.choice([0.0, 0.6, 1.0]), 9, **options),
        lambda: Projected(scale, 9, eta=roll.choice([0.0, 1.0]), limit=roll.choice([None, 0.1, 2.5]),
                          momentum=roll.choice([0.0, -0.75]), **options),
        lambda: ZeroStar(scale, 9, zero_steps=roll.randrange(3), **options),
        lambda: Auto(scale, lambda x, t, y: 0.5 * network(x, t, y), interval=interval),
        lambda: TwoConditions(scale, roll.choice([1.0, 1.5]), 9, lambda y: y + 1, **options),
        lambda: Classifier(scale, log_probability, interval=interval),
    ]  # fmt: skip
    kinds += [lambda: Upsample(scale, 2, interval=interval)] * (shape in IMAGES)
    guidance = roll.choice(kinds)()
    return DynamicThresholding(guidance, roll.choice([0.5, 0.995])) if roll.random() < 0.2 else guidance


def drawn_options(roll: random.Random, name: str) -> dict:
    choices = {
        "ddpm": {"variance": ["small", "large"]},
        "ddim": {"eta": [0.0, 0.4, 1.0]},
        "tcd": {"eta": [0.0, 0.3, 1.0]},
        "euler": {"churn": [0.0, 1.0, 40.0]},
        "heun": {"churn": [0.0, 1.0, 40.0], "churn_min": [0.0, 0.5], "churn_max": [5.0, float("inf")]},
        "euler-ancestral": {"eta": [0.0, 0.5, 1.0, 1.5]},
        "dpm++2s": {"eta": [0.0, 1.0]},
        "dpm++sde": {"eta": [0.0, 1.0, 2.0], "fraction": [0.3, 0.5, 0.9]},
        "dpm++2m": {"lower_order_final": [True, False]},
        "dpm++3m": {"variant": ["published", "corrected"]},
        "dpm++2m-sde": {"eta": [0.0, 0.5, 1.0, 3.0], "variant": ["midpoint", "heun"]},
        "dpm++3m-sde": {"eta": [0.0, 0.5, 1.0, 3.0]},
        "unipc": {"order": [1, 2, 3], "variant": ["bh1", "bh2"], "lower_order_final": [True, False]},
        "deis": {"order": [1, 2, 3], "lower_order_final": [True, False]},
        "adams-bashforth": {"order": [1, 2, 3, 4]},
        "sa-solver": {"order": [1, 2, 3, 4], "corrector_order": [1, 2, 3, 4], "eta": [0.0, 1.0],
                      "interval": [(0.2, 0.8), (0.0, 1.0)]},
    }  # fmt: skip
    return {option: roll.choice(values) for option, values in choices.get(name, {}).items() if roll.random() < 0.7}


def drawn_plan(roll: random.Random) -> Plan:
    name, steps = roll.choice(list(SAMPLERS)), roll.choice([1, 2, 3, 5, 8, 16, 40])
    options = drawn_options(roll, name) | {"clamp": roll.choice([0.0, 0.0, 1.0])}
    if roll.random() < 0.1:
        low, high = roll.choice([(0.01, 1.0), (0.5, 0.5 + 1e-6), (1e-9, 1e-3), (1 - 1e-9, 1.0)])
        options["times"] = sorted({roll.uniform(low, high) for _ in range(steps + 1)})
        options["times"] = options["times"][:: roll.choice([1, -1])]
    else:
        options |= {
            "steps": steps,
            "spacing": roll.choice(list(SPACINGS)),
            "shift": roll.choice([None, None, 0.5, 3.0, 1e-3, 1e3]),
        }
    return plan(name, roll.choice(SCHEDULES), roll.choice(KINDS), **options)


def drawn_images(roll: random.Random) -> Tensor:
    """The images of a random combination."""
    steps, shape = drawn_plan(roll), roll.choice(SHAPES)
    seeds = ops.derive_seeds(roll.randrange(100), torch.arange(3))
    images = torch.linspace(-1, 1, 3).view(-1, *[1] * len(shape)).expand(3, *shape)
    rises = steps.ends[-1].time > steps.ends[0].time
    options = {"initial": (images, roll.random())} if rises or roll.random() < 0.2 else {}
    if roll.random() < 0.2:
        options["known"] = (images, torch.tensor([1.0, 0.0, 1.0]).view(-1, *[1] * len(shape)))
    dtype = roll.choice([torch.float32, torch.float32, torch.float64, torch.bfloat16])
    return sample(
        network, steps, shape, torch.arange(3), seeds, guidance=drawn_guidance(roll, shape), dtype=dtype, **options
    )


@pytest.mark.parametrize("group", range(GROUPS))
def test_any_combination_is_finite_or_refused_in_a_sentence(group: int) -> None:
    outcomes: Counter[bool] = Counter()
    for number in range(group * COMBINATIONS // GROUPS, (group + 1) * COMBINATIONS // GROUPS):
        try:
            images = drawn_images(random.Random(number))
        except ValueError as error:
            assert any(re.match(sentence, str(error)) for sentence in REFUSED), (number, str(error))
            outcomes[False] += 1
        else:
            assert images.isfinite().all(), number
            outcomes[True] += 1
    assert outcomes[True] > 2 * outcomes[False], outcomes


@pytest.mark.parametrize("number", range(60))
def test_images_at_different_steps_in_one_call_equal_each_alone(number: int) -> None:
    """A call serves requests that began at different times: a row for each image, read on the device."""
    roll = random.Random(number)
    try:
        steps = drawn_plan(roll)
    except ValueError:
        steps = plan("unipc", CosineVP(), "v", steps=5)
    batch, shape, dtype = 6, roll.choice(SHAPES), roll.choice([torch.float32, torch.float64])
    generator = torch.Generator().manual_seed(number)

    def tensor(*sizes: int) -> Tensor:
        return torch.randn(*sizes, dtype=dtype, generator=generator)

    x, outputs = tensor(batch, *shape), (tensor(batch, *shape), tensor(batch, *shape))
    slots = tuple(tensor(batch, *shape) for _ in range(steps.slots))
    rows = torch.tensor([roll.randrange(steps.calls) for _ in range(batch)])
    weights, seeds = tensor(steps.calls, batch, 2).double(), ops.derive_seeds(0, torch.arange(batch))
    together = ops.solver_step(x, outputs, steps.table, rows, slots=slots, weights=weights, seeds=seeds)
    for i, row in enumerate(rows.tolist()):
        one = slice(i, i + 1)
        alone = ops.solver_step(
            x[one], tuple(output[one] for output in outputs), steps.table, row,
            slots=tuple(slot[one] for slot in slots), weights=weights[:, one], seeds=seeds[one],
        )  # fmt: skip
        for whole, part in zip((together[0], *together[1]), (alone[0], *alone[1]), strict=True):
            assert torch.equal(whole[one], part)
