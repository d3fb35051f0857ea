"""Tokenizers in 16 bits, frozen, and built on the meta device."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from visgen_fast.models.autoencoder import Decoder, Encoder
from visgen_fast.models.titok import TiTokDecoder, TiTokEncoder
from visgen_fast.nn import FSQ, MultiscaleQuantizer, ResidualQuantizer, VectorQuantizer
from visgen_fast.tokenizers.grid import GridTokenizer
from visgen_fast.tokenizers.next_scale import MultiscaleTokenizer
from visgen_fast.tokenizers.titok import TiTok
from visgen_fast.tokenizers.tokenizer import Tokenizer
from visgen_fast.tokenizers.vq_vae_2 import VQVAE2

SIZES = {"channels": 1, "widths": (8, 8), "dimensions": 4}
TRANSFORMER = {
    **{"image_size": 8, "channels": 1, "patch_size": 2, "width": 8},
    **{"depth": 1, "heads": 2, "tokens": 3, "dimensions": 4},
}
TOKENIZERS = {
    "grid": lambda: GridTokenizer(Encoder(**SIZES), ResidualQuantizer(2, 16, 4), Decoder(**SIZES)),
    "scalars": lambda: GridTokenizer(Encoder(**SIZES), FSQ((5, 5, 5, 5)), Decoder(**SIZES)),
    "next scale": lambda: MultiscaleTokenizer(
        Encoder(**SIZES), MultiscaleQuantizer(16, 4, (1, 2, 4), learning="ema"), Decoder(**SIZES)
    ),
    "titok": lambda: TiTok(TiTokEncoder(**TRANSFORMER), VectorQuantizer(16, 4), TiTokDecoder(**TRANSFORMER)),
    "two levels": lambda: VQVAE2(
        size=8, channels=1, top=VectorQuantizer(16, 4), bottom=VectorQuantizer(16, 4), widths=(8, 8), blocks=1
    ),
}


def made(name: str) -> Tokenizer:
    torch.manual_seed(0)
    return TOKENIZERS[name]()


def images(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)).to(dtype) * 2 - 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_tokenizer_cast_to_16_bits_encodes_decodes_and_learns(name, dtype):
    tokenizer = made(name).to(dtype)
    out = tokenizer(images(dtype))
    (out.images.float().square().mean() + out.quantized.loss.mean()).backward()
    assert out.images.dtype == dtype and out.quantized.loss.dtype == torch.float32
    tokenizer.eval()
    decoded = tokenizer.decode(tokenizer.encode(images(dtype)))
    assert decoded.dtype == dtype
    torch.testing.assert_close(decoded, tokenizer(images(dtype)).images, rtol=0.02, atol=0.02)
    assert all(stage.dtype == dtype for stage in tokenizer.stages(images(dtype)).values())


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_frozen_tokenizer_stays_as_it_is_in_training_mode(name):
    tokenizer = made(name).requires_grad_(False)
    before = {key: value.clone() for key, value in tokenizer.state_dict().items()}
    tokenizer(images())
    tokenizer.quantizer.commit()
    assert all(torch.equal(value, before[key]) for key, value in tokenizer.state_dict().items())


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_tokenizer_from_the_meta_device_is_right_after_a_strict_load(name, assign):
    source = made(name)
    with torch.device("meta"):
        loaded = TOKENIZERS[name]()
    if not assign:
        loaded.to_empty(device="cpu")
    state = {key: value.clone() for key, value in source.state_dict().items()}
    loaded.load_state_dict(state, assign=assign)
    for tokenizer in (source, loaded):
        tokenizer(images())
    for (key, value), expected in zip(loaded.named_buffers(), source.buffers(), strict=True):
        assert torch.equal(value, expected), key
    assert torch.equal(loaded.eval()(images()).images, source.eval()(images()).images)
