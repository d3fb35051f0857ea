"""`visgen-fast recipes`: lists the recipes."""

from __future__ import annotations

from .options import no_options


def recipes(arguments: list[str]) -> int:
    from rich.console import Console
    from rich.table import Table

    from ..recipes.registry import recipe_names

    no_options(arguments, "recipes", "List the recipes.")
    table = Table(box=None, show_header=False, padding=(0, 2))
    for name, line in recipe_names().items():
        table.add_row(name, line)
    Console().print(table)
    return 0
