"""Cases of the family `modulate`."""

from __future__ import annotations

from typing import Any

import torch
from case import Arguments, Case, lay_out, random

Shape = tuple[int, ...]


def modulate_case(
    label: str,
    shape: Shape,
    *,
    scale: Shape | None = None,
    shift: Shape | None = None,
    gate: Shape | None = None,
    branch: bool = False,
    affine: bool = False,
    layout: str = "contiguous",
    sliced: bool = False,
    branch_dtype: torch.dtype | None = None,
    modulation_dtype: torch.dtype | None = None,
    small: bool = False,
    **options: Any,
) -> Case:
    """`gated_residual_norm` with a branch, else `modulated_norm`; shapes of what modulates, None where it is absent.

    `sliced`: gate, scale and shift are slices of one projection.
    """
    shapes = {"scale": scale, "shift": shift} | ({"gate": gate} if branch else {})

    def arguments(dtype: torch.dtype, device: torch.device) -> Arguments:
        def other(wanted: torch.dtype | None) -> torch.dtype:
            return dtype if wanted is None or dtype == torch.float64 else wanted

        result: Arguments = {"x": lay_out(random(shape, dtype, device, 60), layout)}
        if branch:
            result["branch"] = lay_out(random(shape, other(branch_dtype), device, 61), layout)
        for key, (name, size) in enumerate(shapes.items()):
            result[name] = None
            if size is not None:
                wide = (*size[:-1], 3 * size[-1]) if sliced else size
                value = random(wide, other(modulation_dtype), device, 62 if sliced else 62 + key)
                result[name] = value.chunk(3, -1)[key] if sliced else value
        if affine:
            result["weight"] = random(shape[-1:], other(modulation_dtype), device, 65)
            result["bias"] = random(shape[-1:], other(modulation_dtype), device, 66)
        return {**result, **options}

    given = tuple(name for name, size in shapes.items() if size is not None)
    differentiable = ("x", *("branch",) * branch, *given, *("weight", "bias") * affine)
    return Case("gated_residual_norm" if branch else "modulated_norm", label, arguments, differentiable, small)


def instance_case(label: str, shape: Shape, *, layout: str = "contiguous", small: bool = False) -> Case:
    def arguments(dtype: torch.dtype, device: torch.device) -> Arguments:
        rows = {"scale": random(shape[:2], dtype, device, 67), "shift": random(shape[:2], dtype, device, 68)}
        return {"x": lay_out(random(shape, dtype, device, 60), layout), **rows}

    return Case("adaptive_instance_norm", label, arguments, ("x", "scale", "shift"), small)


def three(shape: Shape, **others: Any) -> dict[str, Any]:
    """Gate, scale and shift of one shape."""
    return {"branch": True, "gate": shape, "scale": shape, "shift": shape, **others}


MODULATE = [
    modulate_case("primes", (3, 7, 11), scale=(3, 11), shift=(3, 1, 11), small=True),
    modulate_case("one_element", (1,), scale=(1,), shift=(1,)),
    modulate_case("plain", (5, 7), norm="rms", eps=1e-3, small=True),
    modulate_case("a_vector", (9,), scale=(9,), shift=(), affine=True, small=True),
    modulate_case("rows_of_one", (6, 5, 1), scale=(1,), shift=(6, 1, 1), affine=True),
    modulate_case("affine", (2, 3, 5), scale=(2, 5), shift=(5,), affine=True, small=True),
    modulate_case("numbers", (2, 3, 5), scale=(2, 3, 1), shift=(2, 1, 1), norm="rms", small=True),
    modulate_case("scale_alone", (2, 33, 40), scale=(2, 40), norm="rms"),
    modulate_case("shift_alone", (2, 33, 40), shift=(40,)),
    modulate_case("wide", (37, 1152), scale=(1152,), shift=(37, 1152)),
    modulate_case("wider", (3, 4099), scale=(4099,), shift=(3, 4099), affine=True),
    modulate_case("many_rows", (2, 701, 6), scale=(2, 6), shift=(6,), affine=True),
    modulate_case("channels_last", (2, 9, 7, 16), layout="channels_last", scale=(2, 16), shift=(2, 9, 1, 1)),
    modulate_case("no_rows", (2, 0, 5), scale=(2, 5), shift=(5,), affine=True),
    modulate_case("no_columns", (2, 3, 0), scale=(2, 0), shift=(0,)),
    modulate_case("primes", (3, 7, 11), **three((3, 11)), small=True),
    modulate_case("one_row", (1, 5), **three((5,)), small=True),
    modulate_case("plain", (3, 5), branch=True, norm="rms", small=True),
    modulate_case("affine", (2, 3, 5), **three((2, 5)), affine=True, small=True),
    modulate_case("each_token", (2, 3, 4), **three((2, 3, 4)), norm="rms", small=True),
    modulate_case("each_position", (2, 3, 4), branch=True, gate=(1, 3, 4), scale=(2, 4), shift=(2, 3, 1), small=True),
    modulate_case("frames", (2, 3, 5, 24), **three((2, 3, 1, 24))),
    modulate_case("tokens", (2, 256, 384), **three((2, 384)), sliced=True),
    modulate_case("tokens_of_rms", (2, 67, 384), **three((2, 384)), sliced=True, norm="rms"),
    modulate_case("modulated_tokens", (2, 65, 64), **three((2, 65, 64)), sliced=True),
    modulate_case("many_rows", (3, 331, 20), branch=True, gate=(20,), scale=(3, 20), shift=(1, 331, 20), affine=True),
    modulate_case("strided", (2, 3, 8, 8), layout="strided", **three((2, 8))),
    modulate_case("transposed", (3, 4, 5, 6), layout="transposed", **three((3, 4, 1, 6))),
    modulate_case("expanded", (3, 4, 16), layout="expanded", **three((3, 16))),
    modulate_case("unaligned", (3, 4, 16), layout="offset", **three((3, 16))),
    modulate_case("float_modulation", (2, 17, 32), modulation_dtype=torch.float32, **three((2, 32)), affine=True),
    modulate_case("half_branch", (2, 17, 32), branch_dtype=torch.float16, **three((2, 32))),
    modulate_case("no_rows", (0, 4, 5), **three((0, 5))),
    instance_case("primes", (3, 7, 5), small=True),
    instance_case("picture", (2, 5, 3, 7), small=True),
    instance_case("large_picture", (2, 3, 65, 64)),
    instance_case("one_pixel", (2, 3, 1, 1)),
    instance_case("video", (2, 3, 4, 5, 6)),
    instance_case("channels_last", (2, 5, 9, 8), layout="channels_last"),
    instance_case("strided", (2, 5, 9, 8), layout="strided"),
    instance_case("no_space", (2, 3, 0, 4)),
]
