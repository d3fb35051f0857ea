"""The command line `visgen-fast`.

A user's mistake is answered with one sentence on standard error and exit code 2; anything else that goes wrong is a bug
and shows its traceback. Modules are imported where they are needed, so that help is there at once.
"""

import contextlib
import io
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import make_dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from .training.errors import UserError

if TYPE_CHECKING:
    import torch

    from .training.settings import TrainingSettings

T = TypeVar("T")
_EXTRA = {"accelerate", "safetensors", "tyro", "rich", "PIL", "matplotlib", "tensorboard", "sklearn"}

_HELP = """\
usage: visgen-fast COMMAND ...

Train visual generative models, and draw pictures with them.

commands:
  train RECIPE        train a recipe; its pictures, losses and checkpoints go to a folder
  sample CHECKPOINT   draw pictures with a trained model
  evaluate CHECKPOINT measure a trained tokenizer: PSNR, rFID, usage of its codes, invalid codes
  recipes             list the recipes
  info                show versions, device and compiled libraries
  bench [FAMILY]      measure the operations (in a checkout of the repository)

examples:
  visgen-fast train digits
  visgen-fast train folder --data my/pictures --size 64 --out runs/mine
  visgen-fast train digits --out runs/digits --resume
  visgen-fast sample runs/digits --labels 3 7 --guidance 3
  visgen-fast evaluate runs/rq-vae --beam 4
  torchrun --nproc-per-node 2 -m visgen_fast train fashion-mnist --mixed-precision bf16

visgen-fast COMMAND --help says more; visgen-fast train RECIPE --help lists a recipe's settings.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code: 0, or 2 after a mistake of the user's."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(arguments)
    except UserError as error:
        print(f"visgen-fast: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in _EXTRA:
            raise
        print(f"visgen-fast: this needs {error.name}: pip install 'visgen_fast[train]'", file=sys.stderr)
        return 2
    except OSError as error:
        if error.filename is None:
            raise
        print(f"visgen-fast: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nvisgen-fast: interrupted; --resume continues a training run from its last checkpoint", file=sys.stderr)
        return 130


def _run(arguments: list[str]) -> int:
    commands = {
        **{"train": _train, "sample": _sample, "evaluate": _evaluate},
        **{"recipes": _recipes, "info": _info, "bench": _bench},
    }
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_HELP, end="")
        return 0
    command, *rest = arguments
    if command not in commands:
        raise UserError(f"there is no command {command!r}; there are {', '.join(commands)}")
    return commands[command](rest)


def _parse(cls: type[T], arguments: list[str], program: str) -> T:
    """`cls` from its options; tyro's help exits with code 0, its complaints become one sentence."""
    import tyro

    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(cls, args=arguments, prog=program, config=(tyro.conf.OmitArgPrefixes,))
    except SystemExit as error:
        if not error.code:
            raise
        raise UserError(f"{_first_sentence(complaint.getvalue())} (see {program} --help)") from None


def _first_sentence(box: str) -> str:
    """The text of the first section of one of tyro's boxes."""
    lines = []
    for line in box.splitlines()[1:]:
        text = line.strip("│╭╮╰╯ ")
        if not text.strip("─"):
            break
        lines.append(text)
    return " ".join(lines).rstrip(".")


def _train(arguments: list[str]) -> int:
    if not arguments or arguments[0].startswith("-"):
        if arguments and arguments[0] not in ("-h", "--help"):
            raise UserError("the recipe comes first: visgen-fast train RECIPE [--settings ...]")
        print("usage: visgen-fast train RECIPE [--out DIR] [--resume] [--settings ...]\n\nrecipes:")
        _recipes([])
        print("\nvisgen-fast train RECIPE --help lists a recipe's settings.")
        return 0
    import tyro

    from .recipes.registry import load_recipe

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
    options = _parse(options_class, rest, f"visgen-fast train {name}")
    if name.endswith(".py"):
        name = str(Path(name).resolve())
    _train_recipe(recipe, name, options.settings, options.out, options.resume)
    return 0


_OUT_HELP = "Folder of the run: its pictures, loss.png, losses.csv, settings.json, checkpoints/, tensorboard/."
_RESUME_HELP = "Continue the run in that folder from its newest checkpoint; start it if there is none."


