"""`visgen-fast samplers`: lists the samplers, with what they cost and the order that they have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .options import parse

if TYPE_CHECKING:
    from ..diffusion.survey import SamplerFacts

HEADER = ("sampler", "calls", "slots", "read", "written", "order", "spread", "noise")
_MEANING = """\
For one step: network calls, and images read and written; guidance by two outputs reads one more a call. Slots: images
that are kept between steps. Order: of the error, without noise. Spread: how far the images' standard deviation is off
after 250 steps, with noise. Noise: an option adds it where that is named."""


def samplers(arguments: list[str]) -> int:
    options = parse(SamplersOptions, arguments, "visgen-fast samplers")
    from ..diffusion.survey import survey

    rows = [cells(one) for one in survey()]
    if options.markdown:
        print(as_markdown(rows))
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0))
    for number, title in enumerate(HEADER):
        table.add_column(title, justify="right" if 0 < number < 7 else "left", no_wrap=number == 0)
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    print(f"\n{_MEANING}")
    return 0


@dataclass(frozen=True)
class SamplersOptions:
    """List the samplers: what a step costs, and the order of the error, measured on a mixture of Gaussians."""

    markdown: bool = False
    """Print the table of the documentation."""


def cells(one: SamplerFacts) -> tuple[str, ...]:
    """A row of the table."""
    options = "".join(f" {name}={value}" for name, value in one.options.items())
    numbers = (one.calls, one.slots, one.read, one.written)
    order = "" if one.order is None else f"{one.order:.1f}"
    spread = "" if one.spread is None else f"{round(100 * one.spread, 1) + 0.0:.1f}%".replace("-", "−")
    return one.name + options, *map(str, numbers), order, spread, one.noise


def as_markdown(rows: list[tuple[str, ...]]) -> str:
    """The table in Markdown; numbers stand at the right."""
    lines = [HEADER, ("---", *["---:"] * 6, "---"), *((f"`{first}`", *others) for first, *others in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
