"""`python -m benchmarks [family …]`; see `--help`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from . import __doc__ as description
from .ceilings import Ceilings, measure_ceilings
from .families import FAMILIES
from .harness import measure_family
from .machine import Machine, describe, provenance
from .plot import plot_family
from .promises import check
from .table import as_text, ceilings_text

RESULTS = Path(__file__).resolve().parent / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures the families asked for; 1 if `--check` found a promise missed or measured none."""
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    machine = describe(options.device)
    ceilings = measure_ceilings(machine)
    print(
        f"{machine.name}, {machine.threads} threads, {machine.instruction_set}\n{ceilings_text(ceilings.as_dict())}\n"
    )
    results = {name: _measured(name, machine, ceilings, options) for name in options.families or FAMILIES}
    others = max((case["load_of_others"] or 0 for cases in results.values() for case in cases), default=0)
    if others > 0.05:
        print(f"other processes kept up to {others:.0%} of the CPUs busy: these times are not worth keeping\n")
    # Part of a family is no result to keep, unless a folder for it is given.
    folder = options.out or (None if options.case else RESULTS / machine.slug)
    if folder is not None:
        for name, cases in results.items():
            head = {"family": name, **provenance(machine), "ceilings": ceilings.as_dict()}
            _write(folder / name, {**head, "cases": cases})
        print(f"written to {folder}")
    return _checked(results) if options.check else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("families", nargs="*", metavar="family", help=f"any of {', '.join(FAMILIES)}; default: all")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--threads", type=_positive, default=torch.get_num_threads(), help="of the CPU; default: torch's own number")
    add("--case", default="", metavar="TEXT", help="only cases whose name contains this text")
    add("--seconds", type=float, default=2.0, help="of cold calls for each contender of a case; default: 2")
    add("--out", type=Path, metavar="DIR", help="default: benchmarks/results/<machine>")
    add("--stop-after", type=float, default=float("inf"), metavar="SECONDS", help="begin no new case of a family then")
    add(
        "--check",
        action="store_true",
        help="hold the results to the families' promises; 1 on a miss or without any measured",
    )
    options = parser.parse_args(arguments)
    unknown = [name for name in options.families if name not in FAMILIES]
    if unknown:  # argparse's own choices refuse the empty list
        parser.error(f"family must be one of {', '.join(FAMILIES)}, got {unknown[0]!r}")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda needs a GPU that torch can use")
    return options


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a positive whole number, got {text!r}")
    return int(text)


def _measured(name: str, machine: Machine, ceilings: Ceilings, options: argparse.Namespace) -> list[dict[str, Any]]:
    cases, start = [], time.monotonic()
    for case in measure_family(FAMILIES[name], machine, ceilings, budget=options.seconds, only=options.case):
        print(as_text(case), end="\n\n", flush=True)
        cases.append(case)
        if time.monotonic() - start > options.stop_after:
            print(f"{name}: stopped after {len(cases)} cases")
            break
    return cases


def _write(stem: Path, result: dict[str, Any]) -> None:
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_suffix(".json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    plot_family(result, stem.with_suffix(".png"))


def _checked(results: dict[str, list[dict[str, Any]]]) -> int:
    held: list[bool] = []
    for name, cases in results.items():
        lines, family_held = check(FAMILIES[name].PROMISES, cases)
        held += family_held
        print("\n".join([f"promises of {name}", *(lines or ["  none"])]))
    if not held:
        print("no promise was measured")
    return 0 if held and all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
