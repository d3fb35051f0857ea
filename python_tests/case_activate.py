"""Cases of the family `activate`."""

from __future__ import annotations

import torch
from case import Arguments, Case, lay_out, random


def activate_case(
    label: str,
    shape: tuple[int, ...],
    kind: str = "gelu_tanh",
    *,
    bias: bool = True,
    bias_dtype: torch.dtype | None = None,
    bias_layout: str = "contiguous",
    layout: str = "contiguous",
    gate: str | None = None,
    small: bool = False,
) -> Case:
    """`gated_activate` with a gate, which says where it is, else `activate`."""

    def arguments(dtype: torch.dtype, device: torch.device) -> Arguments:
        result: Arguments = {"x": lay_out(2 * random(shape, dtype, device, 70), layout), "kind": kind}
        if bias:
            other = dtype if bias_dtype is None or dtype == torch.float64 else bias_dtype
            result["bias"] = lay_out(random(shape[-1:], other, device, 71), bias_layout)
        return result if gate is None else {**result, "gate": gate}

    operation = "activate" if gate is None else "gated_activate"
    return Case(operation, label, arguments, ("x", "bias") if bias else ("x",), small)


ACTIVATE = [
    activate_case("primes", (3, 7, 11), small=True),
    activate_case("one_element", (1,), "gelu", small=True),
    activate_case("plain", (5, 7), "silu", bias=False, small=True),
    activate_case("a_vector", (9,), "gelu", small=True),
    activate_case("columns_of_one", (6, 5, 1), "silu"),
    activate_case("tokens", (2, 65, 384), "gelu"),
    activate_case("large", (2, 17, 1536), bias=False),
    activate_case("wide", (3, 4099), "silu"),
    activate_case("many_rows", (701, 6), "gelu"),
    activate_case("channels_last", (2, 9, 7, 16), "silu", bias=False, layout="channels_last"),
    activate_case("strided", (2, 3, 8, 8), layout="strided"),
    activate_case("transposed", (3, 4, 5, 6), "gelu", layout="transposed"),
    activate_case("expanded", (3, 4, 16), "gelu", bias=False, layout="expanded"),
    activate_case("unaligned", (3, 4, 16), "silu", layout="offset"),
    activate_case("float_bias", (2, 17, 32), bias_dtype=torch.float32),
    activate_case("unaligned_bias", (3, 16), "gelu", bias_layout="offset"),
    activate_case("no_rows", (0, 4, 5)),
    activate_case("no_columns", (3, 0), bias=False),
    activate_case("primes", (3, 7, 22), "swiglu", gate="first", small=True),
    activate_case("one_column", (5, 2), "geglu", gate="second", small=True),
    activate_case("plain", (2, 3, 10), "geglu", gate="first", bias=False, small=True),
    activate_case("second", (2, 3, 10), "swiglu", gate="second", small=True),
    activate_case("tokens", (2, 65, 384), "swiglu", gate="first"),
    activate_case("wide", (3, 2 * 4099), "geglu", gate="second"),
    activate_case("many_rows", (701, 12), "swiglu", gate="second"),
    activate_case("strided", (2, 3, 8, 8), "swiglu", gate="first", layout="strided"),
    activate_case("transposed", (3, 4, 5, 6), "geglu", gate="first", layout="transposed"),
    activate_case("unaligned", (3, 4, 16), "geglu", gate="second", layout="offset"),
    activate_case("float_bias", (2, 17, 64), "swiglu", gate="first", bias_dtype=torch.float32),
    activate_case("no_rows", (0, 4, 6), "swiglu", gate="first"),
    activate_case("no_columns", (3, 0), "geglu", gate="first"),
]
