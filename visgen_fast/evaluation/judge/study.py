"""What a study shows: sets of pictures, pairs of them, and the names under which a browser knows them."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...data.image_file import as_png
from ...errors import UserError

_REPEATED = 10  # one pair of so many is shown to a rater again, mirrored
_LATER = 5  # after at least so many others


@dataclass(frozen=True)
class Pair:
    """The pictures of this name in two sets, which stand in the study's order."""

    name: str
    first: str
    second: str

    def other(self, name: str) -> str:
        """The set that this one is compared with."""
        return self.second if name == self.first else self.first


@dataclass(frozen=True)
class Study:
    """Sets of pictures by name, their folders, and all pairs of pictures with the same relative name.

    digest: of names and contents. unreadable: files that are no pictures, and are left out.
    """

    sets: dict[str, Path]
    pairs: tuple[Pair, ...]
    digest: str
    unreadable: tuple[Path, ...]

    def picture(self, pair: Pair, name: str) -> bytes:
        """The picture of a set as a PNG file that holds its pixels alone."""
        return as_png(self.sets[name] / pair.name)


def study_of(folders: Sequence[Path]) -> Study:
    """Reads all pictures of the folders; `UserError` unless there are two or more, with names in common."""
    if len(folders) < 2:
        raise UserError(f"a study compares at least 2 sets of pictures, got {len(folders)}")
    sets, unreadable, found = _named(folders), [], {}
    digest = hashlib.sha256()
    for name, folder in sets.items():
        found[name] = _files(folder)
        for relative in sorted(found[name]):
            try:
                as_png(folder / relative)
                content = hashlib.sha256((folder / relative).read_bytes()).digest()
            except Exception:  # Pillow's decoders raise errors of any type for a damaged file
                unreadable.append(folder / relative)
                found[name].remove(relative)
                continue
            digest.update(f"{name}\0{relative}\0".encode("utf-8", "surrogateescape") + content)
    pairs = [
        Pair(relative, first, second)
        for first, second in itertools.combinations(sets, 2)
        for relative in sorted(found[first] & found[second])
    ]
    shown = {name for pair in pairs for name in (pair.first, pair.second)}
    for name, folder in sets.items():
        if name not in shown:
            raise UserError(f"no picture in {folder} has the name of one in another set")
    return Study(sets, tuple(pairs), digest.hexdigest(), tuple(unreadable))


def _named(folders: Sequence[Path]) -> dict[str, Path]:
    """Folders by the end of their paths, as short as tells them apart."""
    whole = [folder.resolve() for folder in folders]
    for folder in whole:
        if not folder.is_dir():
            raise UserError(f"there is no folder {folder}")
    twice = [str(folder) for folder, count in Counter(whole).items() if count > 1]
    if twice:
        raise UserError(f"the folder {twice[0]} was given twice")
    for length in itertools.count(1):
        names = ["/".join(folder.parts[-length:]) for folder in whole]
        if len(set(names)) == len(names):
            break
    return dict(zip(names, whole, strict=True))


def _files(folder: Path) -> set[str]:
    """Names of the files below a folder, hidden ones left out."""
    found = set()
    for here, below, files in os.walk(folder):
        below[:] = [name for name in below if not name.startswith(".")]
        found |= {(Path(here) / name).relative_to(folder).as_posix() for name in files if not name.startswith(".")}
    return found


class Blind:
    """What the browser is told in the place of names: numbers that only the holder of the secret can read."""

    def __init__(self, study: Study, secret: bytes) -> None:
        self._secret = secret
        self._study = study
        self.pairs = {self.pair(pair): pair for pair in study.pairs}
        self.pictures = {
            self.picture(pair, name): (pair, name) for pair in study.pairs for name in (pair.first, pair.second)
        }

    def pair(self, pair: Pair) -> str:
        """The token of a pair."""
        return self.number("pair", pair.name, pair.first, pair.second)

    def picture(self, pair: Pair, name: str) -> str:
        """The token of a picture; the same picture has another one in each pair."""
        return self.number("picture", pair.name, pair.first, pair.second, name)

    def number(self, *words: str) -> str:
        """Always the same number for the same words, 20 hexadecimal digits."""
        text = "\0".join(words).encode("utf-8", "surrogateescape")
        return hmac.new(self._secret, text, hashlib.sha256).hexdigest()[:20]

    @property
    def total(self) -> int:
        """How many answers a rater can give: every tenth pair twice."""
        return len(self.pairs) + len(self.pairs) // _REPEATED

    def next(self, rater: str, seen: Sequence[tuple[Pair, str]], counts: Mapping[Pair, int]) -> tuple[Pair, str] | None:
        """The pair that a rater sees next, with the set whose picture is on the left; None at the end.

        seen: what the rater has judged or skipped, in order. counts: everybody's votes. It is the pair with the fewest
        votes that the rater hasn't seen; every tenth pair comes again later, mirrored.
        """
        order = {pair: self.number("order", rater, token) for token, pair in self.pairs.items()}
        repeated = sorted(order, key=order.__getitem__)[: len(order) // _REPEATED]
        times = Counter(pair for pair, _ in seen)
        fresh = [pair for pair in order if not times[pair]]
        for place, (pair, left) in enumerate(seen):
            if pair in repeated and times[pair] == 1 and (not fresh or len(seen) - place > _LATER):
                return pair, pair.other(left)
        if not fresh:
            return None
        best = min(fresh, key=lambda pair: (counts.get(pair, 0), order[pair]))
        first = int(self.number("side", rater, self.pair(best)), 16) % 2 == 0
        return best, best.first if first else best.second
