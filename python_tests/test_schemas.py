"""The compiled operations called directly, past the checks of `visgen_fast.ops`: what kernels read is checked again."""

from __future__ import annotations

import functools

import fuzz_schemas
import pytest
import torch

RAW = torch.ops.visgen_fast
SEEDS = torch.zeros(1, dtype=torch.int64)
ROW = torch.ones(1, 4)


def refused(sentence: str):
    return pytest.raises(RuntimeError, match=rf"\A{sentence}\Z")  # a sentence, and no path or line of a source


@functools.cache
def recorded():
    return fuzz_schemas.recorded_calls()


@pytest.mark.parametrize("seed", range(3))
def test_any_arguments_of_a_schema_get_a_result_or_a_sentence(seed, library):
    fuzz_schemas.fuzz(seed, 700, recorded())


def test_the_cases_call_every_operation():
    assert {name for name, _ in recorded()} == set(fuzz_schemas.OPERATIONS)


def test_the_gradient_of_what_is_not_given_is_refused(library):
    g = torch.ones(1, 3)
    for needs in ([False, False, True, False], [False, False, False, True]):
        with refused("needs must not ask for the gradient of what is not given"):
            RAW.diffuse_backward(g, g, g, ROW, SEEDS, None, None, 0, needs)
    for needs in ([], [True] * 3, [True] * 5):
        with refused("needs must say yes or no for each of x, coefficients, endpoint and noise"):
            RAW.diffuse_backward(g, g, g, ROW, SEEDS, None, None, 0, needs)


def test_pixels_have_no_gradient(library):
    pixels, g = torch.zeros(1, 3, dtype=torch.uint8), torch.ones(1, 3)
    six = torch.ones(1, 6)
    with refused("x holds pixels, which have no gradient"):
        RAW.diffuse_backward(g, g, pixels, ROW, SEEDS, None, None, 0, [True, False, False, False])
    with refused("endpoint holds pixels, which have no gradient"):
        RAW.diffuse_backward(g, g, g, six, SEEDS, pixels, None, 0, [False, False, True, False])


@pytest.mark.parametrize("size", [0, -1, 2**31, 2**32, 2**62])
def test_codebooks_that_no_search_could_have_are_not_made(size, library):
    with refused(r"size must lie in \[1, 2147483647\]"):
        RAW.decode_codes_backward(torch.zeros(0, 1), torch.zeros(0, 1, dtype=torch.int64), 1, size)


@pytest.mark.parametrize("depth", [-1, 65536, 10**9, 2**62])
def test_a_depth_that_nobody_has_is_refused(depth, library):
    with refused(r"depth must lie in \[0, 65535\]"):
        RAW.residual_quantize(torch.zeros(2, 3), torch.zeros(1, 4, 3), None, depth, 0, 0)


def test_arrays_are_what_the_kernels_take_them_for(library):
    x, books, codes = torch.zeros(2, 3), torch.zeros(1, 4, 3), torch.zeros(2, 1, dtype=torch.int64)
    backward = functools.partial(RAW.residual_quantize_backward, None, None, None)
    for wrong in (codes.int(), codes[:1], torch.zeros(1, 2, dtype=torch.int64).expand(2, 2)[:, :1]):
        with refused(r"codes must be contiguous int64 \[2, 1\], on the device of the others"):
            backward(x, books, wrong, 0, [True, True])
    for wrong in (books.double(), books.expand(2, 4, 3)):
        with refused(r"codebooks must be contiguous float32 \[\d, 4, 3\], on the device of the others"):
            backward(x, wrong, codes, 0, [True, True])
    with refused(r"active_depths must be contiguous int64 \[2\], on the device of the others"):
        RAW.residual_quantize(x, books, codes, 1, 0, 0)
    with refused(r"seeds must be contiguous int64 \[2\], on the device of the others"):
        RAW.gaussian_(x, SEEDS, 0)
    with refused(r"coefficients must be contiguous float32 \[2, 4\], on the device of the others"):
        RAW.diffuse(x, torch.ones(2, 8)[:, ::2], SEEDS.expand(2).contiguous(), None, None, 0, torch.float32)


def test_too_little_memory_is_said_in_a_sentence(library):
    codes = torch.zeros(1, 0, dtype=torch.int64).expand(2**48, 0)
    with refused(r"there is no memory for a tensor of shape \[281474976710656, 3\]"):
        RAW.decode_codes(codes, torch.zeros(1, 4, 3))


def test_what_has_no_elements_may_have_any_sizes_and_strides(library):
    """No product of them is formed that int64 does not hold; the sanitizers see to it."""
    huge = torch.zeros(1, 1, 0).expand(2**31, 2**31, 0)
    assert RAW.finite_scalar_decode(huge.long(), [5, 5], 0, torch.float32).shape == (2**31, 2**31, 0, 2)
    strided = torch.zeros(0).as_strided((1, 2, 0), (2**62, 2**62, 2**62))
    x_t, target = RAW.diffuse(strided, torch.ones(1, 4), SEEDS, None, None, 0, torch.float32)
    assert x_t.shape == target.shape == (1, 2, 0)
    none = torch.zeros(3, 0)
    books, codes = torch.zeros(2, 4, 0), torch.zeros(3, 2, dtype=torch.int64)
    quantized, found, commitment, _ = RAW.residual_quantize(none, books, None, 2, 0, 0)
    assert quantized.shape == (3, 0) and not found.any() and commitment.isnan().all()
    to_x, to_books = RAW.residual_quantize_backward(none, commitment, commitment, none, books, codes, 3, [True, True])
    assert to_x.shape == none.shape and to_books.shape == books.shape
    counts, sums = RAW.codebook_statistics(none, codes, books)
    assert counts[:, 0].tolist() == [3, 3] and sums.shape == books.shape
    assert RAW.decode_codes(codes, books).shape == none.shape


def test_pixels_have_no_gradient_of_a_loss(library):
    image, loss = torch.ones(1, 2, 3, 4), torch.ones(())
    for name, pred, target in (("pred", image.byte(), image), ("target", image, image.byte())):
        with refused(f"{name} must be float16, bfloat16, float32 or float64"):
            RAW.multiscale_loss_backward(loss, pred, target, None, image, [1], [1.0], 0, 1.0, 0, [True, True, False])
    with refused("x must have 1 to 9 dimensions, got 0"):
        one = torch.ones(1)
        RAW.multiscale_loss_backward(one, image, image, None, loss, [1], [1.0], 0, 1.0, 0, [True, True, False])
