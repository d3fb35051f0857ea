"""What a run shows of itself while it goes on: progress bar, losses.csv, TensorBoard, sample grids, loss curve.

OUT/
    settings.json          recipe and settings
    losses.csv             step, loss, learning rate, gradient norm, images per second, other players' losses, metrics
    loss.png               its curve
    FIGURE.png             the run's figure at the end: samples, one row a class; a tokenizer's reconstructions
    FIGURE/                the figure on the way
    metrics.json           what the finished system measured on images that were held out
    tensorboard/           the same for TensorBoard
    checkpoints/           see training/checkpoint.py
"""

from __future__ import annotations

import csv
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from ..errors import writing
from .figures import image_grid, loss_curve
from .losses import read_losses
from .pace import Pace

COLUMNS = ("step", "loss", "learning_rate", "gradient_norm", "images_per_second")


class Report:
    """The reports of one run on its main rank. It shows the progress bar until `close`.

    `figure` and `metric_names` are the system's. Raises `UserError` where the disk refuses.
    """

    def __init__(
        self, out: Path, *, steps: int, start: int, figure: str = "samples", metric_names: Sequence[str] = ()
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.out, self.figure, self.columns = out, figure, (*COLUMNS, *metric_names)
        with writing(out):
            (out / figure).mkdir(parents=True, exist_ok=True)
            self._losses = _open_losses(out / "losses.csv", start, self.columns)
            self._rows = csv.writer(self._losses, lineterminator="\n")
            self._board = SummaryWriter(out / "tensorboard", purge_step=start + 1)
        self.console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}"),
            TextColumn("{task.fields[pace]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._task = self._progress.add_task("training", total=steps, completed=start, loss="–", pace="– images/s")
        self._progress.start()
        self._steps, self._start, self._began, self._told = steps, start, time.monotonic(), start

    def close(self) -> None:
        self._progress.stop()
        try:
            with writing(self.out / "losses.csv"):
                self._losses.close()
        finally:
            with writing(self.out / "tensorboard"):
                self._board.close()

    def losses(
        self,
        step: int,
        loss: float,
        learning_rate: float,
        gradient_norm: float,
        pace: Pace,
        *metrics: float,
        shown: float | None = None,
    ) -> dict[str, float]:
        """Notes the mean loss and metrics since the last call, and the last gradient norm, at `step`.

        `shown` is the loss for the terminal, where that of the first player is not known because it rested. Returns all
        of the row by name, and the pace.
        """
        said = f"{loss if shown is None else shown:.4f}"
        numbers = (
            f"{learning_rate:.6g}",
            f"{gradient_norm:.6g}",
            f"{pace.images:.1f}",
            *(f"{value:.6g}" for value in metrics),
        )
        row = (loss, learning_rate, gradient_norm, pace.images, *metrics)
        named = {**dict(zip(self.columns[1:], row, strict=True)), **pace.scalars()}
        with writing(self.out / "losses.csv"):
            self._rows.writerow((step, repr(loss), *numbers))
            self._losses.flush()
        with writing(self.out / "tensorboard"):
            for name, value in named.items():
                self._board.add_scalar(name, value, step)
        self._progress.update(self._task, completed=step, loss=said, pace=str(pace))
        # Where there is no terminal to draw a bar on, ten lines tell the same.
        if self._progress.disable and (step == self._steps or step - self._told >= self._steps / 10):
            self._told = step
            left = (time.monotonic() - self._began) / (step - self._start) * (self._steps - step)
            line = f"step {step}/{self._steps}, loss {said}, {pace}, {left:.0f} s left"
            self.console.print(line, soft_wrap=True)
        return named

    def draw(self, images: Tensor, names: Sequence[str], step: int | None) -> Path:
        """Draws the figure of `images` [rows, columns, C, H, W]: the one of `step`, or the run's last (None)."""
        path = self.out / (f"{self.figure}.png" if step is None else f"{self.figure}/step-{step:08d}.png")
        grid = image_grid(images, names)
        with writing(path):
            grid.save(path)
        if step is not None:
            with writing(self.out / "tensorboard"):
                self._board.add_image(self.figure, np.asarray(grid), step, dataformats="HWC")
        return path

    def metrics(self, measured: dict[str, float]) -> None:
        """Writes what the finished system measured to metrics.json."""
        with writing(self.out / "metrics.json") as path:
            path.write_text(json.dumps(measured, indent=2) + "\n")

    def curve(self) -> Path:
        """Draws the curve of losses.csv."""
        with writing(self.out / "loss.png") as path:
            loss_curve(self.out / "losses.csv", path)
        return path


def _open_losses(path: Path, start: int, columns: Sequence[str]) -> TextIO:
    """The CSV file opened for appending, with only the rows up to step `start` kept: those after it will come again."""
    kept = [row for row in read_losses(path, columns) if int(row["step"]) <= start] if start else []
    replacement = path.with_name(".losses.csv")
    with replacement.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([columns, *(row.values() for row in kept)])
    os.replace(replacement, path)
    return path.open("a", newline="")
