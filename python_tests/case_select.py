"""Cases of the family `select`."""

from __future__ import annotations

from typing import Any

import torch
from case import Arguments, Case, lay_out, random
from torch import Tensor


def _row(values: list[float], dtype: torch.dtype = torch.float64) -> Any:
    return lambda device: torch.tensor(values, dtype=dtype, device=device)


def sample_case(
    label: str, shape: tuple[int, ...], *, guided: bool = False, layout: str = "contiguous", **parameters: Any
) -> Case:
    """Draws from logits spread over many orders of probability; `parameters` that are functions make tensors."""

    def arguments(dtype: torch.dtype, device: torch.device) -> Arguments:
        given: Arguments = {
            "logits": lay_out(3 * random(shape, dtype, device, 70), layout),
            "seeds": torch.arange(shape[0], device=device) * 7919 - 3,
            "stream": 11 << 32 | 2,
        }
        if guided:
            given["unconditional"] = lay_out(3 * random(shape, dtype, device, 71), layout)
        return given | {name: value(device) if callable(value) else value for name, value in parameters.items()}

    return Case("sample_tokens", label, arguments)


def mask_case(label: str, batch: int, codes: int, count: Any, temperature: Any = 0.0) -> Case:
    def arguments(dtype: torch.dtype, device: torch.device) -> Arguments:
        unknown: Tensor = random((batch, codes), torch.float32, device, 73) > -0.5
        return {
            "log_probability": -random((batch, codes), dtype, device, 72).abs(),
            "seeds": torch.arange(batch, device=device) * 7919 - 3,
            "unknown": unknown,
            "count": count(device) if callable(count) else count,
            "temperature": temperature(device) if callable(temperature) else temperature,
        }

    return Case("confident_mask", label, arguments)


SELECT = [
    sample_case("one_element", (1, 1)),
    sample_case("primes", (3, 7, 11)),
    sample_case("argmax", (3, 7), temperature=0.0),
    sample_case("guided", (3, 5, 29), guided=True, guidance=3.0),
    sample_case("top_k", (2, 130), top_k=17, temperature=0.7),
    sample_case("top_p", (2, 3, 130), top_p=0.8),
    sample_case("all_filters", (2, 3, 1031), guided=True, guidance=1.5, top_k=100, top_p=0.9, temperature=1.3),
    sample_case("probability", (3, 7, 61), log_probability=True),
    sample_case(
        "parameters_of_samples",
        (4, 3, 67),
        guided=True,
        guidance=_row([1.0, 0.0, 2.5, -1.0], torch.float32),
        temperature=_row([0.0, 1.0, 0.5, 2.0]),
        top_k=_row([1, 5, 67, 1000], torch.int64),
        top_p=_row([1.0, 0.0, 0.5, 0.9]),
    ),
    sample_case("codebook", (2, 16384), top_k=900, top_p=0.95),
    sample_case("transposed", (3, 5, 36), layout="transposed"),
    sample_case("strided", (3, 37), layout="strided", guided=True, guidance=2.0),
    sample_case("unaligned", (2, 129), layout="offset"),
    sample_case("empty_batch", (0, 3, 4)),
    mask_case("primes", 3, 7, 3),
    mask_case("annealed", 2, 64, _row([0, 20], torch.int64), temperature=_row([1.0, 4.5])),
    mask_case("more_than_there_are", 2, 5, 9, temperature=1.0),
    mask_case("empty_batch", 0, 4, 2),
]