def _train_recipe(recipe: ModuleType, name: str, settings: "TrainingSettings", out: Path, resume: bool) -> None:
    import torch

    from ._trained import build
    from .training import checkpoint
    from .training.loop import Trainer

    pictures = recipe.pictures(settings)
    torch.manual_seed(settings.seed)
    existing = checkpoint.checkpoints(out / "checkpoints") if resume else []
    system = build(recipe, settings, pictures.format, checkpoint.read(existing[-1]) if existing else None)
    held_out = recipe.held_out(settings) if hasattr(recipe, "held_out") else None
    trainer = Trainer(system, pictures, settings, out, identity={"recipe": name}, held_out=held_out, resume=resume)
    count = sum(parameter.numel() for parameter in system.parameters())
    say = trainer.accelerator.print
    say(f"{name}: {len(pictures)} pictures, {count:,} parameters, {trainer.place}, from step {trainer.step}, in {out}")
    trainer.run()
    for measure, value in trainer.measured.items():
        say(f"{measure.replace('_', ' ') + ':':<17}{value:.4g}")
    say(f"{'pictures:':<17}{out / system.figure}.png\n{'losses:':<17}{out / 'loss.png'}")


def _sample(arguments: list[str]) -> int:
    from ._trained import SampleOptions, draw

    draw(_parse(SampleOptions, arguments, "visgen-fast sample"))
    return 0


def _evaluate(arguments: list[str]) -> int:
    from ._trained import EvaluateOptions, measure

    measure(_parse(EvaluateOptions, arguments, "visgen-fast evaluate"))
    return 0


def _recipes(arguments: list[str]) -> int:
    from rich.console import Console
    from rich.table import Table

    from .recipes.registry import recipe_names

    _no_more(arguments, "recipes", "List the recipes.")
    table = Table(box=None, show_header=False, padding=(0, 2))
    for name, line in recipe_names().items():
        table.add_row(name, line)
    Console().print(table)
    return 0


def _info(arguments: list[str]) -> int:
    import importlib.metadata
    import platform

    import torch

    _no_more(arguments, "info", "Show versions, device and compiled libraries.")
    from visgen_fast import ops  # noqa: F401  loads the compiled libraries

    try:
        version = importlib.metadata.version("visgen_fast")
    except importlib.metadata.PackageNotFoundError:
        version = "not installed, used from a checkout"
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    libraries = [path for path in sorted(torch.ops.loaded_libraries) if "visgen_fast" in path]
    rows = {
        "visgen_fast": version,
        "python": platform.python_version(),
        "torch": f"{torch.__version__} (CUDA {torch.version.cuda or 'none'})",
        "device": "cpu" if accelerator is None else _device_name(accelerator),
        "cpu threads": str(torch.get_num_threads()),
        "libraries": "\n".join(libraries) or "none: the operations run in plain PyTorch",
        **_build_rows(),
    }
    for name, value in rows.items():
        print(f"{name:<20}" + value.replace("\n", "\n" + " " * 20))
    return 0


def _device_name(device: "torch.device") -> str:
    import torch

    return f"{device.type} ({torch.cuda.get_device_name()})" if device.type == "cuda" else device.type


def _build_rows() -> dict[str, str]:
    """What the optional module `_C` says of the build."""
    try:
        from visgen_fast import _C
    except ImportError:
        return {"build": "unknown: visgen_fast._C was not built for this Python"}
    build = {name: _one_line(value) for name, value in _C.build_info().items()}
    return {"cpu capability": _C.cpu_capability(), **{name.replace("_", " "): text for name, text in build.items()}}


def _one_line(value: object) -> str:
    return " ".join(value) if isinstance(value, list) else str(value)


def _bench(arguments: list[str]) -> int:
    for folder in (Path(__file__).resolve().parent.parent, Path.cwd()):
        # Another project's folder may have benchmarks too.
        parts = ("benchmarks/__main__.py", "visgen_fast", "csrc")
        if all((folder / part).exists() for part in parts):
            return subprocess.call([sys.executable, "-m", "benchmarks", *arguments], cwd=folder)
    raise UserError("the benchmarks are part of the repository, not of the package: run this in a checkout")


def _no_more(arguments: list[str], command: str, description: str) -> None:
    """For a command without options: answers --help, refuses anything else."""
    if set(arguments) & {"-h", "--help"}:
        print(f"usage: visgen-fast {command}\n\n{description}")
        raise SystemExit(0)
    if arguments:
        raise UserError(f"visgen-fast {command} takes no arguments, got {arguments[0]}")
