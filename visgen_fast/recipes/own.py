"""Recipes in Python files of the user's own, as modules `visgen_fast.recipes.own.<path in hexadecimal>`.

A module's name leads to its file, so that a loading process that starts without the file imported finds the classes of
images which are defined there.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

# Makes this module a package, whose modules the finder below finds.
__path__: list[str] = []


def import_file(path: Path) -> ModuleType:
    """The module of the Python file at `path`, run anew at each call."""
    name = f"{__name__}.{str(path.resolve()).encode().hex()}"
    sys.modules.pop(name, None)
    return importlib.import_module(name)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, location = fullname.rpartition(".")
        if package != __name__:
            return None
        return importlib.util.spec_from_file_location(fullname, bytes.fromhex(location).decode())


sys.meta_path.append(_Finder())
