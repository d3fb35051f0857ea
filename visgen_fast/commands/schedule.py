"""`visgen-fast schedule`: shows noise schedules, and what their training weighs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from ..errors import UserError, writing
from .options import parse

if TYPE_CHECKING:
    from torch import Tensor

    from ..diffusion.objective import DiffusionObjective

_ROWS, _MOST = 11, 8


def schedule(arguments: list[str]) -> int:
    show(parse(ScheduleOptions, arguments, "visgen-fast schedule"))
    return 0


@dataclass(frozen=True)
class ScheduleOptions:
    """Show noise schedules: λ at times t, and whether their training is maximum likelihood; with --out as a figure.

    A schedule is a name with options, such as cosine, laplace:scale=0.5, or cosine:reference=16,resolution=64. Another
    name lists those that there are.
    """

    names: tyro.conf.Positional[tuple[str, ...]]
    """Schedules."""
    prediction: str = "v"
    """What the network predicts: x, epsilon, v, velocity or edm."""
    weight: str | None = None
    """Weight of the levels, such as min-snr:gamma=5; by default the error counts as it is."""
    out: Path | None = None
    """The PNG file to draw: λ(t), p(λ), w(λ), and an image noised at eight levels."""


def show(options: ScheduleOptions) -> None:
    """Prints, and draws, what the options of `schedule` ask for."""
    if not 1 <= len(options.names) <= _MOST:
        raise UserError(f"give one schedule or more, and at most {_MOST}, got {len(options.names)}")
    if options.out is not None and options.out.suffix.lower() != ".png":
        raise UserError(f"--out must be the name of a .png file, got {options.out}")
    try:
        objectives = {name: _objective(name, options) for name in options.names}
    except ValueError as error:
        raise UserError(str(error)) from error
    _print(objectives)
    if options.out is not None:
        from ..evaluation.schedule_figure import plot_schedules

        options.out.parent.mkdir(parents=True, exist_ok=True)
        with writing(options.out):
            plot_schedules(objectives, _image(), options.out)
        print(f"figure: {options.out}")


def _objective(name: str, options: ScheduleOptions) -> DiffusionObjective:
    from ..diffusion.named import named_schedule, named_weight
    from ..diffusion.objective import DiffusionObjective

    schedule, times = named_schedule(name)
    weight = None if options.weight is None else named_weight(options.weight)
    return DiffusionObjective(schedule, options.prediction, times, weight=weight)


def _print(objectives: dict[str, DiffusionObjective]) -> None:
    import torch
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("t", justify="right")
    for name in objectives:
        table.add_column(f"λ of {name}", justify="right", overflow="fold")
    times = torch.linspace(0, 1, _ROWS, dtype=torch.float64)
    columns = [objective.schedule.log_snr(times).tolist() for objective in objectives.values()]
    for t, *row in zip(times.tolist(), *columns, strict=True):
        table.add_row(f"{t:.1f}", *(_number(value) for value in row))
    Console().print(table)
    for name, objective in objectives.items():
        if objective.is_monotone():
            print(f"{name}: w(λ) never rises with λ: training is maximum likelihood of noised data")
        else:
            print(f"{name}: w(λ) rises somewhere with λ: training is no maximum likelihood")


def _number(value: float) -> str:
    """λ, which stops at ±175 where α or σ is 0."""
    return f"{value:.2f}" if abs(value) < 100 else ("∞" if value > 0 else "−∞")


def _image() -> Tensor:
    """A cat, [3, 100, 100] in [−1, 1], of scikit-image."""
    import torch
    from torch.nn import functional as F

    try:
        from skimage import data
    except ModuleNotFoundError as error:
        raise UserError("the image is scikit-image's: pip install scikit-image") from error
    pixels = torch.from_numpy(data.chelsea().copy()).permute(2, 0, 1)[:, :, 75:375].float()
    return F.avg_pool2d(pixels, 3) / 127.5 - 1
