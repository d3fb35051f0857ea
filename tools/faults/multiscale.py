"""Faults in the family multiscale."""

from .mutation import Mutation

TESTS = ["python_tests/test_multiscale.py", "-k", "cuda-on-host"]
MUTATIONS = [
    Mutation(
        "a window that the picture cuts off counts rows that are not there",
        "csrc/cuda/multiscale.cu",
        "(rows < level.size ? rows : level.size)",
        "static_cast<int64_t>(level.size)",
    ),
    Mutation(
        "a window keeps the gradient of the larger ones to itself",
        "csrc/cuda/multiscale.cu",
        "windows.sums[place] = slope + of_children(index, y, x);",
        "windows.sums[place] = slope;",
    ),
    Mutation(
        "NaN that has no weight enters its window",
        "csrc/cuda/multiscale.cu",
        "is_masked() || (p_.weight_varies && weight[i] == Real(0))",
        "is_masked()",
        TESTS,
    ),
    Mutation(
        "the penalties of a block's last warp are lost",
        "csrc/cuda/multiscale.cu",
        "for (int warp = 0; warp < kWarps; ++warp) total += totals[level * kWarps + warp];",
        "for (int warp = 0; warp < kWarps - 1; ++warp) total += totals[level * kWarps + warp];",
    ),
    Mutation(
        "a gradient that is scaled for all samples by the first one's",
        "csrc/cuda/multiscale.cu",
        "[p.upstream_a_sample ? sample : 0]",
        "[0]",
    ),
]
