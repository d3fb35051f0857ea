"""Vector and residual quantization, exact and without a (vectors × codes) matrix: the family `quantize`."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import reference
from ..reference.quantize import active_depths_of, depth_of, from_codes, real_dtype
from ._derivatives import differentiate, differentiate_backward
from ._dispatch import FLOATS, check_tensor, runs_reference

__all__ = ["decode_codes", "nearest_code", "residual_quantize"]

_library = torch.ops.visgen_fast
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
        int64 [...], without gradient.

    Raises:
        TypeError, ValueError: an argument does not fit the above.
    """
    _check_vectors(x, "x")
    check_codebooks(codebook, x, 1, name="codebook")
    if codebook.dim() != 2:
        raise ValueError(f"codebook must be [K, {x.shape[-1]}], got {list(codebook.shape)}")
    number = _number(metric, _METRICS, "metric")
    if runs_reference(x, codebook):
        return reference.nearest_code(x, codebook, metric=metric)
    rows = as_rows(x.detach())
    return _library.nearest_code(rows, as_codebooks(codebook.detach(), x), number).view(x.shape[:-1])


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
    equal distances it is the first. Codes with NaN or infinity are never chosen. A vector with NaN or
    infinity has the codes 0, and NaN everywhere else. The metric "cosine" needs float64 codes whose lengths lie between
    1e-150 and 1e150 (float32 codes may have any); and denormal numbers must not be flushed to zero: with
    `torch.set_flush_denormal(True)` codes among subnormal numbers may be others.

    Second derivatives are right; a forward-mode tangent or `torch.func.vmap` runs the reference; autocast leaves the
    operation as it is. Memory beyond the results: O(vectors·(D + Q)) and a copy of the codebooks.

    Raises:
        TypeError, ValueError: an argument does not fit the above.

    Source: van den Oord et al., "Neural discrete representation learning", 2017; Lee et al., "Autoregressive image
    generation using residual quantization", 2022, equation 2.
    """
    _check_vectors(x, "x")
    check_codebooks(codebooks, x, depth)
    numbers = _number(metric, _METRICS, "metric"), _number(gradient, GRADIENTS, "gradient")
    depth = depth_of(codebooks, depth)
    active = checked_active_depths(active_depths, x, depth)
    if runs_reference(x, codebooks):
        return reference.residual_quantize(
            x, codebooks, depth=depth, active_depths=active_depths, metric=metric, gradient=gradient
        )
    quantized, codes, commitment, codebook_error = _library.residual_quantize(
        as_rows(x), as_codebooks(codebooks, x), active, depth, *numbers
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
        [..., D], type of the codebooks, added up in float32 (float64 for float64).

    Raises:
        TypeError, ValueError: an argument does not fit the above.
        RuntimeError: a code is not in [−1, K). On a GPU, where raising would take a synchronisation, its vector is NaN.
    """
    check_codes(codes)
    check_codebooks(codebooks, None, codes.shape[-1])
    if codes.device != codebooks.device:
        raise ValueError(f"codes must be on {codebooks.device}, the device of codebooks, got {codes.device}")
    if runs_reference(codebooks, codes):
        return reference.decode_codes(codes, codebooks)
    rows = codes.reshape(codes.shape[:-1].numel(), codes.shape[-1]).contiguous()
    decoded = _library.decode_codes(rows, as_codebooks(codebooks, codebooks))
    return decoded.view(*codes.shape[:-1], codebooks.shape[-1]).to(codebooks.dtype)


def as_rows(x: Tensor) -> Tensor:
    """x [..., D] as contiguous [rows, D]."""
    return x.reshape(x.shape[:-1].numel(), x.shape[-1]).contiguous()


def as_codebooks(codebooks: Tensor, x: Tensor) -> Tensor:
    """Codebooks as contiguous [depth or 1, K, D] of the type that arithmetic with x has."""
    stacked = codebooks if codebooks.dim() == 3 else codebooks[None]
    return stacked.to(real_dtype(x)).contiguous()


