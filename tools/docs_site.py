"""MkDocs' hook: pages and images from outside docs/, tables of settings, and formulas as MathML.

A browser draws MathML without a script or a font from elsewhere. `{{ settings MODULE.CLASS }}` on a line of its own
becomes a table of the fields of that class of settings, as options of the command line.

Links are written so that they lead to the right file of the repository. Here they become links of the site, where the
files of docs/ lie beside README.md (the home page), CONTRIBUTING.md, CHANGELOG.md and benchmarks/results.
"""

from __future__ import annotations

import html
import os
import re
from functools import cache
from pathlib import Path

import griffe
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"

_LINK = re.compile(r"(?<=\]\()(?!\w+:)([^)#\s]+)")
_SETTINGS = re.compile(r"^\{\{ settings ([\w.]+)\.(\w+) \}\}$", re.MULTILINE)
_INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
_DISPLAY = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds what lies outside docs/."""
    results = ROOT / "benchmarks" / "results"
    outside = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    for path in (*outside, *results.rglob("*.png"), *results.rglob("*.md")):
        name = path.relative_to(ROOT).as_posix()
        files.append(File(name, str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links between files of the repository into links between those of the site; makes tables of settings."""
    assert page.file.abs_src_path is not None
    here = Path(page.file.abs_src_path)

    def site_link(match: re.Match[str]) -> str:
        target = Path(os.path.normpath(here.parent / match[1]))
        return os.path.relpath(_place(target), _place(here).parent)

    return _SETTINGS.sub(lambda match: _settings_table(match[1], match[2]), _LINK.sub(site_link, markdown))


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns formulas into MathML."""
    content = _INLINE.sub(lambda match: _mathml(match[1], "inline"), content)
    return _DISPLAY.sub(lambda match: _mathml(match[1], "block"), content)


def _mathml(escaped: str, display: str) -> str:
    formula = convert(html.unescape(escaped), display=display)
    # The bars of norms stand close and do not stretch: a converter cannot know which of them belong together.
    formula = formula.replace("<mo>&#x02016;</mo>", '<mo stretchy="false" lspace="0" rspace="0">&#x02016;</mo>')
    if "\\" in formula:  # a command that the converter does not know stays as it is
        raise PluginError(f"this formula cannot be turned into MathML: {html.unescape(escaped)}")
    return formula


def _settings_table(module: str, name: str) -> str:
    """The fields of a class of settings that it has or changes itself: option, default, meaning."""
    rows = ["| option | default | |", "|---|---|---|"]
    settings = _package()[f"{module.partition('.')[2]}.{name}"]
    for field, attribute in settings.members.items():
        if not attribute.is_attribute or field.isupper() or "property" in attribute.labels:
            continue  # what is in capitals is of the class, not of a run
        # A class that only changes a default leaves the meaning to the class that it derives from.
        said = [c.members[field].docstring for c in (settings, *settings.mro()) if field in c.members]
        meaning = " ".join(next(filter(None, said)).value.split())
        default = str(attribute.value or "").strip("'\"")
        choices = re.search(r"Literal\[(.*)\]", str(attribute.annotation))
        option = f"--{field.replace('_', '-')}" + (f" {choices[1]}".replace("'", "") if choices else "")
        rows.append(f"| `{option}` | {f'`{default}`' if default else ''} | {meaning} |")
    return "\n".join(rows)


@cache
def _package() -> griffe.Object | griffe.Alias:
    return griffe.load("visgen_fast", search_paths=[ROOT])


def _place(path: Path) -> Path:
    """Where a file of the repository lies in the site."""
    return path.relative_to(DOCS if path.is_relative_to(DOCS) else ROOT)
