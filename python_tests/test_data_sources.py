"""The data sets: digits, IDX files, folders of images."""

import errno
import gzip
import logging
import os
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from idx_files import idx_bytes, write_fashion_mnist
from PIL import Image

from visgen_fast.data.folder import ImageFolder
from visgen_fast.data.idx import fashion_mnist, read_idx
from visgen_fast.data.image_file import decode
from visgen_fast.data.images import digits
from visgen_fast.data.order import ImagesByPosition, MicroBatches, load
from visgen_fast.errors import UserError


def save_image(path, colour=(255, 0, 0), size=(20, 10), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)


def test_digits_are_uint8_images_of_ten_classes_over_the_whole_range():
    data = digits()
    pixels, labels, complaints = data.read(range(len(data)))
    assert len(data) == 1797 and pixels.shape == (1797, 1, 8, 8) and pixels.dtype == torch.uint8
    assert (int(pixels.min()), int(pixels.max())) == (0, 255)
    assert labels.dtype == torch.int64 and labels.unique().tolist() == list(range(10))
    assert complaints == () and data.format.shape == (1, 8, 8) and data.format.class_names[3] == "3"


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_files_are_read_whether_zipped_or_not(tmp_path, zipped):
    images = np.random.default_rng(0).integers(0, 256, (6, 5, 5))
    labels = np.array([0, 9, 3, 3, 1, 2])
    write_fashion_mnist(tmp_path, images, labels, zipped=zipped)
    pixels, got, _ = fashion_mnist(tmp_path).read([1, 5])
    assert pixels.dtype == torch.uint8 and pixels[:, 0].tolist() == images[[1, 5]].tolist()
    assert got.tolist() == [9, 2]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "not an IDX file"),
        (b"P5 8 8 255\n" + bytes(64), "not an IDX file"),
        (bytes((0, 0, 13, 1)) + bytes(8), "not an IDX file of unsigned bytes"),
        (bytes((0, 0, 8, 3, 0, 0)), "not an IDX file"),
        (idx_bytes(np.zeros((2, 3, 3)))[:-1], "17 values where its header promises 18"),
        (gzip.compress(idx_bytes(np.zeros((2, 3, 3))), mtime=0)[:-4], "cannot be read"),
        (b"\x1f\x8b garbage", "cannot be read"),
    ],
)
def test_a_damaged_idx_file_is_refused_in_a_sentence_that_names_it(tmp_path, content, complaint):
    path = tmp_path / "some-file"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"some-file.*{complaint}"):
        read_idx(path)


def test_a_folder_without_idx_files_says_where_to_get_them(tmp_path):
    with pytest.raises(UserError, match=r"dataset-fashion-mnist.*--data"):
        fashion_mnist(tmp_path)


@pytest.mark.parametrize(
    ("images", "labels"), [((3, 4, 4), [0, 1]), ((2, 4, 5), [0, 1]), ((2, 4, 4), [0, 10]), ((0, 4, 4), [])]
)
def test_idx_files_that_do_not_belong_together_are_refused(tmp_path, images, labels):
    write_fashion_mnist(tmp_path, np.zeros(images), np.array(labels), zipped=False)
    with pytest.raises(UserError, match=str(tmp_path)):
        fashion_mnist(tmp_path)


def test_sub_folders_are_classes_and_a_flat_folder_is_one_class(tmp_path):
    save_image(tmp_path / "classes" / "dog" / "deep" / "1.png")
    save_image(tmp_path / "classes" / "cat" / "2.jpg")
    save_image(tmp_path / "classes" / "dog" / "3.webp")
    data = ImageFolder(tmp_path / "classes", 16)
    assert data.format.class_names == ("cat", "dog") and data.labels.tolist() == [0, 1, 1]
    flat = ImageFolder(tmp_path / "classes" / "cat", 16)
    assert flat.format.class_names == ("cat",) and len(flat) == 1 and flat.format.shape == (3, 16, 16)


def test_files_that_are_no_images_are_named_skipped_and_counted(tmp_path, caplog):
    save_image(tmp_path / "a" / "good.png")
    save_image(tmp_path / "stray.png")
    (tmp_path / "a" / "notes.txt").write_text("hello")
    (tmp_path / "a" / "empty.png").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        data = ImageFolder(tmp_path, 8)
    assert len(data) == 1 and data.skipped == 3
    for name in ("stray.png", "notes.txt", "empty.png"):
        assert sum(name in message for message in caplog.messages) == 1
    assert any("skipped 3 files and sub-folders beside 1 images" in message for message in caplog.messages)
    assert not any("good.png" in message for message in caplog.messages)


