"""What reaches the terminal: readable in any encoding, escaped where others wrote it, quiet when nobody reads it."""

from __future__ import annotations

import codecs
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ..untrusted import escape, escaped

# What our own texts have and an encoding may lack.
_PLAIN = {"×": "x", "–": "-", "—": "-", "−": "-", "…": "...", "·": "*", "²": "^2", "≤": "<=", "≥": ">=", "→": "->"}


def complain(text: object) -> None:
    """Prints the one sentence for what a user did wrong."""
    with suppress(OSError):  # nobody may be reading
        print(f"visgen-fast: {escaped(text)}", file=sys.stderr, flush=True)


@contextmanager
def standard_streams() -> Iterator[None]:
    """Inside, printing never fails for a sign that the terminal's encoding lacks or a stream that is closed.

    What was printed is written out at the end; OSError where that fails, and then nothing more is tried.
    """
    codecs.register_error("visgen_fast", _plain)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))
        with suppress(AttributeError):  # of a stream that stands in for a terminal's
            getattr(sys, name).reconfigure(errors="visgen_fast")
    handler = logging.StreamHandler()
    handler.setFormatter(_EscapingFormatter())
    logging.getLogger("visgen_fast").addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger("visgen_fast").removeHandler(handler)
        try:
            sys.stdout.flush()
        except OSError:
            # Python would try once more when it ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise


class _EscapingFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return escaped(record.getMessage())


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Codecs' answer to characters that an encoding lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_PLAIN.get(sign) or escape(sign) for sign in lacking), error.end
