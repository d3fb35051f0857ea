"""`python -m benchmarks.tables` writes the stored results into README.md, between markers; `--check` only compares.

The markers are `<!-- NAME -->` and `<!-- /NAME -->`, each on a line of its own, and nothing between them is written by
hand: `benchmarks` has one table a family for each machine with results in benchmarks/results/, `invalid codes` what the
study of that name found, if its results are there.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import invalid_codes_report
from .table import as_markdown, milliseconds

REPOSITORY = Path(__file__).resolve().parent.parent


def main(arguments: Sequence[str] | None = None) -> int:
    """Rewrites the blocks; with `--check` returns 1 where one is out of date."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tables", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1 if a block is out of date")
    parser.add_argument("--readme", type=Path, default=REPOSITORY / "README.md")
    parser.add_argument("--results", type=Path, default=REPOSITORY / "benchmarks" / "results")
    options = parser.parse_args(arguments)
    before = options.readme.read_text()
    root = options.readme.parent
    try:
        after = with_block(before, "benchmarks", block(options.results, root))
        study = options.results / "invalid_codes" / "results.json"
        after = with_block(after, "invalid codes", invalid_codes_report.block(study, root))
    except ValueError as error:
        parser.error(f"{options.readme} {error}")
    if options.check:
        return int(before != after)
    options.readme.write_text(after)
    return 0


def with_block(text: str, name: str, content: str) -> str:
    """`text` with what stands between the markers `name` replaced; ValueError unless each is there once, in order."""
    begin_marker, end_marker = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    head, begin, rest = text.partition(begin_marker)
    _, end, tail = rest.partition(end_marker)
    if not begin or not end or begin_marker in tail or end_marker in tail:
        raise ValueError(f"must hold {begin_marker.strip()} and {end_marker} once each, in this order")
    return head + begin + content + end + tail


def block(results: Path, root: Path) -> str:
    """The Markdown of all measured families; pictures are linked relative to `root`."""
    machines: dict[Path, list[dict[str, Any]]] = {}
    for path in sorted(results.glob("*/*.json")):
        content = json.loads(path.read_text())
        if "family" in content:  # studies and reports lie beside them
            machines.setdefault(path.parent, []).append(content)
    return "\n".join(_machine_text(folder, families, root) for folder, families in machines.items())


def _machine_text(folder: Path, families: Sequence[Mapping[str, Any]], root: Path) -> str:
    first, sections = families[0], []
    machine, ceilings = first["machine"], first["ceilings"]
    where = f"{machine['name']}, {machine['threads']} threads" if machine["device"] == "cpu" else machine["name"]
    head = f"**{where}** ({machine['instruction_set']}, {ceilings['copy_bytes'] / 1e9:.0f} GB/s copy)"
    for family in families:
        source = f"torch {family['versions']['torch']}, commit {family['commit']}, {family['date'][:10]}"
        picture = folder / f"{family['family']}.png"
        link = (
            f"![{family['family']} on {where}]({picture.relative_to(root).as_posix()})\n\n" if picture.exists() else ""
        )
        sections.append(f"{link}{family_table(family)}\n\n<sub>`{family['family']}`: {source}</sub>\n")
    return f"{head}\n\n" + "\n".join(sections)


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


if __name__ == "__main__":
    sys.exit(main())
