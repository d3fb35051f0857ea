"""RQ-Transformer from a checkout of kakaobrain/rq-vae-transformer, for `benchmarks.code_loops`."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

_PACKAGES = ("rqvae", "rqvae.models", "rqvae.models.rqtransformer", "rqvae.utils", "rqvae.optimizer")
_CONFIGURATION = "rqvae.models.rqtransformer.configs"


class Config(SimpleNamespace):
    """A configuration with the one method that the network asks of it."""

    def copy(self) -> Config:
        return Config(**vars(self))


class FirstStage(nn.Module):
    """What the network asks of an RQ-VAE: the vectors of codes, from one codebook for all depths."""

    def __init__(self, codes: int, features: int) -> None:
        super().__init__()
        self.vectors = nn.Embedding(codes, features)

    def get_code_emb_with_depth(self, codes: Tensor) -> tuple[Tensor, None]:
        return self.vectors(codes), None


def network(checkout: Path, shape: tuple[int, int, int], codes: int, body: int) -> tuple[Any, FirstStage]:
    """The published class with random weights of one seed and its first stage, as configured for ImageNet but of width
    256: `body` blocks over the places, 2 over the codes of a place."""
    torch.manual_seed(0)
    block = Config(embed_dim=256, n_head=8, mlp_bias=True, attn_bias=True, attn_pdrop=0.0, resid_pdrop=0.0, gelu="v1")
    sizes: dict[str, Any] = {"vocab_size": codes, "block_size": list(shape), "embed_dim": 256, "input_embed_dim": 64}
    shared = dict.fromkeys(("shared_tok_emb", "shared_cls_emb", "input_emb_vqvae", "head_emb_vqvae"), True)
    config = Config(
        **sizes,
        **shared,
        **{"vocab_size_cond": 10, "block_size_cond": 1, "cumsum_depth_ctx": True, "embd_pdrop": 0.0},
        body=Config(n_layer=body, block=block),
        head=Config(n_layer=2, block=block),
    )
    return _published(checkout).RQTransformer(config).eval(), FirstStage(codes, 64).eval()


def _published(checkout: Path) -> Any:
    """The module of the network. Its packages' own __init__ and its configuration need OmegaConf, and an old Python."""
    if not (checkout / "rqvae" / "models").is_dir():
        raise SystemExit(f"{checkout} holds no rqvae/models: a checkout of kakaobrain/rq-vae-transformer is expected")
    for name in _PACKAGES:
        package = sys.modules.setdefault(name, ModuleType(name))
        package.__path__ = [str(checkout.joinpath(*name.split(".")))]
    names = ("RQTransformerConfig", "AttentionStackConfig", "AttentionBlockConfig")
    configuration = ModuleType(_CONFIGURATION)
    configuration.__dict__.update(dict.fromkeys(names, Config))
    sys.modules.setdefault(_CONFIGURATION, configuration)
    return importlib.import_module("rqvae.models.rqtransformer.transformers")
