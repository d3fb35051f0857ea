"""SiT's training losses are the same with our operations in them as by themselves.

The classes here have that codebase's names and interface, and compute what it does in the plainest way.
"""

from __future__ import annotations

import copy
import enum
import itertools
import math
import pickle

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from visgen_fast.interop import _noising, apply_visgen_to_sit
from visgen_fast.interop._own_code import said
from visgen_fast.interop.sit.training import _losses

ModelType = enum.Enum("ModelType", "NOISE SCORE VELOCITY")
WeightType = enum.Enum("WeightType", "NONE VELOCITY LIKELIHOOD")


def like(t, x):
    return t.view(-1, *[1] * (x.dim() - 1))


class Linear:
    """α = t and σ = 1 − t, with their derivatives, where the image is at t = 1."""

    def compute_alpha_t(self, t):
        return t, 1

    def compute_sigma_t(self, t):
        return 1 - t, -1

    def compute_drift(self, x, t):
        (alpha, rise), (sigma, fall) = self.compute_alpha_t(like(t, x)), self.compute_sigma_t(like(t, x))
        return -rise / alpha * x, rise / alpha * sigma**2 - sigma * fall

    def plan(self, t, x0, x1):
        (alpha, rise), (sigma, fall) = self.compute_alpha_t(like(t, x1)), self.compute_sigma_t(like(t, x1))
        return t, alpha * x1 + sigma * x0, rise * x1 + fall * x0


class GVP(Linear):
    def compute_alpha_t(self, t):
        return torch.sin(math.pi / 2 * t), math.pi / 2 * torch.cos(math.pi / 2 * t)

    def compute_sigma_t(self, t):
        return torch.cos(math.pi / 2 * t), -math.pi / 2 * torch.sin(math.pi / 2 * t)


class VP(Linear):
    def compute_alpha_t(self, t):
        alpha = torch.exp(-0.25 * (1 - t) ** 2 * 19.9 - 0.05 * (1 - t))
        return alpha, alpha * self._rate(t)

    def compute_sigma_t(self, t):
        alpha, rise = self.compute_alpha_t(t)
        sigma = torch.sqrt(1 - alpha**2)
        return sigma, -alpha * rise / sigma

    def compute_drift(self, x, t):
        return -self._rate(like(t, x)) * x, self._rate(like(t, x))

    def _rate(self, t):
        return 0.5 * (1 - t) * 19.9 + 0.05


class Transport:
    def __init__(self, path="Linear", prediction="velocity", weight="none"):
        self.path_sampler = {"Linear": Linear, "GVP": GVP, "VP": VP}[path]()
        self.model_type, self.loss_type = ModelType[prediction.upper()], WeightType[weight.upper()]
        self.train_eps, self.sample_eps = 0.05, 0.05

    def check_interval(self, train_eps, sample_eps):
        return train_eps, 1 - train_eps

    def get_drift(self):
        raise NotImplementedError

    get_score = get_drift

    def sample(self, x1):
        x0 = torch.randn_like(x1)
        start, end = self.check_interval(self.train_eps, self.sample_eps)
        return (torch.rand(len(x1)) * (end - start) + start).to(x1), x0, x1

    def training_losses(self, model, x1, model_kwargs=None):
        t, x0, x1 = self.sample(x1)
        t, x_t, velocity = self.path_sampler.plan(t, x0, x1)
        output = model(x_t, t, **(model_kwargs or {}))
        sigma, _ = self.path_sampler.compute_sigma_t(like(t, x1))
        _, drift = self.path_sampler.compute_drift(x_t, t)
        kind = "NONE" if self.model_type is ModelType.VELOCITY else self.loss_type.name
        weight = {"NONE": 1, "VELOCITY": (drift / sigma) ** 2, "LIKELIHOOD": drift / sigma**2}[kind]
        error = {"VELOCITY": output - velocity, "NOISE": output - x0, "SCORE": output * sigma + x0}[
            self.model_type.name
        ]
        return {"pred": output, "loss": (weight * error**2).flatten(1).mean(1)}


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.layer, self.told = nn.Conv2d(3, 3, 3, padding=1), []

    def forward(self, x, t, y):
        self.told.append((x.dtype, t.dtype, t.tolist()))
        return torch.tanh(self.layer(x) + t.view(-1, 1, 1, 1) * y)


def train(transport, dtype=torch.float32):
    """Each term, the gradients, what the network was told, and the state of the generator."""
    network = Network().to(dtype)
    torch.manual_seed(2)
    x1 = torch.randn(5, 3, 6, 4, dtype=torch.float64).to(dtype)
    terms = transport.training_losses(network, x1, {"y": torch.ones((), dtype=dtype)})
    (terms["loss"] * torch.arange(1, 6).to(dtype)).sum().backward()
    return {**terms}, [weight.grad for weight in network.parameters()], network.told, torch.get_rng_state()


