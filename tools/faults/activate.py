"""Faults in the family activate."""

from .mutation import Mutation

TESTS = ["python_tests/test_activate.py", "-k", "cuda-on-host"]
MUTATIONS = [
    Mutation(
        "every row has the first one's numbers",
        "csrc/cuda/activate.cu",
        "load_columns(p.x[half], Row(p.x[half], p.shape, row), begin, out);",
        "load_columns(p.x[half], Row(p.x[half], p.shape, 0), begin, out);",
    ),
    Mutation(
        "the slope of a gate without what it multiplies",
        "csrc/cuda/activate.cu",
        "          incoming[i] *= value[i];\n",
        "",
    ),
    Mutation(
        "the last rows of a unit are not added up",
        "csrc/cuda/activate.cu",
        "== kRowsOfSum - 1 || row == last - 1) sums",
        "== kRowsOfSum - 1) sums",
        TESTS,
    ),
    Mutation(
        "both halves' sums in the place of the first",
        "csrc/cuda/activate.cu",
        "(unit * kHalves + half) * p.columns",
        "unit * kHalves * p.columns",
    ),
    Mutation(
        "strips behind the last column",
        "csrc/cuda/activate.cu",
        "if (begin >= p.columns) return;",
        "if (begin > p.columns) return;",
    ),
    Mutation(
        "a bias of columns that are not aligned is read wide",
        "csrc/cuda/activate.cu",
        "all = all && has_wide_columns(p.bias[half], p.shape, span);",
        "",
    ),
    Mutation(
        "numbers beyond all bounds have no bound",
        "csrc/common/activations.h",
        "return x > bound ? Value{} + bound : x;",
        "return x;",
        TESTS,
    ),
]
