"""Tokenizers: networks that turn pictures into codes of a codebook and back."""

from .autoencoder import Autoencoder
from .grid import GridTokenizer
from .tokenizer import Reconstruction, Reconstructor, Tokenizer

__all__ = ["Autoencoder", "GridTokenizer", "Reconstruction", "Reconstructor", "Tokenizer"]
