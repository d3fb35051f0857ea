"""What a user did wrong, as opposed to what is wrong with the code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class UserError(Exception):
    """A mistake that one sentence explains: the command line prints that sentence, without a traceback."""


class Unreachable(UserError):
    """Data that lie elsewhere and cannot be had: nothing may stand in for them, or the order would change."""


class Stopped(Exception):
    """A run that ended before its last step as it was told to, with a checkpoint: in a sentence, how it goes on."""


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """While this lasts, a disk that refuses, because it is full or for whatever reason, is a `UserError` about `path`.

    Yields `path`.
    """
    try:
        yield path
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error
