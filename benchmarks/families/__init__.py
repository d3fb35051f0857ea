"""One file a family of operations: its cases, the ways people compute them today, and its promises.

The harness asks each for `cases(device)`, `workload(case, device)` and `PROMISES`.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

FAMILIES = {
    page.stem: import_module(f".{page.stem}", __name__) for page in sorted(Path(__file__).parent.glob("[a-z]*.py"))
}
