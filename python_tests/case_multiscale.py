"""Cases of the family `multiscale`."""

from __future__ import annotations

from typing import Any

import torch
from case import Arguments, Case, lay_out, random


def loss_case(
    label: str,
    shape: tuple[int, ...],
    *,
    layout: str = "contiguous",
    weighted: tuple[int, ...] | None = None,
    masked: bool = False,
    target_dtype: torch.dtype | None = None,
    differentiable: tuple[str, ...] = ("pred", "target"),
    small: bool = False,
    **options: Any,
) -> Case:
    """`multiscale_loss`; `weighted` is the shape of a weight, of which a half is 0 where `masked`."""

    def arguments(dtype: torch.dtype, device: torch.device) -> Arguments:
        target = random(shape, target_dtype if target_dtype and dtype != torch.float64 else dtype, device, 51)
        result = {"pred": lay_out(random(shape, dtype, device, 50), layout), "target": lay_out(target, layout)}
        if weighted is not None:
            weight = random(weighted, torch.float64 if dtype == torch.float64 else torch.float32, device, 52)
            result["weight"] = weight.abs().clamp_min(0.1) * (weight > 0 if masked else 1)
        return {**result, **options}

    return Case("multiscale_loss", label, arguments, differentiable, small)


def denoising_case(
    label: str,
    shape: tuple[int, ...],
    *,
    levels: tuple[int, ...] | None = None,
    given: str = "seeds",
    endpoint: bool = False,
    pixels: bool = False,
    layout: str = "contiguous",
    differentiable: tuple[str, ...] = ("pred", "x", "coefficients"),
    small: bool = False,
    **options: Any,
) -> Case:
    """`denoising_loss`; `levels` as in the cases of `diffuse`."""

    def arguments(dtype: torch.dtype, device: torch.device) -> Arguments:
        real = torch.float64 if dtype == torch.float64 and not pixels else torch.float32
        rows = (*((shape[0],) if levels is None else levels), 6 if endpoint else 4)
        result: Arguments = {
            "pred": lay_out(random(shape, torch.float32 if pixels else dtype, device, 53), layout),
            "x": lay_out(random(shape, torch.uint8 if pixels else dtype, device, 54), layout),
            "coefficients": random(rows, real, device, 55),
        }
        if given == "seeds":
            result["seeds"] = torch.arange(shape[0], device=device) * 7919 - 3
            result["stream"] = 5 << 32 | 9
        else:
            result["noise"] = lay_out(random(shape, dtype, device, 56), layout)
        if endpoint:
            result["endpoint"] = random(shape, dtype, device, 57)
        return {**result, **options}

    return Case("denoising_loss", label, arguments, differentiable, small)


HUBER = {"penalty": "pseudo_huber", "penalty_scale": 0.3}
ALL = ("pred", "target", "weight")
SIGNALS = ("pred", "x", "coefficients")
MULTISCALE = [
    loss_case("primes", (3, 7, 5, 11), scales=(1, 2, 4)),
    loss_case("one_element", (1,), small=True),
    loss_case("vectors", (3, 7), reduction="none", small=True),
    loss_case("tokens", (2, 17, 40), weighted=(2, 17, 1), differentiable=ALL),
    loss_case("windows", (2, 2, 5, 6), scales=(1, 2, 4), reduction="none", terms=True, small=True),
    loss_case("pseudo_huber", (2, 1, 5, 4), scales=(2, 3), scale_weights="paper", **HUBER, small=True),
    loss_case("weights", (2, 2, 3, 5), scales=(1, 2), weighted=(2, 1, 3, 5), differentiable=ALL, small=True),
    loss_case("weight_a_sample", (2, 2, 3, 5), scales=(1, 2), weighted=(2,), differentiable=ALL, small=True),
    loss_case("weight_a_channel", (2, 3, 6, 8), scales=(1, 4), weighted=(3, 1, 1), differentiable=ALL),
    loss_case("mask", (2, 3, 17, 24), scales=(1, 2, 4, 8), weighted=(2, 1, 17, 24), masked=True),
    loss_case("mask_of_pseudo_huber", (2, 3, 17, 24), scales=(1, 3), weighted=(2, 3, 17, 24), masked=True, **HUBER),
    loss_case("l1", (2, 3, 19, 33), scales=(1, 2, 4, 8), penalty="l1", reduction="sum"),
    loss_case("picture", (2, 3, 64, 64), scales=(1, 2, 4, 8)),
    loss_case("large_windows", (2, 3, 64, 96), scales=(1, 2, 4, 8, 16, 32), scale_weights="paper", **HUBER),
    loss_case("odd_picture", (2, 5, 123, 123), scales=(1, 2, 4, 8), scale_weights=(1, 0.5, 0, 2)),
    loss_case("odd_windows", (2, 3, 40, 50), scales=(3, 5, 6, 1), reduction="none"),
    loss_case("all_of_the_picture", (2, 2, 21, 70), scales=(1, 64, 1000)),
    loss_case("coarse", (2, 3, 32, 48), scales=(8,)),
    loss_case("video", (2, 2, 3, 9, 16), scales=(1, 2, 4)),
    loss_case("long_rows", (2, 70001)),
    loss_case("channels_last", (2, 3, 18, 16), layout="channels_last", scales=(1, 2, 4, 8)),
    loss_case("strided", (2, 3, 8, 8), layout="strided", scales=(1, 2)),
    loss_case("transposed", (3, 4, 5, 6), layout="transposed", scales=(1, 2)),
    loss_case("unaligned", (3, 4, 16, 16), layout="offset", scales=(1, 2)),
    loss_case("float_target", (2, 3, 16, 24), target_dtype=torch.float32, scales=(1, 2)),
    loss_case("pred_alone", (2, 3, 16, 24), scales=(1, 2, 4), differentiable=("pred",)),
    loss_case("many_short_samples", (70, 12), reduction="none"),
    loss_case("no_samples", (0, 3, 4, 4), scales=(1, 2), reduction="sum"),
    denoising_case("primes", (3, 7, 5, 11), scales=(1, 2, 4)),
    denoising_case("windows", (2, 2, 5, 6), scales=(1, 2, 4), reduction="none", terms=True, small=True),
    denoising_case("noise_given", (2, 2, 3, 5), given="noise", small=True, differentiable=(*SIGNALS, "noise")),
    denoising_case("endpoint", (2, 2, 3, 4), endpoint=True, small=True, differentiable=(*SIGNALS, "endpoint")),
    denoising_case("level_a_frame", (2, 3, 2, 4, 4), levels=(2, 3, 1, 1, 1), scales=(1, 2)),
    denoising_case("level_a_pixel", (2, 3, 4, 5), levels=(2, 1, 4, 5), scales=(1, 2)),
    denoising_case("picture", (2, 3, 64, 64), scales=(1, 2, 4, 8), differentiable=("pred",)),
    denoising_case("odd_picture", (2, 5, 123, 123), scales=(1, 2, 4, 8), **HUBER, differentiable=("pred",)),
    denoising_case("pixels", (2, 3, 16, 16), pixels=True, scales=(1, 2), differentiable=("pred", "coefficients")),
    denoising_case("channels_last", (2, 3, 9, 16), layout="channels_last", scales=(1, 2, 4), reduction="sum"),
    denoising_case("vectors", (5, 67), reduction="none"),
    denoising_case("no_samples", (0, 3, 4, 4), scales=(1, 2), reduction="sum"),
]  # fmt: skip
