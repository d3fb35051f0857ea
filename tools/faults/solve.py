"""Faults in the family solve."""

from .mutation import Mutation

TESTS = ["python_tests/test_solve_quantile.py", "-k", "cuda-on-host"]
MUTATIONS = [
    Mutation(
        "a quantile's second number is counted with the first",
        "csrc/cuda/solve.cu",
        "atomic_add(&counts[p.kBins + digit], 1u);",
        "atomic_add(&counts[digit], 1u);",
        TESTS,
    ),
    Mutation(
        "a quantile does not see NaN",
        "csrc/cuda/solve.cu",
        "if (denoised[i] != denoised[i]) atomic_add",
        "if (denoised[i] < denoised[i]) atomic_add",
        TESTS,
    ),
    Mutation(
        "a quantile's counts are added up before all threads have counted",
        "csrc/cuda/solve.cu",
        "  sync_block();\n  for (int i = threadIdx.x; i < p.kCounts; i += kBlockThreads) {",
        "  for (int i = threadIdx.x; i < p.kCounts; i += kBlockThreads) {",
        TESTS,
    ),
    Mutation(
        "a lane takes the first number of the next lane's digits for a quantile's",
        "csrc/cuda/solve.cu",
        "if (rank < 0 || rank >= own) continue;",
        "if (rank < 0 || rank > own) continue;",
        TESTS,
    ),
    Mutation(
        "a quantile's counts are kept for the next digit",
        "csrc/cuda/solve.cu",
        "i < p.kCounts; i += kWarpSize) counts[i] = 0;",
        "i < p.kCounts; i += kWarpSize) counts[i] += 0;",
        TESTS,
    ),
]
