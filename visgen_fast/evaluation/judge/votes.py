"""The database of a study's votes: SQLite, to which rows are only ever added."""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ...errors import UserError
from .study import Pair, Study

CHOICES = ("left", "right", "tie", "skip", "undo")
QUESTION = "Which picture is better?"

_TABLES = """
CREATE TABLE IF NOT EXISTS study (one INTEGER PRIMARY KEY CHECK (one = 1), content TEXT NOT NULL, secret TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS votes (
  number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, rater TEXT NOT NULL, pair TEXT NOT NULL, left TEXT NOT NULL,
  right TEXT NOT NULL, choice TEXT NOT NULL, time REAL NOT NULL, undoes TEXT UNIQUE REFERENCES votes (id)
);
CREATE INDEX IF NOT EXISTS raters ON votes (rater);
"""
_STANDING = "choice <> 'undo' AND NOT EXISTS (SELECT 1 FROM votes AS later WHERE later.undoes = votes.id)"


class Refused(Exception):
    """A vote that cannot stand beside those that do."""


@dataclass(frozen=True)
class Row:
    """A vote as it is stored: `left` and `right` are sets, `time` is in seconds since 1970."""

    id: str
    rater: str
    pair: str
    left: str
    right: str
    choice: str
    time: float


class Votes:
    """Votes on disk. What `add` has returned from is on the disk; several processes may share the file."""

    def __init__(self, path: Path, study: Study | None = None, question: str | None = None) -> None:
        """Opens the votes of `study`, or begins with it; without a study it must be there, and tells its own.

        `UserError` for a file that is no such database, or belongs to another study.
        """
        if study is None and not path.is_file():
            raise UserError(f"there is no database {path}")
        self._lock = threading.Lock()
        try:
            self._database = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
            if self._database.execute("PRAGMA journal_mode").fetchone() != ("wal",):
                self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
            if study is not None:
                self._database.executescript(_TABLES)
                with self._changing():
                    self._begin(study, question)
            content, secret = self._database.execute("SELECT content, secret FROM study").fetchone()
        except (sqlite3.Error, TypeError) as error:
            raise UserError(f"{path} is no database of votes that can be used: {error}") from error
        self.secret = bytes.fromhex(secret)
        self.content = json.loads(content)
        if study is not None and self.content["digest"] != study.digest:
            raise UserError(
                f"{path} has votes of another study, on the sets {', '.join(self.content['sets'])}, or on other "
                "pictures in them: give another --db"
            )
        if question not in (None, self.content["question"]):
            raise UserError(f"{path} has votes on another question, {self.content['question']!r}: give another --db")

    def _begin(self, study: Study, question: str | None) -> None:
        content = {"digest": study.digest, "sets": list(study.sets), "question": question or QUESTION}
        self._database.execute(
            "INSERT OR IGNORE INTO study VALUES (1, ?, ?)", (json.dumps(content), secrets.token_hex(32))
        )

    @contextmanager
    def _changing(self) -> Iterator[None]:
        with self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")

    def close(self) -> None:
        """Lets go of the file."""
        self._database.close()

    def add(self, identity: str, rater: str, pair: str, left: str, right: str, choice: str) -> None:
        """Stores a vote, once for each identity; an undo takes back the rater's last one of these two pictures.

        `Refused` for an identity that another vote has, and for an undo without anything to take back.
        """
        with self._changing():
            new = (rater, pair, left, right, choice)
            query = "SELECT rater, pair, left, right, choice FROM votes WHERE id = ?"
            old = self._database.execute(query, (identity,)).fetchone()
            if old == new:
                return
            if old is not None:
                raise Refused("another vote has this id")
            undoes = None
            if choice == "undo":
                query = (
                    f"SELECT id FROM votes WHERE rater = ? AND pair = ? AND left = ? AND right = ? AND {_STANDING} "
                    "ORDER BY number DESC LIMIT 1"
                )
                found = self._database.execute(query, new[:4]).fetchone()
                if found is None:
                    raise Refused("there is no such vote to undo")
                undoes = found[0]
            self._database.execute(
                "INSERT INTO votes (id, rater, pair, left, right, choice, time, undoes) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (identity, *new, time.time(), undoes),
            )

    def seen(self, rater: str) -> list[tuple[str, str, str]]:
        """Pair, left and right set of what this rater has judged or skipped, in order."""
        return self._all(f"SELECT pair, left, right FROM votes WHERE rater = ? AND {_STANDING} ORDER BY number", rater)

    def counts(self) -> dict[Pair, int]:
        """How many votes each pair has; skipped ones are none."""
        query = (
            f"SELECT pair, left, right, COUNT(*) FROM votes WHERE {_STANDING} AND choice <> 'skip' "
            "GROUP BY pair, left, right"
        )
        found: dict[Pair, int] = {}
        for name, left, right, count in self._all(query):
            pair = self.pair(name, left, right)
            found[pair] = found.get(pair, 0) + count
        return found

    def pair(self, name: str, left: str, right: str) -> Pair:
        """The pair that was shown so."""
        first, second = sorted((left, right), key=self.content["sets"].index)
        return Pair(name, first, second)

    def standing(self) -> list[Row]:
        """All votes that were not undone, in order."""
        query = f"SELECT id, rater, pair, left, right, choice, time FROM votes WHERE {_STANDING} ORDER BY number"
        return [Row(*row) for row in self._all(query)]

    def _all(self, query: str, *values: str) -> list[tuple]:
        with self._lock:
            return self._database.execute(query, values).fetchall()
