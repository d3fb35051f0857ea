"""`python -m benchmarks.tables` writes the stored results into README.md and docs/, between markers; `--check` looks.

The markers are `<!-- NAME -->` and `<!-- /NAME -->`, each on a line of its own, and nothing between them is written by
hand. NAME is

    benchmarks            five rows for the README
    benchmarks FAMILY     the plot, the table and the promises of a family, for each machine with results
    invalid codes         what the study of that name found
    noise levels          likewise
    noise levels seen     the same in a sentence, for the README
    freed memory          what keeping it saves
    truth                 verdicts on the claims of the texts
    paths PART            what a part of the study of paths found
    machine code          bounds of the CUDA kernels, counted
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import freed_memory, invalid_codes_report, noise_levels_report, paths
from .families import FAMILIES
from .machine_code import report as machine_code_report
from .promises import NotMeasured, Promise
from .table import as_markdown, details, milliseconds
from .truth import report as truth_report

REPOSITORY = Path(__file__).resolve().parent.parent
# What the README shows: one machine, and of it one case of each kind of operation.
HEADLINE_MACHINE = "amd-epyc-2-threads-avx512"
HEADLINES = (
    "diffuse velocity float32 16×3×256×256",
    "residual_quantize 16384×64 K=1024 Q=4",
    "ResidualQuantizer training 16384×64 K=1024 Q=4",
    "finite_scalar_quantize float32 65536×4 levels 8,5,5,5",
    "lookup_free_quantize float32 65536×18 groups of 9",
)
_STUDIES = {
    "invalid codes": ("invalid_codes", invalid_codes_report.block),
    "noise levels": ("noise_levels", noise_levels_report.block),
    "freed memory": ("freed_memory", freed_memory.block),
    "noise levels seen": ("noise_levels", noise_levels_report.headline),
    "truth": ("truth", truth_report.block),
    **{f"paths {part}": (f"paths/{part}", paths.block) for part in paths.PARTS},
    "machine code": ("machine_code", machine_code_report.block),
}
_NAMES = "benchmarks|invalid codes|noise levels|freed memory|truth|paths|machine code"
_MARKER = re.compile(rf"^<!-- ((?:{_NAMES}).*) -->$", re.MULTILINE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Rewrites the blocks; with `--check` returns 1 where one is out of date."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tables", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1 if a block is out of date")
    parser.add_argument("--repository", type=Path, default=REPOSITORY, help="with README.md, docs/, benchmarks/")
    options = parser.parse_args(arguments)
    outdated = []
    for page in [options.repository / "README.md", *sorted((options.repository / "docs").rglob("*.md"))]:
        before = after = page.read_text()
        try:
            for name in _MARKER.findall(before):
                after = with_block(after, name, block(name, page, options.repository / "benchmarks" / "results"))
        except ValueError as error:
            parser.error(f"{page} {error}")
        if before != after:
            outdated.append(page)
            if not options.check:
                page.write_text(after)
    print("\n".join(f"{page}: {'out of date' if options.check else 'written'}" for page in outdated))
    return int(options.check and bool(outdated))


def with_block(text: str, name: str, content: str) -> str:
    """`text` with what stands between the markers `name` replaced; ValueError unless each is there once, in order."""
    begin_marker, end_marker = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    head, begin, rest = text.partition(begin_marker)
    _, end, tail = rest.partition(end_marker)
    if not begin or not end or begin_marker in tail or end_marker in tail:
        raise ValueError(f"must hold {begin_marker.strip()} and {end_marker} once each, in this order")
    return head + begin + content + end + tail


def block(name: str, page: Path, results: Path) -> str:
    """What stands between the markers `name` in `page`, whose links are relative to it; "" where nothing is stored."""
    kind, _, family = name.partition("benchmarks ")
    if name in _STUDIES:
        folder, part = _STUDIES[name]
        return part(results / folder / "results.json", page)
    if name == "benchmarks":
        return headlines(results / HEADLINE_MACHINE)
    if kind or family not in FAMILIES:
        known = ", ".join(["benchmarks", "benchmarks FAMILY", *_STUDIES])
        raise ValueError(f"has a marker {name!r}, which is none of {known}")
    studies = {folder for folder, _ in _STUDIES.values()}
    stored = sorted(path for path in results.glob(f"*/{family}.json") if path.parent.name not in studies)
    return "\n".join(_family_text(path, FAMILIES[family].PROMISES, page) for path in stored)


def headlines(folder: Path) -> str:
    """Five rows: our time, that of the best peer and its name, and how many times faster we are."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    cases = {case["name"]: case for result in found for case in result["cases"]}
    rows = [_headline(cases[name]) for name in HEADLINES if name in cases]
    if not rows:
        return ""
    header = [_machine_name(found[0]["machine"]), "visgen_fast, ms", "best peer, ms", "best peer", "times faster"]
    return as_markdown(header, rows) + "\n"


