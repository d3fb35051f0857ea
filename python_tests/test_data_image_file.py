"""Image files become RGB pixels: every mode and depth, transparency, orientation, damage and what is no image."""

import io
import os
import socket
import struct
import warnings
import zlib
from pathlib import Path

import fuzz_images
import numpy as np
import pytest
import torch
from image_bytes import chunk, png, tiff
from PIL import Image

from visgen_fast.data import image_file
from visgen_fast.data.image_file import complaints, decode
from visgen_fast.errors import UserError

RAMP = [0, 36, 73, 109, 146, 182, 219, 255]
DEEP = np.linspace(0, 65535, 8).round()


def pixels_of(path, content: bytes, size: int) -> np.ndarray:
    """The decoded pixels [size, size, 3] of a file with this content."""
    path.write_bytes(content)
    return decode(path, size).permute(1, 2, 0).numpy()


def ramp_of(path, content: bytes) -> list[int]:
    """The values of a grey image of 8×8 pixels whose rows are all the same."""
    pixels = pixels_of(path, content, 8)
    assert (pixels == pixels[:1, :, :1]).all()
    return pixels[0, :, 0].tolist()


def rows(values: np.ndarray, dtype: str) -> np.ndarray:
    """Eight equal rows."""
    return np.broadcast_to(values.astype(dtype), (8, 8))


def grey_tiff(values: np.ndarray, dtype: str, **options) -> bytes:
    return tiff(rows(values, dtype).tobytes(), (8, 8), bits=np.dtype(dtype).itemsize * 8, **options)


def complaint(path) -> str | None:
    return complaints([Path(path)]).get(Path(path))


def saved(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


# Twelve bits: two values in three bytes.
TWELVE = b"".join(
    struct.pack(">I", int(first) << 20 | int(second) << 8)[:3]
    for first, second in (DEEP * 4095 / 65535).round().reshape(4, 2)
)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"P5 8 8 65535\n" + rows(DEEP, ">u2").tobytes(), id="PGM"),
        pytest.param(b"P5 8 8 700\n" + rows(np.arange(0, 701, 100), ">u2").tobytes(), id="PGM-700"),
        pytest.param(b"P6 8 8 65535\n" + rows(DEEP, ">u2").repeat(3).tobytes(), id="PPM"),
        pytest.param(png(rows(DEEP, "int"), bits=16), id="PNG"),
        pytest.param(png(rows(DEEP, "int")[..., None].repeat(3, 2), bits=16), id="PNG-RGB"),
        pytest.param(saved(Image.fromarray(rows(DEEP, "u2")), "JPEG2000", irreversible=False), id="JPEG2000"),
        pytest.param(grey_tiff(DEEP, "<u2"), id="TIFF-u16"),
        pytest.param(grey_tiff(DEEP, ">u2", order=">"), id="TIFF-u16-big-endian"),
        pytest.param(grey_tiff(DEEP[::-1], "<u2", polarity=0), id="TIFF-u16-white-is-zero"),
        pytest.param(tiff(TWELVE * 8, (8, 8), bits=12), id="TIFF-u12"),
        pytest.param(grey_tiff(DEEP // 2, "<i2", sample_format=2), id="TIFF-i16"),
        pytest.param(grey_tiff(DEEP, "<u4"), id="TIFF-u32-of-16-bits"),
        pytest.param(grey_tiff(np.array(RAMP), "<i4", sample_format=2), id="TIFF-i32-of-8-bits"),
        pytest.param(grey_tiff(DEEP, "<i4", sample_format=2), id="TIFF-i32-of-16-bits"),
        pytest.param(grey_tiff(DEEP * 32768, "<i4", sample_format=2), id="TIFF-i32"),
        pytest.param(grey_tiff(DEEP * 65536, "<u4"), id="TIFF-u32"),
        pytest.param(grey_tiff(np.linspace(0, 1, 8), "<f4", sample_format=3), id="TIFF-float"),
        pytest.param(grey_tiff(np.linspace(1, 0, 8), "<f4", sample_format=3, polarity=0), id="TIFF-float-inverted"),
        pytest.param(grey_tiff(np.array(RAMP), "<f4", sample_format=3), id="TIFF-float-of-8-bits"),
        pytest.param(grey_tiff(DEEP, "<f4", sample_format=3), id="TIFF-float-of-16-bits"),
        pytest.param(b"Pf\n8 8\n-1.0\n" + rows(np.linspace(0, 1, 8), "<f4").tobytes(), id="PFM"),
    ],
)
def test_deep_pixels_are_scaled_to_eight_bits(tmp_path, content):
    got = ramp_of(tmp_path / "image", content)
    assert max(abs(a - b) for a, b in zip(got, RAMP, strict=True)) <= 1 and got[0] == 0 and got[-1] == 255


