"""Tables in the folders of Hugging Face `datasets`: Arrow files, as its `save_to_disk` writes them, or Parquet files.

Arrow files are memory-mapped while they are opened. Where each image lies in its file is then known, and it is read
from there, as from tar files: pages that stay mapped would count as memory of every process, and a file that somebody
cuts off would end it. Parquet files are compressed, so that a row cannot be read alone; at their first use they are
written as an Arrow file to the user's cache (`XDG_CACHE_HOME`, else ~/.cache).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import UserError, writing
from ..untrusted import MOST_STATE_BYTES, escaped, read_file

_ROWS_AT_A_TIME = 1000


def is_table(folder: Path) -> bool:
    """Whether a folder is what `save_to_disk` wrote, of one part or of several, or has Parquet files."""
    saved = (folder / "dataset_dict.json").is_file() or (folder / "dataset_info.json").is_file()
    return saved or bool(_parquet_files(folder))


class Columns(NamedTuple):
    """Columns of a table, by their names, as pyarrow's ChunkedArrays.

    rows: how many there are; types: what `datasets` says of the type of each column, for example the names of classes;
    files: the Arrow files; memory: the address of each, and its size.
    """

    found: dict[str, Any]
    rows: int
    types: dict[str, Any]
    files: list[Path]
    memory: list[tuple[int, int]]


class Places(NamedTuple):
    """Where values lie: the number of the file, the first byte, and how many, −1 for a value that is missing; [N]."""

    file: np.ndarray
    start: np.ndarray
    size: np.ndarray


def open_columns(folder: Path, names: Sequence[str]) -> Columns:
    """The columns of these names that the table in `folder` has.

    Raises `UserError` where the table cannot be read, and names the file.
    """
    import pyarrow as pa

    if (folder / "dataset_dict.json").is_file():
        raise UserError(f"{folder} holds several data sets: give the folder of one of them")
    parquet = _parquet_files(folder)
    files = [_as_arrow(parquet, names)] if parquet else _arrow_files(folder)
    try:
        mapped = [_mapped(file, names) for file in files]
        table = pa.concat_tables([part for part, _ in mapped])
        table.validate()
        columns = {name: table.column(name) for name in names if name in table.column_names}
    except (pa.ArrowException, KeyError) as error:
        raise UserError(f"{folder} holds no table that can be read: {escaped(error)}") from error
    types = _types(table.schema.metadata or {})
    return Columns(columns, table.num_rows, types, files, [memory for _, memory in mapped])


def places_of(chunks: Sequence[Any], columns: Columns, what: str) -> Places:
    """Where the values of arrays of bytes lie in the files; `UserError`, which names the column, if in none."""
    found = [_places(chunk, columns.memory, what) for chunk in chunks if len(chunk)]
    if not found:
        return Places(*(np.empty(0, np.int64) for _ in Places._fields))
    return Places(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def _places(chunk: Any, memory: Sequence[tuple[int, int]], what: str) -> Places:
    import pyarrow as pa

    _, offsets, data = chunk.buffers() if not pa.types.is_null(chunk.type) else (None, None, None)
    if data is None or offsets is None or not data.size:
        return Places(np.zeros(len(chunk), np.int32), np.zeros(len(chunk), np.int64), np.full(len(chunk), -1))
    ends = np.frombuffer(offsets, np.int64 if pa.types.is_large_binary(chunk.type) else np.int32)
    ends = ends[chunk.offset : chunk.offset + len(chunk) + 1].astype(np.int64)
    inside = [0 <= data.address - base and data.address + data.size <= base + size for base, size in memory]
    if not any(inside):
        raise UserError(f"{what} is compressed in its Arrow file, so that no image of it can be read alone")
    file = inside.index(True)
    sizes = np.where(chunk.is_valid().to_numpy(zero_copy_only=False), np.diff(ends), -1)
    return Places(np.full(len(chunk), file, np.int32), ends[:-1] + (data.address - memory[file][0]), sizes)


def columns_of(folder: Path) -> list[str]:
    """The names of all columns."""
    parquet = _parquet_files(folder)
    return list(_parquet_schema(parquet[0]).names if parquet else _mapped(_arrow_files(folder)[0])[0].column_names)


def _parquet_files(folder: Path) -> list[Path]:
    """The Parquet files of a folder; of a set in several parts, those whose names begin with "train".

    metadata.parquet is about image files beside it.
    """
    files = sorted(file for file in folder.glob("*.parquet") if file.name != "metadata.parquet")
    return [file for file in files if file.name.startswith("train")] or files


def _arrow_files(folder: Path) -> list[Path]:
    """The files that state.json names, which `save_to_disk` wrote."""
    try:
        state = json.loads(read_file(folder / "state.json", MOST_STATE_BYTES))
        names = [entry["filename"] for entry in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{folder} has no state.json that names its Arrow files ({escaped(error)})") from error
    if not names or not all(type(name) is str and Path(name).name == name for name in names):
        raise UserError(f"{folder / 'state.json'} must name Arrow files beside it")
    return [folder / name for name in names]


def _mapped(file: Path, names: Sequence[str] | None = None) -> tuple[Any, tuple[int, int]]:
    """The columns of these names, or all, that a file of Arrow's stream format has; its address and its size."""
    import pyarrow as pa

    try:
        content = pa.memory_map(str(file))
        address = content.read_buffer(1).address
        content.seek(0)
        with pa.ipc.open_stream(content) as stream:
            table = stream.read_all()
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file} is no Arrow file that can be read, or is cut off: {escaped(error)}") from error
    chosen = table if names is None else table.select([name for name in names if name in table.column_names])
    return chosen, (address, content.size())


