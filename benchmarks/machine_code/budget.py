"""The committed numbers, and what a kernel must not need beyond them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE = Path(__file__).resolve().parents[1] / "results" / "machine_code" / "budget.json"
_SLACK = 1.03  # of issue slots


def entry(found: Mapping[str, Any]) -> dict[str, Any]:
    """What the budget holds of a case on an architecture."""
    if "cannot tell" in found:
        return {"cannot tell": found["cannot tell"]}
    return {
        "issue slots": found["issue slots"],
        "spills": found["spills"],
        "bank conflicts": found["bank conflicts"],
        "occupancy": min(launch["occupancy"] for launch in found["launches"]),
    }


def excesses(case: str, architecture: str, found: Mapping[str, Any], budget: Mapping[str, Any]) -> list[str]:
    """A sentence for each thing that costs more than the budget grants, or that is wrong."""
    where, now = f"{case}, {architecture}", entry(found)
    if "cannot tell" in now:
        return [] if "cannot tell" in budget else [f"{where}: cannot tell any more: {now['cannot tell']}."]
    said = [f"{where}: {event}: the emulation executes {due}, the machine code {executed}."
            for event, (due, executed) in found.get("disagreements", {}).items()]  # fmt: skip
    if found.get("differs", 0.0) > 1e-2:
        said.append(f"{where}: the machine code's results differ from the emulation's by {found['differs']:.1e}.")
    if "cannot tell" in budget:
        return said
    if now["issue slots"] > _SLACK * budget["issue slots"]:
        said.append(f"{where}: {now['issue slots']} issue slots, of which the budget grants {budget['issue slots']}.")
    if now["spills"] > budget["spills"]:
        said.append(f"{where}: {now['spills']} accesses to spilled registers, the budget grants {budget['spills']}.")
    if now["bank conflicts"] > budget["bank conflicts"] + 0.01:
        said.append(f"{where}: {now['bank conflicts']} turns of the banks lost a turn, the budget grants "
                    f"{budget['bank conflicts']}.")  # fmt: skip
    if now["occupancy"] < budget["occupancy"]:
        said.append(f"{where}: an occupancy of {now['occupancy']}, the budget asks for {budget['occupancy']}.")
    return said
