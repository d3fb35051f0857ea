"""The README tells the truth: its snippets run, what it links to exists, its tables are those of the stored results."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import tables

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_a_snippet_runs(number):
    exec(compile(SNIPPETS[number], f"README.md, snippet {number + 1}", "exec"), {})


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_links_lead_somewhere(document):
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / document).read_text())
    missing = [link for link in links if "://" not in link and not (ROOT / link).exists()]
    assert not missing


def test_there_are_snippets_for_all_python_uses():
    assert len(SNIPPETS) == 4


def test_tables_are_made_from_the_stored_results():
    assert tables.main(["--check"]) == 0
