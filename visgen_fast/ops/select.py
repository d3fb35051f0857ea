"""Codes drawn from logits, and the masks of masked models: the family `select`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _check as check
from .. import reference
from ._derivatives import gate, register_fake

__all__ = ["confident_mask", "sample_tokens"]

runs_reference = gate("select")


def sample_tokens(
    logits: Tensor,
    seeds: Tensor,
    *,
    unconditional: Tensor | None = None,
    guidance: float | Tensor = 1.0,
    temperature: float | Tensor = 1.0,
    top_k: int | Tensor | None = None,
    top_p: float | Tensor | None = None,
    stream: int = 0,
    log_probability: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Draws a code from each row of logits, from softmax(ℓ/temperature) over those that the filters keep.

    ℓ = u + guidance·(c − u) of logits c and `unconditional` u, in float32, or float64 for float64; −∞ where either is,
    and c itself at guidance 1. The code is the argmax, among the kept ones, of ℓ + temperature·gumbel(seeds,
    logits.shape[1:], stream) in float64; of equal scores the lowest index. A sample's codes don't depend on its batch.

    The four parameters are numbers, or tensors [B] with one for each sample. In tensors, a value out of its range acts
    as the nearest within, and NaN makes the sample's rows bad.

    Args:
        logits: [B, …, V] float32, bfloat16, float16 or float64, in any layout.
        seeds: int64 [B].
        unconditional: shaped as logits and of their dtype, for a guidance other than 1.
        guidance: finite.
        temperature: at least 0, which gives the argmax, and finite.
        top_k: at least 1: kept are the ℓ not below the k-th largest, so that equal ones stay together.
        top_p: in [0, 1]: of these, each is kept above which, in strictly larger ℓ, lies less than top_p of softmax(ℓ/
            temperature) over them. The largest stays always; 1 keeps all.
        stream: which of the seed's independent sequences; see `Purpose.stream`.
        log_probability: whether to return it too: ln softmax(ℓ) of each code, before temperature and filters.

    Returns:
        codes int64 [B, …], or (codes, log-probability float32 [B, …]). A row with NaN or +∞, or with nothing finite,
        gives −1 and NaN. Neither has a gradient. TypeError or ValueError for an argument that does not fit.

    Source: Gumbel, "Statistical theory of extreme values", 1954; Maddison, Tarlow and Minka, "A* sampling", 2014; Fan
    et al., 2018 (top-k); Holtzman et al., 2020 (top-p).
    """
    check.floats(logits, "logits")
    if logits.dim() < 2 or logits.shape[-1] == 0:
        raise ValueError(f"logits must be [B, …, V] with at least one code, got {list(logits.shape)}")
    check.seeds(seeds, logits.shape[0], logits.device)
    check.stream(stream)
    if unconditional is not None:
        _check_unconditional(unconditional, logits)
    elif isinstance(guidance, Tensor) or guidance != 1:
        raise ValueError("unconditional must be given for a guidance other than 1")
    _check_parameter(guidance, "guidance", logits)
    _check_parameter(temperature, "temperature", logits, least=0)
    if top_k is not None:
        _check_count(top_k, "top_k", logits, least=1)
    if top_p is not None:
        _check_parameter(top_p, "top_p", logits, least=0, most=1)
    given = (value for value in (guidance, temperature, top_k, top_p) if isinstance(value, Tensor))
    if logits.dim() > 9 or runs_reference(logits, unconditional, seeds, *given):
        return reference.sample_tokens(
            logits,
            seeds,
            unconditional=unconditional,
            guidance=guidance,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            stream=stream,
            log_probability=log_probability,
        )
    top_k, top_p = logits.shape[-1] if top_k is None else top_k, 1.0 if top_p is None else top_p
    settings, numbers = _settings((guidance, temperature, top_k, top_p), logits)
    unconditional = None if unconditional is None else unconditional.detach()
    codes, found = torch.ops.visgen_fast.sample_tokens(
        logits.detach(), unconditional, seeds.contiguous(), settings, *numbers, stream, bool(log_probability)
    )
    return (codes, found) if log_probability else codes


