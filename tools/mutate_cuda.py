"""Seeds faults into the CUDA kernels, one at a time, and counts how many the emulated tests notice.

Each mutation is a small change of the text of one source, made in a copy of the tree. The copy's kernels are built for
the CPU and tested: first the fast build and then, if nothing was noticed, the one that checks every access to memory.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
KERNELS = ["python_tests/test_contract.py", "-k", "cuda-on-host and (equals_the_reference or gradients_equal)"]
HEADERS = ["python_tests/test_cuda_on_host.py"]
SEARCH = ["python_tests/test_quantize_search.py", "-k", "cuda-on-host"]
SCALAR = ["python_tests/test_finite_scalar.py", "python_tests/test_binary_quantize.py", "-k", "cuda-on-host"]
QUANTILE = ["python_tests/test_solve_quantile.py", "-k", "cuda-on-host"]
LOSS = ["python_tests/test_multiscale.py", "-k", "cuda-on-host"]
MODULATE = ["python_tests/test_modulate.py", "-k", "cuda-on-host"]


class Mutation(NamedTuple):
    """`old`, which occurs once in `file`, becomes `new`; `tests` are what should notice."""

    name: str
    file: str
    old: str
    new: str
    tests: list[str] = KERNELS


MUTATIONS = [
    Mutation(
        "a store one element past the end of a sample",
        "csrc/cuda/tile.cuh",
        "if (begin + i < shape.elements) data[",
        "if (begin + i <= shape.elements) data[",
    ),
    Mutation(
        "a load one element past the end of a sample",
        "csrc/cuda/tile.cuh",
        "begin + i < shape.elements ? decode",
        "begin + i <= shape.elements ? decode",
    ),
    Mutation(
        "the last, partial block of a sample is not launched",
        "csrc/cuda/tile.cuh",
        "(tiles + across - 1) / across",
        "(tiles + across - 1) / across - (tiles > across)",
    ),
    Mutation(
        "the stride of a wrong dimension",
        "csrc/cuda/tile.cuh",
        "(element - outer * shape.sizes[d]) * operand.strides[d]",
        "(element - outer * shape.sizes[d]) * operand.strides[d - 1]",
    ),
    Mutation(
        "wide accesses at addresses that are not aligned",
        "csrc/cuda/tile.cuh",
        "reinterpret_cast<uintptr_t>(operand.data) % alignment == 0",
        "reinterpret_cast<uintptr_t>(operand.data) % bytes == 0",
    ),
    Mutation(
        "all Philox blocks of a tile are its first",
        "csrc/cuda/tile.cuh",
        "block = cuda::philox_block(seed, stream, static_cast<uint64_t>(begin + i) / 4);\n    uint32_t word[4];",
        "block = cuda::philox_block(seed, stream, static_cast<uint64_t>(begin) / 4);\n    uint32_t word[4];",
    ),
    Mutation(
        "signal and noise swapped in the target",
        "csrc/cuda/diffuse.cu",
        "target[i] = c[2] * x[i] + c[3] * z[i];",
        "target[i] = c[3] * x[i] + c[2] * z[i];",
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
    Mutation(
        "every sample has the first one's noise",
        "csrc/cuda/noise.cu",
        "static_cast<uint64_t>(p.seeds[sample])",
        "static_cast<uint64_t>(p.seeds[0])",
    ),
    Mutation(
        "the last exchange of a warp's reduction is left out",
        "csrc/cuda/warp.cuh",
        "for (int mask = lanes / 2; mask > 0; mask /= 2)",
        "for (int mask = lanes / 2; mask > 1; mask /= 2)",
    ),
    Mutation(
        "no barrier before a block reads its warps' sums",
        "csrc/cuda/warp.cuh",
        "partial[warp_index()] = value;\n  sync_block();",
        "partial[warp_index()] = value;",
        HEADERS,
    ),
    Mutation(
        "no barrier before a block's sums are overwritten",
        "csrc/cuda/warp.cuh",
        "  sync_block();  // the next call may overwrite `partial`\n",
        "",
        HEADERS,
    ),
    Mutation(
        "the bound forgets that the residual was rounded",
        "csrc/cuda/quantize_filter.cuh",
        "(1 + 0x1p-8) * (rounding +",
        "(1 + 0x1p-8) * (0 * rounding +",
        SEARCH,
    ),
    Mutation(
        "the bound forgets that the codes were rounded",
        "csrc/cuda/quantize_filter.cuh",
        "(worst.error + D",
        "(D",
        SEARCH,
    ),
    Mutation(
        "the bound is believed where floats overflow",
        "csrc/cuda/quantize_filter.cuh",
        "if (!(norm <= kLargestNorm && worst.norm <= kLargestNorm)) return NAN;",
        "",
        SEARCH,
    ),
    Mutation(
        "a residual's lower half is joined to the rounded upper half",
        "csrc/cuda/quantize_filter.cuh",
        "upper[i] - (static_cast<uint32_t>(rest[i]) >> 15)",
        "upper[i]",
        SEARCH,
    ),
    Mutation(
        "equally near codes yield to the last",
        "csrc/cuda/quantize_row.cuh",
        "b.code < a.code)",
        "b.code > a.code)",
        SEARCH,
    ),
    Mutation(
        "codes that do not fit a list are forgotten",
        "csrc/cuda/quantize_candidates.cuh",
        "if (static_cast<int>(count) + total > capacity) return kOverflow;",
        "if (static_cast<int>(count) + total > capacity) return count;",
        SEARCH,
    ),
    Mutation(
        "a full list makes room by dropping the best",
        "csrc/cuda/quantize_candidates.cuh",
        "if (list[i].upper >= threshold) list[kept++]",
        "if (list[i].upper < threshold) list[kept++]",
        SEARCH,
    ),
    Mutation(
        "no barrier before a stage is read and the one before is overwritten",
        "csrc/cuda/quantize_candidates.cuh",
        "      sync_block();  // the stage is there, and the one before may be overwritten\n",
        "",
        SEARCH,
    ),
    Mutation(
        "a stage is read before its copies are done",
        "csrc/cuda/quantize_candidates.cuh",
        "wait_copies<kStages - 2>();",
        "wait_copies<kStages - 1>();",
        SEARCH,
    ),
    Mutation(
        "the last row of a ragged block is left out",
        "csrc/cuda/quantize_filter.cu",
        "if (global < p.rows && begin < D) load_row",
        "if (global + 1 < p.rows && begin < D) load_row",
        SEARCH,
    ),
    Mutation(
        "the last code of a ragged tile is left out",
        "csrc/cuda/quantize_prepare.cu",
        "const bool exists = code < books.codes;",
        "const bool exists = code + 1 < books.codes;",
        SEARCH,
    ),
    Mutation(
        "the last dimensions of the codes are left out",
        "csrc/cuda/quantize_prepare.cu",
        "if (usable && begin < D) load",
        "if (usable && begin + kSpan < D) load",
        SEARCH,
    ),
    Mutation(
        "what the codes have in common is not taken from their squares",
        "csrc/cuda/quantize_prepare.cu",
        "half_square += 0.5 * value * (e[i] + mu);",
        "half_square += 0.5 * value * value;",
        SEARCH,
    ),
    Mutation(
        "a scan leaves out the last code",
        "csrc/cuda/quantize_scan.cu",
        "code < p.codebooks.codes; code += kRowsPerBlock",
        "code + 1 < p.codebooks.codes; code += kRowsPerBlock",
        SEARCH,
    ),
    Mutation(
        "equal keys of one round are sorted to the same place",
        "csrc/cuda/sort.cu",
        "to[warp_index()][bin] + before;",
        "to[warp_index()][bin];",
        SEARCH,
    ),
    Mutation(
        "a bin begins anew in every round",
        "csrc/cuda/sort.cu",
        "begin += of_warp[warp][threadIdx.x];",
        "",
        SEARCH,
    ),
    Mutation(
        "a code that goes on in the next unit is taken for done",
        "csrc/cuda/code_sums.cu",
        "const bool is_part = !ends || (run == first && continued);",
        "const bool is_part = run == first && continued;",
        SEARCH,
    ),
    Mutation(
        "the gradient keeps the part along the mirror's axis",
        "csrc/cuda/quantize.cu",
        "g[i] + along_u * u + along_source * s[i]",
        "g[i] + along_source * s[i]",
    ),
    Mutation(
        "no barrier between loading rows and working on them",
        "csrc/cuda/finite_scalar.cu",
        "quantize(FiniteScalarParameters p, Levels<Real> levels) {\n  Real* rows = dynamic_shared<Real>();\n"
        "  load_rows<wide>(p, p.x, first_row<Real>(), rows);\n  sync_block();\n",
        "quantize(FiniteScalarParameters p, Levels<Real> levels) {\n  Real* rows = dynamic_shared<Real>();\n"
        "  load_rows<wide>(p, p.x, first_row<Real>(), rows);\n",
        SCALAR,
    ),
    Mutation(
        "no barrier before tables are overwritten",
        "csrc/cuda/binary_tables.cuh",
        "  sync_block();  // the factors are there, and nobody needs the last rows' tables any more\n",
        "",
        SCALAR,
    ),
    Mutation(
        "no barrier before a product's factors are read",
        "csrc/cuda/binary_tables.cuh",
        "first_high, high_count, high);\n    sync_block();\n",
        "first_high, high_count, high);\n",
        SCALAR,
    ),
    Mutation(
        "levels a half up are taken for those to nearest even",
        "csrc/cuda/finite_scalar.cu",
        "if (levels.round_half_up && level > bounded) level -= 1;",
        "",
        SCALAR,
    ),
    Mutation(
        "zero is a set bit",
        "csrc/cuda/binary_quantize.cu",
        "code = code * 2 + (u > 0);",
        "code = code * 2 + (u >= 0);",
        SCALAR,
    ),
    Mutation(
        "a row with NaN keeps its code",
        "csrc/cuda/code_rows.cuh",
        "p.codes[row] = has_nan ? 0 : code;",
        "p.codes[row] = code;",
        SCALAR,
    ),
    Mutation(
        "every group has the first one's bits",
        "csrc/cuda/binary_tables.cuh",
        "block.first + row, group.first + bit);",
        "block.first + row, bit);",
        SCALAR,
    ),
    Mutation(
        "a unit's last rows take in the next unit's",
        "csrc/cuda/binary_tables.cuh",
        "static_cast<int>(last - block.first < rows ? last - block.first : rows);",
        "rows;",
        SCALAR,
    ),
    Mutation(
        "the gradient keeps what points away from the sphere",
        "csrc/cuda/binary_quantize.cu",
        "(gradient[j] - along * x[j]) * factor",
        "gradient[j] * factor",
        SCALAR,
    ),
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
        LOSS,
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
    Mutation(
        "rows of modulation found by the strides of the row's neighbours",
        "csrc/ops/modulate.h",
        "offset += (row - outer * shape.sizes[d]) * operand.strides[d];",
        "offset += (row - outer * shape.sizes[d]) * operand.strides[d - 1];",
        MODULATE,
    ),
    Mutation(
        "wide accesses to rows that are not aligned",
        "csrc/cuda/modulate.cuh",
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
        MODULATE,
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
        MODULATE,
    ),
    Mutation(
        "the sums of a run's last unit are lost",
        "csrc/cuda/modulate.cu",
        "for (int64_t at = warp_index(); at < units; at += kWarps) {",
        "for (int64_t at = warp_index(); at < units - (p.units_per_run > 1); at += kWarps) {",
        MODULATE,
    ),
    Mutation(
        "a gradient of one number a row is one lane's share",
        "csrc/cuda/modulate.cu",
        "static_cast<Real>(warp_sum(numbers_[slot]))",
        "static_cast<Real>(numbers_[slot])",
        MODULATE,
    ),
    Mutation(
        "a quantile's second number is counted with the first",
        "csrc/cuda/solve.cu",
        "atomic_add(&counts[p.kBins + digit], 1u);",
        "atomic_add(&counts[digit], 1u);",
        QUANTILE,
    ),
    Mutation(
        "a quantile does not see NaN",
        "csrc/cuda/solve.cu",
        "if (denoised[i] != denoised[i]) atomic_add",
        "if (denoised[i] < denoised[i]) atomic_add",
        QUANTILE,
    ),
    Mutation(
        "a quantile's counts are added up before all threads have counted",
        "csrc/cuda/solve.cu",
        "  sync_block();\n  for (int i = threadIdx.x; i < p.kCounts; i += kBlockThreads) {",
        "  for (int i = threadIdx.x; i < p.kCounts; i += kBlockThreads) {",
        QUANTILE,
    ),
    Mutation(
        "a lane takes the first number of the next lane's digits for a quantile's",
        "csrc/cuda/solve.cu",
        "if (rank < 0 || rank >= own) continue;",
        "if (rank < 0 || rank > own) continue;",
        QUANTILE,
    ),
    Mutation(
        "a quantile's counts are kept for the next digit",
        "csrc/cuda/solve.cu",
        "i < p.kCounts; i += kWarpSize) counts[i] = 0;",
        "i < p.kCounts; i += kWarpSize) counts[i] += 0;",
        QUANTILE,
    ),
]


def copy_tree(to: Path) -> None:
    """What git knows or would add, and the CPU library that the tests of the emulation stand on."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    built = [str(path.relative_to(ROOT)) for path in (ROOT / "visgen_fast" / "lib").glob("*.so")]
    for name in filter(None, [*names, *built]):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)


