"""Normalizing flows: an exact determinant, an exact inverse, densities that sum to 1, and bits that are a bound."""

import math

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from visgen_fast import ops
from visgen_fast.flows import Dequantization, RealNVP, TarFlow, cleaned

FLOWS = {
    "real-nvp": lambda size, channels: RealNVP(
        image_size=size, channels=channels, width=9, depth=1, levels=1 if 1 in size else 2, classes=3
    ),
    "tar-flow": lambda size, channels: TarFlow(
        image_size=size, channels=channels, patch_size=1 if 1 in size else 2, width=8, depth=1, blocks=3, heads=2,
        classes=3,
    ),
}  # fmt: skip


def disturbed(name, size, channels, spread=0.3):
    """A flow in float64 that no longer begins as the identity."""
    torch.manual_seed(0)
    flow = FLOWS[name](size, channels).double().eval()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += spread * torch.randn_like(parameter)
    return flow


def images(count, shape, dtype=torch.float64):
    return ops.uniform(torch.arange(count), shape, dtype=dtype) * 1.8 - 0.9


@pytest.mark.parametrize("name", FLOWS)
def test_the_log_determinant_is_that_of_the_jacobian(name):
    flow = disturbed(name, (2, 4), 2)
    x, labels = images(3, (2, 2, 4)), torch.tensor([0, 2, 3])
    _, found = flow(x, labels)
    for one, label, ours in zip(x, labels, found, strict=True):
        with sdpa_kernel(SDPBackend.MATH):
            jacobian = torch.func.jacrev(lambda x, label=label: flow(x[None], label[None])[0].flatten())(one)
        assert abs(torch.linalg.slogdet(jacobian.reshape(16, 16)).logabsdet - ours) < 1e-8
    assert found.std() > 0.1  # a flow that scales nothing would pass


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-10), (torch.float32, 1e-4)])
@pytest.mark.parametrize("name", FLOWS)
def test_the_inverse_brings_back_the_images(name, dtype, tolerance):
    flow = disturbed(name, (8, 8), 3, 0.1).to(dtype)
    x, labels = images(4, (3, 8, 8), dtype), torch.tensor([0, 1, 2, 3])
    z, _ = flow(x, labels)
    assert (z - x).abs().max() > 0.1
    assert (flow.inverse(z, labels) - x).abs().max() < tolerance


@pytest.mark.parametrize("label", [1, None])
@pytest.mark.parametrize("name", FLOWS)
def test_the_density_of_two_pixels_sums_to_1(name, label):
    flow = disturbed(name, (1, 2), 1, 0.15)
    end, count = 9.0, 250
    line = ((torch.arange(count, dtype=torch.float64) + 0.5) / count * 2 - 1) * end
    grid = torch.cartesian_prod(line, line).view(-1, 1, 1, 2)
    with torch.no_grad():
        condition = None if label is None else torch.full((len(grid),), label)
        density = flow.log_likelihood(grid, condition).exp()
    assert abs(density.sum() * (2 * end / count) ** 2 - 1) < 1e-3
    assert density.max() > 0.01


@pytest.mark.parametrize("name", FLOWS)
def test_a_label_changes_the_density_and_no_label_is_the_null_label(name):
    flow = disturbed(name, (4, 4), 1)
    x = images(2, (1, 4, 4))
    null = torch.full((2,), flow.null_label)
    assert torch.equal(flow.log_likelihood(x), flow.log_likelihood(x, null))
    assert (flow.log_likelihood(x, null - 1) - flow.log_likelihood(x)).abs().min() > 1e-3


def test_guidance_of_1_is_none_and_more_moves_towards_the_condition():
    flow = disturbed("tar-flow", (4, 4), 1)
    z, labels = ops.gaussian(torch.arange(2), (1, 4, 4), dtype=torch.float64), torch.tensor([0, 1])
    alone = flow.inverse(z, labels)
    assert (flow.inverse(z, labels, guidance=1.0 + 1e-12) - alone).abs().max() < 1e-9
    null = torch.full_like(labels, flow.null_label)
    assert (flow.inverse(z, null, guidance=5.0) - flow.inverse(z, null)).abs().max() < 1e-9  # nothing to move along
    assert (flow.inverse(z, labels, guidance=2.0) - alone).abs().max() > 1e-3