def confident_mask(
    log_probability: Tensor,
    seeds: Tensor,
    *,
    unknown: Tensor,
    count: int | Tensor,
    temperature: float | Tensor = 0.0,
    stream: int = 0,
) -> Tensor:
    """The unknown codes that a masked model is least sure of: those to draw again.

    Marked are exactly min(count, number of unknown codes): those of least log-probability + temperature·gumbel(seeds,
    [N], stream), in float64; of equal ones the first, and NaN counts as least.

    Args:
        log_probability: [B, N], floating-point.
        seeds: int64 [B].
        unknown: bool [B, N]: which codes may be marked.
        count: at least 0, one number or int64 [B]; in a tensor, a negative one acts as 0.
        temperature: at least 0 and finite, a number or a tensor [B].
        stream: which of the seed's independent sequences; see `Purpose.stream`.

    Returns:
        bool [B, N]. TypeError or ValueError for an argument that does not fit.

    Source: Chang et al., "MaskGIT: masked generative image transformer", 2022, section 3.2.
    """
    check.floats(log_probability, "log_probability")
    if log_probability.dim() != 2:
        raise ValueError(f"log_probability must be [B, N], got {list(log_probability.shape)}")
    check.seeds(seeds, log_probability.shape[0], log_probability.device)
    check.stream(stream)
    check.tensor(unknown, "unknown")
    if unknown.dtype != torch.bool or unknown.shape != log_probability.shape:
        raise ValueError(
            f"unknown must be bool {list(log_probability.shape)}, got {unknown.dtype} of shape {list(unknown.shape)}"
        )
    check.device(unknown, "unknown", log_probability.device, "the log-probabilities")
    _check_count(count, "count", log_probability, least=0)
    _check_parameter(temperature, "temperature", log_probability, least=0)
    return reference.confident_mask(
        log_probability, seeds, unknown=unknown, count=count, temperature=temperature, stream=stream
    )


def _settings(values: Sequence[Any], of: Tensor) -> tuple[Tensor | None, Sequence[Any]]:
    """Four numbers for all samples, or, where one of them differs between samples, float64 [B, 4]."""
    if not any(isinstance(value, Tensor) for value in values):
        return None, [float(values[0]), float(values[1]), values[2], float(values[3])]
    rows = torch.empty(of.shape[0], len(values), dtype=torch.float64, device=of.device)
    for column, value in zip(rows.unbind(1), values, strict=True):
        column.copy_(value) if isinstance(value, Tensor) else column.fill_(value)
    return rows, [1.0, 1.0, 1, 1.0]


def _check_unconditional(unconditional: Any, logits: Tensor) -> None:
    check.tensor(unconditional, "unconditional")
    if unconditional.shape != logits.shape or unconditional.dtype != logits.dtype:
        raise ValueError(
            f"unconditional must be {logits.dtype} of the logits' shape {list(logits.shape)}, got "
            f"{unconditional.dtype} of shape {list(unconditional.shape)}"
        )
    check.device(unconditional, "unconditional", logits.device, "the logits")


def _check_parameter(value: Any, name: str, of: Tensor, *, least: float = -math.inf, most: float = math.inf) -> None:
    """A finite number within its range, or a floating-point tensor [B]."""
    if isinstance(value, Tensor):
        if not value.is_floating_point():
            raise ValueError(f"{name} must be a number or a floating-point tensor [B], got {value.dtype}")
        _check_rows(value, name, of)
        return
    check.number(value, name)
    if isinstance(value, torch.SymFloat):
        return
    if not (least <= value <= most and abs(value) < math.inf):
        expected = f"lie in [{least}, {most}]" if most < math.inf else "be finite"
        expected = f"be at least {least} and finite" if most == math.inf and least > -math.inf else expected
        raise ValueError(f"{name} must {expected}, got {value}")


def _check_count(value: Any, name: str, of: Tensor, *, least: int) -> None:
    """An integer of at least `least`, or int64 [B]."""
    if not isinstance(value, Tensor):
        check.integer(value, name, least, otherwise=" or int64 [B]")
        return
    if value.dtype != torch.int64:
        raise ValueError(f"{name} must be an integer or int64 [B], got {value.dtype}")
    _check_rows(value, name, of)


def _check_rows(value: Tensor, name: str, of: Tensor) -> None:
    if value.shape != of.shape[:1]:
        raise ValueError(f"{name} must be one number or have shape [{of.shape[0]}], got {list(value.shape)}")
    check.device(value, name, of.device, "the samples")


def _fake(logits, unconditional, seeds, settings, guidance, temperature, top_k, top_p, stream, log_probability):
    rows = logits.shape[:-1]
    found = logits.new_empty(rows if log_probability else 0, dtype=torch.float32)
    return logits.new_empty(rows, dtype=torch.int64), found


register_fake("sample_tokens", _fake)
