"""Tensor-core instructions hold their operands as the PTX ISA says, one element at a time.

The tables are those of the PTX ISA, "Matrix fragments for mma.m16n8k8 / m16n8k16 / m16n8k32" and "ldmatrix", with its
names: groupID = lane >> 2, threadID_in_group = lane % 4. They are written down here apart from the C++ code.
"""

from collections.abc import Callable

import numpy as np
import pytest
from cuda_on_host import VARIANTS, aligned, kernels

LANES = range(32)
Place = tuple[int, int]


def a_16bit(lane: int, i: int) -> Place:
    """m16n8k16 with 16-bit elements, a0 … a7: row and column."""
    group, thread = lane >> 2, lane % 4
    row = group if 0 <= i < 2 or 4 <= i < 6 else group + 8
    column = thread * 2 + (i & 1) if i < 4 else thread * 2 + (i & 1) + 8
    return row, column


def b_16bit(lane: int, i: int) -> Place:
    """m16n8k16 with 16-bit elements, b0 … b3: row and column."""
    group, thread = lane >> 2, lane % 4
    return (thread * 2 + (i & 1) if i < 2 else thread * 2 + (i & 1) + 8), group


def a_8bit(lane: int, i: int) -> Place:
    """m16n8k32 with 8-bit elements, a0 … a15."""
    group, thread = lane >> 2, lane % 4
    row = group if 0 <= i < 4 or 8 <= i < 12 else group + 8
    column = thread * 4 + (i & 3) if i < 8 else thread * 4 + (i & 3) + 16
    return row, column


def b_8bit(lane: int, i: int) -> Place:
    """m16n8k32 with 8-bit elements, b0 … b7."""
    group, thread = lane >> 2, lane % 4
    return (thread * 4 + (i & 3) if i < 4 else thread * 4 + (i & 3) + 16), group


def a_tf32(lane: int, i: int) -> Place:
    """m16n8k8 with .tf32 elements, a0 … a3."""
    group, thread = lane >> 2, lane % 4
    return (group if i in (0, 2) else group + 8), (thread if i in (0, 1) else thread + 4)


def b_tf32(lane: int, i: int) -> Place:
    """m16n8k8 with .tf32 elements, b0 and b1."""
    group, thread = lane >> 2, lane % 4
    return (thread if i == 0 else thread + 4), group


def c_32bit(lane: int, i: int) -> Place:
    """c0 … c3 of all three."""
    group, thread = lane >> 2, lane % 4
    return (group if i < 2 else group + 8), thread * 2 + (i & 1)


