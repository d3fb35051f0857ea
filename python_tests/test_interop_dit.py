"""DiT's training losses are the same with our operations in them as by themselves.

The classes here have that codebase's names and interface, and compute what it does in the plainest way.
"""

from __future__ import annotations

import copy
import enum
import itertools
import math
import pickle

import numpy as np
import pytest
import torch
from largest_result import LargestResult
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from visgen_fast.interop import apply_visgen_to_dit
from visgen_fast.interop._own_code import said

ModelMeanType = enum.Enum("ModelMeanType", "PREVIOUS_X START_X EPSILON")
ModelVarType = enum.Enum("ModelVarType", "LEARNED FIXED_SMALL FIXED_LARGE LEARNED_RANGE")
LossType = enum.Enum("LossType", "MSE RESCALED_MSE KL RESCALED_KL")


def entries(array, t, like):
    return torch.from_numpy(array)[t].float().view(-1, *[1] * (like.dim() - 1))


class GaussianDiffusion:
    """A discrete diffusion, with the arrays and methods of DiT's."""

    def __init__(self, *, betas, model_mean_type, model_var_type, loss_type):
        self.model_mean_type, self.model_var_type, self.loss_type = model_mean_type, model_var_type, loss_type
        self.betas, self.num_timesteps = betas, len(betas)
        left = self.alphas_cumprod = np.cumprod(1 - betas)
        before = np.append(1.0, left[:-1])
        self.sqrt_alphas_cumprod, self.sqrt_one_minus_alphas_cumprod = np.sqrt(left), np.sqrt(1 - left)
        self.sqrt_recip_alphas_cumprod, self.sqrt_recipm1_alphas_cumprod = np.sqrt(1 / left), np.sqrt(1 / left - 1)
        self.posterior_variance = betas * (1 - before) / (1 - left)
        self.posterior_log_variance_clipped = np.log(
            np.append(self.posterior_variance[1:2], self.posterior_variance[1:])
        )
        self.posterior_mean_coef1 = betas * np.sqrt(before) / (1 - left)
        self.posterior_mean_coef2 = (1 - before) * np.sqrt(1 - betas) / (1 - left)

    def q_sample(self, x_start, t, noise=None):
        noise = torch.randn_like(x_start) if noise is None else noise
        signal, spread = (
            entries(a, t, x_start) for a in (self.sqrt_alphas_cumprod, self.sqrt_one_minus_alphas_cumprod)
        )
        return signal * x_start + spread * noise

    def q_posterior_mean_variance(self, x_start, x_t, t):
        of_x, of_x_t = (entries(a, t, x_t) for a in (self.posterior_mean_coef1, self.posterior_mean_coef2))
        variances = (entries(a, t, x_t) for a in (self.posterior_variance, self.posterior_log_variance_clipped))
        return of_x * x_start + of_x_t * x_t, *variances

    def p_mean_variance(self, model, x, t, clip_denoised=True, denoised_fn=None, model_kwargs=None):
        mean, share = model(x, t, **(model_kwargs or {})).chunk(2, 1)
        low, high = (entries(a, t, x) for a in (self.posterior_log_variance_clipped, np.log(self.betas)))
        x_start = mean
        if self.model_mean_type is ModelMeanType.EPSILON:
            scales = entries(self.sqrt_recip_alphas_cumprod, t, x), entries(self.sqrt_recipm1_alphas_cumprod, t, x)
            x_start = scales[0] * x - scales[1] * mean
        mean, _, _ = self.q_posterior_mean_variance(x_start, x, t)
        return {"mean": mean, "log_variance": low + (share + 1) / 2 * (high - low)}

    def _vb_terms_bpd(self, model, x_start, x_t, t, clip_denoised=True, model_kwargs=None):
        true, _, log_variance = self.q_posterior_mean_variance(x_start, x_t, t)
        out = self.p_mean_variance(model, x_t, t, clip_denoised)
        ratio = log_variance - out["log_variance"]
        apart = (true - out["mean"]) ** 2 * torch.exp(-out["log_variance"])
        divergence = 0.5 * (torch.exp(ratio) - 1 - ratio + apart)
        likelihood = torch.distributions.Normal(out["mean"], torch.exp(0.5 * out["log_variance"]))
        inside = likelihood.cdf(x_start + 1 / 255) - likelihood.cdf(x_start - 1 / 255)
        terms = torch.stack([-inside.clamp_min(1e-12).log(), divergence]).flatten(2).mean(2) / math.log(2)
        return {"output": torch.where(t == 0, *terms), "pred_xstart": None}

    def training_losses(self, model, x_start, t, model_kwargs=None, noise=None):
        noise = torch.randn_like(x_start) if noise is None else noise
        x_t = self.q_sample(x_start, t, noise)
        output, terms = model(x_t, t, **(model_kwargs or {})), {}
        if self.loss_type in (LossType.KL, LossType.RESCALED_KL):
            return {"loss": self._vb_terms_bpd(lambda *_: output, x_start, x_t, t, False)["output"]}
        if self.model_var_type in (ModelVarType.LEARNED, ModelVarType.LEARNED_RANGE):
            output, share = output.chunk(2, 1)
            frozen = torch.cat([output.detach(), share], 1)
            terms["vb"] = self._vb_terms_bpd(lambda *_: frozen, x_start, x_t, t, False)["output"]
            if self.loss_type is LossType.RESCALED_MSE:
                terms["vb"] = terms["vb"] * (self.num_timesteps / 1000)
        previous, _, _ = self.q_posterior_mean_variance(x_start, x_t, t)
        target = {"PREVIOUS_X": previous, "START_X": x_start, "EPSILON": noise}[self.model_mean_type.name]
        terms["mse"] = ((target - output) ** 2).flatten(1).mean(1)
        return {**terms, "loss": terms["mse"] + terms.get("vb", 0)}


