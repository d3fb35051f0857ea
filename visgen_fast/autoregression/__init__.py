"""Codes in order: orders, models of codes, how they are drawn and how probable they are."""

from .cascade import Cascade
from .graphs import release_graphs
from .likelihood import nll
from .masking import mask_counts, masked_loss, masked_share, random_mask, sample_by_confidence
from .model import CodeModel
from .order import Order, columns, in_turn, plane_by_plane, raster, scale_by_scale, shuffled, snake, tile_by_tile
from .sampling import sample

__all__ = [
    "Cascade",
    "CodeModel",
    "Order",
    "columns",
    "in_turn",
    "mask_counts",
    "masked_loss",
    "masked_share",
    "nll",
    "plane_by_plane",
    "random_mask",
    "raster",
    "release_graphs",
    "sample",
    "sample_by_confidence",
    "scale_by_scale",
    "shuffled",
    "snake",
    "tile_by_tile",
]