def test_names_with_a_leading_dot_are_ignored(tmp_path, caplog):
    for path in ("1.png", ".2.png", ".ipynb_checkpoints/3.png"):
        save_image(tmp_path / "a" / path)
        save_image(tmp_path / "classes" / "cat" / path)
    save_image(tmp_path / "classes" / ".thumbnails" / "4.png")
    with caplog.at_level(logging.WARNING):
        flat, classes = ImageFolder(tmp_path / "a", 8), ImageFolder(tmp_path / "classes", 8)
    assert flat.paths == [str(tmp_path / "a" / "1.png")] and flat.format.class_names == ("a",)
    assert classes.paths == [str(tmp_path / "classes" / "cat" / "1.png")] and classes.format.class_names == ("cat",)
    assert flat.skipped == classes.skipped == 0 and not caplog.messages


def test_a_sub_folder_without_readable_images_is_no_class_but_named_skipped_and_counted(tmp_path, caplog):
    for folder in ("flat", "classes/cat", "classes/dog"):
        save_image(tmp_path / folder / "1.png")
    (tmp_path / "flat" / "empty").mkdir()
    (tmp_path / "classes" / "code").mkdir()
    (tmp_path / "classes" / "code" / "notes.txt").write_text("hello")
    with caplog.at_level(logging.WARNING):
        flat, classes = ImageFolder(tmp_path / "flat", 8), ImageFolder(tmp_path / "classes", 8)
    assert len(flat) == 1 and flat.format.class_names == ("flat",) and flat.skipped == 1
    assert classes.format.class_names == ("cat", "dog") and classes.labels.tolist() == [0, 1] and classes.skipped == 2
    for path in ("flat/empty", "classes/code"):
        assert f"skipped {tmp_path / path}: it has no readable images" in caplog.messages


def test_a_folder_without_images_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no readable images"):
        ImageFolder(tmp_path, 8)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UserError, match="no readable images"):
        ImageFolder(tmp_path, 8)
    with pytest.raises(UserError, match="is not a folder"):
        ImageFolder(tmp_path / "nowhere", 8)


def test_a_image_damaged_behind_its_header_is_named_and_always_replaced_by_the_same_other_one(tmp_path):
    for name, colour in (("1.png", (255, 0, 0)), ("2.png", (0, 255, 0)), ("3.png", (0, 0, 255))):
        save_image(tmp_path / name, colour, (64, 64))
    damaged = tmp_path / "2.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    data = ImageFolder(tmp_path, 8)
    assert len(data) == 3
    pixels, _, complaints = data.read([1, 0])
    assert pixels[:, :, 0, 0].tolist() == [[0, 0, 255], [255, 0, 0]]
    assert len(complaints) == 1 and "2.png" in complaints[0]
    for path in (tmp_path / "1.png", tmp_path / "3.png"):
        path.write_bytes(b"gone")
    with pytest.raises(UserError, match="none of the images"):
        data.read([0])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_mistake_in_a_loading_process_keeps_its_sentence(tmp_path, workers):
    save_image(tmp_path / "1.png")
    data = ImagesByPosition(ImageFolder(tmp_path, 8), 0)
    (tmp_path / "1.png").write_bytes(b"gone")
    with pytest.raises(UserError) as raised:
        next(load(data, MicroBatches(0, 1), workers=workers, pin_memory=False))
    assert str(raised.value) == f"none of the images in {tmp_path} can be decoded any more"


def test_images_are_resized_and_cropped_at_their_centre(tmp_path):
    image = Image.new("RGB", (40, 20), "black")
    image.paste("white", (10, 0, 30, 20))
    image.save(tmp_path / "wide.png")
    assert decode(tmp_path / "wide.png", 20).unique().tolist() == [255]
    small = decode(tmp_path / "wide.png", 5)
    assert small.shape == (3, 5, 5) and int(small.min()) > 230


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("L", 77, [77, 77, 77]),
        ("I;16", 77 * 256, [77, 77, 77]),
        ("RGBA", (10, 20, 30, 0), [255, 255, 255]),
        ("RGBA", (10, 20, 30, 255), [10, 20, 30]),
        ("P", 0, [0, 0, 0]),
        ("1", 1, [255, 255, 255]),
    ],
)
def test_every_kind_of_image_becomes_rgb(tmp_path, mode, colour, expected):
    save_image(tmp_path / "image.png", colour, mode=mode)
    pixels = decode(tmp_path / "image.png", 4)
    assert pixels.shape == (3, 4, 4) and pixels.dtype == torch.uint8
    assert pixels[:, 0, 0].tolist() == expected


def test_a_photograph_is_turned_upright(tmp_path):
    photograph = Image.new("RGB", (20, 20), "black")
    photograph.paste("white", (0, 0, 20, 10))
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by 180 degrees
    photograph.save(tmp_path / "photograph.png", exif=exif)
    pixels = decode(tmp_path / "photograph.png", 4)
    assert int(pixels[0, 0, 0]) == 0 and int(pixels[0, -1, 0]) == 255


