"""Faults that the tests must notice, a file a family. `mutate_cuda.py` plants them."""

from . import activate, code_rows, diffuse, modulate, multiscale, noise, quantize, select, solve, tiles
from .mutation import Mutation

FAMILIES = (tiles, diffuse, noise, quantize, code_rows, multiscale, modulate, activate, solve, select)
MUTATIONS: list[Mutation] = [mutation for family in FAMILIES for mutation in family.MUTATIONS]
