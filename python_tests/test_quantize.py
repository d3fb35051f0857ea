"""The mathematics of the families `quantize` and `codebook`, beyond what every operation is held to."""

from __future__ import annotations

import pytest
import torch
from cases import random
from hypothesis import given
from hypothesis import strategies as st

from visgen_fast import ops, reference


def vectors(*shape, device, key=0, dtype=torch.float32):
    return random(shape, dtype, device, 100 + key)


def test_the_value_is_the_sum_of_the_codes_embeddings(backend, device):
    x, codebooks = vectors(4, 9, 24, device=device), vectors(3, 50, 24, device=device, key=1)
    for gradient in ("none", "straight_through", "straight_through_per_depth", "rotation", "rotation_per_depth"):
        quantized, codes, *_ = ops.residual_quantize(x, codebooks, gradient=gradient)
        assert torch.equal(quantized, ops.decode_codes(codes, codebooks))


def test_a_prefix_of_depths_decodes_to_what_fewer_depths_give(backend, device):
    x, codebooks = vectors(30, 24, device=device), vectors(4, 50, 24, device=device, key=1)
    codes = ops.residual_quantize(x, codebooks)[1]
    for depth in range(5):
        quantized, prefix, *_ = ops.residual_quantize(x, codebooks, depth=depth)
        assert torch.equal(prefix, codes[:, :depth])
        assert torch.equal(quantized, ops.decode_codes(codes[:, :depth], codebooks))


def test_errors_are_mean_squares_of_the_residuals(backend, device):
    x, codebook = vectors(40, 24, device=device), vectors(50, 24, device=device, key=1)
    _, codes, commitment, codebook_error = ops.residual_quantize(x, codebook, depth=3)
    assert torch.equal(commitment, codebook_error)
    for depth in range(3):
        prefix = ops.decode_codes(codes[:, : depth + 1], codebook)
        torch.testing.assert_close(commitment[:, depth], (x - prefix).square().mean(-1), rtol=1e-5, atol=1e-6)


def test_averaging_prefix_errors_recovers_the_mean_prefix(backend, device):
    """Σ_k ‖x − S_k‖² = Q·‖x − S̄‖² + Σ_k ‖S_k − S̄‖², S̄ the mean of the prefix sums."""
    x, codebooks = vectors(40, 24, device=device), vectors(4, 50, 24, device=device, key=1)
    _, codes, commitment, _ = ops.residual_quantize(x, codebooks)
    prefixes = torch.stack([ops.decode_codes(codes[:, : q + 1], codebooks) for q in range(4)])
    mean = prefixes.mean(0)
    expected = 4 * (x - mean).square().mean(-1) + (prefixes - mean).square().mean(-1).sum(0)
    torch.testing.assert_close(commitment.sum(-1), expected, rtol=1e-4, atol=1e-5)


def test_a_zero_code_keeps_the_residual_from_growing(backend, device):
    x, codebooks = vectors(60, 12, device=device), vectors(6, 20, 12, device=device, key=1) * 3
    growing = ops.residual_quantize(x, codebooks)[2]
    assert (growing[:, 1:] > growing[:, :-1]).any()
    codebooks[:, 0] = 0
    errors = ops.residual_quantize(x, codebooks)[2]
    assert (errors[:, 1:] <= errors[:, :-1]).all()


def test_equally_near_codes_yield_to_the_first(backend, device):
    codebook = vectors(40, 8, device=device)
    codebook = torch.cat((codebook, codebook.flip(0), codebook))
    x = torch.cat((codebook[:40], codebook[:40] + 0.01 * vectors(40, 8, device=device, key=1)))
    for metric in ("l2", "cosine"):
        codes = ops.nearest_code(x, codebook, metric=metric)
        assert torch.equal(codes[:40], torch.arange(40, device=device)) and (codes < 40).all()


