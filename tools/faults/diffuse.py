"""Faults in the family diffuse."""

from .mutation import Mutation

ALIGNMENT = ["python_tests/test_diffuse.py", "-k", "cuda-on-host and begin_anywhere"]

MUTATIONS = [
    Mutation(
        "signal and noise swapped in the target",
        "csrc/cuda/diffuse.cu",
        "target[i] = c[2] * x[i] + c[3] * z[i];\n      if",
        "target[i] = c[3] * x[i] + c[2] * z[i];\n      if",
    ),
    Mutation(
        "signal and noise swapped in a dense target",
        "csrc/cuda/diffuse.cu",
        "target[i] = c[2] * x[i] + c[3] * z[i];\n    }\n    store",
        "target[i] = c[3] * x[i] + c[2] * z[i];\n    }\n    store",
    ),
    Mutation(
        "vectors of coefficients at addresses that are not aligned",
        "csrc/cuda/diffuse.cu",
        "p.row_size != p.shape.elements || !aligned",
        "p.row_size != p.shape.elements",
        ALIGNMENT,
    ),
    Mutation(
        "the two gradients swapped in the backward pass",
        "csrc/cuda/diffuse.cu",
        "c[columns.of_x_t] * g[i] + c[columns.of_target] * h[i]",
        "c[columns.of_x_t] * h[i] + c[columns.of_target] * g[i]",
    ),
    Mutation(
        "a unit's sums take in the next unit's first element",
        "csrc/cuda/diffuse.cu",
        "begin + i >= unit.end",
        "begin + i > unit.end",
    ),
    Mutation(
        "lanes skip some of the partial sums",
        "csrc/cuda/diffuse.cu",
        "unit < p.partition.units_per_row; unit += kWarpSize",
        "unit < p.partition.units_per_row; unit += kWarpSize + 1",
    ),
]
