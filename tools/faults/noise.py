"""Faults in noise."""

from .mutation import Mutation

NUMBERS = ["python_tests/test_contract.py", "-k", "cuda-on-host and random_numbers"]

MUTATIONS = [
    Mutation(
        "every sample has the first one's noise",
        "csrc/cuda/noise.cu",
        "make_tile<distribution>(p, static_cast<uint64_t>(p.seeds[sample])",
        "make_tile<distribution>(p, static_cast<uint64_t>(p.seeds[0])",
    ),
    Mutation(
        "every dense sample has the first one's noise",
        "csrc/cuda/noise.cu",
        "const uint64_t seed = static_cast<uint64_t>(p.seeds[sample]);",
        "const uint64_t seed = static_cast<uint64_t>(p.seeds[0]);",
        NUMBERS,
    ),
    Mutation(
        "a Gumbel number has the leading bits of another one",
        "csrc/cuda/noise.cu",
        "first % 8 == 0 ? leading.word[j / 2]",
        "first % 8 != 0 ? leading.word[j / 2]",
        NUMBERS,
    ),
]