def test_metrics_choose_by_distance_angle_and_product(backend, device):
    codebook = torch.tensor([[2.0, 0.0], [0.0, 0.5], [5.0, 5.0], [0.0, 0.0]], device=device)
    x = torch.tensor([[0.9, 0.1], [0.1, 1.0], [-0.1, -0.1]], device=device)
    assert ops.nearest_code(x, codebook, metric="l2").tolist() == [3, 1, 3]
    assert ops.nearest_code(x, codebook, metric="cosine").tolist() == [0, 1, 3]
    assert ops.nearest_code(x, codebook, metric="dot").tolist() == [2, 2, 3]


def test_codes_with_nan_or_infinity_are_never_chosen(backend, device):
    codebook = vectors(70, 8, device=device)
    codebook[::2, 3] = torch.nan
    codebook[1, 0] = torch.inf
    x = torch.cat((vectors(50, 8, device=device, key=1), codebook[3:4] * 1e30))
    for metric in ("l2", "cosine", "dot"):
        codes = ops.nearest_code(x, codebook, metric=metric)
        assert (codes % 2 == 1).all() and (codes != 1).all()


def test_a_vector_without_a_nearest_code_gives_zeros_and_nan(backend, device):
    x, codebooks = vectors(6, 8, device=device), vectors(2, 5, 8, device=device, key=1)
    expected = ops.residual_quantize(x, codebooks)
    x[1, 2], x[4, 0] = torch.nan, -torch.inf
    quantized, codes, commitment, codebook_error = ops.residual_quantize(x, codebooks)
    assert (codes[[1, 4]] == 0).all()
    assert torch.stack([t[[1, 4]].isnan().all() for t in (quantized, commitment, codebook_error)]).all()
    others = [0, 2, 3, 5]
    for result, plain in zip((quantized, codes, commitment, codebook_error), expected, strict=True):
        assert torch.equal(result[others], plain[others])
    counts, sums = ops.codebook_statistics(x, codes, codebooks)
    assert counts.sum(1).tolist() == [4, 4] and sums.isfinite().all()


def test_low_precision_vectors_have_the_codes_of_their_float32_values(backend, device):
    codebooks = vectors(3, 300, 16, device=device, key=1)
    for dtype in (torch.bfloat16, torch.float16):
        x = vectors(200, 16, device=device, dtype=dtype)
        quantized, codes, *_ = ops.residual_quantize(x, codebooks)
        exact, expected, *_ = ops.residual_quantize(x.float(), codebooks)
        assert torch.equal(codes, expected) and torch.equal(quantized, exact.to(dtype))


@pytest.mark.parametrize("gradient, factor", [("straight_through", 1), ("straight_through_per_depth", 3)], ids=str)
def test_straight_through_gradients_are_as_published(gradient, factor, backend, device):
    x = vectors(4, 8, device=device).requires_grad_()
    codebooks = vectors(3, 9, 8, device=device, key=1).requires_grad_()
    incoming = vectors(4, 8, device=device, key=2)
    ops.residual_quantize(x, codebooks, gradient=gradient)[0].backward(incoming)
    assert torch.equal(x.grad, factor * incoming)
    assert codebooks.grad is None or not codebooks.grad.any()


def test_without_a_gradient_the_quantized_vectors_are_constants(backend, device):
    x = vectors(4, 8, device=device).requires_grad_()
    quantized, _, commitment, _ = ops.residual_quantize(x, vectors(9, 8, device=device, key=1), gradient="none")
    assert not quantized.requires_grad and commitment.requires_grad