def to_bfloat16(x: np.ndarray) -> np.ndarray:
    return (np.asarray(x, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def to_int8(x: np.ndarray) -> np.ndarray:
    return np.asarray(x).astype(np.int8)


def to_float32(x: np.ndarray) -> np.ndarray:
    return np.asarray(x, np.float32)


# depth, table of A, table of B, elements of A and B a lane holds, encoding, type of the result, bound of exact integers
INSTRUCTIONS = {
    "multiply_bf16": (16, a_16bit, b_16bit, 8, 4, to_bfloat16, np.float32, 128),
    "multiply_s8": (32, a_8bit, b_8bit, 16, 8, to_int8, np.int32, 127),
    "multiply_tf32": (8, a_tf32, b_tf32, 4, 2, to_float32, np.float32, 1024),
}


def pack(matrices: np.ndarray, table: Callable[[int, int], Place], count: int, encode: Callable) -> np.ndarray:
    """matrices[blocks, rows, columns] as registers[blocks, 32 lanes, …] of 32 bits."""
    places = np.array([[table(lane, i) for i in range(count)] for lane in LANES])
    elements = np.ascontiguousarray(encode(matrices[:, places[..., 0], places[..., 1]]))
    return aligned(elements.view(np.uint32))


def multiply(name: str, a: np.ndarray, b: np.ndarray, c: np.ndarray, variant: str) -> np.ndarray:
    """a[blocks, 16, depth] · b[blocks, depth, 8] + c[blocks, 16, 8] by one warp for each block."""
    _, a_table, b_table, a_count, b_count, encode, result_type, _ = INSTRUCTIONS[name]
    places = np.array([[c_32bit(lane, i) for i in range(4)] for lane in LANES])
    d = aligned(c[:, places[..., 0], places[..., 1]].astype(result_type))
    packed = pack(a, a_table, a_count, encode), pack(b, b_table, b_count, encode)
    assert getattr(kernels(variant), name)(len(a), *packed, d) == ""
    result = np.empty(c.shape, result_type)
    result[:, places[..., 0], places[..., 1]] = d
    return result


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_every_element_of_a_lies_where_ptx_says(name: str, variant: str) -> None:
    """Block (row, k) has a one at A[row, k]: row `row` of the result is row k of B, and the rest is 0."""
    depth = INSTRUCTIONS[name][0]
    a = np.eye(16 * depth).reshape(16 * depth, 16, depth)
    b = np.arange(depth * 8).reshape(depth, 8) % 127 + 1
    expected = np.einsum("bik,kj->bij", a, b)
    result = multiply(name, a, np.broadcast_to(b, (len(a), depth, 8)), np.zeros((len(a), 16, 8)), variant)
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_every_element_of_b_lies_where_ptx_says(name: str, variant: str) -> None:
    """Block (k, column) has a one at B[k, column]: column `column` of the result is column k of A, the rest is 0."""
    depth = INSTRUCTIONS[name][0]
    b = np.eye(depth * 8).reshape(depth * 8, depth, 8)
    a = np.arange(16 * depth).reshape(16, depth) % 127 + 1
    expected = np.einsum("ik,bkj->bij", a, b)
    result = multiply(name, np.broadcast_to(a, (len(b), 16, depth)), b, np.zeros((len(b), 16, 8)), variant)
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_the_product_is_added_to_what_was_there(name: str, variant: str) -> None:
    depth, *_, bound = INSTRUCTIONS[name]
    random = np.random.default_rng(depth)
    a, b = random.integers(-bound, bound, (3, 16, depth)), random.integers(-bound, bound, (3, depth, 8))
    c = random.integers(-bound, bound, (3, 16, 8))
    for schedule in (0, -1, 7):
        kernels(variant).set_schedule(schedule)
        np.testing.assert_array_equal(multiply(name, a, b, c, variant), a @ b + c)


@pytest.mark.parametrize("variant", VARIANTS)
def test_integer_sums_wrap_around(variant: str) -> None:
    a, b = np.full((1, 16, 32), 127), np.full((1, 32, 8), 127)
    c = np.full((1, 16, 8), 2**31 - 1)
    np.testing.assert_array_equal(multiply("multiply_s8", a, b, c, variant), 32 * 127**2 - 2**31 - 1)


@pytest.mark.parametrize("variant", VARIANTS)
def test_rows_and_columns_of_matrices_arrive_where_ptx_says(variant: str) -> None:
    x = aligned(np.arange(256, dtype=np.uint16).reshape(4, 8, 8))
    fragments = aligned(np.zeros((2, 32, 4, 2), np.uint16))
    assert kernels(variant).load_matrices(x, fragments) == ""
    for lane in LANES:
        for matrix in range(4):
            row, column = lane // 4, 2 * (lane % 4)
            np.testing.assert_array_equal(fragments[0, lane, matrix], x[matrix, row, column : column + 2])
            np.testing.assert_array_equal(fragments[1, lane, matrix], x[matrix, column : column + 2, row])


@pytest.mark.parametrize("schedule", [0, -1, 4])
@pytest.mark.parametrize("variant", VARIANTS)
def test_asynchronous_copies_fill_up_with_zeros_and_come_group_by_group(variant: str, schedule: int) -> None:
    x = aligned(np.arange(512, dtype=np.uint32).astype(np.uint8).reshape(32, 16) | 1)
    y = aligned(np.zeros((2, 32, 16), np.uint8))
    kernels(variant).set_schedule(schedule)
    assert kernels(variant).copy_async(x, y) == ""
    valid = np.arange(32)[:, None] % 17 > np.arange(16)
    np.testing.assert_array_equal(y[0], np.where(valid, x, 0))
    np.testing.assert_array_equal(y[1], x)


@pytest.mark.parametrize("variant", VARIANTS)
def test_tf32_is_the_nearest_number_with_10_bits_and_ties_go_away_from_zero(variant: str) -> None:
    step = 2.0**-10
    exact = [0.0, 1.0, -1.0, 1 + step, 2.0**-126, 2.0**127, np.inf, -np.inf]
    pairs = [(value, value) for value in exact]
    pairs += [(1 + step / 2, 1 + step), (-1 - step / 2, -1 - step), (1 + 0.49 * step, 1.0), (2 - step / 4, 2.0)]
    x = aligned(np.array([before for before, _ in pairs], np.float32))
    bits = aligned(np.zeros(len(x), np.uint32))
    assert kernels(variant).to_tf32(x, bits, len(x)) == ""
    np.testing.assert_array_equal(bits.view(np.float32), np.array([after for _, after in pairs], np.float32))
