"""`visgen-fast train`: trains a recipe."""

from __future__ import annotations

from dataclasses import make_dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

from ..errors import UserError
from .options import parse
from .recipes import recipes

if TYPE_CHECKING:
    from ..training.settings import TrainingSettings

_OUT_HELP = "Folder of the run: its images, loss.png, losses.csv, settings.json, checkpoints/, tensorboard/."
_RESUME_HELP = "Continue the run in that folder from its newest checkpoint; start it if there is none."


def train(arguments: list[str]) -> int:
    if not arguments or arguments[0].startswith("-"):
        if arguments and arguments[0] not in ("-h", "--help"):
            raise UserError("the recipe comes first: visgen-fast train RECIPE [--settings ...]")
        print("usage: visgen-fast train RECIPE [--out DIR] [--resume] [--settings ...]\n\nrecipes:")
        recipes([])
        print("\nvisgen-fast train RECIPE --help lists a recipe's settings.")
        return 0
    import tyro

    from ..recipes.registry import load_recipe

    name, *rest = arguments
    recipe = load_recipe(name)
    options_class: Any = make_dataclass(
        "Options",
        [
            ("settings", recipe.Settings),
            ("out", Annotated[Path, tyro.conf.arg(help=_OUT_HELP)], Path("runs") / Path(name).stem),
            ("resume", Annotated[bool, tyro.conf.arg(help=_RESUME_HELP)], False),
        ],
    )
    options_class.__doc__ = recipe.__doc__
    options = parse(options_class, rest, f"visgen-fast train {name}")
    if name.endswith(".py"):
        name = str(Path(name).resolve())
    _train_recipe(recipe, name, options.settings, options.out, options.resume)
    return 0


def _train_recipe(recipe: ModuleType, name: str, settings: TrainingSettings, out: Path, resume: bool) -> None:
    import torch

    from ..recipes.runs import build
    from ..training.loop import Trainer
    from ..training.run import Run

    images = recipe.images(settings)
    run = Run(out, settings, identity={"recipe": name}, resume=resume)
    torch.manual_seed(settings.seed)
    system = build(recipe, settings, images.format, run.saved)
    held_out = recipe.held_out(settings) if hasattr(recipe, "held_out") else None
    trainer = Trainer(system, images, run, held_out=held_out)
    count = sum(parameter.numel() for parameter in system.parameters())
    say = trainer.accelerator.print
    say(f"{name}: {len(images)} images, {count:,} parameters, {trainer.place}, from step {trainer.step}, in {out}")
    trainer.run()
    for measure, value in trainer.measured.items():
        say(f"{measure.replace('_', ' ') + ':':<17}{value:.4g}")
    say(f"{'images:':<17}{out / system.figure}.png\n{'losses:':<17}{out / 'loss.png'}")