class SpacedDiffusion(GaussianDiffusion):
    """Some of its timesteps, which the network knows by their numbers among all."""

    def __init__(self, use_timesteps, betas, **options):
        left = np.cumprod(1 - betas)[list(use_timesteps)]
        super().__init__(betas=1 - left / np.append(1.0, left[:-1]), **options)
        self.numbers = torch.tensor(list(use_timesteps))

    def _wrap_model(self, model):
        return model if isinstance(model, Renumbered) else Renumbered(model, self.numbers)

    def training_losses(self, model, *args, **kwargs):
        return super().training_losses(self._wrap_model(model), *args, **kwargs)

    def p_mean_variance(self, model, *args, **kwargs):
        return super().p_mean_variance(self._wrap_model(model), *args, **kwargs)


class Renumbered:
    def __init__(self, model, numbers):
        self.model, self.numbers = model, numbers

    def __call__(self, x, t, **kwargs):
        return self.model(x, self.numbers[t], **kwargs)


class Network(nn.Module):
    def __init__(self, outputs):
        super().__init__()
        torch.manual_seed(1)
        self.layer, self.told = nn.Conv2d(3, outputs, 3, padding=1), []

    def forward(self, x, t, y):
        self.told.append((x.dtype, t.tolist()))
        return torch.tanh(self.layer(x.to(self.layer.weight.dtype)) + 1e-3 * t.view(-1, 1, 1, 1) * y)


def diffusion(mean="EPSILON", variance="LEARNED_RANGE", loss="MSE", times=None, steps=1000):
    """DiT's by default."""
    betas = np.linspace(1e-4, 0.02, steps)
    options = {
        **{"betas": betas, "model_mean_type": ModelMeanType[mean]},
        **{"model_var_type": ModelVarType[variance], "loss_type": LossType[loss]},
    }
    return GaussianDiffusion(**options) if times is None else SpacedDiffusion(times, **options)


