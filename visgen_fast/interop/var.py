"""VAR's multiscale quantizer (FoundationVision/VAR) with our operations: the same returns, gradients and state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import ops
from ..nn import MultiscaleQuantizer
from ..nn.collective import is_distributed, rank_and_world, sum_over_ranks
from ..nn.side_effects import is_recomputation
from ._replacement import Replacement, find_classes
from ._states import taken
from .var_draws import replace_draws

__all__ = ["apply_visgen_to_var", "from_var", "to_var"]

_QUANTIZER = ("f_to_idxBl_or_fhat", "idxBl_to_var_input", "embed_to_fhat")


def apply_visgen_to_var(model: nn.Module | None = None) -> Replacement:
    """Makes VAR's `VectorQuantizer2` and `VAR` search and draw with our operations; options and state dicts stay.

    `forward` and `f_to_idxBl_or_fhat` are replaced: no (patches × vocabulary) matrix at any scale, and the gradient of
    the codebook a deterministic sum. `ret_usages` works without a process group too. Codes are exact; the
    original compares rounded distances, so codes at nearly equal distances may differ.

    `VAR.autoregressive_infer_cfg` draws with `ops.sample_tokens`, which sorts nothing, from a seed for each image that
    `g_seed`, or else torch's random state, gives; with `cfg=0` it asks the network half as much. With `more_smooth`, or
    where a model has other parts than the published one, its own code runs, and a warning says so.

    Args:
        model: the quantizers in it are replaced, and a `VAR`'s draws; by default the classes are, in all modules
            imported so far.

    Returns:
        What to call `revert()` on, or to use in a `with`, to have the original code back.

    Raises:
        ValueError: model has neither of them, or no class of theirs is imported.
    """
    replacement = Replacement()
    draws = replace_draws(replacement, model)
    for owner in find_classes(model, "VectorQuantizer2", _QUANTIZER, needed=not draws):
        replacement.replace(owner, "forward", _forward)
        replacement.replace(owner, "f_to_idxBl_or_fhat", _f_to_codes_or_maps)
    return replacement


def to_var(quantizer: MultiscaleQuantizer) -> dict[str, Tensor]:
    """A quantizer's state as the state dict of a `VectorQuantizer2` of the same size, C and patch numbers; a copy.

    There `share_quant_resi` is 1 where all scales share one φ, 0 where each has its own, else the number of φ, and
    `quant_resi` is the φ's share, 0 without φ.
    """
    tensors = [quantizer.codebook.vectors(), quantizer.hits, *quantizer.phi.state_dict().values()]
    return {name: tensor.detach().clone() for name, tensor in zip(_names(quantizer), tensors, strict=True)}


def from_var(quantizer: MultiscaleQuantizer, state: Mapping[str, Tensor]) -> None:
    """Gives `quantizer` the codebook, φ and hits of a `VectorQuantizer2`'s state dict.

    ValueError where they do not fit, or where the codebook learns by moving averages, of which that has none.
    """
    if quantizer.codebook.learning != "gradient":
        raise ValueError(f'quantizer must have learning="gradient" as VAR has, got {quantizer.codebook.learning!r}')
    embedding, hits, *phi = taken(state, _names(quantizer))
    found = {"codebook.embedding": embedding, "hits": hits, "codebook.initialized": torch.tensor(True)}
    for number in range(len(quantizer.phi)):
        found[f"phi.{number}.weight"], found[f"phi.{number}.bias"] = phi[2 * number : 2 * number + 2]
    own = quantizer.state_dict()
    for name, tensor in found.items():
        if tensor.shape != own[name].shape:
            raise ValueError(f"state must have a {name} {list(own[name].shape)}, got {list(tensor.shape)}")
    quantizer.load_state_dict({**own, **found})


def _names(quantizer: MultiscaleQuantizer) -> list[str]:
    """The names in the state dict of a `VectorQuantizer2`: embedding, hits, weight and bias of each φ."""
    count = len(quantizer.phi)
    shared, own = count == 1, count == quantizer.scales
    prefixes = ["qresi"] if shared else [str(n) if own else f"qresi_ls.{n}" for n in range(count)]
    phi = [f"quant_resi.{prefix}.{kind}" for prefix in prefixes for kind in ("weight", "bias")]
    return ["embedding.weight", "ema_vocab_hit_SV", *phi]


def _forward(original: Any, self: Any, f_BChw: Tensor, ret_usages: bool = False) -> tuple[Tensor, Any, Tensor]:
    """`VectorQuantizer2.forward`: (f̂ with the gradient straight through, usages in percent or None, loss)."""
    f = f_BChw.float()
    with torch.autocast(f.device.type, enabled=False):
        total, loss = torch.zeros_like(f).detach(), f.new_zeros(())
        for scale, (codes, part) in enumerate(_scales(self, f.detach(), self.v_patch_nums)):
            total = total + part
            loss = loss + self.beta * F.mse_loss(total.detach(), f) + F.mse_loss(total, f.detach())
            if self.training and is_distributed() and not is_recomputation():
                _record(self, scale, codes)
        loss = loss * (1.0 / len(self.v_patch_nums))
        quantized = total.detach() - f.detach() + f
    usages = _usages(self, f) if ret_usages else None
    return quantized, usages, loss


def _f_to_codes_or_maps(
    original: Any, self: Any, f_BChw: Tensor, to_fhat: bool, v_patch_nums: Sequence[Any] | None = None
) -> list[Tensor]:
    """`VectorQuantizer2.f_to_idxBl_or_fhat`: for each scale f̂ [B, C, H, W] after it, or its codes [B, patches]."""
    grids = v_patch_nums or self.v_patch_nums
    last = _grid(grids[-1])
    if last != f_BChw.shape[2:]:
        raise ValueError(f"f_BChw must have the size {list(last)} of the last scale, got {list(f_BChw.shape)}")
    total, found = torch.zeros_like(f_BChw).detach(), []
    for scale, (codes, part) in enumerate(_scales(self, f_BChw.detach(), grids)):
        if 0 <= self.prog_si < scale:
            break
        total = total + part
        found.append(total if to_fhat else codes.flatten(1))
    return found


def _scales(self: Any, f: Tensor, grids: Sequence[Any]) -> Iterator[tuple[Tensor, Tensor]]:
    """For each scale, coarse to fine: its codes [B, rows, columns] and what they add to f̂, [B, C, H, W]."""
    rest, size, last = f, f.shape[2:], len(grids) - 1
    for scale, grid in enumerate(grids):
        down = F.interpolate(rest, size=_grid(grid), mode="area") if scale != last else rest
        metric = "cosine" if self.using_znorm else "l2"
        codes = ops.nearest_code(down.permute(0, 2, 3, 1), self.embedding.weight, metric=metric)
        part = ops.decode_codes(codes[..., None], self.embedding.weight).permute(0, 3, 1, 2)
        part = F.interpolate(part, size=size, mode="bicubic") if scale != last else part
        part = self.quant_resi[scale / last](part.contiguous())
        yield codes, part
        rest = rest - part.detach()


def _grid(patches: Any) -> tuple[int, int]:
    return (patches, patches) if isinstance(patches, int) else (patches[0], patches[1])


def _record(self: Any, scale: int, codes: Tensor) -> None:
    """Moves the scale's average of how often each code of the vocabulary occurs on all ranks."""
    (hits,) = sum_over_ranks([codes.flatten().bincount(minlength=self.vocab_size).float()])
    average = self.ema_vocab_hit_SV[scale]
    if self.record_hit == 0:
        average.copy_(hits)
    else:
        new = 0.1 if self.record_hit < 100 else 0.01
        average.mul_(1 - new).add_(hits, alpha=new)
    self.record_hit += 1


def _usages(self: Any, f: Tensor) -> list[float]:
    """Percent of the vocabulary that each scale uses at least 0.08 times as often as if all were used alike."""
    _, world = rank_and_world()
    margin = world * (f.numel() / f.shape[1]) / self.vocab_size * 0.08
    return [(average >= margin).float().mean().item() * 100 for average in self.ema_vocab_hit_SV]
