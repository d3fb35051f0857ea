"""Captions of a folder's images: text files beside them."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import torch

from ..errors import UserError
from ..untrusted import MOST_CHARACTERS_OF_A_CLASS, read_file
from .folder import ImageFolder

logger = logging.getLogger(__name__)


def captioned(folder: ImageFolder) -> ImageFolder:
    """The images that have a caption: the first line of the text file (.txt, UTF-8) of the same name beside them.

    Labels are numbers of captions then, in the order of these; images that share one share the label. Images without
    are left out and counted. A folder without any text files stays as it is: the names of its classes are all that is
    known of its images.
    """
    found = {place: caption for place, path in enumerate(folder.paths) if (caption := _caption(Path(path)))}
    if not found:
        return folder
    captions = sorted(set(found.values()))
    numbers = {caption: number for number, caption in enumerate(captions)}
    left_out = len(folder) - len(found)
    if left_out:
        logger.warning("left out %d images in %s that have no caption beside them", left_out, folder.folder)
    made = folder.only(list(found))
    made.labels = torch.tensor([numbers[caption] for caption in found.values()])
    made.format = replace(folder.format, class_names=tuple(captions), captions=True)
    return made


def _caption(image: Path) -> str:
    """The caption of an image, "" for none."""
    try:
        text = read_file(image.with_suffix(".txt"), 4 * MOST_CHARACTERS_OF_A_CLASS).decode("utf-8-sig")
    except FileNotFoundError:
        return ""
    except (OSError, UserError, UnicodeDecodeError) as error:
        logger.warning("skipped the caption of %s: %s", image, error)
        return ""
    lines = text.strip().splitlines()
    return lines[0].strip()[:MOST_CHARACTERS_OF_A_CLASS] if lines else ""