def train(made, *, noise="drawn", dtype=torch.float32, network_dtype=torch.float32, shape=(5, 3, 6, 4)):
    """Each term, the gradients, what the network was told, and the state of the generator."""
    network = Network(6 if "LEARNED" in made.model_var_type.name else 3).to(network_dtype)
    torch.manual_seed(2)
    x, last = torch.randn(shape, dtype=torch.float64).clamp(-1, 1).to(dtype), made.num_timesteps - 1
    t = torch.tensor([0, last, 1, last // 3, 0])
    given = {"noise": torch.randn(shape).to(dtype)} if noise == "given" else {}
    terms = made.training_losses(network, x, t, {"y": torch.ones(())}, **given)
    (terms["loss"] * torch.arange(1.0, 6)).sum().backward()
    gradients = [weight.grad for weight in network.parameters()]
    return {**terms}, gradients, network.told, torch.get_rng_state()


def compare(made, how="classes", tolerance=1e-5, **options):
    expected = train(made, **options)
    with apply_visgen_to_dit(made if how == "this" else None):
        found = train(made, **options)
    assert list(found[0]) == list(expected[0]) and found[2] == expected[2]
    assert torch.equal(found[3], expected[3])
    assert_near(found, expected, tolerance)


def assert_near(found, expected, tolerance=1e-5):
    """Same types and shapes; no number differs by more than this share of the largest beside it."""
    for one, other in zip(tree_leaves(found[:2]), tree_leaves(expected[:2]), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance * other.abs().max().item())


@pytest.fixture(autouse=True)
def says_it_again():
    said.clear()


CASES = list(
    itertools.product(
        ("EPSILON", "START_X"),
        ("LEARNED_RANGE", "LEARNED", "FIXED_LARGE"),
        ("MSE", "RESCALED_MSE"),
        ("classes", "this"),
    )
)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("times", [None, range(0, 1000, 7)], ids=["all", "respaced"])
@pytest.mark.parametrize(("mean", "variance", "loss", "how"), CASES)
def test_losses_gradients_and_draws_are_the_same(mean, variance, loss, how, times):
    compare(diffusion(mean, variance, loss, times), how)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("noise", ["drawn", "given"])
@pytest.mark.parametrize(
    ("dtype", "network_dtype", "tolerance"),
    [
        (torch.float64, torch.float64, 1e-6),  # both round their coefficients to float32
        (torch.float32, torch.bfloat16, 2e-2),
        (torch.bfloat16, torch.bfloat16, 2e-2),
        (torch.bfloat16, torch.float32, 2e-2),
        (torch.float16, torch.float16, 2e-3),
    ],
    ids=str,
)
def test_types_of_numbers_stay(dtype, network_dtype, tolerance, noise):
    compare(diffusion(), tolerance=tolerance, noise=noise, dtype=dtype, network_dtype=network_dtype)


def test_the_bound_trains_the_variance_alone():
    made, outputs = diffusion(), torch.randn(4, 6, 5, 5, requires_grad=True)
    with apply_visgen_to_dit(made):
        terms = made.training_losses(lambda *_: outputs, torch.randn(4, 3, 5, 5), torch.tensor([0, 5, 50, 500]))
    terms["vb"].sum().backward()
    assert not outputs.grad[:, :3].any() and outputs.grad[:, 3:].all()


class Passes(TorchDispatchMode):
    """Counts operations whose result has the size of the images."""

    def __init__(self, numel):
        super().__init__()
        self.numel, self.count = numel, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        views = ("view", "split", "expand", "detach", "t.default", "reshape")
        counted = isinstance(result, torch.Tensor) and result.numel() >= self.numel
        self.count += counted and not any(view in str(func) for view in views)
        return result


def test_a_loss_is_a_few_passes_over_the_images():
    made, x, t = diffusion(), torch.randn(8, 3, 32, 32), torch.arange(1, 9)
    outputs = torch.randn(8, 6, 32, 32)

    def passes():
        with Passes(x.numel()) as counted:
            made.training_losses(lambda *_: outputs, x, t)
        return counted.count

    own = passes()
    with apply_visgen_to_dit():
        made.training_losses(lambda *_: outputs, x, t)
        assert passes() <= 10 < 50 < own


def test_nothing_larger_than_the_images_is_made():
    made, x, outputs = diffusion(), torch.randn(8, 3, 16, 16), torch.randn(8, 6, 16, 16)
    with apply_visgen_to_dit(), LargestResult() as made_on_the_way:
        made.training_losses(lambda *_: outputs, x, torch.arange(1, 9))
    assert made_on_the_way.numbers <= outputs.numel()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"loss": "KL"}, "its loss is KL"),
        ({"loss": "RESCALED_KL"}, "its loss is RESCALED_KL"),
        ({"mean": "PREVIOUS_X", "variance": "FIXED_SMALL"}, "its network predicts PREVIOUS_X"),
    ],
    ids=str,
)
def test_what_is_not_served_runs_the_original_and_says_so_once(options, reason, recwarn):
    made = diffusion(**options)
    t, outputs = torch.zeros(2, dtype=torch.int64), torch.randn(2, 6 if "loss" in options else 3, 4, 4)

    def losses():
        torch.manual_seed(0)
        return made.training_losses(lambda *_, **__: outputs, torch.randn(2, 3, 4, 4), t)

    expected = losses()
    with apply_visgen_to_dit(made):
        found = [losses(), losses()]
    assert all(torch.equal(one["loss"], expected["loss"]) for one in found)
    assert [str(w.message) for w in recwarn] == [f"{type(made).__name__}.training_losses runs DiT's own code: {reason}"]


