"""The command line `visgen-fast`.

A user's mistake is answered with one sentence on standard error and exit code 2; anything else that goes wrong is a bug
and shows its traceback. Modules are imported where they are needed, so that help is there at once.
"""

import contextlib
import io
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from .training.errors import UserError

if TYPE_CHECKING:
    import torch

    from .training.checkpoint import Checkpoint
    from .training.data.pictures import PictureFormat
    from .training.settings import TrainingSettings
    from .training.system import System

T = TypeVar("T")
# Pictures that are measured in one go.
_AT_A_TIME = 100
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

    from .training.loop import Trainer

    pictures = recipe.pictures(settings)
    torch.manual_seed(settings.seed)
    system = _build(recipe, settings, pictures.format)
    held_out = recipe.held_out(settings) if hasattr(recipe, "held_out") else None
    trainer = Trainer(system, pictures, settings, out, identity={"recipe": name}, held_out=held_out, resume=resume)
    count = sum(parameter.numel() for parameter in system.parameters())
    say = trainer.accelerator.print
    say(f"{name}: {len(pictures)} pictures, {count:,} parameters, {trainer.place}, from step {trainer.step}, in {out}")
    trainer.run()
    for measure, value in trainer.measured.items():
        say(f"{measure + ':':<12}{value:.4g}")
    say(f"pictures:   {out / system.figure}.png\nlosses:     {out / 'loss.png'}")


def _build(recipe: ModuleType, settings: "TrainingSettings", pictures: "PictureFormat") -> "System":
    """The recipe's system; settings that don't fit together or don't fit the pictures are the user's mistake."""
    try:
        return recipe.system(settings, pictures)
    except ValueError as error:
        raise UserError(str(error)) from error


def _sample(arguments: list[str]) -> int:
    import tyro

    @dataclass(frozen=True)
    class Options:
        """Draw pictures with a trained model, one row a class."""

        checkpoint: tyro.conf.Positional[Path]
        """Folder of a run, whose newest checkpoint is taken, or of one checkpoint."""
        labels: tuple[str, ...] = ()
        """Classes to draw, by name or number; all of them if none is given."""
        count_per_class: int = 10
        """Pictures of each class."""
        guidance: float | None = None
        """Weight of classifier-free guidance, 1 for none; by default the recipe's."""
        steps: int | None = None
        """Steps of the solver; by default the recipe's."""
        seed: int = 0
        """Another seed draws other pictures."""
        out: Path = Path("samples.png")
        """The PNG file to write."""
        device: str = "auto"
        """Where to compute, as torch names it, for example cpu or cuda:1."""

    _draw(_parse(Options, arguments, "visgen-fast sample"))
    return 0


