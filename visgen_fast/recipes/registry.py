"""Finds recipes: those of this folder by name, and a user's own by path. Listing them imports none."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from ..errors import UserError

_FOLDER = Path(__file__).parent
_NO_RECIPES = {"__init__", "registry", "runs"}


def recipe_names() -> dict[str, str]:
    """Every recipe's name with the first line of its docstring."""
    files = sorted(path for path in _FOLDER.glob("*.py") if path.stem not in _NO_RECIPES and path.stem[0] != "_")
    docstrings = {path.stem: ast.get_docstring(ast.parse(path.read_text())) or "" for path in files}
    return {stem.replace("_", "-"): docstring.partition("\n")[0] for stem, docstring in docstrings.items()}


def load_recipe(name: str) -> ModuleType:
    """The module of the recipe `name`, which may also be the path of a Python file.

    Raises `UserError` where there is no such recipe, or the file lacks what a recipe needs.
    """
    if name in recipe_names():
        return importlib.import_module(f"visgen_fast.recipes.{name.replace('-', '_')}")
    path = Path(name)
    if path.suffix != ".py" or not path.is_file():
        raise UserError(
            f"there is no recipe {name!r}; there are {', '.join(recipe_names())}, and Python files of your own"
        )
    module = _import_file(path)
    missing = [part for part in ("Settings", "images", "system") if not hasattr(module, part)]
    if missing:
        raise UserError(f"{path} is not a recipe: it lacks {', '.join(missing)}")
    return module


def _import_file(path: Path) -> ModuleType:
    specification = importlib.util.spec_from_file_location(f"visgen_fast_recipe_{path.stem}", path)
    assert specification is not None and specification.loader is not None  # true of every .py file
    module = importlib.util.module_from_spec(specification)
    # Dataclasses and pickling for loading processes look the module up by its name.
    sys.modules[module.__name__] = module
    specification.loader.exec_module(module)
    return module
