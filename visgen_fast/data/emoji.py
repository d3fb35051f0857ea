"""The emoji of Google's font Noto Color Emoji, each a small colour image with its English name as the caption.

Debian's package fonts-noto-color-emoji has the font (art: Apache-2.0), the Python package emoji has the names. In the
font's tables, CBDT holds a PNG for each glyph, cmap leads from a character to its glyph, and the ligatures of GSUB lead
from a sequence of glyphs (a flag, a person with a tone of skin) to the one that shows them all.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..errors import UserError
from .images import ImagesInMemory

# Where the Debian package fonts-noto-color-emoji puts the font.
EMOJI_FOLDER = Path("/usr/share/fonts/truetype/noto")
FONT_NAME = "NotoColorEmoji.ttf"
# Asks for the coloured form of a character; the font's ligatures do without it.
_VARIATION_SELECTOR = "\ufe0f"


def emoji(size: int, folder: Path | None = None) -> ImagesInMemory:
    """All emoji that have a picture and a name, on white, at size×size pixels; labels are indices of their captions.

    They are in the order of their captions. `folder` has the font; it defaults to that of Debian's package. Raises
    `UserError`, which names the package, where the font or the names are missing.
    """
    pictures = pictures_by_sequence((folder or EMOJI_FOLDER) / FONT_NAME)
    found = {caption: pictures[key] for caption, key in sorted(captioned_sequences().items()) if key in pictures}
    pixels = torch.from_numpy(np.stack([_on_white(picture, size) for picture in found.values()]))
    return ImagesInMemory(
        pixels.permute(0, 3, 1, 2).contiguous(), torch.arange(len(found)), tuple(found), captions=True
    )


def captioned_sequences() -> dict[str, str]:
    """The characters of each emoji, without variation selectors, by its English name: "flag" or "waving hand"."""
    try:
        from emoji import EMOJI_DATA, STATUS
    except ModuleNotFoundError as error:
        raise UserError("the emoji's names are those of the Python package emoji: pip install emoji") from error
    return {
        entry["en"].strip(":").replace("_", " "): characters.replace(_VARIATION_SELECTOR, "")
        for characters, entry in EMOJI_DATA.items()
        # Other entries are the same emoji again, with fewer variation selectors.
        if entry["status"] == STATUS["fully_qualified"]
    }


def pictures_by_sequence(path: Path) -> dict[str, bytes]:
    """The PNG files in a font with coloured bitmaps, by the characters that each stands for, less the selectors."""
    try:
        from fontTools.ttLib import TTFont, TTLibError
    except ModuleNotFoundError as error:
        raise UserError("reading the emoji needs fontTools: pip install fonttools") from error
    try:
        with path.open("rb") as file, TTFont(file, lazy=True) as font:
            glyphs = _glyphs_by_sequence(font)
            bitmaps = font["CBDT"].strikeData[0]
            return {characters: bitmaps[name].imageData for characters, name in glyphs.items() if name in bitmaps}
    except FileNotFoundError as error:
        raise UserError(
            f"{path.parent} has no {path.name}: install the Debian package fonts-noto-color-emoji, or give the folder "
            "with the font as --data"
        ) from error
    except (TTLibError, KeyError, OSError) as error:
        raise UserError(f"{path} is not a font with coloured bitmaps (CBDT): {error}") from error


def _glyphs_by_sequence(font: Any) -> dict[str, str]:
    """Glyph names by the characters they stand for: single ones, and those that a ligature joins."""
    glyphs = {chr(code): name for code, name in font.getBestCmap().items()}
    characters = {name: character for character, name in glyphs.items()}
    lookups = font["GSUB"].table.LookupList.Lookup if "GSUB" in font else []
    for table in (table for lookup in lookups for table in lookup.SubTable if hasattr(table, "ligatures")):
        for first, ligatures in table.ligatures.items():
            for ligature in ligatures:
                parts = [first, *ligature.Component]
                if all(part in characters for part in parts):
                    glyphs["".join(characters[part] for part in parts)] = ligature.LigGlyph
    return {sequence.replace(_VARIATION_SELECTOR, ""): name for sequence, name in glyphs.items()}


def _on_white(picture: bytes, size: int) -> np.ndarray:
    """A PNG as uint8 [size, size, 3]: on a white square, which it fits into whole."""
    image = Image.open(io.BytesIO(picture)).convert("RGBA")
    side = max(image.size)
    square = Image.new("RGBA", (side, side), "white")
    square.alpha_composite(image, ((side - image.width) // 2, (side - image.height) // 2))
    return np.asarray(square.convert("RGB").resize((size, size), Image.Resampling.LANCZOS))
