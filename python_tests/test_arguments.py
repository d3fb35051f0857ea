"""Arguments of another kind than they should be: a TypeError of one sentence that names it, from every operation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from visgen_fast import ops

S, X, C = torch.arange(2), torch.zeros(2, 3), torch.zeros(2, 4)
CODES, BOOKS = torch.zeros(2, 1, dtype=torch.int64), torch.zeros(1, 5, 3)
WRONG = {
    "gaussian stream=1.0": (lambda: ops.gaussian(S, (3,), stream=1.0), "stream must be an integer, got float"),
    "gaussian stream='1'": (lambda: ops.gaussian(S, (3,), stream="1"), "stream must be an integer, got str"),
    "gaussian stream=None": (lambda: ops.gaussian(S, (3,), stream=None), "stream must be an integer, got NoneType"),
    "gaussian shape=(3.0,)": (lambda: ops.gaussian(S, (3.0,)), "shape must be integers, got float"),
    "uniform shape='3'": (lambda: ops.uniform(S, "3"), "shape must be integers, got str"),
    "uniform shape=3": (lambda: ops.uniform(S, 3), "shape must be a sequence of integers, got int"),
    "derive_seeds seed=1.5": (
        lambda: ops.derive_seeds(1.5, S),
        "seed must be an int or an int64 tensor, got float",
    ),
    "derive_seeds step=1.0": (lambda: ops.derive_seeds(1, S, step=1.0), "step must be an integer, got float"),
    "derive_seeds purpose='x'": (lambda: ops.derive_seeds(1, S, purpose="x"), "purpose must be an integer, got str"),
    "draw_seeds batch=2.0": (lambda: ops.draw_seeds(2.0), "batch must be an integer, got float"),
    "Purpose.stream step=1.0": (lambda: ops.Purpose.TIME.stream(1.0), "step must be an integer, got float"),
    "diffuse stream=1.0": (lambda: ops.diffuse(X, C, S, stream=1.0), "stream must be an integer, got float"),
    "add_noise stream=[1]": (lambda: ops.add_noise(X, C, S, stream=[1]), "stream must be an integer, got list"),
    "residual_quantize depth=1.0": (
        lambda: ops.residual_quantize(X, BOOKS, depth=1.0),
        "depth must be an integer, got float",
    ),
    "residual_quantize depth='1'": (
        lambda: ops.residual_quantize(X, BOOKS, depth="1"),
        "depth must be an integer, got str",
    ),
    "finite_scalar_quantize levels=(8.0, 5, 5)": (
        lambda: ops.finite_scalar_quantize(X, (8.0, 5, 5)),
        "levels must be integers, got float",
    ),
    "finite_scalar_quantize levels=8": (
        lambda: ops.finite_scalar_quantize(X, 8),
        "levels must be a sequence of integers, got int",
    ),
    "finite_scalar_decode levels='85'": (
        lambda: ops.finite_scalar_decode(S, "85"),
        "levels must be integers, got str",
    ),
    "lookup_free_quantize scale='x'": (
        lambda: ops.lookup_free_quantize(X, scale="x"),
        "scale must be a number, got str",
    ),
    "binary_spherical_quantize inverse_temperature='1'": (
        lambda: ops.binary_spherical_quantize(X, inverse_temperature="1"),
        "inverse_temperature must be a number, got str",
    ),
    "lookup_free_quantize group_size=2.0": (
        lambda: ops.lookup_free_quantize(X, group_size=2.0),
        "group_size must be an integer or be None, got float",
    ),
    "binary_decode bits=4.0": (lambda: ops.binary_decode(S, 4.0), "bits must be an integer, got float"),
    "binary_decode scale='x'": (lambda: ops.binary_decode(S, 4, scale="x"), "scale must be a number, got str"),
    "nearest_code codebook=3": (lambda: ops.nearest_code(X, 3), "codebook must be a tensor, got int"),
    "codebook_statistics codes=None": (
        lambda: ops.codebook_statistics(X, None, BOOKS),
        "codes must be a tensor, got NoneType",
    ),
    "gumbel shape=3": (lambda: ops.gumbel(S, 3), "shape must be a sequence of integers, got int"),
    "sample_tokens logits=3": (lambda: ops.sample_tokens(3, S), "logits must be a tensor, got int"),
    "sample_tokens temperature='1'": (
        lambda: ops.sample_tokens(X, S, temperature="1"),
        "temperature must be a number, got str",
    ),
    "sample_tokens top_k=1.5": (
        lambda: ops.sample_tokens(X, S, top_k=1.5),
        "top_k must be an integer or int64 [B], got float",
    ),
    "confident_mask unknown=None": (
        lambda: ops.confident_mask(X, S, unknown=None, count=1),
        "unknown must be a tensor, got NoneType",
    ),
    "modulated_norm scale=0.5": (lambda: ops.modulated_norm(X, 0.5), "scale must be a tensor, got float"),
    "gated_residual_norm branch=None": (
        lambda: ops.gated_residual_norm(X, None, None, None),
        "branch must be a tensor, got NoneType",
    ),
    "modulated_norm eps='x'": (lambda: ops.modulated_norm(X, None, eps="x"), "eps must be a number, got str"),
    "activate bias=0": (lambda: ops.activate(X, "silu", 0), "bias must be a tensor, got int"),
    "gated_activate x=3": (lambda: ops.gated_activate(3), "x must be a tensor, got int"),
    "diffuse seeds=3": (lambda: ops.diffuse(X, C, 3), "seeds must be a tensor, got int"),
    "gaussian stream=True": (lambda: ops.gaussian(S, (3,), stream=True), "stream must be an integer, got bool"),
    "gaussian shape=(True,)": (lambda: ops.gaussian(S, (True,)), "shape must be integers, got bool"),
    "derive_seeds seed=True": (
        lambda: ops.derive_seeds(True, S),
        "seed must be an int or an int64 tensor, got bool",
    ),
    "multiscale_loss scales=(True,)": (
        lambda: ops.multiscale_loss(X, X, scales=(True,)),
        "scales must be integers, got bool",
    ),
    "multiscale_loss penalty_scale=True": (
        lambda: ops.multiscale_loss(X, X, penalty_scale=True),
        "penalty_scale must be a number, got bool",
    ),
    "sample_tokens top_k=True": (
        lambda: ops.sample_tokens(X, S, top_k=True),
        "top_k must be an integer or int64 [B], got bool",
    ),
    "sample_tokens temperature=True": (
        lambda: ops.sample_tokens(X, S, temperature=True),
        "temperature must be a number, got bool",
    ),
}


@pytest.mark.parametrize("call, sentence", WRONG.values(), ids=WRONG)
def test_another_kind_of_argument_gets_a_sentence(call, sentence):
    with pytest.raises(TypeError) as caught:
        call()
    assert str(caught.value) == sentence


OUT_OF_RANGE = {
    "stream": (lambda: ops.gaussian(S, (3,), stream=-1), r"stream must lie in [0, 2**63), got -1"),
    "seed": (lambda: ops.derive_seeds(2**63, S), f"seed must lie in [-2**63, 2**63), got {2**63}"),
    "step": (lambda: ops.derive_seeds(1, S, step=2**32), f"step must lie in [0, 2**32), got {2**32}"),
    "purpose": (lambda: ops.derive_seeds(1, S, purpose=-3), "purpose must lie in [0, 2**31), got -3"),
    "shape": (lambda: ops.gaussian(S, (3, -1)), "shape must be at least 0, got -1"),
    "bits": (lambda: ops.binary_decode(S, 63), "bits must lie in [1, 62], got 63"),
    "depth": (lambda: ops.residual_quantize(X, BOOKS, depth=-1), "depth must be at least 0, got -1"),
    "batch": (lambda: ops.draw_seeds(-1), "batch must be at least 0, got -1"),
    "many": (lambda: ops.draw_seeds(2**63), f"batch must lie in [0, 2**63), got {2**63}"),
    "large": (lambda: ops.gaussian(S, (3, 2**63)), f"shape must lie in [0, 2**63), got {2**63}"),
    "scales": (lambda: ops.multiscale_loss(X, X, scales=(2**63,)), f"scales must lie in [1, 2**63), got {2**63}"),
    "top_k": (lambda: ops.sample_tokens(X, S, top_k=2**63), f"top_k must lie in [1, 2**63) or int64 [B], got {2**63}"),
}


@pytest.mark.parametrize("call, sentence", OUT_OF_RANGE.values(), ids=OUT_OF_RANGE)
def test_a_number_out_of_range_gets_its_range(call, sentence):
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value) == sentence


def test_integers_of_numpy_are_integers():
    one, two = np.int64(1), np.int32(2)
    assert torch.equal(ops.gaussian(S, (two,), stream=one), ops.gaussian(S, (2,), stream=1))
    assert torch.equal(ops.derive_seeds(one, S, step=two), ops.derive_seeds(1, S, step=2))
    assert torch.equal(ops.binary_decode(S, two, scale=np.float32(0.5)), ops.binary_decode(S, 2, scale=0.5))
    x = torch.linspace(-1, 1, 6).view(2, 3)
    assert torch.equal(ops.residual_quantize(x, BOOKS, depth=one)[1], ops.residual_quantize(x, BOOKS, depth=1)[1])
    levels = np.array([8, 5, 5])
    assert torch.equal(ops.finite_scalar_quantize(x, levels)[1], ops.finite_scalar_quantize(x, (8, 5, 5))[1])


def test_views_that_negate_are_filled_and_read():
    """The imaginary part of a conjugate: numbers that PyTorch negates when it reads them."""
    negated = torch.zeros(2, 3, dtype=torch.complex64).conj().imag
    assert negated.is_neg()
    for fill in (ops.gaussian, ops.uniform):
        assert fill(S, (3,), out=negated) is negated
        assert torch.equal(negated, fill(S, (3,)))
    plain = negated.clone()
    assert not plain.is_neg()
    for call in (
        lambda x: ops.diffuse(x, torch.ones(2, 4), S)[0],
        lambda x: ops.diffuse(X, torch.ones(2, 4), noise=x)[0],
        lambda x: ops.residual_quantize(x, BOOKS + 1)[2],
        lambda x: ops.decode_codes(CODES, x),
        lambda x: ops.finite_scalar_quantize(x, (8, 5, 5))[0],
        lambda x: ops.binary_spherical_quantize(x)[2],
        lambda x: ops.codebook_statistics(x, CODES, BOOKS)[1],
        lambda x: ops.modulated_norm(x, x, x),
        lambda x: ops.activate(x, "gelu", x[0]),
    ):
        assert torch.equal(call(negated), call(plain))