def test_rotation_turns_the_gradient_and_scales_it_by_the_lengths_ratio(backend, device):
    """R maps x's direction to the quantized one, so Rᵀ maps a gradient along the quantized one to x's direction."""
    x = vectors(30, 8, device=device).requires_grad_()
    codebooks = vectors(2, 9, 8, device=device, key=1)
    quantized = ops.residual_quantize(x, codebooks, gradient="rotation")[0]
    ratio = (quantized.norm(dim=-1) / x.norm(dim=-1)).detach()
    (along,) = torch.autograd.grad(quantized, x, quantized.detach(), retain_graph=True)
    torch.testing.assert_close(along, ratio[:, None] ** 2 * x.detach())
    incoming = vectors(30, 8, device=device, key=2)
    (turned,) = torch.autograd.grad(quantized, x, incoming)
    torch.testing.assert_close(turned.norm(dim=-1), ratio * incoming.norm(dim=-1))


def test_rotation_has_gradients_where_there_is_nothing_to_rotate(backend, device):
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]], device=device, requires_grad=True)
    codebook = torch.tensor([[3.0, 0.0]], device=device)
    incoming = torch.ones(3, 2, device=device)
    ops.residual_quantize(x, codebook, gradient="rotation")[0].backward(incoming)
    torch.testing.assert_close(x.grad[0], torch.ones(2, device=device))  # no direction: straight through
    x.grad = None
    ops.residual_quantize(-x.detach().requires_grad_(), codebook, gradient="rotation")
    opposite = torch.tensor([[-1.0, 0.0]], device=device, requires_grad=True)
    ops.residual_quantize(opposite, codebook, gradient="rotation")[0].backward(incoming[:1])
    assert opposite.grad.isfinite().all()
    zero = torch.zeros(1, 2, device=device)
    ops.residual_quantize(x, zero, gradient="rotation")[0].backward(incoming)
    assert not x.grad[1:].any()


@pytest.mark.parametrize("gradient", ["rotation", "rotation_per_depth"])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e25])
def test_rotation_does_not_depend_on_the_unit_of_length(gradient, scale, backend, device):
    x = (scale * vectors(20, 8, device=device)).requires_grad_()
    codebooks, incoming = scale * vectors(2, 9, 8, device=device, key=1), vectors(20, 8, device=device, key=2)
    ours, theirs = (
        torch.autograd.grad(family.residual_quantize(x, codebooks, gradient=gradient)[0], x, incoming)[0]
        for family in (ops, reference)
    )
    assert theirs.norm(dim=-1).min() > 0.1
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("gradient", ["rotation", "rotation_per_depth"])
def test_rotation_of_nan_is_nan(gradient, backend, device):
    x = vectors(3, 4, device=device)
    x[1, 2] = torch.nan
    x.requires_grad_()
    codebooks, incoming = vectors(2, 5, 4, device=device, key=1), vectors(3, 4, device=device, key=2)
    for family in (ops, reference):
        quantized = family.residual_quantize(x, codebooks, gradient=gradient)[0]
        (grad,) = torch.autograd.grad(quantized, x, incoming)
        assert grad.isnan().all(-1).tolist() == grad.isnan().any(-1).tolist() == [False, True, False]


def test_each_error_differentiates_into_its_own_argument(backend, device):
    x = vectors(20, 6, device=device).requires_grad_()
    codebooks = vectors(2, 5, 6, device=device, key=1).requires_grad_()
    _, codes, commitment, codebook_error = ops.residual_quantize(x, codebooks)
    to_x, to_codebooks = torch.autograd.grad(commitment.sum(), (x, codebooks), retain_graph=True, allow_unused=True)
    residuals = x.detach() - ops.decode_codes(codes[:, :1], codebooks).detach()
    expected = 2 / 6 * (residuals + (residuals - ops.decode_codes(codes[:, 1:], codebooks[1:]).detach()))
    torch.testing.assert_close(to_x, expected)
    assert to_codebooks is None or not to_codebooks.any()
    to_x, to_codebooks = torch.autograd.grad(codebook_error.sum(), (x, codebooks), allow_unused=True)
    assert to_x is None or not to_x.any()
    counts, sums = ops.codebook_statistics(x, codes, codebooks)
    torch.testing.assert_close(to_codebooks, 2 / 6 * (counts[..., None] * codebooks.detach() - sums))


