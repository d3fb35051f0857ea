"""The family `multiscale`: what its own mathematics promises, beyond the contract that every operation keeps."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from backends import BACKENDS, running_on
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from visgen_fast import ops, reference

BACKENDS = [name for name in BACKENDS if name != "cuda"]  # hypothesis draws many small tensors, on the CPU
PENALTIES = ("l2", "l1", "pseudo_huber")


def picture(*shape, key=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(key), dtype=torch.float64).to(dtype)


def by_windows(pred, target, scales, omega, weight, penalty, c):
    """The definition, a window at a time: losses [B] and terms [B, scales] in float64."""
    height, width = pred.shape[-2:]
    weight = torch.ones_like(pred) if weight is None else reference.multiscale.per_sample(weight, pred.dim())
    r, w = (pred - target).double().flatten(1, -3), weight.double().expand_as(pred).flatten(1, -3)
    rho = {"l2": lambda m: m * m, "l1": abs, "pseudo_huber": lambda m: math.hypot(m, c) - c}[penalty]
    terms = torch.zeros(len(pred), len(scales), dtype=torch.float64)
    for b, (i, s) in product(range(len(pred)), enumerate(scales)):
        values = []
        for channel, y, x in product(range(r.shape[1]), range(0, height, s), range(0, width, s)):
            window = (b, channel, slice(y, y + s), slice(x, x + s))
            seen = w[window] != 0
            total = w[window].sum().item()
            mean = (w[window][seen] * r[window][seen]).sum().item() / total if total else 0.0
            values.append(total / seen.numel() * rho(mean))
        terms[b, i] = sum(values) / len(values)
    return terms @ torch.tensor(omega, dtype=torch.float64), terms


SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 19), st.integers(1, 37))
SCALES = st.lists(st.sampled_from([1, 2, 3, 4, 5, 8, 16, 40]), min_size=1, max_size=4, unique=True)


def draw_weight(kind, shape, key):
    b, c, h, w = shape
    sizes = {"samples": (b,), "channels": (1, c, 1, 1), "pixels": (b, 1, h, w), "rows": (h, 1), "mask": (b, c, h, w)}
    if kind == "none":
        return None
    weight = torch.rand(sizes[kind], generator=torch.Generator().manual_seed(key))
    return weight > 0.4 if kind == "mask" else weight


@pytest.mark.parametrize("backend", BACKENDS)
@given(
    shape=SHAPES,
    scales=SCALES,
    penalty=st.sampled_from(PENALTIES),
    weighted=st.sampled_from(["none", "samples", "channels", "pixels", "rows", "mask"]),
    key=st.integers(0, 99),
)
def test_equals_the_definition_window_by_window(backend, shape, scales, penalty, weighted, key):
    with running_on(backend):
        pred, target = picture(*shape, key=key), picture(*shape, key=key + 1)
        weight = draw_weight(weighted, shape, key)
        omega = [0.5 + i for i in range(len(scales))]
        options = {"scales": scales, "scale_weights": omega, "weight": weight, "penalty": penalty, "penalty_scale": 0.3}
        loss, terms = ops.multiscale_loss(pred, target, **options, reduction="none", terms=True)
        expected = by_windows(pred, target, scales, omega, weight, penalty, 0.3)
        torch.testing.assert_close(loss.double(), expected[0], rtol=2e-6, atol=1e-7)
        torch.testing.assert_close(terms.double(), expected[1], rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("backend", BACKENDS)
@given(
    shape=SHAPES,
    scales=SCALES,
    penalty=st.sampled_from(PENALTIES),
    weighted=st.sampled_from(["none", "samples", "channels", "pixels", "rows", "mask"]),
    reduction=st.sampled_from(["mean", "sum", "none"]),
    key=st.integers(0, 99),
)
def test_any_gradient_is_the_references(backend, shape, scales, penalty, weighted, reduction, key):
    with running_on(backend):
        pred, target = picture(*shape, key=key), picture(*shape, key=key + 1)
        weight = draw_weight(weighted, shape, key)
        options = {"scales": scales, "weight": weight, "penalty": penalty, "penalty_scale": 0.3, "reduction": reduction}
        found = []
        for module, dtype in ((ops, torch.float32), (reference, torch.float64)):
            leaves = [pred.detach().to(dtype).requires_grad_(), target.detach().to(dtype).requires_grad_()]
            loss = module.multiscale_loss(*leaves, **options)
            upstream = torch.linspace(0.37, 0.9, loss.numel(), dtype=dtype).view(loss.shape)
            found.append(torch.autograd.grad(loss, leaves, upstream))
        for actual, expected in zip(*found, strict=True):
            torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-6 * expected.abs().max().item())


def test_one_scale_of_one_is_the_plain_loss(backend, device):
    pred, target = picture(3, 2, 5, 7).to(device), picture(3, 2, 5, 7, key=1).to(device)
    torch.testing.assert_close(ops.multiscale_loss(pred, target), F.mse_loss(pred, target))
    torch.testing.assert_close(ops.multiscale_loss(pred, target, penalty="l1"), F.l1_loss(pred, target))
    smooth = ops.multiscale_loss(pred, target, penalty="pseudo_huber", penalty_scale=0.5)
    torch.testing.assert_close(smooth, (((pred - target) ** 2 + 0.25).sqrt() - 0.5).mean())


def test_pooling_the_pictures_first_is_the_same(backend, device):
    pred, target = picture(3, 2, 13, 18).to(device), picture(3, 2, 13, 18, key=1).to(device)
    pooled = [F.avg_pool2d(x, 4, ceil_mode=True, count_include_pad=False) for x in (pred, target)]
    torch.testing.assert_close(ops.multiscale_loss(pred, target, scales=(4,)), F.mse_loss(*pooled))


def test_a_constant_residual_has_equal_terms_at_all_scales(backend, device):
    target = picture(2, 3, 13, 21).to(device)
    _, terms = ops.multiscale_loss(target + 0.5, target, scales=(1, 2, 3, 4, 64), terms=True)
    torch.testing.assert_close(terms, torch.full_like(terms, 0.25), rtol=1e-5, atol=0)


def test_white_errors_shrink_with_the_area_of_the_window(backend, device):
    noise = picture(2, 3, 256, 256).to(device)
    _, terms = ops.multiscale_loss(noise, torch.zeros_like(noise), scales=(1, 2, 4, 8, 16), terms=True)
    expected = torch.tensor([1, 1 / 4, 1 / 16, 1 / 64, 1 / 256], device=device).expand(2, 5)
    torch.testing.assert_close(terms, expected, rtol=0.1, atol=0)


def test_the_papers_weights_are_one_over_the_resolution(backend, device):
    pred, target = picture(2, 3, 16, 64).to(device), picture(2, 3, 16, 64, key=1).to(device)
    loss, terms = ops.multiscale_loss(pred, target, scales=(1, 4), scale_weights="paper", reduction="none", terms=True)
    torch.testing.assert_close(loss, terms[:, 0] / 32 + terms[:, 1] / 8)
    plain, terms = ops.multiscale_loss(pred, target, scale_weights="paper", reduction="none", terms=True)
    torch.testing.assert_close(plain, terms[:, 0] / 32)


def test_reductions_are_over_samples(backend, device):
    pred, target = picture(3, 2, 8, 8).to(device), picture(3, 2, 8, 8, key=1).to(device)
    each = ops.multiscale_loss(pred, target, scales=(1, 2), reduction="none")
    assert each.shape == (3,)
    torch.testing.assert_close(ops.multiscale_loss(pred, target, scales=(1, 2)), each.mean())
    torch.testing.assert_close(ops.multiscale_loss(pred, target, scales=(1, 2), reduction="sum"), each.sum())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_stays_within_its_sample(value, backend, device):
    pred, target = picture(3, 2, 9, 7).to(device), picture(3, 2, 9, 7, key=1).to(device)
    pred[1, 0, 4, 3] = value
    pred.requires_grad_()
    losses = ops.multiscale_loss(pred, target, scales=(1, 2, 4), reduction="none")
    total = ops.multiscale_loss(pred, target, scales=(1, 2, 4))
    (gradient,) = torch.autograd.grad(total, pred)
    assert losses.isfinite().tolist() == [True, False, True] and not total.isfinite()
    assert gradient[::2].isfinite().all() and not gradient[1, 0, 4, 3].isfinite()


def test_a_sample_does_not_depend_on_its_batch(backend, device):
    pred, target = picture(5, 3, 17, 40).to(device), picture(5, 3, 17, 40, key=1).to(device)
    together = ops.multiscale_loss(pred, target, scales=(1, 2, 4), reduction="none")
    for i in range(5):
        alone = ops.multiscale_loss(pred[i : i + 1], target[i : i + 1], scales=(1, 2, 4), reduction="none")
        assert torch.equal(alone[0], together[i])


LARGE = [name for name in BACKENDS if name.startswith("cpu")]  # there stores go past the cache


@pytest.mark.parametrize("backend", LARGE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(13, 3, 237, 239), (3, 3, 512, 480)])
def test_a_sample_does_not_depend_on_a_batch_beyond_the_cache(backend, dtype, layout, shape):
    with running_on(backend):
        pred, target = (picture(*shape, key=key).to(dtype, memory_format=layout) for key in (0, 1))
        assert pred.numel() * 4 > 8 << 20 > pred[0].numel() * 4
        rows, seeds = picture(shape[0], 4, key=2).to(torch.promote_types(dtype, torch.float32)), torch.arange(shape[0])

        def gradients(at: slice) -> list[torch.Tensor]:
            leaf = pred[at].detach().requires_grad_()
            loss = ops.multiscale_loss(leaf, target[at], scales=(1, 2, 8), reduction="none")
            upstream = torch.full_like(loss, 0.37)
            again = ops.denoising_loss(leaf, target[at], rows[at], seeds[at], scales=(2, 3), reduction="none")
            return [loss, again, *torch.autograd.grad((loss, again), leaf, (upstream, upstream))]

        together = gradients(slice(None))
        for i in range(shape[0]):
            for alone, of_all in zip(gradients(slice(i, i + 1)), together, strict=True):
                assert torch.equal(alone[0], of_all[i])


def test_terms_carry_no_gradient(backend, device):
    pred = picture(2, 3, 8, 8).to(device).requires_grad_()
    loss, terms = ops.multiscale_loss(pred, torch.zeros_like(pred), scales=(1, 2), terms=True)
    assert loss.requires_grad and not terms.requires_grad
    torch.testing.assert_close(terms.mean(), loss.detach())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_loss_scaling_keeps_small_gradients_of_16_bits(dtype, backend, device):
    """An element's gradient is 1e-9 before the scaling, far below float16's smallest number, and 1e-4 after it."""
    pred, target = (picture(4, 3, 64, 64, key=key).mul(1e-3).to(dtype).to(device) for key in (0, 1))
    pred.requires_grad_()
    loss = ops.multiscale_loss(pred, target, scales=(1, 2, 4))
    (gradient,) = torch.autograd.grad(loss * 65536, pred)
    exact = pred.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(
        65536 * reference.multiscale_loss(exact, target.double(), scales=(1, 2, 4)), exact
    )
    torch.testing.assert_close(gradient.double(), expected, rtol=torch.finfo(dtype).eps, atol=6e-8)


def test_gradients_accumulate_and_survive_a_second_backward(backend, device):
    target = picture(2, 3, 8, 8, key=1).to(device)
    leaf = picture(2, 3, 8, 8).to(device).requires_grad_()
    for pred in (leaf, 1 * leaf):
        leaf.grad = None
        loss = ops.multiscale_loss(pred, target, scales=(1, 2))
        loss.backward(retain_graph=True)
        once = leaf.grad.clone()
        for times in (2, 3):
            loss.backward(retain_graph=True)
            torch.testing.assert_close(leaf.grad, times * once)


def test_the_target_is_diffuses_own(backend, device):
    x, pred = picture(3, 3, 17, 20).to(device), picture(3, 3, 17, 20, key=1).to(device)
    coefficients, seeds = picture(3, 4, key=2).to(device), torch.arange(3, device=device)
    _, target = ops.diffuse(x, coefficients, seeds, stream=9)
    expected = ops.multiscale_loss(pred, target, scales=(1, 2, 4), reduction="none")
    actual = ops.denoising_loss(pred, x, coefficients, seeds, stream=9, scales=(1, 2, 4), reduction="none")
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=0)


def test_a_learned_variance_is_left_out_by_a_slice_of_channels(backend, device):
    both = picture(2, 6, 8, 9).to(device).requires_grad_()
    x, coefficients, seeds = picture(2, 3, 8, 9, key=1).to(device), picture(2, 4, key=2).to(device), torch.arange(2)
    loss = ops.denoising_loss(both[:, :3], x, coefficients, seeds.to(device), scales=(1, 2))
    (gradient,) = torch.autograd.grad(loss, both)
    assert gradient[:, :3].ne(0).all() and gradient[:, 3:].eq(0).all()


def test_backward_stores_neither_noise_nor_target(library, device):
    x, coefficients, seeds = picture(2, 3, 16, 16), torch.ones(2, 4), torch.arange(2)
    pred = picture(2, 3, 16, 16, key=1).requires_grad_()
    saved = {}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.setdefault(t.data_ptr(), t), lambda t: t):
        ops.denoising_loss(pred, x, coefficients, seeds, scales=(1, 2))
    own = {pred.data_ptr(), x.data_ptr()}
    assert len([t for at, t in saved.items() if t.shape == x.shape and at not in own]) == 1  # the gradient


P, C, S = torch.zeros(2, 3, 4, 4), torch.zeros(2, 4), torch.arange(2)


def loss(**options):
    return ops.multiscale_loss(P, P, **options)


@pytest.mark.parametrize(
    "call, error, sentence",
    [
        (lambda: ops.multiscale_loss(3.0, P), TypeError, "pred must be a tensor, got float"),
        (lambda: ops.multiscale_loss(P, None), TypeError, "target must be a tensor, got NoneType"),
        (
            lambda: ops.multiscale_loss(P.int(), P),
            ValueError,
            "pred must be float32, bfloat16, float16 or float64, got torch.int32",
        ),
        (
            lambda: ops.multiscale_loss(P, P.byte()),
            ValueError,
            "target must be float32, bfloat16, float16 or float64, got torch.uint8",
        ),
        (
            lambda: ops.multiscale_loss(P, P[:1]),
            ValueError,
            "target must have the shape of pred, [2, 3, 4, 4], got [1, 3, 4, 4]",
        ),
        (
            lambda: ops.multiscale_loss(P, P.to("meta")),
            ValueError,
            "target must be on cpu, the device of pred, got meta",
        ),
        (
            lambda: ops.multiscale_loss(P.sum(), P.sum()),
            ValueError,
            "pred must have 1 to 9 dimensions, the first of them the batch, got 0",
        ),
        (lambda: loss(scales=()), ValueError, "scales must hold 1 to 16 scales, got 0"),
        (lambda: loss(scales=(2, 1, 2)), ValueError, "scales must be different, got [2, 1, 2]"),
        (lambda: loss(scales=(1, 0)), ValueError, "scales must be at least 1, got 0"),
        (lambda: loss(scales=(1.0,)), TypeError, "scales must be integers, got float"),
        (lambda: loss(scales=2), TypeError, "scales must be a sequence of integers, got int"),
        (
            lambda: ops.multiscale_loss(P[0], P[0], scales=(1, 2)),
            ValueError,
            "scales must be (1,) where pred has fewer than four dimensions, got [1, 2]",
        ),
        (
            lambda: loss(scale_weights=(1, 2)),
            ValueError,
            "scale_weights must have a number for each of the 1 scales, got 2",
        ),
        (
            lambda: loss(scale_weights="equal"),
            ValueError,
            "scale_weights must be one of mean, paper, got 'equal'",
        ),
        (lambda: loss(scale_weights=["1"]), TypeError, "scale_weights must be a number, got str"),
        (
            lambda: loss(scale_weights=1.0),
            TypeError,
            'scale_weights must be "mean", "paper" or a sequence of numbers, got float',
        ),
        (
            lambda: ops.multiscale_loss(P[0], P[0], scale_weights="paper"),
            ValueError,
            'scale_weights may be "paper" where pred has four dimensions or more, got 3',
        ),
        (lambda: loss(weight=2.0), TypeError, "weight must be a tensor, got float"),
        (
            lambda: loss(weight=S),
            ValueError,
            "weight must be float32, bfloat16, float16 or float64, got torch.int64",
        ),
        (
            lambda: loss(weight=torch.ones(3)),
            ValueError,
            "weight must be [2] or broadcastable to [2, 3, 4, 4], got [3]",
        ),
        (
            lambda: loss(weight=torch.ones(2, 3)),
            ValueError,
            "weight must be [2] or broadcastable to [2, 3, 4, 4], got [2, 3]",
        ),
        (lambda: loss(weight=C[0].to("meta")), ValueError, "weight must be on cpu, the device of pred, got meta"),
        (lambda: loss(penalty="huber"), ValueError, "penalty must be one of l2, l1, pseudo_huber, got 'huber'"),
        (lambda: loss(penalty_scale=0), ValueError, "penalty_scale must be positive, got 0"),
        (lambda: loss(penalty_scale=math.nan), ValueError, "penalty_scale must be positive, got nan"),
        (lambda: loss(penalty_scale=1e-25), ValueError, "penalty_scale must lie in [1e-18, 1e+18], got 1e-25"),
        (lambda: loss(penalty_scale=math.inf), ValueError, "penalty_scale must lie in [1e-18, 1e+18], got inf"),
        (lambda: loss(penalty_scale="1"), TypeError, "penalty_scale must be a number, got str"),
        (lambda: loss(reduction="batch"), ValueError, "reduction must be one of mean, sum, none, got 'batch'"),
        (
            lambda: ops.denoising_loss(P.long(), P, C, S),
            ValueError,
            "pred must be float32, bfloat16, float16 or float64, got torch.int64",
        ),
        (lambda: ops.denoising_loss(P, P, C), ValueError, "exactly one of seeds and noise must be given"),
        (lambda: ops.denoising_loss(P, P, C, S, noise=P), ValueError, "exactly one of seeds and noise must be given"),
        (
            lambda: ops.denoising_loss(P, P[:, :2], C, S),
            ValueError,
            "x must have the shape of pred, [2, 3, 4, 4], got [2, 2, 4, 4]",
        ),
        (lambda: ops.denoising_loss(P, P.to("meta"), C, S), ValueError, None),
    ],
)
def test_a_bad_argument_gets_one_sentence(call, error, sentence):
    with pytest.raises(error) as caught:
        call()
    assert "\n" not in str(caught.value) and (sentence is None or str(caught.value) == sentence)
