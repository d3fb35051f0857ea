"""The package's classes with our methods."""

from __future__ import annotations

from typing import Any

from torch import nn

from .._replacement import Replacement
from .codebook import codebook_forward, init_embed, update_indices
from .package import theirs
from .quantizers import residual_vq_forward, vector_quantize_forward


def apply_visgen_to_vector_quantize_pytorch(model: nn.Module | None = None) -> Replacement:
    """Makes vector-quantize-pytorch quantize with our operations; its classes, options and state dicts stay.

    `ResidualVQ` (and `GroupedResidualVQ` on it) searches all its depths in one operation, and `VectorQuantize` its
    codebook, without a (vectors × codes) matrix; k-means and the moving averages, those of `update_indices` too, follow
    without a one-hot matrix.

    Args:
        model: the quantizers in it are replaced; by default the package's classes are, hence all quantizers there are
            and will be.

    Returns:
        What to call `revert()` on, or to use in a `with`, to have the package's own code back.

    What differs from the package is its rounding:

    - Codes are exact. The package compares rounded distances, so that codes at nearly equal distances may differ, and
      with them all that follows.
    - The quantized vectors are the codes' sum, where the package adds and subtracts the input or rotates it. So the
      code of a residual of length 0 is kept, where the package's rotation trick makes it 0.
    - 16-bit vectors are quantized in float32 to the last depth, where `ResidualVQ` rounds its residual after each and,
      under CPU autocast, the codes too.
    - Sums over vectors are deterministic, and of one collective for all depths.
    - Under activation checkpointing, which runs a forward twice, a codebook that learns in its forward is refused. The
      package's learns twice and gives a wrong gradient.
    - `ResidualVQ(accept_image_fmap=True)` takes pictures of any size, where 1.32 fails unless C = H = W.

    With these options the package's own loop over depths runs, each depth with our search: `ResidualVQ` with cosine
    similarity, the start by k-means, a shared codebook with replacement of dead codes (which are replaced between
    depths), `quant_grad_frac`, codebooks of several sizes or changed settings among the layers. With these, the
    package's own losses and gradients around our search: several heads, affine parameters, `vq_bridge`, directional
    reparametrisation (`diveq` too), `sync_update_v`, orthogonal regularisation and an in-place optimizer. With these,
    which need all distances, the package's own code: sampled codes, Gumbel straight-through, `topk` and beam search,
    implicit neural codebooks, given `indices`, cross-entropy commitment and codebook diversity. A call of a codebook
    from elsewhere returns its distances as before.

    Raises:
        ImportError: the package is not there, or older than 1.31.
        ValueError: model has none of its quantizers.
    """
    package = theirs()
    replacement = Replacement()
    classes: dict[Any, dict[str, Any]] = {
        package.ResidualVQ: {"forward": residual_vq_forward},
        package.VectorQuantize: {"forward": vector_quantize_forward},
        package.Codebook: {
            "forward": codebook_forward,
            "init_embed_": init_embed,
            **dict.fromkeys(("update_indices", "update_ema_indices"), update_indices),
        },
    }
    if model is None:
        owners: list[Any] = list(classes)
    else:
        owners = [module for module in model.modules() if isinstance(module, tuple(classes))]
        if not owners:
            raise ValueError("model must have a quantizer of vector-quantize-pytorch in it, got none")
    for owner in owners:
        for cls, methods in classes.items():
            if owner is cls or isinstance(owner, cls):
                for name, method in methods.items():
                    replacement.replace(owner, name, method)
    return replacement
