"""Faults in finite_scalar and binary_quantize."""

from .mutation import Mutation

TESTS = ["python_tests/test_finite_scalar.py", "python_tests/test_binary_quantize.py", "-k", "cuda-on-host"]
MUTATIONS = [
    Mutation(
        "no barrier between loading rows and working on them",
        "csrc/cuda/finite_scalar.cu",
        "quantize(FiniteScalarParameters p, Levels<Real> levels) {\n  Real* rows = dynamic_shared<Real>();\n"
        "  load_rows<wide>(p, p.x, first_row<Real>(), rows);\n  sync_block();\n",
        "quantize(FiniteScalarParameters p, Levels<Real> levels) {\n  Real* rows = dynamic_shared<Real>();\n"
        "  load_rows<wide>(p, p.x, first_row<Real>(), rows);\n",
        TESTS,
    ),
    Mutation(
        "no barrier before tables are overwritten",
        "csrc/cuda/binary_tables.cuh",
        "  sync_block();  // the factors are there, and nobody needs the last rows' tables any more\n",
        "",
        TESTS,
    ),
    Mutation(
        "no barrier before a product's factors are read",
        "csrc/cuda/binary_tables.cuh",
        "first_high, high_count, high);\n    sync_block();\n",
        "first_high, high_count, high);\n",
        TESTS,
    ),
    Mutation(
        "levels a half up are taken for those to nearest even",
        "csrc/cuda/finite_scalar.cu",
        "if (levels.round_half_up && level > bounded) level -= 1;",
        "",
        TESTS,
    ),
    Mutation(
        "zero is a set bit",
        "csrc/cuda/binary_quantize.cu",
        "code = code * 2 + (u > 0);",
        "code = code * 2 + (u >= 0);",
        TESTS,
    ),
    Mutation(
        "a row with NaN keeps its code",
        "csrc/cuda/code_rows.cuh",
        "p.codes[row] = has_nan ? 0 : code;",
        "p.codes[row] = code;",
        TESTS,
    ),
    Mutation(
        "every group has the first one's bits",
        "csrc/cuda/binary_tables.cuh",
        "block.first + row, group.first + bit);",
        "block.first + row, bit);",
        TESTS,
    ),
    Mutation(
        "a unit's last rows take in the next unit's",
        "csrc/cuda/binary_tables.cuh",
        "static_cast<int>(last - block.first < rows ? last - block.first : rows);",
        "rows;",
        TESTS,
    ),
    Mutation(
        "the gradient keeps what points away from the sphere",
        "csrc/cuda/binary_quantize.cu",
        "(gradient[j] - along * x[j]) * factor",
        "gradient[j] * factor",
        TESTS,
    ),
]