class Fork(GaussianDiffusion):
    """What copies of DiT do: the same names, another computation."""

    def training_losses(self, model, x_start, t, model_kwargs=None, noise=None):
        terms = super().training_losses(model, x_start, t, model_kwargs, noise)
        return {**terms, "loss": terms["loss"] / (1 + self.weight)}


@pytest.mark.parametrize("weight", [0, 1e-2])
def test_a_copy_that_computes_something_else_keeps_its_own_code(weight, recwarn):
    made = diffusion()
    made.__class__, made.weight = Fork, weight
    expected = train(made)
    with apply_visgen_to_dit(made):
        found = train(made)
    assert_near(found, expected)
    assert torch.equal(found[3], expected[3])
    reasons = [str(warning.message) for warning in recwarn]
    assert reasons == ["Fork.training_losses runs DiT's own code: it computes something else than DiT's"] * bool(weight)


def test_a_copy_that_tells_the_network_other_times_keeps_its_own_code(recwarn):
    class Scaled(SpacedDiffusion):
        def training_losses(self, model, *args, **kwargs):
            return super().training_losses(lambda x, t, **told: model(x, t * 7.0, **told), *args, **kwargs)

    made = diffusion(times=range(0, 1000, 7))
    made.__class__ = Scaled
    compare(made, "this")
    assert len(recwarn) == 1


def test_images_that_are_no_floating_point_run_the_original(recwarn):
    made = diffusion()
    with apply_visgen_to_dit(made), pytest.raises((RuntimeError, NotImplementedError)):
        made.training_losses(None, torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64))


def test_copies_and_pickles_of_a_diffusion_work_on():
    made = diffusion(times=range(0, 1000, 7))
    with apply_visgen_to_dit(made):
        copied, loaded = copy.deepcopy(made), pickle.loads(pickle.dumps(made))
        assert type(loaded) is SpacedDiffusion and type(copied) is type(made) is not SpacedDiffusion
        assert_near(train(copied), train(loaded))
    assert type(made) is SpacedDiffusion


def test_revert_puts_the_method_back():
    before = vars(GaussianDiffusion)["training_losses"]
    replacement = apply_visgen_to_dit()
    assert vars(GaussianDiffusion)["training_losses"] is not before
    replacement.revert()
    assert vars(GaussianDiffusion)["training_losses"] is before


def test_what_is_no_diffusion_is_refused():
    with pytest.raises(ValueError, match="target must be a GaussianDiffusion or a network of DiT's, got Linear"):
        apply_visgen_to_dit(nn.Linear(2, 2))


def test_an_output_of_another_shape_is_refused():
    made = diffusion()
    with apply_visgen_to_dit(made), pytest.raises(ValueError, match=r"output must have the shape \[2, 6, 4, 4\]"):
        made.training_losses(lambda *_: torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4), torch.tensor([1, 2]))