def test_float_pixels_that_are_no_brightness_are_black_or_white(tmp_path):
    values = np.array([np.nan, -np.inf, -5, 0, 0.2, 0.6, 1, np.inf])
    got = ramp_of(tmp_path / "image", grey_tiff(values, "<f4", sample_format=3))
    assert got == [0, 0, 0, 0, 51, 153, 255, 255]
    assert ramp_of(tmp_path / "image", grey_tiff(np.full(8, np.nan), "<f4", sample_format=3)) == [0] * 8
    assert ramp_of(tmp_path / "image", grey_tiff(np.full(8, -3), "<i4", sample_format=2)) == [0] * 8


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "PA", "CMYK", "YCbCr", "LAB"])
def test_every_mode_keeps_its_colour(tmp_path, mode):
    image = Image.new("RGB", (8, 8), (250, 250, 250) if mode == "1" else (200, 100, 50))
    image = (
        image.convert("P", palette=Image.Palette.ADAPTIVE).convert(mode) if mode in ("P", "PA") else image.convert(mode)
    )
    grey = mode in ("1", "L", "LA")
    expected = [255] * 3 if mode == "1" else [124] * 3 if grey else [200, 100, 50]
    got = pixels_of(tmp_path / "image", saved(image, "TIFF"), 8)
    assert abs(got.astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    ("bits", "transparent"),
    [(1, (1,)), (2, (1,)), (4, (7,)), (8, (200,)), (16, (40000,)), (8, (1, 2, 200)), (16, (300, 40000, 7))],
)
def test_the_transparent_colour_of_a_png_is_white_and_no_other_is(tmp_path, bits, transparent):
    shape = (4, 4) if len(transparent) == 1 else (4, 4, 3)
    pixels = np.zeros(shape, int)
    pixels[:2] = transparent
    got = pixels_of(tmp_path / "image", png(pixels, bits=bits, transparent=transparent), 4)
    assert (got[:2] == 255).all() and (got[2:] == 0).all()
    # The same colours without transparency.
    got = pixels_of(tmp_path / "image", png(pixels, bits=bits), 4)
    assert (got[:2] == 255).all() == (bits == 1)


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP", "TIFF", "AVIF"])
def test_a_transparent_part_is_white_in_every_format(tmp_path, kind):
    image = Image.new("RGBA", (8, 8), (10, 20, 30, 0))
    image.paste((200, 100, 50, 255), (0, 4, 8, 8))
    options = {"lossless": True} if kind == "WEBP" else {}
    got = pixels_of(tmp_path / "image", saved(image, kind, **options), 8).astype(int)
    assert (got[0] >= 250).all() and abs(got[-1] - [200, 100, 50]).max() <= 8


def test_a_palette_with_opacities_is_laid_on_white(tmp_path):
    image = Image.new("P", (8, 8), 0)
    image.putpalette([0, 0, 0, 200, 100, 50])
    image.paste(1, (0, 4, 8, 8))
    got = pixels_of(tmp_path / "image", saved(image, "PNG", transparency=bytes([0, 255])), 8)
    assert (got[0] == 255).all() and (got[-1] == [200, 100, 50]).all()


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_of_several_images_is_taken(tmp_path, kind):
    first, second = Image.new("RGB", (8, 8), (255, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 255))
    options = {"lossless": True} if kind == "WEBP" else {}
    content = saved(first, kind, save_all=True, append_images=[second], **options)
    assert (pixels_of(tmp_path / "image", content, 8) == [255, 0, 0]).all()


def half_white() -> Image.Image:
    image = Image.new("RGB", (8, 8), "black")
    image.paste("white", (0, 0, 8, 4))
    return image


def exif_of(orientation: int = 3) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_every_orientation_is_turned_upright(tmp_path, kind):
    upright = Image.new("L", (4, 6), 0)
    upright.putdata([0] * 12 + [90] * 6 + [255] * 6)
    options = {"quality": 100} if kind in ("JPEG", "AVIF") else {"lossless": True} if kind == "WEBP" else {}
    turned_back = [None, 0, 3, 1, 5, 2, 6, 4]  # members of Image.Transpose that undo orientations 1 … 8
    expected = decode_image(tmp_path, saved(upright.convert("RGB"), kind, **options))
    for orientation, method in enumerate(turned_back, 1):
        stored = upright if method is None else upright.transpose(Image.Transpose(method))
        got = decode_image(tmp_path, saved(stored.convert("RGB"), kind, exif=exif_of(orientation), **options))
        assert abs(got - expected).max() <= 8, orientation


def decode_image(folder, content: bytes) -> np.ndarray:
    return pixels_of(folder / "image", content, 4).astype(int)


