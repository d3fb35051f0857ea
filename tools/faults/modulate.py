"""Faults in the family modulate."""

from .mutation import Mutation

TESTS = ["python_tests/test_modulate.py", "-k", "cuda-on-host"]
MUTATIONS = [
    Mutation(
        "rows of modulation found by the strides of the row's neighbours",
        "csrc/ops/operand_rows.h",
        "offset += (row - outer * shape.sizes[d]) * operand.strides[d];",
        "offset += (row - outer * shape.sizes[d]) * operand.strides[d - 1];",
        TESTS,
    ),
    Mutation(
        "wide accesses to rows that are not aligned",
        "csrc/cuda/operand_rows.cuh",
        "wide = wide && operand.strides[d] * bytes % alignment == 0;",
        "wide = wide && operand.strides[d] >= 0;",
    ),
    Mutation(
        "the residual is normalized before it is rounded",
        "csrc/cuda/modulate.cu",
        "r[i] = convert<Real>(convert<Stored>(r[i] + gate[i] * branch[i]));",
        "r[i] = r[i] + gate[i] * branch[i];",
    ),
    Mutation(
        "a variance about zero",
        "csrc/cuda/modulate.cu",
        "values[i] = (values[i] - centre) * (values[i] - centre);",
        "values[i] = values[i] * values[i];",
        TESTS,
    ),
    Mutation(
        "the gradient of a norm without its slope",
        "csrc/cuda/modulate.cu",
        "(into_normed[i] - mean_ - normed[i] * slope_) * spread_",
        "(into_normed[i] - mean_) * spread_",
    ),
    Mutation(
        "the sums of a block's last warp are lost",
        "csrc/cuda/modulate.cu",
        "for (int warp = 0; warp < warps_per_block(); ++warp) total += shared[",
        "for (int warp = 0; warp < warps_per_block() - 1; ++warp) total += shared[",
        TESTS,
    ),
    Mutation(
        "the sums of a run's last unit are lost",
        "csrc/cuda/shared_gradient.cu",
        "for (int64_t at = warp_index(); at < units; at += kWarps) {",
        "for (int64_t at = warp_index(); at < units - (p.units_per_run > 1); at += kWarps) {",
        TESTS,
    ),
    Mutation(
        "a gradient of one number a row is one lane's share",
        "csrc/cuda/modulate.cu",
        "static_cast<Real>(warp_sum(numbers_[slot]))",
        "static_cast<Real>(numbers_[slot])",
        TESTS,
    ),
]
