"""Emoji: pictures by character sequence from a font with bitmaps, captions from names; on a font made here."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fontTools.feaLib.builder import addOpenTypeFeaturesFromString
from fontTools.fontBuilder import FontBuilder
from fontTools.ttLib import newTable
from fontTools.ttLib.tables._g_l_y_f import Glyph
from fontTools.ttLib.tables.BitmapGlyphMetrics import SmallGlyphMetrics
from fontTools.ttLib.tables.C_B_D_T_ import cbdt_bitmap_format_17
from fontTools.ttLib.tables.E_B_L_C_ import BitmapSizeTable, SbitLineMetrics, Strike, eblc_index_sub_table_1
from PIL import Image

from visgen_fast.data import emoji as module
from visgen_fast.data.emoji import FONT_NAME, emoji, pictures_by_sequence
from visgen_fast.errors import UserError

# A hand, a tone of skin, the hand in that tone, a heart, and a heart on fire, joined by a zero-width joiner.
COLOURS = {
    "hand": "yellow",
    "tone": "brown",
    "brown_hand": "maroon",
    "heart": "red",
    "fire": "orange",
    "burning": "blue",
}
CHARACTERS = {0x270B: "hand", 0x1F3FF: "tone", 0x2764: "heart", 0x1F525: "fire", 0x200D: "joiner"}
LIGATURES = "feature ccmp { sub hand tone by brown_hand; sub heart joiner fire by burning; } ccmp;"
NAMES = {
    "✋": "raised hand",
    "✋🏿": "raised hand dark skin tone",
    "❤️‍🔥": "heart on fire",
    "❤️": "red heart",
    "🦄": "unicorn",
}


def bitmap(colour: str) -> bytes:
    """A PNG of 12×8 pixels: the left half in the colour, the right half transparent."""
    image = Image.new("RGBA", (12, 8), (0, 0, 0, 0))
    image.paste(colour, (0, 0, 6, 8))
    file = io.BytesIO()
    image.quantize().save(file, "PNG")
    return file.getvalue()


def write_font(folder: Path) -> Path:
    names = [".notdef", "joiner", *COLOURS]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap(CHARACTERS)
    builder.setupGlyf({name: Glyph() for name in names})
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    builder.setupHorizontalHeader()
    builder.setupPost()
    addOpenTypeFeaturesFromString(builder.font, LIGATURES)
    glyphs = {name: cbdt_bitmap_format_17(b"", builder.font) for name in COLOURS}
    for name, glyph in glyphs.items():
        glyph.metrics, glyph.imageData = SmallGlyphMetrics(), bitmap(COLOURS[name])
        vars(glyph.metrics).update(height=8, width=12, BearingX=0, BearingY=8, Advance=12)
    builder.font["CBDT"], builder.font["CBLC"] = bitmaps, places = newTable("CBDT"), newTable("CBLC")
    bitmaps.version = places.version = 3.0
    bitmaps.strikeData, places.strikes = [glyphs], [strike(list(glyphs), builder)]
    builder.save(folder / FONT_NAME)
    return folder


def strike(names: list[str], builder: FontBuilder) -> Strike:
    """Where CBLC says that the bitmaps of glyphs `names` are."""
    made, size, table = Strike(), BitmapSizeTable(), eblc_index_sub_table_1(b"", builder.font)
    size.hori, size.vert = SbitLineMetrics(), SbitLineMetrics()
    for line in (size.hori, size.vert):
        vars(line).update(dict.fromkeys(["ascender", "descender", "widthMax", "caretSlopeNumerator"], 0))
        vars(line).update(dict.fromkeys(["caretSlopeDenominator", "caretOffset", "minOriginSB", "minAdvanceSB"], 0))
        vars(line).update(dict.fromkeys(["maxBeforeBL", "minAfterBL", "pad1", "pad2"], 0))
    vars(size).update(colorRef=0, ppemX=8, ppemY=8, bitDepth=32, flags=1)
    table.names, table.indexFormat, table.imageFormat = names, 1, 17
    made.bitmapSizeTable, made.indexSubTables = size, [table]
    return made


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder with the font, and the names that the Python package would give."""
    status = {"fully_qualified": 2, "unqualified": 4}
    entries = {key: {"en": f":{name.replace(' ', '_')}:", "status": 2} for key, name in NAMES.items()}
    entries["❤"] = {"en": ":red_heart:", "status": 4}
    package = type(sys)("emoji")
    package.EMOJI_DATA, package.STATUS = entries, status
    monkeypatch.setitem(sys.modules, "emoji", package)
    return write_font(tmp_path)


def test_every_emoji_with_a_picture_and_a_name_is_an_image_whose_label_is_its_caption(folder):
    images = emoji(12, folder)
    assert images.format.captions
    assert images.format.class_names == ("heart on fire", "raised hand", "raised hand dark skin tone", "red heart")
    pixels, labels, complaints = images.read(range(len(images)))
    assert labels.tolist() == [0, 1, 2, 3] and not complaints
    assert pixels.shape == (4, 3, 12, 12) and pixels.dtype == torch.uint8
    expected = [(0, 0, 255), (255, 255, 0), (128, 0, 0), (255, 0, 0)]
    assert [tuple(image[:, 6, 3].tolist()) for image in pixels] == expected


def test_a_picture_stands_whole_on_a_white_square(folder):
    pixels = emoji(12, folder).pixels[1]
    assert (pixels[:, :2] == 255).all() and (pixels[:, -2:] == 255).all() and (pixels[:, :, 6:] == 255).all()
    assert (pixels[2, 2:10, :6] == 0).all()
    assert emoji(6, folder).pixels.shape == (4, 3, 6, 6)


def test_sequences_are_found_with_and_without_the_selector_of_the_coloured_form(folder):
    found = pictures_by_sequence(folder / FONT_NAME)
    assert set(found) >= {"✋", "✋🏿", "❤", "❤‍🔥"}
    image = np.asarray(Image.open(io.BytesIO(found["❤‍🔥"])).convert("RGBA"))
    assert image.shape == (8, 12, 4) and image[0, 0].tolist() == [0, 0, 255, 255]


def test_what_is_missing_is_named_in_one_sentence(folder, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="fonts-noto-color-emoji, or give the folder with the font as --data"):
        emoji(8, tmp_path / "nowhere")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / FONT_NAME).write_bytes(b"no font")
    with pytest.raises(UserError, match="is not a font with coloured bitmaps"):
        emoji(8, tmp_path / "other")
    monkeypatch.setitem(sys.modules, "emoji", None)
    with pytest.raises(UserError, match="pip install emoji"):
        emoji(8, folder)
    monkeypatch.setitem(sys.modules, "fontTools.ttLib", None)
    with pytest.raises(UserError, match="pip install fonttools"):
        emoji(8, folder)


def test_the_font_of_the_package_has_nearly_all_names():
    pytest.importorskip("emoji", reason="the Python package emoji is not installed")
    if not (module.EMOJI_FOLDER / FONT_NAME).is_file():
        pytest.skip("the Debian package fonts-noto-color-emoji is not installed")
    images = emoji(16)
    names = images.format.class_names
    assert len(images) > 3500 and len(set(names)) == len(names) and images.format.shape == (3, 16, 16)
    assert {"red heart", "thumbs up medium skin tone", "France", "red apple"} <= set(names)
    redness = images.pixels[names.index("red apple")].float().mean((1, 2))
    assert redness[0] > redness[1] + 20 and redness[0] > redness[2] + 20
    # A few names share a picture.
    assert len(images.pixels.flatten(1).unique(dim=0)) > 0.99 * len(images)
