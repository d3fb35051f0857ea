"""Tokenizers: networks that turn images into codes of a codebook and back."""

from .autoencoder import Autoencoder
from .code_stage import CodeStage
from .first_stage import FirstStage, Pixels
from .grid import GridTokenizer
from .kl_autoencoder import KLAutoencoder
from .next_scale import MultiscaleTokenizer
from .pixels import PixelCodes, fit_palette
from .pyramid import PyramidAutoencoder
from .representation import FeatureEncoder, RepresentationAutoencoder
from .titok import TiTok
from .tokenizer import Reconstruction, Reconstructor, Tokenizer
from .vq_vae_2 import VQVAE2

__all__ = [
    "Autoencoder",
    "CodeStage",
    "FirstStage",
    "FeatureEncoder",
    "GridTokenizer",
    "KLAutoencoder",
    "MultiscaleTokenizer",
    "PixelCodes",
    "PyramidAutoencoder",
    "Pixels",
    "Reconstruction",
    "Reconstructor",
    "RepresentationAutoencoder",
    "TiTok",
    "Tokenizer",
    "VQVAE2",
    "fit_palette",
]