def assert_near(found, expected, tolerance=1e-5):
    """Same types and shapes; no number differs by more than this share of the largest beside it."""
    for one, other in zip(tree_leaves(found[:2]), tree_leaves(expected[:2]), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance * other.abs().max().item())


def compare(transport, how="classes", tolerance=1e-5, **options):
    expected = train(transport, **options)
    with apply_visgen_to_sit(transport if how == "this" else None):
        found = train(transport, **options)
    assert list(found[0]) == list(expected[0]) and found[2] == expected[2]
    assert torch.equal(found[3], expected[3])
    assert_near(found, expected, tolerance)


@pytest.fixture(autouse=True)
def tries_small_images_too(monkeypatch):
    said.clear()
    monkeypatch.setattr(_noising, "SMALL", 0)


EVERY = list(
    itertools.product(("Linear", "GVP", "VP"), ("velocity", "noise", "score"), ("none", "velocity", "likelihood"))
)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("how", ["classes", "this"])
@pytest.mark.parametrize(("path", "prediction", "weight"), EVERY)
def test_losses_gradients_and_draws_are_the_same(path, prediction, weight, how):
    compare(Transport(path, prediction, weight), how)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("prediction", ["velocity", "noise", "score"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.bfloat16, 3e-2), (torch.float16, 4e-3)]
)
def test_types_of_numbers_stay(dtype, tolerance, prediction):
    compare(Transport("GVP", prediction, "velocity"), tolerance=tolerance, dtype=dtype)


@pytest.mark.parametrize("end", [0.0, 1.0])
def test_a_score_at_the_ends_is_finite_where_the_original_is(end):
    transport = Transport("Linear", "score")
    transport.sample = lambda x1: (torch.full((len(x1),), end), torch.ones_like(x1), x1)
    expected = train(transport)
    terms = transport.training_losses(lambda *_: torch.ones(2, 3, 4, 4), torch.ones(2, 3, 4, 4))
    found = _losses(transport, lambda *_: torch.ones(2, 3, 4, 4), torch.ones(2, 3, 4, 4), {})
    torch.testing.assert_close(found["loss"], terms["loss"])
    assert expected[0]["loss"].isfinite().all()


class Fork(Transport):
    """What copies of SiT do: the same names, another computation."""

    def training_losses(self, model, x1, model_kwargs=None):
        terms = super().training_losses(model, x1, model_kwargs)
        return {**terms, "loss": terms["loss"] / (1 + self.weight)}


@pytest.mark.parametrize("weight", [0, 1e-2])
def test_a_copy_that_computes_something_else_keeps_its_own_code(weight, recwarn):
    transport = Fork()
    transport.weight = weight
    compare(transport, "this")
    reasons = [str(warning.message) for warning in recwarn]
    assert reasons == ["Fork.training_losses runs SiT's own code: it computes something else than SiT's"] * bool(weight)


def test_few_pixels_take_the_original(monkeypatch):
    monkeypatch.setattr(_noising, "SMALL", 5 * 3 * 6 * 4 + 1)
    transport, results = Transport(), []
    with apply_visgen_to_sit(transport):
        results.append(train(transport))
    results.append(train(transport))
    assert torch.equal(results[0][0]["loss"], results[1][0]["loss"])


def test_copies_and_pickles_of_a_transport_work_on():
    transport = Transport("VP", "noise", "likelihood")
    with apply_visgen_to_sit(transport):
        copied, loaded = copy.deepcopy(transport), pickle.loads(pickle.dumps(transport))
        assert type(loaded) is Transport and type(copied) is type(transport) is not Transport
        assert_near(train(copied), train(loaded))
    assert type(transport) is Transport


def test_revert_puts_the_method_back():
    before = vars(Transport)["training_losses"]
    replacement = apply_visgen_to_sit()
    assert vars(Transport)["training_losses"] is not before
    replacement.revert()
    assert vars(Transport)["training_losses"] is before


def test_what_is_no_transport_and_an_output_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="target must be a Transport or a network of SiT's, got Linear"):
        apply_visgen_to_sit(nn.Linear(2, 2))
    transport = Transport()
    with apply_visgen_to_sit(transport), pytest.raises(ValueError, match=r"output must have the shape \[2, 3, 4, 4\]"):
        transport.training_losses(lambda *_: torch.zeros(2, 6, 4, 4), torch.zeros(2, 3, 4, 4))
