"""Faults in select."""

from .mutation import Mutation

SELECT = ["python_tests/test_select.py", "-k", "cuda-on-host and (any_row or bad_logit)"]

MUTATIONS = [
    Mutation(
        "the logits of the next row can win",
        "csrc/cuda/select.cu",
        "begin + i < unit.begin || begin + i >= unit.end",
        "begin + i < unit.begin || begin + i > unit.end",
        SELECT,
    ),
    Mutation(
        "guidance leaves what one network masks",
        "csrc/cuda/select.cu",
        "c == -kInfinity<Real> || u == -kInfinity<Real>",
        "c == -kInfinity<Real> && u == -kInfinity<Real>",
        SELECT,
    ),
    Mutation(
        "the k-th largest logit is looked for one rank too far",
        "csrc/cuda/select.cu",
        "  k -= sum - own;",
        "  k -= sum - own - 1;",
        SELECT,
    ),
    Mutation(
        "no barrier before the bins are read",
        "csrc/cuda/select.cu",
        "    sync_block();\n    if (warp_index() == 0) find_bin",
        "    if (warp_index() == 0) find_bin",
        SELECT,
    ),
    Mutation(
        "codes as large as the drawn one count as above it",
        "csrc/cuda/select.cu",
        "if (logits[i] > logit) above += mass;",
        "if (logits[i] >= logit) above += mass;",
        SELECT,
    ),
    Mutation(
        "the bound of the noise is too low",
        "csrc/cuda/select.cu",
        "(16 + 127)) * 0x1p+23",
        "(14 + 127)) * 0x1p+23",
        SELECT,
    ),
    Mutation(
        "of equal scores the last code is drawn",
        "csrc/cuda/select.cu",
        "a.score == b.score && a.code < b.code",
        "a.score == b.score && a.code > b.code",
        SELECT,
    ),
    Mutation(
        "a redraw may give the code that was refused",
        "csrc/cuda/select.cu",
        "least = next_above(logit)",
        "least = logit",
        SELECT,
    ),
    Mutation(
        "a bad row is drawn from",
        "csrc/cuda/select.cu",
        "row.settings.bad || !(largest - largest == 0)",
        "row.settings.bad",
        SELECT,
    ),
]
