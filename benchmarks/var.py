"""The published VAR (FoundationVision/VAR), from a checkout, for what is measured against it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import torch


def network(checkout: Path, codes: int, *, width: int, depth: int, heads: int) -> Any:
    """A VAR of ten scales and a thousand classes with weights of one seed; its "images" are the features f̂."""
    sys.path.insert(0, str(checkout))
    try:
        published, first_stage = (importlib.import_module(f"models.{name}") for name in ("var", "vqvae"))
    finally:
        sys.path.remove(str(checkout))
    torch.manual_seed(0)
    stage = first_stage.VQVAE(vocab_size=codes, ch=32)
    stage.fhat_to_img = lambda features: features.clone()
    return published.VAR(stage, depth=depth, embed_dim=width, num_heads=heads).eval()
