"""`python -m benchmarks.tables` writes the stored results into README.md, between two markers; `--check` only compares.

The markers are `<!-- benchmarks -->` and `<!-- /benchmarks -->`, each on a line of its own. For each machine with
results in benchmarks/results/ there is one table a family; nothing in it is written by hand.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .table import as_markdown

REPOSITORY = Path(__file__).resolve().parent.parent
_BEGIN, _END = "<!-- benchmarks -->\n", "<!-- /benchmarks -->"


def main(arguments: Sequence[str] | None = None) -> int:
    """Rewrites the block; with `--check` returns 1 where it is out of date."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tables", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1 if the block is out of date")
    parser.add_argument("--readme", type=Path, default=REPOSITORY / "README.md")
    parser.add_argument("--results", type=Path, default=REPOSITORY / "benchmarks" / "results")
    options = parser.parse_args(arguments)
    before = options.readme.read_text()
    try:
        after = with_block(before, block(options.results, options.readme.parent))
    except ValueError as error:
        parser.error(f"{options.readme} {error}")
    if options.check:
        return int(before != after)
    options.readme.write_text(after)
    return 0


def with_block(text: str, content: str) -> str:
    """`text` with what stands between the markers replaced; ValueError unless each marker is there once, in order."""
    head, begin, rest = text.partition(_BEGIN)
    _, end, tail = rest.partition(_END)
    if not begin or not end or _BEGIN in tail or _END in tail:
        raise ValueError(f"must hold {_BEGIN.strip()} and {_END} once each, in this order")
    return head + begin + content + end + tail


def block(results: Path, root: Path) -> str:
    """The Markdown of all stored results; pictures are linked relative to `root`."""
    return "\n".join(_machine_text(folder, root) for folder in sorted({path.parent for path in _stored(results)}))


def _stored(results: Path) -> list[Path]:
    return sorted(path for path in results.glob("*/*.json") if path.name != "report.json")


def _machine_text(folder: Path, root: Path) -> str:
    families = [json.loads(path.read_text()) for path in _stored(folder.parent) if path.parent == folder]
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
    widest = f" ({instruction_set.upper().replace('AVX512', 'AVX-512')})" if instruction_set else ""
    header = [result["family"], f"ours{widest}, ms", *(f"{name}, ms" for name in peers)]
    return as_markdown(
        [*header, "× faster than the best peer", "× the floor"], [_row(case, peers) for case in result["cases"]]
    )


def _row(case: Mapping[str, Any], peers: Sequence[str]) -> list[str]:
    entries = case["entries"]
    times = [f"{entries[name]['cold']['median'] * 1e3:.3g}" if name in entries else "–" for name in ("ours", *peers)]
    faster, over = entries["ours"]["times_faster_than_best_peer"], entries["ours"]["times_floor"]
    return [case["name"], *times, f"**{faster:.1f}**", f"{over:.1f}"]


if __name__ == "__main__":
    sys.exit(main())