def test_a_codebook_shared_by_all_depths_gathers_their_gradients(backend, device):
    x, codebook = vectors(20, 6, device=device), vectors(5, 6, device=device, key=1).requires_grad_()
    ops.residual_quantize(x, codebook, depth=3)[3].sum().backward()
    copies = codebook.detach().expand(3, 5, 6).clone().requires_grad_()
    ops.residual_quantize(x, copies)[3].sum().backward()
    torch.testing.assert_close(codebook.grad, copies.grad.sum(0))


def test_statistics_count_every_residual_once(backend, device):
    x, codebooks = vectors(501, 10, device=device), vectors(3, 7, 10, device=device, key=1)
    active = torch.arange(501, device=device) % 4
    codes = ops.residual_quantize(x, codebooks, active_depths=active)[1]
    counts, sums = ops.codebook_statistics(x, codes, codebooks)
    assert counts.sum(1).tolist() == [(active > q).sum().item() for q in range(3)]
    total = x.double()[active > 0].sum(0)
    torch.testing.assert_close(sums[0].double().sum(0), total, rtol=1e-5, atol=1e-4)


@given(st.data())
def test_decoding_is_linear_and_its_gradient_the_transpose(data):
    rows, depth, size, dimensions = (data.draw(st.integers(1, n)) for n in (9, 4, 6, 5))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    codes = torch.randint(-1, size, (rows, depth), generator=generator)
    codebooks = torch.randn(depth, size, dimensions, generator=generator, dtype=torch.float64).requires_grad_()
    weights = torch.randn(rows, dimensions, generator=generator, dtype=torch.float64)
    decoded = ops.decode_codes(codes, codebooks)
    (transpose,) = torch.autograd.grad(decoded, codebooks, weights)
    torch.testing.assert_close((decoded * weights).sum(), (codebooks * transpose).sum())


BAD_ARGUMENTS = [
    ({"x": 3}, TypeError, "x must be a tensor, got int"),
    ({"x": torch.zeros(4, 3, dtype=torch.int64)}, ValueError, "x must be float32"),
    ({"codebooks": torch.zeros(2, 5, 4)}, ValueError, "codebooks must have the 3 dimensions of x"),
    ({"codebooks": torch.zeros(2, 0, 3)}, ValueError, "codebooks must be .* with at least one code"),
    ({"codebooks": torch.zeros(3)}, ValueError, "codebooks must be"),
    ({"depth": 3}, ValueError, "codebooks must be one for each of the 3 depths"),
    ({"depth": -1}, ValueError, "depth must be at least 0"),
    ({"metric": "l1"}, ValueError, "metric must be one of l2, cosine, dot, got 'l1'"),
    ({"gradient": "ste"}, ValueError, "gradient must be one of none, straight_through"),
    ({"active_depths": torch.zeros(4)}, ValueError, "active_depths must be integers"),
    ({"active_depths": torch.zeros(5, dtype=torch.int64)}, ValueError, r"active_depths must be \[4\]"),
    (
        {"x": torch.zeros(3), "active_depths": torch.zeros(5, dtype=torch.int64)},
        ValueError,
        r"active_depths must be broadcastable to \[\]",
    ),
]


@pytest.mark.parametrize("change, error, sentence", BAD_ARGUMENTS, ids=[c[2] for c in BAD_ARGUMENTS])
def test_a_bad_argument_gets_a_sentence_that_names_it(change, error, sentence):
    arguments = {"x": torch.zeros(4, 3), "codebooks": torch.zeros(2, 5, 3), **change}
    with pytest.raises(error, match=sentence):
        ops.residual_quantize(**arguments)


