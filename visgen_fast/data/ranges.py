"""Ranges of bytes of files, on this machine or in a store elsewhere that fsspec knows, with a cache of bounded size."""

from __future__ import annotations

import fcntl
import hashlib
import os
import resource
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import Unreachable, UserError, writing
from ..untrusted import escaped

_MOST_OPEN = 2048
_TRIES, _PAUSE = 4, 0.5  # seconds, which double
_FREED = 0.25  # of a full cache

# The number of a file, the first byte, and how many.
Range = tuple[int, int, int]


class LocalRanges:
    """Of the files of these paths; the last ones used stay open."""

    def __init__(self, names: Sequence[Path]) -> None:
        self.names = names
        self._open: OrderedDict[int, int] = OrderedDict()

    def read(self, wanted: Sequence[Range]) -> list[bytes]:
        """Their bytes, fewer where a file ends before, and none where it cannot be read."""
        return [self._read(*one) for one in wanted]

    def _read(self, file: int, start: int, size: int) -> bytes:
        try:
            return os.pread(self._descriptor(file), size, start)
        except OSError:
            return b""

    def _descriptor(self, file: int) -> int:
        if file not in self._open:
            self._open[file] = os.open(self.names[file], os.O_RDONLY | os.O_CLOEXEC)
            if len(self._open) > _most_open():
                os.close(self._open.popitem(last=False)[1])
        self._open.move_to_end(file)
        return self._open[file]


def _most_open() -> int:
    """How many files may stay open: half of those that a process may have."""
    return min(_MOST_OPEN, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)


class RemoteRanges:
    """Of the files of these names in the folder `root`, a URL; `cache` has at most `most` bytes of what was read.

    Where there is no room, what was used longest ago goes first. Any number of processes share the cache. `Unreachable`
    where a file is gone, or the store does not answer after four tries.
    """

    def __init__(self, root: str, names: Sequence[str], cache: Path, most: int) -> None:
        self.names = [f"{root.rstrip('/')}/{name}" for name in names]
        self.cache, self.most = cache, most

    def read(self, wanted: Sequence[Range]) -> list[bytes]:
        """Their bytes, fewer where a file ends before."""
        found = {one: content for one in set(wanted) if (content := self._kept(one)) is not None}
        missing = sorted(set(wanted) - found.keys())
        if missing:
            fetched = dict(zip(missing, self._fetched(missing), strict=True))
            for one, content in fetched.items():
                self._keep(one, content)
            found |= fetched
        return [found[one] for one in wanted]

    def _fetched(self, wanted: Sequence[Range]) -> list[bytes]:
        # Anew in each process: connections do not survive a fork, and fsspec keeps those of one process.
        files, _ = file_system(self.names[0])
        paths = [self.names[file] for file, _, _ in wanted]
        ends = [start + size for _, start, size in wanted]
        for attempt in range(_TRIES):
            try:
                contents = files.cat_ranges(paths, [start for _, start, _ in wanted], ends, on_error="return")
            except Exception as error:  # of many types, by the kind of store
                contents = [error]
            failed = next((place for place, one in enumerate(contents) if isinstance(one, BaseException)), None)
            if failed is None:
                return [bytes(content) for content in contents]
            if isinstance(contents[failed], FileNotFoundError) or attempt == _TRIES - 1:
                raise Unreachable(f"{paths[failed]} cannot be read: {escaped(contents[failed] or 'no answer')}")
            time.sleep(_PAUSE * 2**attempt)
        raise AssertionError("the last attempt returns or raises")

    def _file(self, one: Range) -> Path:
        file, start, size = one
        name = hashlib.sha256(f"{self.names[file]} {start} {size}".encode()).hexdigest()
        return self.cache / name[:2] / name[2:32]

    def _kept(self, one: Range) -> bytes | None:
        file = self._file(one)
        try:
            content = file.read_bytes()
            os.utime(file)
        except OSError:
            return None
        return content if len(content) == one[2] else None

    def _keep(self, one: Range, content: bytes) -> None:
        if len(content) > self.most or len(content) < one[2]:
            return
        file = self._file(one)
        with writing(self.cache):
            file.parent.mkdir(parents=True, exist_ok=True)
            with _counting(self.cache / "bytes") as count:
                count.add(len(content), self)
            unfinished = file.with_name(f".{file.name}.{os.getpid()}")
            unfinished.write_bytes(content)
            os.replace(unfinished, file)

    def shrink(self, size: int) -> int:
        """Removes what was used longest ago until `size` fits, and more; returns how many bytes are left."""
        goal = min((1 - _FREED) * self.most, self.most - size)
        found = []
        for file in self.cache.glob("*/*"):
            with suppress(FileNotFoundError):
                about = file.stat()
                found.append((about.st_mtime_ns, about.st_size, file))
        left = sum(bytes_there for _, bytes_there, _ in found)
        for _, freed, file in sorted(found):
            if left <= goal:
                break
            file.unlink(missing_ok=True)
            left -= freed
        return left


class _Count:
    """The bytes of a cache, in a file that one process at a time holds."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def add(self, size: int, cache: RemoteRanges) -> None:
        """Counts what is going to be written, and makes room for it."""
        text = os.pread(self._descriptor, 32, 0)
        count = int(text) if text.isdigit() else cache.most
        if count + size > cache.most:
            count = cache.shrink(size)
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, str(count + size).encode(), 0)


@contextmanager
def _counting(path: Path) -> Iterator[_Count]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield _Count(descriptor)
    finally:
        os.close(descriptor)


def file_system(url: str) -> tuple[Any, str]:
    """What fsspec reads a URL with, and the path there; `UserError` where it knows no such kind of store."""
    import fsspec

    try:
        return fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise UserError(f"{url} is of no kind of store that can be read: {escaped(error)}") from error