def _types(metadata: dict[bytes, bytes]) -> dict[str, Any]:
    """What `datasets` noted of the columns' types in the schema, {} where it noted nothing."""
    try:
        found = json.loads(metadata[b"huggingface"])["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _parquet_schema(file: Path) -> Any:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        return parquet.read_schema(file)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file} is no Parquet file that can be read, or is cut off: {escaped(error)}") from error


def _as_arrow(files: Sequence[Path], names: Sequence[str]) -> Path:
    """The Arrow file that has these columns of Parquet files, in the user's cache, written unless it is there."""
    import pyarrow as pa

    schema = _parquet_schema(files[0])
    names = [name for name in names if name in schema.names]
    known = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    digest = hashlib.sha256(json.dumps([known, names]).encode()).hexdigest()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "visgen_fast"
    made = cache / f"{digest[:32]}.arrow"
    if made.exists():
        return made
    wanted = pa.schema([schema.field(name) for name in names], schema.metadata)
    unfinished = made.with_name(f".{made.name}.{os.getpid()}")
    with writing(cache):
        cache.mkdir(parents=True, exist_ok=True)
        try:
            with pa.OSFile(str(unfinished), "wb") as file, pa.ipc.new_stream(file, wanted) as stream:
                for batch in _batches(files, names, wanted):
                    stream.write_batch(batch)
            os.replace(unfinished, made)
        finally:
            unfinished.unlink(missing_ok=True)
    return made


def _batches(files: Sequence[Path], names: Sequence[str], schema: Any) -> Iterator[Any]:
    """The rows of Parquet files; `UserError` names a file that cannot be read, or has other columns."""
    import pyarrow as pa
    from pyarrow import parquet

    for file in files:
        try:
            with parquet.ParquetFile(file) as content:
                for batch in content.iter_batches(_ROWS_AT_A_TIME, columns=list(names)):
                    yield batch.select(list(names)).cast(schema)
        except (pa.ArrowException, OSError, KeyError) as error:
            raise UserError(f"{file} is no Parquet file that can be read, or is cut off: {escaped(error)}") from error
