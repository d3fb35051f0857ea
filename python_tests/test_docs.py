"""README.md, CONTRIBUTING.md and docs/ tell the truth: snippets run, commands are understood, links lead somewhere.

The site that `make docs` builds of them needs nothing from a network, and tables are those of the stored results.
"""

from __future__ import annotations

import gc
import importlib
import re
import shlex
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import k_diffusion_formulas
import pytest

from benchmarks import tables
from benchmarks.families import FAMILIES
from visgen_fast import cli, ops
from visgen_fast.commands import encode, evaluate, export, index, judge, sample, schedule, train

ROOT = Path(__file__).resolve().parents[1]
OPERATIONS = sorted(set(ops.__all__) - {"Purpose"})
FAMILIES_OF_OPERATIONS = sorted({getattr(ops, name).__module__.rpartition(".")[2] for name in OPERATIONS})
MEASURED_AS = {"codebook": "residual_quantizer"}  # families that are measured as a part of another
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(language):
    """Every block of that language, by the name of its page and its number there."""
    pattern = re.compile(rf"^```{language}\n(.*?)^```", re.DOTALL | re.MULTILINE)
    found = ((page, pattern.findall(page.read_text())) for page in PAGES)
    return {f"{page.relative_to(ROOT)}-{n}": text for page, texts in found for n, text in enumerate(texts, 1)}


def commands():
    """Every command line of visgen-fast in the pages, torchrun's too."""
    text = "\n".join(blocks("bash").values())
    return sorted(set(re.findall(r"^(?:visgen-fast|torchrun .* visgen_fast) (.*?)(?:\s+#.*)?$", text, re.MULTILINE)))


@pytest.fixture
def k_diffusion(monkeypatch):
    """That package, or formulas under its name: it asks for dozens of others."""
    try:
        importlib.import_module("k_diffusion.sampling")
    except ImportError:
        package = ModuleType("k_diffusion")
        package.sampling = k_diffusion_formulas
        monkeypatch.setitem(sys.modules, "k_diffusion", package)
        monkeypatch.setitem(sys.modules, "k_diffusion.sampling", k_diffusion_formulas)


@pytest.mark.parametrize("name", blocks("python"))
def test_a_snippet_runs(name, k_diffusion):
    exec(compile(blocks("python")[name], name, "exec"), {})


def test_there_are_snippets_for_all_uses():
    assert len(re.findall(r"^\*\*\d\. ", (ROOT / "README.md").read_text(), re.MULTILINE)) == 5
    assert len(blocks("python")) >= 12 and len(commands()) >= 15


@pytest.mark.parametrize("command", commands())
def test_a_command_is_understood(command, monkeypatch):
    """Its recipe exists, and all its options; what it would do is left out."""
    monkeypatch.setattr(gc, "collect", lambda: 0)  # what a training leaves
    actions = ((train, "_train_recipe"), (sample, "draw"), (evaluate, "measure"), (schedule, "show"), (export, "write"))
    for module, action in (*actions, (encode, "keep"), (index, "make"), (judge, "show"), (judge, "rate")):
        monkeypatch.setattr(module, action, lambda *arguments: None)
    try:
        assert cli.main(shlex.split(command)) == 0
    except SystemExit as end:  # of --help
        assert end.code == 0


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_of_the_repository(page):
    links = re.findall(r"\]\(([^)#]+)", page.read_text())
    assert not [link for link in links if "://" not in link and not (page.parent / link).exists()]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_is_in_the_overview(operation):
    assert re.search(rf"`{operation}[(`]", (ROOT / "docs" / "operations" / "overview.md").read_text())


@pytest.mark.parametrize("family", FAMILIES_OF_OPERATIONS)
def test_a_family_has_a_page_and_a_benchmark(family):
    overview = (ROOT / "docs" / "operations" / "overview.md").read_text()
    assert f"[{family}]({family}.md)" in overview  # a link that another test follows
    assert f"- {family}: operations/{family}.md\n" in (ROOT / "mkdocs.yml").read_text()
    assert MEASURED_AS.get(family, family) in FAMILIES


def test_tables_are_made_from_the_stored_results():
    assert tables.main(["--check"]) == 0


class Resources(HTMLParser):
    """What a page loads, as opposed to what it links to."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        if tag != "a":
            self.found += [named[name] for name in ("src", "href", "srcset", "data", "poster") if named.get(name)]


def test_the_site_is_built_without_a_warning_and_loads_nothing_from_a_network(tmp_path):
    """A link or an anchor that leads nowhere is a warning, and strict building makes it an error."""
    from mkdocs.commands.build import build  # of the extra `docs`, which the other tests do without
    from mkdocs.config import load_config

    build(load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(tmp_path)))
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        parser = Resources()
        parser.feed(page.read_text())
        assert parser.found and not [link for link in parser.found if re.match(r"(\w+:)?//", link)]
    for style in tmp_path.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(\w+:)?//", style.read_text())
