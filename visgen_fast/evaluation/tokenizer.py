"""What a trained tokenizer is worth, measured on images it was not trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ..tokenizers import Reconstructor, Tokenizer
from .fid import distances
from .invalid_codes import InvalidCodes, PrefixErrors, invalid_codes, prefix_errors
from .metrics import pixel_errors, psnr


@dataclass(frozen=True)
class TokenizerEvaluation:
    """A tokenizer's measures.

    Attributes:
        images: how many were measured.
        psnr: the mean peak signal-to-noise ratio of their reconstructions, in dB.
        usage: the share of the codebook that occurs at each depth; empty where there are no codes, or
            too many to be counted.
        perplexity: the exponential of the entropy of each depth's codes; empty likewise.
        rfid: the Fréchet distance between the features of images and reconstructions; None without a feature network.
        kernel_distance: the kernel distance of the same.
        invalid_codes: what each depth is worth in the spaces "vector" (one latent vector), "latent" (all those of a
            image) and "pixel"; empty where there is one depth, no latent to look at, or it was not asked for.
    """

    images: int
    psnr: float
    usage: tuple[float, ...]
    perplexity: tuple[float, ...]
    rfid: float | None
    kernel_distance: float | None
    invalid_codes: dict[str, InvalidCodes]


@torch.no_grad()
def evaluate_tokenizer(
    tokenizer: Reconstructor,
    batches: Iterable[Tensor],
    *,
    embed: Callable[[Tensor], Tensor] | None = None,
    prefixes: bool = True,
) -> TokenizerEvaluation:
    """Measures `tokenizer` on `batches` of images [B, C, H, W] in [−1, 1].

    `embed` gives the features [B, F] of images for the distances between sets of them. Without `prefixes` there are
    no `invalid_codes`, for which every prefix of the codes is decoded.

    ValueError for a tokenizer in training mode, in which quantizers learn and drop depths, without any image, or
    for reconstructions that are not finite.
    """
    if tokenizer.training:
        raise ValueError("tokenizer must be in evaluation mode")
    if isinstance(tokenizer, Tokenizer):
        tokenizer.quantizer.reset_usage()
    prefixes = prefixes and _has_prefixes(tokenizer)
    errors, by_prefix, features = [], [], []
    for images in batches:
        reconstructions = tokenizer(images).images
        errors.append(pixel_errors(reconstructions, images).cpu())
        if not errors[-1].isfinite().all():
            raise ValueError("its reconstructions are not finite numbers")
        if prefixes:
            by_prefix.append(prefix_errors(tokenizer, images))  # type: ignore[arg-type]  # it has what that needs
        if embed is not None:
            # What is shown is what is compared.
            features.append((embed(images).cpu(), embed(reconstructions.clamp(-1, 1)).cpu()))
    if not errors:
        raise ValueError("batches must hold at least one image")
    usage, perplexity = tokenizer.quantizer.usage() if isinstance(tokenizer, Tokenizer) else (torch.empty(0),) * 2
    if not usage.isfinite().all():
        usage, perplexity = (torch.empty(0),) * 2
    rfid, kernel = distances(features) if features else (None, None)
    return TokenizerEvaluation(
        images=sum(map(len, errors)),
        psnr=float(psnr(torch.cat(errors)).mean()),
        usage=tuple(usage.tolist()),
        perplexity=tuple(perplexity.tolist()),
        rfid=rfid,
        kernel_distance=kernel,
        invalid_codes=_summaries(by_prefix),
    )


def _has_prefixes(tokenizer: Reconstructor) -> bool:
    opens = all(hasattr(tokenizer, part) for part in ("latents", "images_of"))
    return isinstance(tokenizer, Tokenizer) and tokenizer.quantizer.depth > 1 and opens


def _summaries(batches: list[PrefixErrors]) -> dict[str, InvalidCodes]:
    spaces = [field.name for field in fields(PrefixErrors)] if batches else []
    return {space: invalid_codes(torch.cat([getattr(errors, space) for errors in batches])) for space in spaces}