def _headline(case: Mapping[str, Any]) -> list[str]:
    ours = case["entries"]["ours"]
    peers = {name: entry["cold"]["median"] for name, entry in case["entries"].items() if entry["peer"]}
    best = min(peers, key=lambda name: peers[name])
    faster = f"**{ours['times_faster_than_best_peer']:.1f}**"
    return [f"`{case['name']}`", milliseconds(ours["cold"]["median"]), milliseconds(peers[best]), best, faster]


def _family_text(path: Path, promises: Sequence[Promise], page: Path) -> str:
    family = json.loads(path.read_text())
    machine, name = _machine_name(family["machine"]), family["family"]
    plot = path.with_suffix(".png")
    parts = [
        f"`{name}` on **{machine}** ({family['machine']['instruction_set']}, "
        f"{family['ceilings']['copy_bytes'] / 1e9:.0f} GB/s copy), torch {family['versions']['torch']}, commit "
        f"{family['commit']}, {family['date'][:10]}:"
    ]
    if plot.exists():
        parts.append(f"![{name} on {machine}]({_link(plot, page)})")
    parts += [family_table(family), *map(_details_table, family["cases"]), promises_table(family, promises)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _machine_name(machine: Mapping[str, Any]) -> str:
    return f"{machine['name']}, {machine['threads']} threads" if machine["device"] == "cpu" else machine["name"]


def _link(target: Path, page: Path) -> str:
    return Path(os.path.relpath(target, page.parent)).as_posix()


def family_table(result: Mapping[str, Any]) -> str:
    """Case, our time, each peer's time, how many times faster than the best of them, how many times the floor."""
    entries = [case["entries"] for case in result["cases"]]
    # The cases' peers in order of appearance: where noise is given, nobody draws it.
    peers = list(dict.fromkeys(name for case in entries for name, entry in case.items() if entry["peer"]))
    instruction_set = entries[0]["ours"]["instruction_set"]  # none on a GPU
    widest = f" ({instruction_set.upper().replace('AVX512', 'AVX-512 ').strip()})" if instruction_set else ""
    header = [result["family"], f"ours{widest}, ms", *(f"{name}, ms" for name in peers)]
    return as_markdown(
        [*header, "× faster than the best peer", "× the floor"], [_row(case, peers) for case in result["cases"]]
    )


def _row(case: Mapping[str, Any], peers: Sequence[str]) -> list[str]:
    entries = case["entries"]
    times = [milliseconds(entries[name]["cold"]["median"]) if name in entries else "–" for name in ("ours", *peers)]
    faster, over = entries["ours"]["times_faster_than_best_peer"], entries["ours"]["times_floor"]
    return [case["name"], *times, f"**{faster:.1f}**", f"{over:.1f}"]


def _details_table(case: Mapping[str, Any]) -> str:
    header, *body = details(case) or [("",)]
    return as_markdown([case["name"], *header[1:]], body) if body else ""


def promises_table(result: Mapping[str, Any], promises: Sequence[Promise]) -> str:
    """Each promise that this machine can say something about, its bound, and what was measured; "" without any."""
    cases = {case["name"]: case for case in result["cases"]}
    rows = []
    for promise in promises:
        try:
            if all(name in cases for name in promise.needs):
                value = promise.measure(cases)
                rows.append([f"{promise.text} ({promise.needs[0]})", promise.bound, f"{value:.2f}"])
        except NotMeasured:
            continue
    return as_markdown(["promised", "bound", "measured"], rows) if rows else ""


if __name__ == "__main__":
    sys.exit(main())
