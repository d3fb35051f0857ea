"""Tar files of images: indexed once, read in any order, and whatever is wrong in them is named and skipped."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from mistakes import mistake
from PIL import Image

from visgen_fast import cli
from visgen_fast.data import ranges
from visgen_fast.data.datasets import DATASETS, FOLDER
from visgen_fast.data.image_file import decode
from visgen_fast.data.order import EndlessPermutation
from visgen_fast.data.tar_index import make_index
from visgen_fast.data.tar_shards import INDEX, TarShards
from visgen_fast.errors import Unreachable, UserError

SIDE = 8


def png(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def write(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def shards(folder: Path, count: int = 3, each: int = 4) -> Path:
    """Shards of images numbered through, image n of class n % 3."""
    for shard in range(count):
        numbers = range(shard * each, (shard + 1) * each)
        files = {f"a/{number:04d}.{kind}": content for number in numbers for kind, content in sample(number).items()}
        write(folder / f"{shard:03d}.tar", files)
    return folder


def sample(number: int) -> dict[str, bytes]:
    return {"png": png(number), "cls": f"{number % 3}\n".encode(), "json": b"{}"}


def test_images_and_classes_are_read_in_any_order(tmp_path):
    assert make_index(shards(tmp_path)) == (12, 0)
    data = TarShards(tmp_path, SIDE)
    order = [11, 0, 5, 5, 7]
    pixels, labels, complaints = data.read(order)
    assert torch.equal(pixels, torch.stack([decode(png(number), SIDE) for number in order])) and not complaints
    assert labels.tolist() == [number % 3 for number in order] and data.format.class_names == ("0", "1", "2")
    assert isinstance(DATASETS[FOLDER].train(tmp_path, SIDE), TarShards)


def test_few_shards_are_open_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(ranges, "_MOST_OPEN", 2)
    make_index(shards(tmp_path, count=5, each=1))
    data = TarShards(tmp_path, SIDE)
    for _ in range(2):
        assert torch.equal(data.read(range(5))[0], torch.stack([decode(png(number), SIDE) for number in range(5)]))
        assert len(data.files._open) == 2


def test_without_classes_all_images_are_of_one(tmp_path):
    write(tmp_path / "only.tar", {f"{number}.jpeg": png(number) for number in range(2)})
    make_index(tmp_path)
    data = TarShards(tmp_path, SIDE)
    assert data.labels.tolist() == [0, 0] and data.format.class_names == (tmp_path.name,)


def test_what_is_wrong_in_shards_is_named_and_counted_and_the_others_keep_their_order(tmp_path, caplog):
    shards(tmp_path)
    whole = (tmp_path / "001.tar").read_bytes()
    make_index(tmp_path)
    positions = EndlessPermutation(12, 0)(torch.arange(12)).tolist()
    expected = TarShards(tmp_path, SIDE).read(positions)[0]

    # A bad image stands back for the next one.
    start = int(TarShards(tmp_path, SIDE).start[5])
    (tmp_path / "001.tar").write_bytes(whole[: start + 20] + bytes(200) + whole[start + 220 :])
    pixels, labels, complaints = TarShards(tmp_path, SIDE).read(positions)
    place = positions.index(5)
    assert len(complaints) == 1 and f"001.tar, the image at byte {start}" in complaints[0]
    assert labels[place] == 6 % 3 and torch.equal(pixels[place], decode(png(6), SIDE))
    others = [at for at in range(12) if at != place]
    assert torch.equal(pixels[others], expected[others])

    # So does one that a shard no longer holds, and the shard is named.
    (tmp_path / "001.tar").write_bytes(whole[: start + 20])
    data = TarShards(tmp_path, SIDE)
    assert "001.tar has" in caplog.text
    assert len(data.read([5])[2]) == 3 and data.read([5])[1] == 8 % 3

    # A new index leaves both out.
    images, skipped = make_index(tmp_path)
    assert images == 9 and skipped == 1 and "a/0005.png: the shard ends inside it" in caplog.text


@pytest.mark.parametrize(
    ("files", "found", "said"),
    [
        ({"0.png": png(0), "0.cls": b"x"}, (1, 1), "0.cls: it has no class number"),
        ({"0.png": png(0), "0.cls": b"1", "1.png": png(1)}, (1, 1), "1 images: they have no .cls file"),
        ({"0.png": png(0), "0.cls": b"9" * 30}, (1, 1), "0.cls: it has no class number"),
        ({"0.txt": b"no image", "1.png": png(0)}, (1, 0), ""),
    ],
)
def test_samples_that_lack_something_are_skipped(files, found, said, tmp_path, caplog):
    write(tmp_path / "some.tar", files)
    assert make_index(tmp_path) == found and said in caplog.text


def test_mistakes_are_answered_in_a_sentence(tmp_path, capsys):
    assert "has no tar files" in mistake(capsys, "index", tmp_path)
    (tmp_path / "cut.tar").write_bytes(b"nothing of a tar")
    with pytest.raises(UserError, match="have no images"):
        make_index(tmp_path)
    (tmp_path / "cut.tar").unlink()
    shards(tmp_path)
    assert cli.main(["index", str(tmp_path)]) == 0
    assert "12 images" in capsys.readouterr().out
    (tmp_path / "001.tar").unlink()
    with pytest.raises(UserError, match=r"the shard .*001\.tar is gone"):
        TarShards(tmp_path, SIDE)
    (tmp_path / INDEX).write_bytes((tmp_path / INDEX).read_bytes()[:50])
    with pytest.raises(UserError, match="is no index that can be read"):
        TarShards(tmp_path, SIDE)


@pytest.fixture
def elsewhere(tmp_path):
    """A store of fsspec's, with the same shards."""
    fsspec = pytest.importorskip("fsspec")
    store = fsspec.filesystem("memory")
    local = tmp_path / "local"
    local.mkdir()
    for path in sorted(shards(local).glob("*.tar")):
        store.pipe(f"/set/{path.name}", path.read_bytes())
    yield store
    store.rm("/set", recursive=True)


