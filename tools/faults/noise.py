"""Faults in noise."""

from .mutation import Mutation

MUTATIONS = [
    Mutation(
        "every sample has the first one's noise",
        "csrc/cuda/noise.cu",
        "static_cast<uint64_t>(p.seeds[sample])",
        "static_cast<uint64_t>(p.seeds[0])",
    ),
]
