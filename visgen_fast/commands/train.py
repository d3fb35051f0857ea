"""`visgen-fast train`: trains a recipe."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from dataclasses import make_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

from ..errors import Stopped, UserError
from .options import parse
from .recipes import recipes

if TYPE_CHECKING:
    from ..recipes.recipe import Recipe
    from ..training.settings import TrainingSettings

_OUT_HELP = "Folder of the run: its images, loss.png, losses.csv, settings.json, checkpoints/, tensorboard/."
_RESUME_HELP = "Continue the run in that folder from its newest checkpoint; start it if there is none."
# What options were called before.
_RENAMED = {
    "--decay": "--lr-schedule",
    "--mirror": "--horizontal-flip",
    "--no-mirror": "--no-horizontal-flip",
    "--adversary-rate": "--adversary-lr-scale",
}


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
    from ..training.place import leave_ranks

    name, *rest = arguments
    recipe = load_recipe(name)
    options_class: Any = make_dataclass(
        "Options",
        [
            ("settings", _with_defaults(recipe.settings, recipe.preset(_dataset_named(rest)))),
            ("out", Annotated[Path, tyro.conf.arg(help=_OUT_HELP)], Path("runs") / Path(name).stem),
            ("resume", Annotated[bool, tyro.conf.arg(help=_RESUME_HELP)], False),
        ],
    )
    options_class.__doc__ = recipe.description
    options = parse(options_class, rest, f"visgen-fast train {name}", _RENAMED)
    if name.endswith(".py"):
        recipe = replace(recipe, name=str(Path(name).resolve()))
    try:
        _train_recipe(recipe, options.settings, options.out, options.resume)
    except Stopped:  # by all ranks
        leave_ranks()
        raise
    leave_ranks()
    return 0


def _dataset_named(arguments: list[str]) -> str | None:
    """The data set that the arguments ask for, which decides the other defaults."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--dataset", nargs="?")
    return parser.parse_known_args(arguments)[0].dataset


def _with_defaults(settings: type[TrainingSettings], values: Mapping[str, Any]) -> type[TrainingSettings]:
    """The same settings with other defaults."""
    types = get_type_hints(settings, include_extras=True)
    changed = [(name, types[name], value) for name, value in values.items()]
    return make_dataclass(settings.__name__, changed, bases=(settings,), frozen=True, kw_only=True)


def _train_recipe(recipe: Recipe[Any], settings: TrainingSettings, out: Path, resume: bool) -> None:
    import torch

    from ..recipes.runs import build
    from ..training.loop import Trainer
    from ..training.place import device_of_weights
    from ..training.run import Run

    _require_apart(out, settings)
    run = Run(out, settings, identity={"recipe": recipe.name}, resume=resume)
    images = recipe.pictures(settings)
    held_out = None if recipe.held_out is None else recipe.held_out(settings)
    torch.manual_seed(settings.seed)
    with device_of_weights(settings):
        system = build(recipe, settings, images.format, run.saved)
    trainer = Trainer(system, images, run, held_out=held_out)
    count = sum(parameter.numel() for parameter in system.parameters())
    say = trainer.accelerator.print
    size = f"{len(images)} images, {count:,} parameters"
    say(f"{recipe.name}: {size}, {trainer.place}, from step {trainer.step}, in {out}")
    trainer.run()
    for measure, value in trainer.measured.items():
        say(f"{measure.replace('_', ' ') + ':':<17}{value:.4g}")
    say(f"{'images:':<17}{out / system.figure}.png\n{'losses:':<17}{out / 'loss.png'}")


def _require_apart(out: Path, settings: TrainingSettings) -> None:
    """Raises `UserError` where the run would write its figures among the images that it trains on."""
    own = getattr(settings, "OWN", "folder")
    data = getattr(settings, "data", "") if getattr(settings, "dataset", own) == own else ""
    if data and out.resolve().is_relative_to(Path(data).resolve()):
        raise UserError(
            f"--out must not lie inside the folder of the images, whose part the run's figures would be: got {out} "
            f"inside {data}"
        )