def check_codes(codes: object) -> None:
    check_tensor(codes, "codes")
    assert isinstance(codes, Tensor)
    if codes.dtype != torch.int64 or codes.dim() < 1:
        raise ValueError(f"codes must be int64 [..., Q], got {codes.dtype} of shape {list(codes.shape)}")


def check_codebooks(codebooks: object, x: Tensor | None, depth: int | None, *, name: str = "codebooks") -> None:
    """[K, D] or [Q, K, D] with the dimensions and device of x and at least `depth` codebooks."""
    check_tensor(codebooks, name)
    assert isinstance(codebooks, Tensor)
    if codebooks.dim() not in (2, 3) or codebooks.shape[-2] == 0 or codebooks.shape[0] == 0:
        raise ValueError(f"{name} must be [Q, K, D] or [K, D] with at least one code, got {list(codebooks.shape)}")
    if codebooks.dtype not in FLOATS:
        raise ValueError(f"{name} must be float32, float64, bfloat16 or float16, got {codebooks.dtype}")
    if depth is not None and depth < 0:
        raise ValueError(f"depth must be at least 0, got {depth}")
    if depth is not None and codebooks.dim() == 3 and depth > codebooks.shape[0]:
        raise ValueError(f"{name} must be one for each of the {depth} depths, or [K, D], got {list(codebooks.shape)}")
    if x is None:
        return
    if codebooks.shape[-1] != x.shape[-1]:
        raise ValueError(f"{name} must have the {x.shape[-1]} dimensions of x, got {list(codebooks.shape)}")
    if codebooks.device != x.device:
        raise ValueError(f"{name} must be on {x.device}, the device of x, got {codebooks.device}")


def _check_vectors(x: object, name: str) -> None:
    check_tensor(x, name)
    assert isinstance(x, Tensor)
    if x.dim() < 1:
        raise ValueError(f"{name} must be [..., D], got a number")
    if x.dtype not in FLOATS:
        raise ValueError(f"{name} must be float32, float64, bfloat16 or float16, got {x.dtype}")


def _number(value: str, names: tuple[str, ...], argument: str) -> int:
    if value not in names:
        raise ValueError(f"{argument} must be one of {', '.join(names)}, got {value!r}")
    return names.index(value)


def checked_active_depths(active_depths: Tensor | None, x: Tensor, depth: int) -> Tensor | None:
    """How many depths each vector of x [..., D] has, int64 [rows]; ValueError where that cannot be told."""
    if active_depths is None:
        return None
    check_tensor(active_depths, "active_depths")
    if active_depths.is_floating_point() or active_depths.is_complex() or active_depths.dtype == torch.bool:
        raise ValueError(f"active_depths must be integers, got {active_depths.dtype}")
    if active_depths.device != x.device:
        raise ValueError(f"active_depths must be on {x.device}, the device of x, got {active_depths.device}")
    try:
        return active_depths_of(active_depths, x, depth).reshape(-1).contiguous()
    except RuntimeError:
        per_sample = f"[{x.shape[0]}] or " if x.dim() > 1 else ""
        raise ValueError(
            f"active_depths must be {per_sample}broadcastable to {list(x.shape[:-1])}, got {list(active_depths.shape)}"
        ) from None


@torch.library.register_fake("visgen_fast::nearest_code")
def _(x, codebook, metric):
    return x.new_empty(x.shape[0], dtype=torch.int64)


@torch.library.register_fake("visgen_fast::residual_quantize")
def _(x, codebooks, active_depths, depth, metric, gradient):
    rows = x.shape[0]
    return (
        torch.empty_like(x),
        x.new_empty((rows, depth), dtype=torch.int64),
        codebooks.new_empty((rows, depth)),
        codebooks.new_empty((rows, depth)),
    )


@torch.library.register_fake("visgen_fast::residual_quantize_backward")
def _(grad_quantized, grad_commitment, grad_codebook_error, x, codebooks, codes, gradient, needs):
    return tuple(
        torch.empty_like(like) if needed else x.new_empty(0, dtype=torch.float32)
        for like, needed in zip((x, codebooks), needs, strict=True)
    )