def broken_exif() -> dict[str, bytes]:
    """Metadata that Pillow stumbles over; "endless" begins with the orientation of an image upside down."""
    gps = exif_of()
    gps.get_ifd(0x8825)[2] = (1.0, 2.0, 3.0)
    whole = gps.tobytes()
    endless = bytearray(whole)
    endless[-30:-20] = b"\xff" * 10
    return {
        "cut": whole[:12],
        "cut in a value": whole[:-20],
        "garbage": b"Exif\0\0" + b"\xff" * 40,
        "endless": bytes(endless),
        "no header": b"Exif\0\0",
        "a text for a number": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x04abc\0\0\0\0\0",
        "an odd position": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x88\x25\0\x04\0\0\0\x01\xff\xff\xff\xf0\0\0\0\0",
    }


@pytest.mark.parametrize("name", broken_exif())
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_broken_metadata_takes_nothing_from_a_sound_image(tmp_path, kind, name):
    content = saved(half_white(), kind, exif=broken_exif()[name])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = pixels_of(tmp_path / "image", content, 8)
    halves = got[:3].mean(), got[-3:].mean()
    assert max(halves) > 240 and min(halves) < 15
    if name != "cut in a value":  # whose orientation some formats can read
        assert (halves[0] < halves[1]) == (name == "endless")


@pytest.mark.parametrize("deflated", [False, True])
def test_a_tiff_with_a_broken_table_of_positions_is_turned_by_its_orientation_all_the_same(tmp_path, deflated):
    wide = np.zeros((4, 8), np.uint8)
    wide[:, :4] = 255
    broken = [(274, 3, 6), (0x8825, 4, 0x7FFFFFF0)]
    content = tiff(wide.tobytes(), (8, 4), bits=8, deflated=deflated, more=broken)
    got = pixels_of(tmp_path / "image", content, 4)
    assert got[0].mean() > 240 and got[-1].mean() < 15


def test_a_chunk_of_text_that_unpacks_to_a_flood_is_no_harm(tmp_path):
    flood = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(100_000_000)))
    path = tmp_path / "image.png"
    path.write_bytes(png(np.zeros((4, 4), int), bits=8, chunks=[flood]))
    assert complaint(path)


@pytest.mark.parametrize("make", ["pipe", "socket", "endless", "folder"])
def test_what_is_no_file_is_refused_at_once(tmp_path, make, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if make == "pipe":
        os.mkfifo("x.png")
    elif make == "socket":
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind("x.png")
    elif make == "endless":
        os.symlink("/dev/zero", "x.png")
    else:
        os.mkdir("x.png")
    said = complaint("x.png")
    assert said == ("No such device or address" if make == "socket" else "x.png is not a regular file")
    with pytest.raises((UserError, OSError)):
        decode("x.png", 4)


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    path = tmp_path / "image.png"
    header = struct.pack(">IIBBBBB", 2**16, 2**12, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    assert complaint(path)
    Image.new("RGB", (64, 64)).save(path)
    assert complaint(path) is None
    monkeypatch.setattr(image_file, "MOST_PIXELS", 64 * 64 - 1)
    assert complaint(path) == f"{path} has 4096 pixels, and at most 4095 are read"
    with pytest.raises(UserError, match="4096 pixels"):
        decode(path, 4)


def test_an_image_that_pillow_warns_of_but_that_fits_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)
    content = saved(Image.new("RGB", (64, 64), (1, 2, 3)), "PNG")
    (tmp_path / "image").write_bytes(content)
    assert complaint(tmp_path / "image") is None
    assert (pixels_of(tmp_path / "image", content, 4) == [1, 2, 3]).all()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP"])
def test_a_truncated_image_is_an_error(tmp_path, kind):
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    content = saved(Image.fromarray(noise), kind)
    path = tmp_path / "image"
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(Exception, match=".+"):
        decode(path, 8)


def test_postscript_is_never_given_to_an_interpreter(tmp_path, monkeypatch):
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("it was"))
    path = tmp_path / "image.png"
    Image.new("RGB", (8, 8)).save(path, "EPS")
    assert complaint(path) == "it is no image of a kind that can be read"
    with pytest.raises(OSError):
        decode(path, 4)


def test_a_name_that_is_not_utf_8_is_read(tmp_path):
    path = os.path.join(os.fsencode(tmp_path), b"\xff\xfe.png")
    with open(path, "wb") as file:
        Image.new("RGB", (8, 8), "red").save(file, "PNG")
    assert complaint(os.fsdecode(path)) is None
    assert torch.equal(decode(os.fsdecode(path), 4)[0], torch.full((4, 4), 255, dtype=torch.uint8))


def test_damaged_files_of_every_format_are_images_or_named():
    assert 0 < fuzz_images.fuzz(150) < 150