def cached(folder: Path) -> int:
    return sum(file.stat().st_size for file in (folder / "cache").glob("*/*"))


def test_shards_elsewhere_are_read_as_those_here_by_way_of_a_cache_of_bounded_size(elsewhere, tmp_path, monkeypatch):
    here, most = tmp_path / "here", 3 * len(png(0))
    assert cli.main(["index", "memory://set", f"--out={here}", f"--cache-gb={most / 1e9}"]) == 0
    make_index(tmp_path / "local")
    local, data = TarShards(tmp_path / "local", SIDE), DATASETS[FOLDER].train(here, SIDE)
    calls, cat_ranges = [], type(elsewhere).cat_ranges

    def counted(self, paths, *arguments, **options):
        calls.append(len(paths))
        return cat_ranges(self, paths, *arguments, **options)

    monkeypatch.setattr(type(elsewhere), "cat_ranges", counted)
    for order in ([3, 11, 3], [3, 11], [0, 5, 7, 9], [9]):
        assert all(map(torch.equal, data.read(order)[:2], local.read(order)[:2]))
        assert 0 < cached(here) <= most
    assert calls == [2, 4]
    for file in (here / "cache").glob("*/*"):
        file.write_bytes(b"cut")
    assert torch.equal(data.read([9])[0], local.read([9])[0])


def test_shards_elsewhere_that_cannot_be_had_stop_a_run_and_bad_images_do_not(elsewhere, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(ranges, "_PAUSE", 0.0)
    make_index(tmp_path / "here", "memory://set", 0)
    data = TarShards(tmp_path / "here", SIDE)
    cut = elsewhere.cat("/set/001.tar")
    elsewhere.pipe("/set/001.tar", cut[: int(data.start[5]) + 20])
    assert data.read([5])[1].tolist() == [8 % 3] and "the shard ends inside it" in data.read([5])[2][0]
    elsewhere.rm("/set/002.tar")
    with pytest.raises(Unreachable, match=r"memory://set/002\.tar cannot be read"):
        data.read([0, 9])
    with pytest.raises(Unreachable, match=r"memory://set/002\.tar cannot be read"):
        data.read([5])  # for which one of that shard would stand in
    tries = []
    monkeypatch.setattr(type(elsewhere), "cat_ranges", lambda *_, **__: tries.append(1) or [OSError("no route")])
    with pytest.raises(Unreachable, match="no route"):
        data.read([0])
    assert len(tries) == 4

    def refuse(*_, **__):
        raise RuntimeError("no credentials")

    monkeypatch.setattr(type(elsewhere), "cat_ranges", refuse)
    with pytest.raises(Unreachable, match="no credentials"):
        data.read([0])
    assert "--out goes with the URL" in mistake(capsys, "index", "memory://set")
    assert "of no kind of store" in mistake(capsys, "index", "nowhere://set", f"--out={tmp_path / 'x'}")
    assert "memory://other has no tar files" in mistake(capsys, "index", "memory://other", f"--out={tmp_path / 'x'}")
