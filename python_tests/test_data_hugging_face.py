"""Arrow and Parquet of Hugging Face `datasets`: images, classes and texts by columns, and what is wrong in them."""

import json

import pytest
import torch
from mistakes import mistake
from test_data_tar_shards import SIDE, png

from visgen_fast.data import hugging_face
from visgen_fast.data.hugging_face import HuggingFaceImages
from visgen_fast.data.image_file import decode
from visgen_fast.errors import UserError
from visgen_fast.recipes._images import ImageSettings
from visgen_fast.recipes.text_to_image import Settings as TextSettings

pa = pytest.importorskip("pyarrow")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def table(labels, *, contents=None, kinds=None, **columns):
    """Picture n in row n, as `datasets` keeps it; the types that it notes."""
    contents = [png(number) for number in range(len(labels))] if contents is None else contents
    pictures = pa.array([{"bytes": content, "path": None} for content in contents], PICTURE)
    made = pa.table({"image": pictures, "label": labels, **columns})
    return made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": kinds or {}}})})


PICTURE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def save(made, folder, *, kind="arrow", files=2):
    """As `save_to_disk` writes it, or Parquet files, a few rows each."""
    folder.mkdir()
    each = -(-made.num_rows // files)
    names = [f"data-{number:05d}-of-{files:05d}.arrow" for number in range(files)]
    for number, name in enumerate(names):
        part = made.slice(number * each, each)
        if kind == "parquet":
            pa.parquet.write_table(part, folder / f"train-{number}.parquet")
        else:
            with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, part.schema) as stream:
                stream.write_table(part, max_chunksize=2)
    if kind == "arrow":
        (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
        (folder / "dataset_info.json").write_text("{}")
    return folder


@pytest.mark.parametrize("kind", ["arrow", "parquet"])
def test_images_and_classes_are_read_in_any_order(kind, tmp_path):
    pytest.importorskip("pyarrow.parquet")
    labels = ["cat", "dog", "cat", "ant", "dog", "cat", "ant"]
    folder = save(table(labels), tmp_path / "set", kind=kind)
    for _ in range(2):  # made, and as it was made
        images = ImageSettings(dataset=str(folder), size=SIDE).images
        pixels, found, complaints = images.read([6, 0, 0, 3])
        assert torch.equal(pixels, torch.stack([decode(png(number), SIDE) for number in (6, 0, 0, 3)]))
        assert images.format.class_names == ("ant", "cat", "dog") and found.tolist() == [0, 1, 1, 0] and not complaints


def test_texts_are_captions_and_rows_without_one_are_named_counted_and_left_out(tmp_path, caplog):
    texts = pa.array([b"a  red\nhat", b"a dog", None, b"\xff\xfe", b"a red hat", b" "], pa.binary())
    texts = pa.Array.from_buffers(pa.string(), len(texts), texts.buffers())  # which Arrow doesn't look at
    folder = save(table([0] * 6, words=texts), tmp_path / "set")
    images = TextSettings(dataset=str(folder), size=SIDE, text_column="words").images
    assert images.format.class_names == ("a dog", "a red hat") and images.format.captions
    assert images.labels.tolist() == [1, 0, 1] and images.skipped == 3
    assert torch.equal(images.read([2])[0][0], decode(png(4), SIDE))
    assert "row 2 of" in caplog.text and "no UTF-8" in caplog.text and "skipped 3 rows beside 3" in caplog.text


def test_classes_are_those_that_the_table_names(tmp_path):
    kinds = {"label": {"_type": "ClassLabel", "names": ["none", "some"]}}
    folder = save(table([1, -1, 1, 2, None], kinds=kinds), tmp_path / "named")
    images = HuggingFaceImages(folder, SIDE)
    assert images.format.class_names == ("none", "some") and images.labels.tolist() == [1, 1] and images.skipped == 3
    images = HuggingFaceImages(save(table([30, 7, 30, None]), tmp_path / "numbered"), SIDE)
    assert images.format.class_names == ("7", "30") and images.labels.tolist() == [1, 0, 1]
    one = HuggingFaceImages(save(table([1]).drop_columns("label"), tmp_path / "one", files=1), SIDE)
    assert one.format.class_names == ("one",)


def test_a_bad_image_stands_back_for_the_next_one_and_is_named(tmp_path):
    contents = [png(0), b"no image", None, png(3)]
    images = HuggingFaceImages(save(table([0, 1, 2, 3], contents=contents), tmp_path / "set"), SIDE)
    pixels, labels, complaints = images.read([1, 0])
    assert labels.tolist() == [3, 0] and torch.equal(pixels[0], decode(png(3), SIDE))
    assert [text.partition("row ")[2][:1] for text in complaints] == ["1", "2"] and "has the path of" in complaints[1]


def test_mistakes_are_answered_in_a_sentence(tmp_path, capsys):
    folder = save(table([0, 1, 2, 3], price=[0.5] * 4), tmp_path / "set")
    for columns, said in (
        ({"image_column": "img"}, "no column 'img', which --image-column names; it has image, label, price"),
        ({"label_column": "kind"}, "no column 'kind', which --label-column"),
        ({"text_column": "price"}, "'price' of .* must hold texts, but it is of double"),
        ({"label_column": "price"}, "must hold classes, whole numbers or texts, but it is of double"),
        ({"image_column": "label"}, "must hold images, but it is of int64"),
    ):
        with pytest.raises(UserError, match=said):
            HuggingFaceImages(folder, SIDE, **columns)
    options = [f"--dataset={folder}", "--device=cpu", f"--out={tmp_path / 'run'}"]
    assert "give one of them" in mistake(capsys, "train", "ddpm", *options, "--label-column=a", "--text-column=b")
    digits = ["train", "ddpm", "--dataset=digits", f"--out={tmp_path / 'run'}", "--text-column=b"]
    assert "--text-column is for folders of Arrow or Parquet files, got digits" in mistake(capsys, *digits)
    cut = folder / "data-00001-of-00002.arrow"
    cut.write_bytes(cut.read_bytes()[:-300])
    assert f"{cut} is no Arrow file that can be read, or is cut off" in mistake(capsys, "train", "ddpm", *options)
    (folder / "dataset_dict.json").write_text("{}")
    assert "holds several data sets" in mistake(capsys, "train", "ddpm", *options)


def test_more_texts_than_a_checkpoint_can_keep_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(hugging_face, "MOST_STATE_BYTES", 40)
    folder = save(table([0] * 3, words=["a dog"] * 3), tmp_path / "few")
    assert HuggingFaceImages(folder, SIDE, text_column="words").format.class_names == ("a dog",)
    folder = save(table([0] * 3, words=["a dog", "a cat", "a red hat"]), tmp_path / "many")
    with pytest.raises(UserError, match="'words' of .* has different texts of 31 bytes together"):
        HuggingFaceImages(folder, SIDE, text_column="words")


def test_of_parquet_files_those_for_training_are_taken_and_none_that_are_about_image_files(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    folder = save(table([0, 1, 2, 3]), tmp_path / "set", kind="parquet")
    parquet.write_table(table([4, 5]), folder / "test-0.parquet")
    assert len(HuggingFaceImages(folder, SIDE)) == 4
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "0.png").write_bytes(png(0))
    parquet.write_table(pa.table({"file_name": ["0.png"]}), tmp_path / "images" / "metadata.parquet")
    assert len(ImageSettings(dataset=str(tmp_path / "images"), size=SIDE).images) == 1


def test_offsets_that_lead_elsewhere_are_refused(tmp_path):
    folder = save(table([0, 1]), tmp_path / "set", files=1)
    (file,) = folder.glob("*.arrow")
    sizes = len(png(0)), len(png(0)) + len(png(1))
    right, wrong = (b"".join(at.to_bytes(4, "little") for at in (0, *ends)) for ends in (sizes, (2**30, 2**30)))
    file.write_bytes(file.read_bytes().replace(right, wrong))
    with pytest.raises(UserError, match="is damaged|binary offsets"):
        HuggingFaceImages(folder, SIDE)