def _draw(options: Any) -> None:
    """Builds a checkpoint's system again, with the averaged weights, and draws what the options of `sample` ask for."""
    from .training import checkpoint
    from .training.data.pictures import PictureFormat
    from .training.figures import picture_grid
    from .training.system import GenerativeSystem, draw_samples

    if options.count_per_class < 1 or (options.steps is not None and options.steps < 1):
        raise UserError("--count-per-class and --steps must be at least 1")
    if not -(2**63) <= options.seed < 2**63:
        raise UserError(f"--seed must lie in [-2**63, 2**63), got {options.seed}")
    if options.out.suffix.lower() != ".png":
        raise UserError(f"--out must be the name of a .png file, got {options.out}")
    device = _device(options.device)
    saved = checkpoint.read(options.checkpoint)
    pictures = PictureFormat.from_json(saved.state["pictures"])
    labels = [_label(name, pictures.class_names) for name in options.labels] or list(range(len(pictures.class_names)))
    _, _, system = _trained(saved)
    if not isinstance(system, GenerativeSystem):
        raise UserError(
            f"the recipe {saved.state['recipe']} trains no model that draws pictures: its run shows {system.figure}.png"
        )
    drawn = draw_samples(
        system.to(device),
        labels,
        options.count_per_class,
        seed=options.seed,
        device=device,
        steps=options.steps,
        guidance=options.guidance,
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    picture_grid(drawn, [pictures.class_names[label] for label in labels]).save(options.out)
    print(f"pictures: {options.out}")


def _trained(saved: "Checkpoint") -> tuple[ModuleType, "TrainingSettings", "System"]:
    """A checkpoint's recipe, its settings, and its system with the averaged weights, in evaluation mode."""
    from .recipes.registry import load_recipe
    from .training.data.pictures import PictureFormat
    from .training.settings import settings_from

    recipe = load_recipe(saved.state["recipe"])
    settings = settings_from(recipe.Settings, saved.state["settings"])
    system = _build(recipe, settings, PictureFormat.from_json(saved.state["pictures"]))
    saved.load_into(system, "average")
    return recipe, settings, system.eval()


def _evaluate(arguments: list[str]) -> int:
    import tyro

    @dataclass(frozen=True)
    class Options:
        """Measure a trained tokenizer on pictures that were held out; writes evaluation.json and invalid_codes.png."""

        checkpoint: tyro.conf.Positional[Path]
        """Folder of a run, whose newest checkpoint is taken, or of one checkpoint."""
        beam: int | None = None
        """Prefixes that the beam search for codes keeps; 1 takes the nearest code; by default the recipe's."""
        features: Path | None = None
        """A run of the recipe classifier on pictures of the same kind, whose features give rFID."""
        pictures: int = 2000
        """How many of the held-out pictures to measure, the first ones."""
        out: Path | None = None
        """Folder for the results; by default that of the checkpoint given."""
        device: str = "auto"
        """Where to compute, as torch names it, for example cpu or cuda:1."""

    _measure(_parse(Options, arguments, "visgen-fast evaluate"))
    return 0


def _measure(options: Any) -> None:
    """Measures what the options of `evaluate` ask for, and writes and prints it."""
    import torch

    from .evaluation import evaluate_tokenizer
    from .evaluation.report import as_text, write
    from .nn.residual_quantizer import ResidualQuantizer
    from .recipes.classifier import trained_classifier
    from .tokenizers import Tokenizer
    from .training import checkpoint
    from .training.tokenizer_system import TokenizerSystem, to_range

    if options.pictures < 2 or (options.beam is not None and options.beam < 1):
        raise UserError("--pictures must be at least 2 and --beam at least 1")
    device = _device(options.device)
    saved = checkpoint.read(options.checkpoint)
    recipe, settings, system = _trained(saved)
    if not isinstance(system, TokenizerSystem) or not hasattr(recipe, "held_out"):
        raise UserError(
            f"the recipe {saved.state['recipe']} trains no tokenizer with held-out pictures to measure it on"
        )
    tokenizer = system.tokenizer.to(device)
    if options.beam is not None:
        quantizer = tokenizer.quantizer if isinstance(tokenizer, Tokenizer) else None
        if not isinstance(quantizer, ResidualQuantizer):
            raise UserError(f"--beam needs a residual quantizer, and the recipe {saved.state['recipe']} has none")
        quantizer.beam = options.beam
    channels = saved.state["pictures"]["channels"]
    embed = None if options.features is None else trained_classifier(options.features, channels).to(device).embedding
    pictures = recipe.held_out(settings)
    indices = torch.arange(min(options.pictures, len(pictures))).split(_AT_A_TIME)
    batches = (to_range(pictures.read(some.tolist())[0].to(device)) for some in indices)
    found = evaluate_tokenizer(tokenizer, batches, embed=embed)
    out = options.out or options.checkpoint
    write(found, out, {"recipe": saved.state["recipe"], "step": saved.state["step"], "beam": options.beam})
    print(f"{as_text(found)}\nwritten to {out}")


def _label(name: str, class_names: Sequence[str]) -> int:
    if name in class_names:
        return class_names.index(name)
    if name.isdecimal() and int(name) < len(class_names):
        return int(name)
    raise UserError(f"there is no class {name!r}; there are {', '.join(class_names)}")


def _device(name: str) -> "torch.device":
    import torch

    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name} is not to be had here: {str(error).splitlines()[0]}") from error


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
