"""The table of cases: what each operation is called with, in the tests and in the benchmarks.

Sizes are awkward on purpose: one element, primes, whole vectors and just beside them, rows that end inside a vector.
Every operation has a case `primes` (or another of those that test_export.py names) whose batch can be of another size.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from case import Arguments, Case, lay_out, random
from case_activate import ACTIVATE
from case_modulate import MODULATE
from case_multiscale import MULTISCALE
from case_optimize import OPTIMIZE
from case_select import SELECT
from case_solve import SOLVE
from torch import Tensor


def diffuse_case(
    label: str,
    shape: tuple[int, ...],
    *,
    levels: tuple[int, ...] | None = None,
    layout: str = "contiguous",
    given: str = "seeds",
    endpoint: bool | torch.dtype = False,
    pixels: bool = False,
    noise_dtype: torch.dtype | None = None,
    out_dtype: torch.dtype | None = None,
    small: bool = False,
    operations: tuple[str, ...] = ("diffuse",),
) -> list[Case]:
    """A case of the family; `levels` is the leading shape of the coefficients, one row a sample by default."""

    def arguments(dtype: torch.dtype, device: torch.device) -> Arguments:
        x_dtype = torch.uint8 if pixels else dtype
        real = torch.float64 if x_dtype == torch.float64 else torch.float32
        columns = 6 if endpoint else 4
        result: Arguments = {
            "x": lay_out(random(shape, x_dtype, device, 0), layout),
            "coefficients": random((*((shape[0],) if levels is None else levels), columns), real, device, 1),
        }
        if given == "seeds":
            result["seeds"] = torch.arange(shape[0], device=device) * 7919 - 3
            result["stream"] = 5 << 32 | 9
        else:
            result["noise"] = lay_out(random(shape, noise_dtype or dtype, device, 2), layout)
        if endpoint:
            result["endpoint"] = random(shape, x_dtype if endpoint is True else endpoint, device, 3)
        if out_dtype is not None:
            result["out_dtype"] = out_dtype
        return result

    differentiable = (
        ("coefficients",)
        + ("x",) * (not pixels)
        + ("endpoint",) * (endpoint is True and not pixels)
        + ("noise",) * (given == "noise")
    )
    return [Case(operation, label, arguments, differentiable, small) for operation in operations]


BOTH = ("diffuse", "add_noise")
DIFFUSE = [
    *diffuse_case("one_element", (1,), small=True, operations=BOTH),
    *diffuse_case("primes", (3, 7), small=True),
    *diffuse_case("noise_given", (2, 3, 5), given="noise", small=True, operations=BOTH),
    *diffuse_case("endpoint", (2, 3, 5), endpoint=True, small=True, operations=BOTH),
    *diffuse_case("endpoint_and_noise", (2, 8), given="noise", endpoint=True, small=True),
    *diffuse_case("level_a_frame", (2, 3, 1, 4, 4), levels=(2, 3, 1, 1, 1), small=True, operations=BOTH),
    *diffuse_case("level_a_step", (2, 3, 4), levels=(3, 1), small=True),
    *diffuse_case("level_a_pixel", (2, 3, 2, 5), levels=(2, 1, 2, 5), small=True),
    *diffuse_case("one_level", (3, 5), levels=(), small=True),
    *diffuse_case("level_a_token", (2, 17, 32), levels=(2, 17, 1)),
    *diffuse_case("picture", (2, 3, 64, 64), operations=BOTH),
    *diffuse_case("odd_picture", (2, 5, 123, 123)),
    *diffuse_case("long_rows", (2, 70001)),
    *diffuse_case("pixels", (2, 3, 16, 16), pixels=True, operations=BOTH),
    *diffuse_case("pixel_endpoint", (2, 3, 9, 16), pixels=True, endpoint=True),
    *diffuse_case("channels_last", (2, 3, 9, 16), layout="channels_last", operations=BOTH),
    *diffuse_case("channels_last_noise", (2, 3, 9, 16), layout="channels_last", given="noise", endpoint=True),
    *diffuse_case("strided", (2, 3, 8, 8), layout="strided"),
    *diffuse_case("transposed", (3, 4, 5, 6), layout="transposed", given="noise"),
    *diffuse_case("expanded", (3, 4, 16), layout="expanded"),
    *diffuse_case("unaligned", (3, 4, 16), layout="offset"),
    *diffuse_case("float_noise", (2, 3, 8, 16), given="noise", noise_dtype=torch.float32),
    *diffuse_case("half_noise", (2, 3, 8, 16), given="noise", noise_dtype=torch.float16),
    *diffuse_case("pixel_endpoint_of_floats", (2, 3, 8, 16), endpoint=torch.uint8),
    *diffuse_case("float_results", (2, 3, 8, 16), endpoint=True, out_dtype=torch.float32),
    *diffuse_case("bfloat16_results", (2, 3, 8, 16), pixels=True, out_dtype=torch.bfloat16),
    *diffuse_case("many_short_samples", (70, 12)),
    *diffuse_case("no_samples", (0, 3, 4, 4), operations=BOTH),
    *diffuse_case("no_elements", (2, 0, 4)),
]


def _seeds(count: int, device: torch.device) -> Tensor:
    return torch.arange(count, device=device) * 104729 - 5


def noise_case(label: str, batch: int, shape: tuple[int, ...], **options: Any) -> list[Case]:
    def arguments(dtype: torch.dtype, device: torch.device) -> Arguments:
        return {"seeds": _seeds(batch, device), "shape": shape, "dtype": dtype, **options}

    return [Case(operation, label, arguments) for operation in ("gaussian", "uniform", "gumbel")]


NOISE = [
    *noise_case("one_element", 1, ()),
    *noise_case("primes", 3, (7, 11), stream=3),
    *noise_case("picture", 2, (3, 64, 64), stream=1 << 32 | 17),
    *noise_case("odd_picture", 2, (5, 123, 123)),
    *noise_case("no_samples", 0, (3, 4)),
    *noise_case("no_elements", 2, (0, 4)),
    Case("derive_seeds", "run_seed", lambda _, device: {"seed": -7, "index": torch.arange(1000, device=device)}),
    Case(
        "derive_seeds",
        "seed_each",
        lambda _, device: {"seed": _seeds(5, device), "index": _seeds(5, device), "step": 2**32 - 1, "purpose": 6},
    ),
    Case(
        "derive_seeds",
        "strided_index",
        lambda _, device: {"seed": _seeds(1, device)[0], "index": torch.arange(22, device=device)[::2], "step": 3},
    ),
    Case("derive_seeds", "no_samples", lambda _, device: {"seed": 1, "index": _seeds(0, device)}),
]


def quantize_case(
    label: str,
    shape: tuple[int, ...],
    *,
    size: int = 7,
    depth: int = 2,
    shared: bool = False,
    metric: str = "l2",
    gradient: str = "straight_through",
    active: tuple[int, ...] | None = None,
    layout: str = "contiguous",
    scale: float = 1.0,
    small: bool = False,
) -> list[Case]:
    """`residual_quantize` of random vectors, far from ties; `active` gives the active depths of its samples."""

    def arguments(dtype: torch.dtype, device: torch.device) -> Arguments:
        real = torch.float64 if dtype == torch.float64 else torch.float32
        # Rounded to 16 bits, so that every dtype has the same values, and the same codes.
        x = (random(shape, torch.float64, device, 5) * scale).bfloat16().to(dtype)
        books = (size, shape[-1]) if shared else (depth, size, shape[-1])
        result: Arguments = {
            "x": lay_out(x, layout),
            "codebooks": (random(books, torch.float64, device, 6) * scale * 0.7).bfloat16().to(real),
            "metric": metric,
            "gradient": gradient,
        }
        if shared:
            result["depth"] = depth
        if active is not None:
            result["active_depths"] = torch.tensor(active, device=device)
        return result

    return [Case("residual_quantize", label, arguments, ("x", "codebooks"), small, straight_through=True)]


def codes_case(label: str, shape: tuple[int, ...], *, size: int, dimensions: int, shared: bool = False) -> list[Case]:
    """`decode_codes` and `codebook_statistics` of random codes int64 [*shape], some of them −1."""

    def codebooks_and_codes(dtype: torch.dtype, device: torch.device) -> Arguments:
        books = (size, dimensions) if shared else (shape[-1], size, dimensions)
        real = torch.float64 if dtype == torch.float64 else torch.float32
        codes = torch.randint(-1, size, shape, generator=torch.Generator().manual_seed(7)).to(device)
        return {"codes": codes, "codebooks": random(books, real, device, 8)}

    def with_vectors(dtype: torch.dtype, device: torch.device) -> Arguments:
        return {"x": random((*shape[:-1], dimensions), dtype, device, 9), **codebooks_and_codes(dtype, device)}

    return [
        Case("decode_codes", label, codebooks_and_codes, ("codebooks",), small=0 < shape[0] * dimensions * size <= 200),
        Case("codebook_statistics", label, with_vectors),
    ]


QUANTIZE = [
    *quantize_case("one_element", (1,), size=1, depth=1, small=True),
    *quantize_case("primes", (5, 3), small=True),
    *quantize_case("shared", (2, 3, 4), shared=True, depth=3, small=True),
    *quantize_case("active_depths", (3, 2, 5), depth=3, active=(2, 0, 3), small=True),
    *quantize_case("active_depths_of_a_vector", (5, 3), depth=2, active=(2, 0, 1, 7, -3)),
    *quantize_case("per_depth", (2, 3, 4), gradient="straight_through_per_depth", active=(1, 2), small=True),
    *quantize_case("rotation", (2, 3, 4), gradient="rotation", small=True),
    *quantize_case("rotation_per_depth", (2, 3, 4), gradient="rotation_per_depth", active=(2, 1), small=True),
    *quantize_case("without_gradient", (5, 3), gradient="none"),
    *quantize_case("cosine", (3, 7, 6), metric="cosine", small=True),
    *quantize_case("dot", (3, 7, 6), metric="dot", size=19),
    *quantize_case("tokens", (2, 9, 9, 64), size=129, depth=4),
    *quantize_case("wide", (37, 257), size=67, depth=2),
    *quantize_case("many_codes", (50, 8), size=1031, depth=1),
    *quantize_case("small_numbers", (70, 16), size=33, scale=1e-20),
    *quantize_case("transposed", (3, 4, 5, 6), layout="transposed", size=21),
    *quantize_case("unaligned", (3, 4, 16), layout="offset", size=40),
    *quantize_case("no_vectors", (0, 4)),
    *quantize_case("no_depths", (3, 4), shared=True, depth=0),
    *codes_case("primes", (5, 3), size=7, dimensions=3),
    *codes_case("shared", (2, 3, 4), size=9, dimensions=4, shared=True),
    *codes_case("tokens", (2, 9, 9, 4), size=129, dimensions=64),
    *codes_case("popular_codes", (701, 2), size=2, dimensions=17),
    *codes_case("no_vectors", (0, 2), size=3, dimensions=4),
    Case(
        "nearest_code",
        "primes",
        lambda dtype, device: {
            "x": random((5, 7, 3), dtype, device, 5),
            "codebook": random((11, 3), dtype, device, 6),
            "metric": "cosine",
        },
    ),
    Case(
        "nearest_code",
        "tokens",
        lambda dtype, device: {
            "x": random((301, 40), dtype, device, 5),
            "codebook": random((333, 40), dtype, device, 6),
        },
    ),
]


def finite_scalar_case(
    label: str,
    shape: tuple[int, ...],
    levels: tuple[int, ...],
    *,
    bound: str = "atanh",
    layout: str = "contiguous",
    small: bool = False,
) -> Case:
    def arguments(dtype: torch.dtype, device: torch.device) -> Arguments:
        return {"x": lay_out(2 * random(shape, dtype, device, 30), layout), "levels": levels, "bound": bound}

    return Case("finite_scalar_quantize", label, arguments, ("x",), small, straight_through=True)


LOOKUP_FREE, SPHERICAL = ("lookup_free_quantize",), ("binary_spherical_quantize",)


def binary_case(
    label: str,
    shape: tuple[int, ...],
    *,
    layout: str = "contiguous",
    small: bool = False,
    operations: tuple[str, ...] = LOOKUP_FREE + SPHERICAL,
    **options: Any,
) -> list[Case]:
    def arguments(dtype: torch.dtype, device: torch.device) -> Arguments:
        x = lay_out(random(shape, dtype, device, 31), layout)
        return {"x": x, **{"inverse_temperature": 0.7, "scale": 0.8, **options}}

    return [Case(operation, label, arguments, ("x",), small, straight_through=True) for operation in operations]


def random_codes(most: int, shape: tuple[int, ...], layout: str, device: torch.device) -> Tensor:
    codes = torch.randint(most, shape, generator=torch.Generator().manual_seed(32))
    return lay_out(codes, layout).to(device)


def decode_cases(operation: str, most: int, **options: Any) -> list[Case]:
    """Cases of an operation that decodes codes without a table, of which there are `most`."""

    def arguments(shape: tuple[int, ...], layout: str, dtype: torch.dtype, device: torch.device) -> Arguments:
        return {"codes": random_codes(most, shape, layout, device), "dtype": dtype, **options}

    shapes = {"primes": (13, 11), "transposed": (13, 5, 3), "one_code": (), "no_codes": (0, 3)}
    return [Case(operation, label, partial(arguments, shape, label)) for label, shape in shapes.items()]


FINITE_SCALAR = [
    finite_scalar_case("one_row", (4,), (8, 5, 5, 3), small=True),
    finite_scalar_case("primes", (3, 7, 3), (8, 6, 5), small=True),
    finite_scalar_case("tan", (5, 4), (2, 8, 3, 1000), bound="tan", small=True),
    finite_scalar_case("symmetric", (5, 4), (2, 8, 3, 1000), bound="symmetric", small=True),
    finite_scalar_case("many_columns", (5, 61), (2,) * 61, bound="symmetric"),
    finite_scalar_case("tokens", (2, 32, 32, 6), (8, 8, 8, 5, 5, 5)),
    finite_scalar_case("channels_first", (2, 9, 7, 4), (8, 5, 5, 5), layout="transposed"),
    finite_scalar_case("strided", (3, 21, 4), (8, 5, 5, 5), layout="strided"),
    finite_scalar_case("unaligned", (129, 4), (8, 5, 5, 5), layout="offset"),
    finite_scalar_case("no_rows", (0, 4), (8, 5, 5, 5)),
    *decode_cases("finite_scalar_decode", 3 * 8 * 5, levels=(3, 8, 5)),
]

BINARY_QUANTIZE = [
    *binary_case("one_row", (5,), small=True),
    *binary_case("primes", (3, 7, 2), small=True),
    *binary_case("groups", (2, 3, 8), group_size=3, small=True),
    *binary_case("one_bit", (67, 1)),
    *binary_case("bits_by_themselves", (33, 6), group_size=1, operations=LOOKUP_FREE),
    *binary_case("sharp", (70, 6), inverse_temperature=3.0, operations=LOOKUP_FREE),
    *binary_case("tokens", (2, 8, 8, 18), group_size=9),
    *binary_case("many_units", (600, 5), group_size=3),
    *binary_case("one_large_group", (40, 13), group_size=13, operations=LOOKUP_FREE),
    *binary_case("many_columns", (5, 62), group_size=9, operations=SPHERICAL),
    *binary_case("channels_first", (2, 9, 7, 10), layout="transposed", group_size=5, operations=SPHERICAL),
    *binary_case("unaligned", (129, 4), layout="offset", operations=LOOKUP_FREE),
    *binary_case("no_rows", (0, 6)),
    *decode_cases("binary_decode", 2**7, bits=7, scale=0.3),
]

CASES = (
    NOISE
    + DIFFUSE
    + QUANTIZE
    + FINITE_SCALAR
    + BINARY_QUANTIZE
    + MULTISCALE
    + OPTIMIZE
    + SOLVE
    + SELECT
    + MODULATE
    + ACTIVATE
)
