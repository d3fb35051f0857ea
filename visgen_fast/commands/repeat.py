"""What a drawn PNG file says of how it was drawn, and the command line that draws it again."""

from __future__ import annotations

import json
import warnings
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from ..errors import UserError, writing
from ..training.described import weights_hash
from ..untrusted import MOST_STATE_BYTES, open_file
from .info import version

_KEY = "visgen_fast"
# Options without a value.
_SWITCHES = ("traverse",)


def save(image: Any, path: Path, told: Mapping[str, Any]) -> None:
    """Writes a Pillow image as a PNG file that keeps what `told` says, as JSON under the key visgen_fast."""
    from PIL.PngImagePlugin import PngInfo

    kept = PngInfo()
    kept.add_text(_KEY, json.dumps(told))
    with writing(path):
        image.save(path, pnginfo=kept)


def story(state: Mapping[str, Any], checkpoint: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """All that it takes to draw an image again: the checkpoint, whose `state` this is, the options, the versions.

    Of the run it keeps the folder's name alone: where somebody keeps runs is nobody's business.
    """
    import torch

    folder = checkpoint.resolve().parent
    return {
        "run": (folder.parent if folder.name == "checkpoints" else folder).name,
        "recipe": state["recipe"] if not str(state["recipe"]).endswith(".py") else Path(state["recipe"]).name,
        "step": state["step"],
        "weights": weights_hash(state),
        "options": dict(options),
        "versions": {"visgen_fast": version(), "torch": torch.__version__},
    }


def with_options_of(arguments: Sequence[str], names: Sequence[str]) -> list[str]:
    """The arguments, after those of the options `names` that the file given as --like keeps.

    What comes before the first option stays there: after one that takes several words it would be one of them.
    """
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--like", nargs="?")
    like = parser.parse_known_args(list(arguments))[0].like
    if like is None:
        return list(arguments)
    kept = read_story(Path(like))["options"]
    words = [word for name in names if name in kept for word in _words(name, kept[name], like)]
    first = next((place for place, word in enumerate(arguments) if word.startswith("-")), len(arguments))
    return [*arguments[:first], *words, *arguments[first:]]


def check_weights(
    like: Path, state: Mapping[str, Any], checkpoint: Path, told: Mapping[str, Any] | None = None
) -> None:
    """`UserError` unless the file was drawn with the weights of the checkpoint, whose `state` this is.

    told: what the file keeps of that, by default all that it keeps.
    """
    told = read_story(like) if told is None else told
    if told.get("weights") != weights_hash(state):
        raise UserError(
            f"{like} was drawn with other weights, those of step {told.get('step')} of {told.get('run')!r}, than those "
            f"of {checkpoint}, step {state['step']}"
        )


def read_story(path: Path) -> dict[str, Any]:
    """What a drawn file keeps before its picture, which is not decoded; `UserError` where that is nothing."""
    from PIL import Image

    try:
        with open_file(path) as file:
            beginning = BytesIO(file.read(MOST_STATE_BYTES))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large images
            with Image.open(beginning, formats=["PNG"]) as image:
                told = json.loads(image.info[_KEY])
        if isinstance(told["options"], dict):
            return told
    except (UserError, OSError, SyntaxError, ValueError, KeyError, TypeError, RecursionError):
        pass  # SyntaxError: a broken PNG file
    except Image.DecompressionBombError:
        pass
    raise UserError(f"--like must be a PNG file that visgen-fast sample wrote, and {path} is none")


def _words(name: str, value: Any, like: str) -> list[str]:
    """An option as words of a command line; nothing in a file may become another option."""
    flag = f"--{name.replace('_', '-')}"
    if value is True and name in _SWITCHES:
        return [flag]
    values = value if isinstance(value, list) else [value]
    for one in values:
        if type(one) not in (int, float, str) or (isinstance(one, str) and one.startswith("-")):
            raise UserError(f"{like} keeps a {flag} that no command line has")
    return [flag, *map(str, values)] if isinstance(value, list) else [f"{flag}={value}"]
