"""Vector and residual quantization, exact and without a (vectors × codes) matrix: the family `quantize`."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .. import _check as check
from .. import reference
from ..reference.quantize import from_codes
from ._derivatives import differentiable, gate, register_autograd, register_fake, run

__all__ = ["decode_codes", "nearest_code", "residual_quantize"]

runs_reference = gate("quantize")

_METRICS = ("l2", "cosine", "dot")  # numbered as in csrc/ops/quantize.h, like the gradients
GRADIENTS = ("none", "straight_through", "straight_through_per_depth", "rotation", "rotation_per_depth")


def nearest_code(x: Tensor, codebook: Tensor, *, metric: str = "l2") -> Tensor:
    """The nearest code of each vector; the exact one, see `residual_quantize`.

    Args:
        x: [..., D] of any floating-point type.
        codebook: [K, D] of any floating-point type.
        metric: "l2", the least distance; "cosine", the largest cosine similarity (a zero code's is 0); or "dot", the
            largest inner product.

    Returns:
        int64 [...], without gradient. TypeError or ValueError for an argument that does not fit.
    """
    check_codebooks(codebook, x, 1, name="codebook")
    if codebook.dim() != 2:
        raise ValueError(f"codebook must be [K, {x.shape[-1]}], got {list(codebook.shape)}")
    number = check.one_of(metric, "metric", _METRICS)
    if runs_reference(x, codebook):
        return reference.nearest_code(x, codebook, metric=metric)
    x, codebook = x.detach(), codebook.detach()
    return torch.ops.visgen_fast.nearest_code(as_rows(x), as_codebooks(codebook, x), number).view(x.shape[:-1])


def residual_quantize(
    x: Tensor,
    codebooks: Tensor,
    *,
    depth: int | None = None,
    active_depths: Tensor | None = None,
    metric: str = "l2",
    gradient: str = "straight_through",
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Each vector as a sum of one code from each of Q codebooks, every code the nearest to what the ones before leave:

        r_0 = x,   k_q = the code of codebook q nearest to r_q,   r_{q+1} = r_q − e_q(k_q),   quantized = Σ_q e_q(k_q)

    Args:
        x: [..., D]; float32, bfloat16, float16 or float64. 16-bit vectors have the codes of their float32 values.
        codebooks: [Q, K, D], one for each depth, or [K, D], shared by all; float64 is taken as it is for float64 x, any
            other type as float32.
        depth: Q; by default the number of codebooks, of which fewer use the first ones.
        active_depths: integers, how many depths each vector uses (quantizer dropout): [B], a number a sample (the first
            dimension of x), or any shape that broadcasts to x's without D. Other depths have code −1 and error 0.
        metric: what is nearest, as in `nearest_code`. Whatever it is, embeddings and errors are those of the codes as
            they stand in the codebook.
        gradient: how `quantized` differentiates into x, g being its own gradient:
            "straight_through": g (Bengio et al., 2013);
            "straight_through_per_depth": g for each active depth, together Q·g;
            "rotation": λRᵀg, R the rotation from x to its quantized value and λ their lengths' ratio (Fifty et al.,
            "Restructuring vector quantization with the rotation trick", 2024);
            "rotation_per_depth": the sum of λRᵀg from each residual to its code;
            "none": nothing.

    Returns:
        quantized: [..., D], type of x; its gradient reaches x alone.
        codes: int64 [..., Q].
        commitment: [..., Q] float32 (float64 for float64 x), the mean over D of (r_q − e_q)², which differentiates into
            x alone; weighed by β it is VQ-VAE's commitment loss, and its mean over depths RQ-VAE's.
        codebook_error: the same numbers, which differentiate into the codebooks alone.

    A code is exact: its distance in float64 to the float32 residual is the least up to D·2⁻⁵⁰·(‖r‖ + ‖e‖)²; of codes at
    equal distances it is the first. Codes with NaN or infinity are never chosen. At its active depths a vector with NaN
    or infinity has the codes 0, and then NaN everywhere else. The metric "cosine" needs float64 codes whose lengths lie
    between 1e-150 and 1e150 (float32 codes may have any). Denormal numbers must not be flushed to zero:
    `torch.set_flush_denormal(True)` may choose other codes among them. Memory beyond the results: O(vectors·(D + Q))
    and a copy of the codebooks. TypeError or ValueError for an argument that does not fit.

    Source: van den Oord et al., "Neural discrete representation learning", 2017; Lee et al., "Autoregressive image
    generation using residual quantization", 2022, equation 2.
    """
    check_codebooks(codebooks, x, depth)
    numbers = check.one_of(metric, "metric", _METRICS), check.one_of(gradient, "gradient", GRADIENTS)
    if depth is None:
        depth = codebooks.shape[0] if codebooks.dim() == 3 else 1
    active = None if active_depths is None else checked_active_depths(active_depths, x).reshape(-1).contiguous()
    if runs_reference(x, codebooks):
        return reference.residual_quantize(
            x, codebooks, depth=depth, active_depths=active_depths, metric=metric, gradient=gradient
        )
    quantized, codes, commitment, codebook_error = run(
        "residual_quantize", as_rows(x), as_codebooks(codebooks, x), active, depth, *numbers
    )
    columns = (*x.shape[:-1], depth)
    if gradient == "none":
        quantized = quantized.detach()
    return quantized.view(x.shape), codes.view(columns), commitment.view(columns), codebook_error.view(columns)


def decode_codes(codes: Tensor, codebooks: Tensor) -> Tensor:
    """The sum of the codes' embeddings, what `residual_quantize` gives as `quantized`.

    Args:
        codes: int64 [..., Q]; −1 adds nothing. Fewer depths than codebooks decode a prefix.
        codebooks: [Q, K, D] or, shared by all depths, [K, D]; any floating-point type. Its gradient is the sum of those
            of the vectors that use a code.

    Returns:
        [..., D], type of the codebooks, added up in float32 (float64 for float64). TypeError or ValueError for an
        argument that does not fit; RuntimeError for a code outside [−1, K), whose vector on a GPU, where raising would
        take a synchronisation, is NaN.
    """
    check_codes(codes)
    check_codebooks(codebooks, None, codes.shape[-1])
    check.device(codes, "codes", codebooks.device, "codebooks")
    if runs_reference(codebooks, codes):
        return reference.decode_codes(codes, codebooks)
    decoded = run("decode_codes", as_rows(codes), as_codebooks(codebooks, codebooks))
    return decoded.view(*codes.shape[:-1], codebooks.shape[-1]).to(codebooks.dtype)


def as_rows(x: Tensor) -> Tensor:
    """x [..., D] as contiguous [rows, D]; `Size.numel` would fix a number of rows that an export leaves open."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1]).contiguous()


def as_codebooks(codebooks: Tensor, x: Tensor) -> Tensor:
    """Codebooks as contiguous [depth or 1, K, D] of the type that arithmetic with x has."""
    stacked = codebooks if codebooks.dim() == 3 else codebooks[None]
    return stacked.to(torch.promote_types(x.dtype, torch.float32)).contiguous()


def check_codes(codes: Any) -> None:
    check.tensor(codes, "codes")
    if codes.dtype != torch.int64 or codes.dim() < 1:
        raise ValueError(f"codes must be int64 [..., Q], got {codes.dtype} of shape {list(codes.shape)}")


def check_codebooks(codebooks: Any, x: Any, depth: int | None, *, name: str = "codebooks") -> None:
    """[K, D] or at least `depth` of them; for x, vectors [..., D] to quantize or None."""
    if x is not None:
        check.floats(x, "x")
    check.tensor(codebooks, name)
    if codebooks.dim() not in (2, 3) or codebooks.shape[-2] == 0 or codebooks.shape[0] == 0:
        raise ValueError(f"{name} must be [Q, K, D] or [K, D] with at least one code, got {list(codebooks.shape)}")
    check.float_type(codebooks.dtype, name)
    if depth is not None:
        check.integer(depth, "depth", 0)
        if codebooks.dim() == 3 and depth > codebooks.shape[0]:
            raise ValueError(f"{name} must be one for each of the {depth} depths, got {list(codebooks.shape)}")
    if x is None:
        return
    if x.dim() < 1:
        raise ValueError("x must be [..., D], got a number")
    if codebooks.shape[-1] != x.shape[-1]:
        raise ValueError(f"{name} must have the {x.shape[-1]} dimensions of x, got {list(codebooks.shape)}")
    check.device(codebooks, name, x.device, "x")


def checked_active_depths(active_depths: Any, x: Tensor) -> Tensor:
    """How many depths each vector of x [..., D] has, int64 [...]; one dimension is a number a sample."""
    check.tensor(active_depths, "active_depths")
    if active_depths.is_floating_point() or active_depths.is_complex() or active_depths.dtype == torch.bool:
        raise ValueError(f"active_depths must be integers, got {active_depths.dtype}")
    check.device(active_depths, "active_depths", x.device, "x")
    of_samples = active_depths.dim() == 1 and x.dim() > 2
    aligned = active_depths.reshape(-1, *[1] * (x.dim() - 2)) if of_samples else active_depths
    try:
        return aligned.to(torch.int64).expand(x.shape[:-1])
    except RuntimeError:
        per_sample = f"[{x.shape[0]}] or " if x.dim() > 1 else ""
        raise ValueError(
            f"active_depths must be {per_sample}broadcastable to {list(x.shape[:-1])}, got {list(active_depths.shape)}"
        ) from None


def _fake(x, codebooks, active_depths, depth, metric, gradient):
    codes, *errors = (like.new_empty((x.shape[0], depth)) for like in (x, codebooks, codebooks))
    return torch.empty_like(x), codes.to(torch.int64), *errors


def _definition(x, codebooks, codes, gradient):
    """`residual_quantize` in plain PyTorch, its codes and their search left behind."""
    return from_codes(x, _as_given(codebooks), codes, gradient=GRADIENTS[gradient])


def _decode_transposed(needs, kept, upstream):
    """Decoding is linear in the codebooks, so that they need not be kept: what it adds up goes back to the codes."""
    grad, codes, (depth, size) = upstream["grad"], kept["codes"], kept["codebooks"]
    if grad is None:
        return {}
    if not runs_reference(grad):
        return {"codebooks": run("decode_codes_backward", grad.contiguous(), codes, depth, size)}
    zeros = grad.new_zeros((depth, size, grad.shape[-1]))
    transpose = torch.func.vjp(lambda codebooks: reference.decode_codes(codes, _as_given(codebooks)), zeros)[1]
    return {"codebooks": transpose(grad)[0]}


def _decode_again(needs, kept, upstream):
    codebooks = upstream["grad"]
    return {} if codebooks is None else {"grad": decode_codes(kept["codes"], _as_given(codebooks))}


def _as_given(codebooks):
    return codebooks[0] if codebooks.shape[0] == 1 else codebooks


register_fake("nearest_code", lambda x, codebook, metric: x.new_empty(x.shape[0], dtype=torch.int64))
register_fake("residual_quantize", _fake)
differentiable(
    "residual_quantize",
    definition=_definition,
    inputs=("x", "codebooks"),
    contiguous=("grad_quantized", "grad_commitment", "grad_codebook_error"),
)
register_fake("decode_codes", lambda codes, codebooks: codebooks.new_empty((codes.shape[0], codebooks.shape[2])))
register_autograd(
    "decode_codes", lambda given: {**given, "codebooks": given["codebooks"].shape[:2]}, _decode_transposed
)
register_fake("decode_codes_backward", lambda grad, _, depth, size: grad.new_empty((depth, size, grad.shape[1])))
register_autograd("decode_codes_backward", lambda given: {"codes": given["codes"]}, _decode_again)
