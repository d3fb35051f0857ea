"""Finds recipes: those of this folder by name, and a user's own by path. Listing them imports none."""

from __future__ import annotations

import ast
import importlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..untrusted import escaped
from .own import import_file

if TYPE_CHECKING:
    from .recipe import Recipe


def recipe_names() -> dict[str, str]:
    """Every recipe's name with its description: a file's, which defines a RECIPE, with its docstring's first line."""
    trees = {path.stem: ast.parse(path.read_text("utf-8")) for path in sorted(Path(__file__).parent.glob("[a-z]*.py"))}
    return {stem.replace("_", "-"): _first_line(ast.get_docstring(tree)) for stem, tree in trees.items() if _has(tree)}


def _has(tree: ast.Module) -> bool:
    """Whether a file defines a RECIPE."""
    targets = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    return any(isinstance(target, ast.Name) and target.id == "RECIPE" for target in targets)


def _first_line(docstring: str | None) -> str:
    return (docstring or "").strip().partition("\n")[0]


def trained_recipe(name: str, file: Path | None = None) -> Recipe[Any]:
    """The recipe that a checkpoint names: a built-in one, or the user's own in `file`.

    What a checkpoint names is never run unless it comes with the package, for a checkpoint may be anybody's. Raises
    `UserError` where it names another and `file` is None, or `file` is given for a built-in one.
    """
    if file is None and name not in recipe_names():
        raise UserError(
            f"the checkpoint was made by a recipe that does not come with visgen-fast, {escaped(name, 200)}: "
            "give its file as --recipe, if you trust it"
        )
    if file is not None and name in recipe_names():
        raise UserError(f"the checkpoint was made by the recipe {name}, which needs no --recipe, got {file}")
    return load_recipe(name if file is None else str(file))


def load_recipe(name: str) -> Recipe[Any]:
    """The recipe `name`, which may also be the path of a Python file that defines one as RECIPE.

    Raises `UserError` where there is no such recipe, or the file defines none.
    """
    from ..data.datasets import CLIPS, DATASETS, FOLDER
    from .recipe import Recipe

    if name in recipe_names():
        module = importlib.import_module(f"{__package__}.{name.replace('-', '_')}")
    else:
        path = Path(name)
        if path.suffix != ".py" or not path.is_file():
            hint = f" ({name} is a data set: --dataset {name})" if name in {*DATASETS} - {FOLDER, CLIPS} else ""
            there = f"{', '.join(recipe_names())}, and Python files of your own"
            raise UserError(f"there is no recipe {name!r}{hint}; there are {there}")
        module = import_file(path)
    recipe = getattr(module, "RECIPE", None)
    if not isinstance(recipe, Recipe):
        raise UserError(f"{name} is not a recipe: it defines no RECIPE = Recipe(settings, pictures, system)")
    return replace(recipe, name=name, description=_first_line(module.__doc__))