def test_wrong_codes_get_a_sentence_that_names_them():
    codebooks = torch.zeros(2, 5, 3)
    with pytest.raises(ValueError, match="codes must be int64"):
        ops.decode_codes(torch.zeros(4, 2), codebooks)
    with pytest.raises(ValueError, match="codebooks must be one for each of the 3 depths"):
        ops.decode_codes(torch.zeros(4, 3, dtype=torch.int64), codebooks)
    for wrong in (5, -2):
        codes = torch.full((4, 2), wrong)
        with pytest.raises(RuntimeError, match=r"codes must lie in \[-1, 5\)"):
            ops.decode_codes(codes, codebooks)
        with pytest.raises(RuntimeError, match=r"codes must lie in \[-1, 5\)"):
            ops.codebook_statistics(torch.zeros(4, 3), codes, codebooks)
    with pytest.raises(ValueError, match=r"codes must be \[4, Q\]"):
        ops.codebook_statistics(torch.zeros(4, 3), torch.zeros(3, 2, dtype=torch.int64), codebooks)


def test_the_operations_themselves_refuse_codes_of_one_dimension(library, device):
    codes, x = torch.zeros(3, dtype=torch.int64, device=device), torch.zeros(3, 4, device=device)
    raw, codebooks = torch.ops.visgen_fast, torch.zeros(1, 5, 4, device=device)
    for call in (
        lambda: raw.decode_codes(codes, codebooks),
        lambda: raw.decode_codes_backward(x, codes, 1, 5),
        lambda: raw.codebook_statistics(x, codes, codebooks),
        lambda: raw.residual_quantize_backward(x, None, None, x, codebooks, codes, 0, [True, False]),
    ):
        with pytest.raises(RuntimeError, match="codes must be"):
            call()


def test_the_reference_serves_tangents(backend, device):
    x, tangent = vectors(4, 8, device=device), vectors(4, 8, device=device, key=2)
    codebooks = vectors(2, 9, 8, device=device, key=1)
    value, derivative = torch.func.jvp(lambda x: ops.residual_quantize(x, codebooks)[0], (x,), (tangent,))
    assert torch.equal(derivative, tangent)
    assert torch.equal(value, reference.residual_quantize(x, codebooks)[0])


@pytest.mark.parametrize("gradient", ["straight_through", "straight_through_per_depth", "rotation", "none"])
def test_a_vector_without_active_depths_is_zero_whatever_it_holds(gradient, backend, device):
    x = torch.tensor([[torch.nan, 1.0], [1.0, 2.0], [torch.inf, 0.0], [torch.nan, 0.0]], device=device)
    codebooks = vectors(2, 5, 2, device=device, key=1)
    active = torch.tensor([0, 1, 0, 1], device=device)
    for family in (ops, reference):
        quantized, codes, *errors = family.residual_quantize(x, codebooks, active_depths=active, gradient=gradient)
        assert codes[[0, 2]].tolist() == [[-1, -1]] * 2 and codes[3].tolist() == [0, -1]
        assert not quantized[[0, 2]].any() and quantized[3].isnan().all() and quantized[1].isfinite().all()
        for error in errors:
            assert not error[[0, 2]].any() and error[3, 0].isnan() and error[3, 1] == 0
        without_depths = family.residual_quantize(x, codebooks[0], depth=0, gradient=gradient)[0]
        assert torch.equal(without_depths, torch.zeros_like(x))


def test_vectors_without_dimensions_are_quantized(backend, device):
    x, codebooks = torch.zeros(3, 0, device=device), torch.zeros(2, 5, 0, device=device)
    for family in (ops, reference):
        quantized, codes, commitment, codebook_error = family.residual_quantize(x, codebooks)
        assert quantized.shape == (3, 0) and codes.tolist() == [[0, 0]] * 3
        assert commitment.isnan().all() and codebook_error.isnan().all(), "means of nothing"
        assert family.decode_codes(codes, codebooks).shape == (3, 0)
        counts, sums = family.codebook_statistics(x, codes, codebooks)
        assert counts.tolist() == [[3, 0, 0, 0, 0]] * 2 and sums.shape == (2, 5, 0)
