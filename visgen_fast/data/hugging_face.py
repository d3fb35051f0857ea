"""The images in a column of a table of Hugging Face `datasets`, with their classes or their texts in another."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from ..untrusted import MOST_CHARACTERS_OF_A_CLASS, MOST_CLASSES, MOST_STATE_BYTES, escaped
from .arrow import columns_of, open_columns, places_of
from .image_file import decode
from .images import ImageFormat, of_files, readable_ones, sha256_of
from .ranges import LocalRanges

logger = logging.getLogger(__name__)

_LABELS = "label"  # the column of the classes, if it is there and nothing else is said
_MOST_NAMED = 100


class HuggingFaceImages:
    """The images of a folder's rows as RGB, resized and centre-cropped to `size`×`size` when they are read.

    image_column: of images as `datasets` keeps them, or as the bytes of their files. label_column: of classes, whole
    numbers or texts; by default "label" where there is one, else all images are of one class. text_column: of texts
    about the images, in its place; rows of one text share the label, and white space counts as one space.

    Rows stay on the disk, and take 36 bytes of memory each, which loading processes share. Those without a class, or
    whose text is missing or no UTF-8, are left out and counted, and the first hundred are named in the log. An image
    that cannot be decoded, or is missing in its row, stands back for the next one, always the same. Raises `UserError`
    for a column that is missing or of another kind, a file that cannot be read, and where no row is left.
    """

    def __init__(
        self, folder: Path, size: int, *, image_column: str = "image", label_column: str = "", text_column: str = ""
    ) -> None:
        asked = list(dict.fromkeys(filter(None, (image_column, label_column or _LABELS, text_column))))
        opened = open_columns(folder, asked)
        columns, count, types = opened.found, opened.rows, opened.types
        required = {"image": image_column, "label": label_column, "text": text_column}
        for option, name in required.items():
            if name and name not in columns:
                there = escaped(", ".join(columns_of(folder)))
                raise UserError(f"{folder} has no column {name!r}, which --{option}-column names; it has {there}")
        self.folder, self._columns = folder, asked
        what = f"the column {image_column!r} of {folder}"
        self._places = places_of(_files(columns[image_column], what), opened, what)
        self._files = LocalRanges(opened.files)
        found = _Labels(np.zeros(count, np.int64), (folder.name,), "")
        if text_column:
            found = _texts(columns[text_column], f"the column {text_column!r} of {folder}")
        elif (name := label_column or _LABELS) in columns:
            found = _classes(columns[name], types.get(name), f"the column {name!r} of {folder}")
        self._rows = np.flatnonzero(found.numbers >= 0)
        self.labels = torch.from_numpy(found.numbers[self._rows])
        self.skipped = count - len(self._rows)
        self._tell(found)
        if not len(self._rows):
            raise UserError(f"{folder} has no rows that can be trained on, of {count}")
        self.format = ImageFormat(
            height=size, width=size, channels=3, class_names=found.names, captions=bool(text_column)
        )

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, indices: Sequence[int]) -> tuple[Tensor, Tensor, tuple[str, ...]]:
        images, chosen, complaints = readable_ones(len(self), indices, self._image, str(self.folder))
        return images, torch.from_numpy(self.labels.numpy()[chosen]), complaints

    def content(self, index: int) -> bytes | None:
        """The file of an image, None for none."""
        row, (file, start, size) = self._rows.item(index), self._places
        if size.item(row) < 0:
            return None
        return self._files.read([(file.item(row), start.item(row), size.item(row))])[0]

    def fingerprint(self) -> str:
        return sha256_of(of_files(sorted(self.folder.iterdir())), self._columns)

    def _image(self, index: int) -> Tensor:
        row, content = self._rows.item(index), self.content(index)
        try:
            if content is None:
                raise ValueError("it holds no image; files that a row has the path of are not read")
            return decode(content, self.format.shape[-2:])
        except Exception as error:  # Pillow's decoders raise errors of many types on damaged images.
            raise ValueError(f"{self.folder}, row {row}: {error}") from error

    def _tell(self, found: _Labels) -> None:
        for row in np.flatnonzero(found.numbers < 0)[:_MOST_NAMED].tolist():
            logger.warning("skipped row %d of %s: %s", row, self.folder, found.why)
        if self.skipped:
            logger.warning("skipped %d rows beside %d in %s", self.skipped, len(self), self.folder)


class _Labels(NamedTuple):
    """The label of every row, int64 [N] with −1 for none, the names, and why a row may have none."""

    numbers: np.ndarray
    names: tuple[str, ...]
    why: str


def _files(column: Any, what: str) -> list[Any]:
    """The chunks of a column of images, as arrays of the content of their files."""
    import pyarrow as pa

    if pa.types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0:
        chunks = [chunk.field("bytes") for chunk in column.chunks]
    else:
        chunks = column.chunks
    kinds = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_null)
    if not all(any(kind(chunk.type) for kind in kinds) for chunk in chunks):
        raise UserError(f"{what} must hold images, but it is of {escaped(column.type, 200)}")
    return [_sound(chunk, what) for chunk in chunks]


def _classes(column: Any, kind: Any, what: str) -> _Labels:
    """Classes by their numbers or names; of a ClassLabel of `datasets`, which `kind` describes, by its own."""
    import pyarrow as pa

    why = "it has no class"
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return _texts(column, what)._replace(why="the name of its class is missing, or no UTF-8")
    if not pa.types.is_integer(column.type) and not pa.types.is_boolean(column.type):
        raise UserError(f"{what} must hold classes, whole numbers or texts, but it is of {escaped(column.type, 200)}")
    try:
        values = column.cast(pa.int64()).fill_null(-1).to_numpy().copy()
    except pa.ArrowInvalid as error:
        raise UserError(f"{what} must hold classes, but has larger numbers: {escaped(error, 200)}") from error
    missing = column.is_null().to_numpy()
    names = kind.get("names") if isinstance(kind, dict) and kind.get("_type") == "ClassLabel" else None
    if isinstance(names, list) and all(type(name) is str for name in names):
        values[missing | (values < 0) | (values >= len(names))] = -1
        return _Labels(values, _few(tuple(names), what), why)
    found = np.unique(values[~missing])
    numbers = np.where(missing, -1, np.searchsorted(found, values))
    return _Labels(numbers, _few(tuple(map(str, found[: MOST_CLASSES + 1].tolist())), what), why)


def _texts(column: Any, what: str) -> _Labels:
    """Texts, in the order of these; equal ones are one object."""
    import pyarrow as pa

    binary = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}.get(column.type)
    if binary is None:
        raise UserError(f"{what} must hold texts, but it is of {escaped(column.type, 200)}")
    coded = _sound(column.cast(binary), what).dictionary_encode().combine_chunks()
    captions = [_caption(text) for text in coded.dictionary.to_pylist()]
    names = sorted({caption for caption in captions if caption})
    place = {name: number for number, name in enumerate(names)}
    # One more, for rows without a text.
    numbers = np.array([place.get(caption, -1) for caption in captions] + [-1], np.int64)
    numbers = numbers[coded.indices.fill_null(-1).to_numpy(zero_copy_only=False)]
    return _Labels(numbers, _few(tuple(names), what), "its text is missing, or no UTF-8")


def _sound(values: Any, what: str) -> Any:
    """The values of a column that hold together: offsets that lead elsewhere would end the process."""
    import pyarrow as pa

    try:
        values.validate(full=True)
    except pa.ArrowInvalid as error:
        raise UserError(f"{what} is damaged: {escaped(error, 200)}") from error
    return values


def _caption(content: bytes) -> str:
    """A text on one line, "" for none."""
    try:
        return " ".join(content.decode("utf-8-sig").split())[:MOST_CHARACTERS_OF_A_CLASS]
    except UnicodeDecodeError:
        return ""


def _few(names: tuple[str, ...], what: str) -> tuple[str, ...]:
    """The names, cut where they are endless; `UserError` for more than a checkpoint's state.json may hold."""
    if len(names) > MOST_CLASSES:
        raise UserError(f"{what} has more than {MOST_CLASSES} classes or texts")
    names = tuple(name[:MOST_CHARACTERS_OF_A_CLASS] for name in names)
    written = len(json.dumps(names))
    if written > MOST_STATE_BYTES // 2:
        raise UserError(
            f"{what} has different texts of {written} bytes together, and checkpoints keep at most "
            f"{MOST_STATE_BYTES // 2} of them"
        )
    return names