@torch.library.register_fake("visgen_fast::decode_codes")
def _(codes, codebooks):
    return codebooks.new_empty((codes.shape[0], codebooks.shape[2]))


@torch.library.register_fake("visgen_fast::decode_codes_backward")
def _(grad, codes, codebooks, size):
    return grad.new_empty((codebooks, size, grad.shape[1]))


def _save_inputs(ctx, inputs, output):
    x, codebooks, _, _, _, ctx.gradient = inputs
    ctx.save_for_backward(x, codebooks, output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx, grad_quantized, _, grad_commitment, grad_codebook_error):
    x, codebooks, codes = ctx.saved_tensors
    incoming = [g if g is None else g.contiguous() for g in (grad_quantized, grad_commitment, grad_codebook_error)]
    needs = list(ctx.needs_input_grad[:2])
    if all(g is None for g in incoming):
        return (None,) * 6
    if runs_reference(x, codebooks, *incoming):
        gradients = differentiate(_definition(codes, ctx.gradient), incoming, (x, codebooks))
    else:
        gradients = _library.residual_quantize_backward(*incoming, x, codebooks, codes, ctx.gradient, needs)
    to_x, to_codebooks = (g if needed else None for g, needed in zip(gradients, needs, strict=True))
    return to_x, to_codebooks, None, None, None, None


def _save_backward_inputs(ctx, inputs, output):
    *tensors, ctx.gradient, ctx.needs = inputs
    ctx.save_for_backward(*tensors)
    ctx.set_materialize_grads(False)


def _second_backward(ctx, *upstream):
    *incoming, x, codebooks, codes = ctx.saved_tensors
    to_incoming, (to_x, to_codebooks) = differentiate_backward(
        _definition(codes, ctx.gradient),
        incoming,
        (x, codebooks),
        [direction if needed else None for direction, needed in zip(upstream, ctx.needs, strict=True)],
    )
    return *to_incoming, to_x, to_codebooks, None, None, None


def _definition(codes, gradient):
    """`residual_quantize` in plain PyTorch as a function of (x, codebooks), its codes and their search left behind."""

    def definition(x, codebooks):
        shared = codebooks[0] if codebooks.shape[0] == 1 else codebooks
        return from_codes(x, shared, codes, gradient=GRADIENTS[gradient])

    return definition


torch.library.register_autograd("visgen_fast::residual_quantize", _backward, setup_context=_save_inputs)
torch.library.register_autograd(
    "visgen_fast::residual_quantize_backward", _second_backward, setup_context=_save_backward_inputs
)


def _save_codes(ctx, inputs, output):
    codes, codebooks = inputs
    ctx.save_for_backward(codes)
    ctx.size = codebooks.shape[:2]


def _decode_backward(ctx, grad):
    (codes,) = ctx.saved_tensors
    if not runs_reference(grad):
        return None, _library.decode_codes_backward(grad.contiguous(), codes, *ctx.size)
    depth, size = ctx.size
    like = grad.new_zeros((depth, size, grad.shape[-1]))

    def decoded(codebooks):
        return reference.decode_codes(codes, codebooks[0] if depth == 1 else codebooks)

    return None, torch.func.vjp(decoded, like)[1](grad)[0]


def _save_decode_backward(ctx, inputs, output):
    ctx.save_for_backward(inputs[1])


def _decode_second_backward(ctx, upstream):
    (codes,) = ctx.saved_tensors  # the backward is linear, and its transpose is the forward
    return _decoded(codes, upstream), None, None, None


def _decoded(codes, codebooks):
    if runs_reference(codebooks):
        return reference.decode_codes(codes, codebooks[0] if codebooks.shape[0] == 1 else codebooks)
    return _library.decode_codes(codes, codebooks.contiguous())


torch.library.register_autograd("visgen_fast::decode_codes", _decode_backward, setup_context=_save_codes)
torch.library.register_autograd(
    "visgen_fast::decode_codes_backward", _decode_second_backward, setup_context=_save_decode_backward
)