def test_linked_folders_are_followed_and_each_is_read_once(tmp_path, caplog):
    save_image(tmp_path / "elsewhere" / "deep" / "1.png")
    save_image(tmp_path / "data" / "cat" / "2.png")
    (tmp_path / "data" / "cat" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "cat" / "zz_again").symlink_to(tmp_path / "elsewhere" / "deep")
    (tmp_path / "data" / "cat" / "zz_up").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "dog").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "ring").symlink_to(tmp_path / "data")
    with caplog.at_level(logging.WARNING):
        data = ImageFolder(tmp_path / "data", 8)
    folder = tmp_path / "data"
    names = ("cat/2.png", "cat/linked/deep/1.png", "dog/deep/1.png")
    assert data.paths == [str(folder / name) for name in names] and data.labels.tolist() == [0, 0, 1]
    for name in ("cat/zz_again", "cat/zz_up", "ring"):
        assert f"skipped {folder / name}: it is a link to a folder that is read already" in caplog.messages
    assert data.skipped == 3


def test_links_that_lead_nowhere_or_in_a_ring_are_named(tmp_path, caplog):
    save_image(tmp_path / "1.png")
    (tmp_path / "broken.png").symlink_to("nowhere")
    (tmp_path / "ring.png").symlink_to("ring.png")
    with caplog.at_level(logging.WARNING):
        assert len(ImageFolder(tmp_path, 8)) == 1
    assert f"skipped {tmp_path / 'broken.png'}: No such file or directory" in caplog.messages
    assert f"skipped {tmp_path / 'ring.png'}: Too many levels of symbolic links" in caplog.messages


def test_a_folder_that_may_not_be_read_is_named(tmp_path, caplog, monkeypatch):
    save_image(tmp_path / "cat" / "1.png")
    save_image(tmp_path / "cat" / "closed" / "2.png")
    save_image(tmp_path / "dog" / "3.png")
    closed = {str(tmp_path / "cat" / "closed"), str(tmp_path / "dog")}

    def refusing(original):
        def call(path, *arguments):
            if str(path) in closed:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return original(path, *arguments)

        return call

    # The administrator, as whom tests may run, may read everything.
    for name in ("listdir", "scandir"):
        monkeypatch.setattr(os, name, refusing(getattr(os, name)))
    with caplog.at_level(logging.WARNING):
        data = ImageFolder(tmp_path, 8)
    assert data.paths == [str(tmp_path / "cat" / "1.png")] and data.skipped == 2
    for path in closed:
        assert f"skipped {path}: Permission denied" in caplog.messages


def test_pipes_sockets_and_devices_among_the_images_hang_nothing(tmp_path, caplog):
    save_image(tmp_path / "1.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    with caplog.at_level(logging.WARNING):
        data = ImageFolder(tmp_path, 8)
    assert len(data) == 1 and data.skipped == 2
    assert any(f"{tmp_path / 'pipe.png'} is not a regular file" in message for message in caplog.messages)
    # One that takes an image's place later is passed over likewise.
    save_image(tmp_path / "2.png")
    data = ImageFolder(tmp_path, 8)
    (tmp_path / "1.png").unlink()
    os.mkfifo(tmp_path / "1.png")
    _, _, complaints = data.read([0])
    assert len(complaints) == 1 and "not a regular file" in complaints[0]


def test_a_flood_of_files_that_are_no_images_is_counted_but_not_all_named(tmp_path, caplog):
    save_image(tmp_path / "1.png")
    for number in range(300):
        (tmp_path / f"note {number}.txt").touch()
    with caplog.at_level(logging.WARNING):
        data = ImageFolder(tmp_path, 8)
    assert data.skipped == 300 and 90 < len(caplog.messages) < 110
    assert "skipped 300 files" in caplog.messages[-1]


def gzipped(header: bytes, mebibytes: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    content = [packer.compress(header), *(packer.compress(bytes(1 << 20)) for _ in range(mebibytes)), packer.flush()]
    return b"".join(content)


def test_an_idx_file_that_unpacks_to_more_than_its_header_promises_is_not_unpacked(tmp_path):
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzipped(bytes((0, 0, 8, 1, 0, 0, 0, 9)), 300))
    tracemalloc.start()
    with pytest.raises(UserError, match="bomb.gz holds more values where its header promises 9"):
        read_idx(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 << 20


@pytest.mark.parametrize(
    "sizes", [(1,) * 100, (1,) * 9, (2**31, 2), (2**32 - 1,) * 3, (0, 2**32 - 1, 2**32 - 1), (0, 2**32 - 1)]
)
def test_an_idx_file_that_promises_too_much_is_refused_before_anything_is_allocated(tmp_path, sizes):
    path = tmp_path / "some-file"
    path.write_bytes(bytes((0, 0, 8, len(sizes))) + struct.pack(f">{len(sizes)}I", *sizes) + b"x")
    with pytest.raises(UserError, match=f"some-file promises an array of {len(sizes)} dimensions.*at most 8"):
        read_idx(path)


def test_an_idx_file_that_is_no_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(UserError, match=f"{path} is not a regular file"):
            read_idx(path)


def test_idx_images_without_pixels_are_refused(tmp_path):
    write_fashion_mnist(tmp_path, np.zeros((2, 0, 0)), np.array([0, 1]), zipped=False)
    with pytest.raises(UserError, match="don't belong together"):
        fashion_mnist(tmp_path)
