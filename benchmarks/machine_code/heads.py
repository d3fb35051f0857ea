"""The paragraph in the head of each family's .cu file that says what its kernels need."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from typing import Any

from .launches import ROOT
from .report import number

_BEGIN = "// Issue slots an element"
_PARAGRAPH = re.compile(rf"//\n{_BEGIN}.*\n(?:// .*\n)*")


def head(family: str, units: Mapping[str, str], granted: Mapping[str, Any]) -> str:
    """The paragraph for the cases of a family, whose units are `units`."""
    told = []
    for case, unit in units.items():
        entry = granted[case]["sm_90"]
        slots = number(entry["issue slots"]) if "issue slots" in entry else "not counted"
        told.append(f"{case} {slots}" + ("" if unit == "element" else f" a {unit}"))
    text = f"Issue slots an element in the machine code for 9.0 (benchmarks/machine_code): {', '.join(told)}."
    return "//\n" + "".join(f"// {line}\n" for line in textwrap.wrap(text, 117))


def with_head(source: str, paragraph: str) -> str:
    """The source with this paragraph at the end of its head, in the place of an older one."""
    source = _PARAGRAPH.sub("", source, count=1)
    start = source.index("#include")
    return source[:start] + paragraph + source[start:]


def write(family: str, units: Mapping[str, str], granted: Mapping[str, Any], check: bool = False) -> bool:
    """Whether the file says what is counted; it does afterwards, unless `check`."""
    file = ROOT / "csrc" / "cuda" / f"{family}.cu"
    before = file.read_text()
    after = with_head(before, head(family, units, granted))
    if after != before and not check:
        file.write_text(after)
    return after == before