def run_tests(tree: Path, tests: list[str], variant: str) -> str:
    """What the first failing test says, or that the process crashed; empty if all tests pass."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "VISGEN_CUDA_ON_HOST": variant}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider", *tests]
    result = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    if result.returncode == 0:
        return ""
    if result.returncode < 0:
        return f"the tests were ended by {signal.Signals(-result.returncode).name}"
    if result.returncode != 1 or "could not be built" in result.stdout:
        sys.exit(f"the tests could not be run:\n{result.stdout[-6000:]}{result.stderr[-2000:]}")
    reports = [line for line in result.stdout.splitlines() if line.startswith("E   ") or "kernel " in line]
    return (reports or result.stdout.splitlines())[0].removeprefix("E").strip()[:160]


def notice(tree: Path, tests: list[str]) -> str:
    """Which build notices, and what it says; empty if neither does."""
    for variant in ("fast", "checked"):
        report = run_tests(tree, tests, variant)
        if report:
            return f"{variant}: {report}"
    return ""


def check_fit(tree: Path, mutation: Mutation) -> None:
    if (tree / mutation.file).read_text().count(mutation.old) != 1:
        sys.exit(f"the mutation '{mutation.name}' does not fit {mutation.file} any more: write it anew")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="WORDS", help="those whose name or file contains these words")
    only = parser.parse_args().only
    chosen = [mutation for mutation in MUTATIONS if only in mutation.name or only in mutation.file]
    for mutation in chosen:
        check_fit(ROOT, mutation)
    with tempfile.TemporaryDirectory(prefix="visgen_fast-mutations-") as folder:
        tree = Path(folder)
        copy_tree(tree)
        for tests in (KERNELS, HEADERS, SEARCH, SCALAR, QUANTILE, LOSS, MODULATE):
            needed = any(mutation.tests is tests for mutation in chosen)
            report = notice(tree, tests) if needed else ""
            if report:
                sys.exit(f"the tests fail without any mutation: {report}")
        caught = 0
        for mutation in chosen:
            path, begin = tree / mutation.file, time.monotonic()
            original = path.read_text()
            path.write_text(original.replace(mutation.old, mutation.new))
            report = notice(tree, mutation.tests)
            path.write_text(original)
            caught += bool(report)
            verdict = f"caught   {mutation.name}\n         {report}" if report else f"MISSED   {mutation.name}"
            print(f"{verdict}   ({time.monotonic() - begin:.0f} s)", flush=True)
    print(f"caught {caught} of {len(chosen)}")
    return 0 if caught == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
