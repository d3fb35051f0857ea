"""`visgen-fast judge`: has people choose between pictures, and rates the sets that these came from."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import tyro

from ..errors import UserError, writing
from .options import parse

_HELP = """\
usage: visgen-fast judge serve SET SET ... --db votes.db
       visgen-fast judge results votes.db --out FOLDER

Serve a page on which people choose between two pictures, or rate sets by their votes.
visgen-fast judge serve --help and visgen-fast judge results --help say more.
"""


def judge(arguments: list[str]) -> int:
    action, *rest = arguments or ["--help"]
    if action in ("-h", "--help"):
        print(_HELP, end="")
    elif action == "serve":
        show(parse(ServeOptions, rest, "visgen-fast judge serve"))
    elif action == "results":
        rate(parse(ResultsOptions, rest, "visgen-fast judge results"))
    else:
        raise UserError(f"visgen-fast judge has serve and results, got {action!r}")
    return 0


@dataclass(frozen=True)
class ServeOptions:
    """Serve a page on which people choose between two pictures: same name, from two of the sets, on random sides.

    Neither names nor paths reach the browser. It prints the link, and runs until Ctrl-C; votes are in the database.
    """

    sets: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of pictures, two or more; a pair is the same relative name in two of them."""
    db: Path
    """The file of the votes; it is made if it isn't there. Servers may share it."""
    port: int = 8000
    """Where to listen; 0 takes any that is free."""
    question: str | None = None
    """What is asked; by default which picture is better."""
    host: str = "127.0.0.1"
    """Which address to listen at. Any but this machine's own gives a link with a token, which is needed."""


@dataclass(frozen=True)
class ResultsOptions:
    """Rate sets by the votes of a study: Elo with intervals, agreement, side bias, cycles; as JSON, CSV and PNG."""

    db: tyro.conf.Positional[Path]
    """The file of the votes."""
    out: Path
    """Folder for results.json, votes.csv and ratings.png."""


def show(options: ServeOptions) -> None:
    """Serves what the options of `judge serve` ask for."""
    from ..evaluation.judge.server import serve
    from ..evaluation.judge.study import study_of
    from ..evaluation.judge.votes import Votes

    if options.question is not None and not options.question.strip():
        raise UserError("--question must be a text")
    if not 0 <= options.port < 2**16:
        raise UserError(f"--port must lie in [0, {2**16 - 1}], got {options.port}")
    study = study_of(options.sets)
    if study.unreadable:
        names = ", ".join(str(path) for path in study.unreadable[:5])
        more = ", …" if len(study.unreadable) > 5 else ""
        print(f"left out: {len(study.unreadable)} files that cannot be read as pictures: {names}{more}")
    try:
        with closing(Votes(options.db, study, options.question)) as votes:
            serve(study, votes, options.host, options.port)
    except KeyboardInterrupt:
        print("stopped")


def rate(options: ResultsOptions) -> None:
    """Writes and prints what the options of `judge results` ask for."""
    from ..evaluation.judge.results import as_text, results_of, write
    from ..evaluation.judge.votes import Votes

    try:
        with closing(Votes(options.db)) as votes:
            found, rows = results_of(votes), votes.standing()
    except (ValueError, sqlite3.Error) as error:
        raise UserError(f"{options.db} cannot be judged by: {error}") from error
    with writing(options.out):
        write(found, rows, options.out)
    print(f"{as_text(found)}\nwritten to {options.out}")
