"""An evaluation as files and as lines of text."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .figures import plot_invalid_codes
from .tokenizer import TokenizerEvaluation


def write(found: TokenizerEvaluation, out: Path, head: dict[str, Any]) -> None:
    """Writes evaluation.json, `head` and the measures, and invalid_codes.png where there is more than one depth."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "evaluation.json").write_text(json.dumps({**head, **asdict(found)}, indent=1) + "\n")
    if found.invalid_codes:
        plot_invalid_codes(found.invalid_codes, out / "invalid_codes.png")


def as_text(found: TokenizerEvaluation) -> str:
    """The measures for a terminal."""
    rows = {"PSNR": f"{found.psnr:.2f} dB"}
    if found.rfid is not None and found.kernel_distance is not None:
        rows |= {"rFID": f"{found.rfid:.4g}", "kernel distance": f"{found.kernel_distance:.3g}"}
    if found.usage:
        rows |= {
            "usage": " ".join(f"{share:.0%}" for share in found.usage),
            "perplexity": " ".join(f"{number:.0f}" for number in found.perplexity),
        }
    for space, summary in found.invalid_codes.items():
        rows[f"invalid ({space})"] = (
            f"{summary.invalid_share:.1%} no better than a shorter prefix; "
            f"{summary.non_improving_share:.1%} of the steps improve nothing"
        )
    width = max(map(len, rows)) + 2
    return "\n".join(f"{name + ':':<{width}}{value}" for name, value in rows.items())
