"""Codes in order: orders, models of codes, how they are drawn and how probable they are."""

from .graphs import release_graphs
from .likelihood import nll
from .model import CodeModel
from .order import Order, columns, in_turn, plane_by_plane, raster, scale_by_scale, shuffled, snake, tile_by_tile
from .sampling import sample

__all__ = [
    "CodeModel",
    "Order",
    "columns",
    "in_turn",
    "nll",
    "plane_by_plane",
    "raster",
    "release_graphs",
    "sample",
    "scale_by_scale",
    "shuffled",
    "snake",
    "tile_by_tile",
]