def test_cleaning_finds_the_mean_of_what_was_noised():
    """An untrained TarFlow knows N(0, 1): that of data N(0, 1 − w²) with noise of width w, whose mean is (1 − w²)·x."""
    flow = TarFlow(image_size=4, channels=1, patch_size=2, width=8, depth=1, blocks=2, heads=1).double()
    x = ops.gaussian(torch.arange(3), (1, 4, 4), dtype=torch.float64)
    with torch.no_grad():
        assert (cleaned(flow, x, None, 0.3) - 0.91 * x).abs().max() < 1e-12


def test_uniform_bits_are_exact_for_a_density_that_knows_the_levels():
    """A density that is constant within each level: −log₂ of the probability of each pixel's level, summed."""
    levels, pixels = Dequantization(levels=4), torch.tensor([[0, 85, 170, 255]], dtype=torch.uint8)
    x = pixels / 127.5 - 1
    assert levels.loses_nothing(x)
    noised = levels.noised(x, torch.tensor([7])).double()
    filled = (noised.sigmoid() - 0.05) / 0.9 * 4
    assert torch.equal(filled.ceil() - 1, torch.tensor([[0.0, 1, 2, 3]]).double())
    share = torch.tensor([0.5, 0.25, 0.125, 0.125]).double()
    slope = noised.sigmoid() * (1 - noised.sigmoid()) / 0.9  # of the share of the interval by the logit
    log_density = (share * 4 * slope).log().sum()[None]
    assert levels.bits(noised, x, log_density).item() == pytest.approx(1 + 2 + 3 + 3)
    assert torch.equal(levels.images(noised.float()), x)


def test_normal_bits_are_a_bound_that_narrow_noise_makes_tight():
    """A mixture of the levels' normals, each as probable as the other, costs log₂ 5 bits a pixel, and no bound less."""
    x = torch.tensor([0, 64, 128, 191, 255], dtype=torch.uint8).expand(400, 5) / 127.5 - 1
    for width, slack in ((0.05, 1e-3), (0.3, 2.0)):
        levels = Dequantization(levels=5, width=width)
        noised = levels.noised(x, torch.arange(400))
        values = torch.linspace(-1, 1, 5)
        normal = torch.distributions.Normal(values, width).log_prob(noised[..., None])
        log_density = (torch.logsumexp(normal, -1) - math.log(5)).sum(1)
        bits = levels.bits(noised, x, log_density).mean().item() / 5
        assert -1e-4 < bits - math.log2(5) < slack


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("width", [0.0, 0.001])
def test_noise_of_levels_is_taken_off_again(levels, width):
    x = torch.arange(256).expand(2, 256) / 127.5 - 1
    kept = Dequantization(levels, width)
    pixels = torch.arange(256)
    level = pixels * levels // 256
    found = kept.images(kept.noised(x, torch.arange(2)))
    expected = (level * 255 / (levels - 1)).round() / 127.5 - 1
    # The border between two of 256 levels is as wide as float32 is coarse: one of 10⁵ values may fall on it.
    assert (found == expected).float().mean() > 0.99 and kept.loses_nothing(expected)
    assert kept.loses_nothing(x) == (levels == 256)


def test_what_does_not_fit_gets_a_sentence():
    nvp, tar = (make((4, 4), 1) for make in FLOWS.values())
    with pytest.raises(ValueError, match=r"x must have shape \[B, 1, 4, 4\], got \[2, 1, 8, 8\]"):
        tar(torch.zeros(2, 1, 8, 8))
    with pytest.raises(ValueError, match=r"z must have shape \[B, 1, 4, 4\], got \[2, 3, 4, 4\]"):
        nvp.inverse(torch.zeros(2, 3, 4, 4))
    with pytest.raises(ValueError, match=r"the condition must be 2 labels, one for each image, got \[3\]"):
        nvp(torch.zeros(2, 1, 4, 4), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="guidance must be 1 for Real NVP, which has none, got 2"):
        nvp.inverse(torch.zeros(2, 1, 4, 4), guidance=2.0)
    with pytest.raises(ValueError, match=r"2\^\(levels − 1\) must divide image_size \(4, 6\), got 4"):
        RealNVP(image_size=(4, 6), channels=1, width=8, depth=1, levels=3)
    with pytest.raises(ValueError, match=r"patch_size must divide image_size \(4, 4\), got 3"):
        TarFlow(image_size=4, channels=1, patch_size=3, width=8, depth=1, blocks=1, heads=1)
    with pytest.raises(ValueError, match="width must be at least 0 and finite, got -1"):
        Dequantization(width=-1)
    with pytest.raises(ValueError, match=r"levels must lie in \[2, 256\], got 1"):
        Dequantization(1)
