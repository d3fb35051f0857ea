"""Pictures of several aspect ratios: every batch is of one bucket, in the same order however many ranks there are."""

from pathlib import Path

import pytest
import torch
from mistakes import mistake
from PIL import Image

from visgen_fast import cli
from visgen_fast.data.buckets import OrderOfBuckets, in_buckets
from visgen_fast.data.folder import ImageFolder
from visgen_fast.data.image_file import decode
from visgen_fast.data.images import training_part
from visgen_fast.data.order import ImagesByPosition, MicroBatches
from visgen_fast.models import DiT, MMDiT, UNet
from visgen_fast.nn.conditions import Condition

SIDES = [(16, 16), (40, 20), (20, 41), (64, 8), (17, 16), (9, 18), (30, 16), (16, 29)]  # widths and heights


@pytest.fixture
def pictures(tmp_path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, sides in enumerate(SIDES):
        Image.new("RGB", sides, (30 * number, 90, 200)).save(folder / f"{number}.png")
    return folder


def test_a_step_is_of_one_bucket_and_an_epoch_has_every_image():
    numbers = torch.tensor([0] * 7 + [2] * 13 + [1])
    order = OrderOfBuckets(numbers, 4, seed=5)
    epochs = order(torch.arange(0, 4)), [order(torch.arange(4 * step, 4 * step + 4)) for step in range(14)]
    steps = epochs[1]
    assert torch.equal(steps[0], epochs[0])
    assert all(len(numbers[step].unique()) == 1 for step in steps)
    for epoch in (steps[:7], steps[7:]):  # 2 + 4 + 1 batches
        assert torch.cat(epoch).unique().tolist() == list(range(21))
    assert not torch.equal(torch.stack(steps[:7]), torch.stack(steps[7:]))
    assert not torch.equal(torch.stack(steps[:7]), OrderOfBuckets(numbers, 4, 6)(torch.arange(4)))


@pytest.mark.parametrize(("world", "accumulation"), [(1, 1), (2, 1), (1, 2), (4, 1), (2, 2)])
def test_the_order_is_the_same_for_any_number_of_ranks(world, accumulation, pictures):
    images = in_buckets(ImageFolder(pictures, 16), 3)
    assert images.shapes == ((24, 12), (16, 16), (12, 24)) and images.numbers.bincount().tolist() == [3, 2, 3]
    steps = 9
    whole = ImagesByPosition(images, 3, batch_size=4)
    expected = [whole.__getitems__(list(range(4 * step, 4 * step + 4))) for step in range(steps)]
    for rank in range(world):
        own = ImagesByPosition(images, 3, batch_size=4)
        batches = iter(MicroBatches(0, 4, rank=rank, world=world, accumulation=accumulation))
        for step in range(steps):
            for _ in range(accumulation):
                batch = own.__getitems__(next(batches))
                places = batch.positions - 4 * step
                assert torch.equal(batch.images, expected[step].images[places])
                assert torch.equal(batch.seeds, expected[step].seeds[places])


def test_pictures_are_cropped_to_the_shape_of_their_bucket(pictures):
    for images in (in_buckets(ImageFolder(pictures, 16), 3), in_buckets(training_part(ImageFolder(pictures, 16)), 3)):
        for index in range(len(images)):
            height, width = images.shapes[int(images.numbers[index])]
            pixels, _, _ = images.read_batch([index])
            assert pixels.shape == (1, 3, height, width) and images.read([index])[0].shape == (1, 3, 16, 16)
    whole = in_buckets(ImageFolder(pictures, 16), 3)
    assert torch.equal(whole.read_batch([1])[0][0], decode(pictures / "1.png", (12, 24)))
    turned = Image.Exif()
    turned[274] = 6
    Image.new("RGB", (40, 20)).save(pictures / "8.png", exif=turned)
    (pictures / "9.png").write_bytes((pictures / "1.png").read_bytes()[:60])
    images = in_buckets(ImageFolder(pictures, 16), 3)
    assert images.shapes[int(images.numbers[8])] == (24, 12)


@pytest.mark.parametrize("kind", [DiT, MMDiT, UNet])
def test_a_network_takes_another_shape_as_one_that_was_made_for_it(kind):
    told = {"classes": 3}
    if kind is UNet:
        sizes = {"width": 8, "multipliers": (1, 2), "depth": 1}
    else:
        sizes = {"width": 16, "depth": 1, "heads": 2, "patch_size": 2, "rotary": True, "pooled": 4, "tokens": 4}
        told = {}
    network, made = (kind(image_size=size, channels=3, **sizes, **told) for size in (8, (4, 12)))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    made.load_state_dict(network.state_dict())
    labels = torch.tensor([0, 1]) if told else Condition(torch.randn(2, 4), torch.randn(2, 5, 4))
    given = torch.randn(2, 3, 4, 12), torch.tensor([0.2, 0.8]), labels
    assert torch.equal(network(*given), made(*given)) and network.factor == 2
    with pytest.raises(ValueError, match=r"x_t must have shape \[B, 3, 8, 8\], got \[2, 3, 4, 11\]"):
        network(given[0][..., :11], *given[1:])


def test_a_network_of_any_shape_trains_on_them_and_others_refuse_them(pictures, tmp_path, capsys):
    short = ["--device=cpu", "--batch-size=2", "--sample-every=0", "--warmup-steps=0", "--workers=0", "--size=16"]
    network = ["--width=8", "--multipliers", "1", "2", "--depth=1", "--sampling-steps=1", "--heads=1"]
    train = ["train", "ddpm", f"--dataset={pictures}", *short, *network, "--steps=4", f"--out={tmp_path / 'run'}"]
    assert cli.main([*train, "--buckets=3"]) == 0
    other = [f"--out={tmp_path / 'other'}", "--buckets=3"]
    flow = ["train", "rectified-flow", f"--dataset={pictures}", *short, *other, "--width=8", "--depth=1", "--heads=1"]
    assert "--buckets needs a network that takes any shape" in mistake(capsys, *flow)
    games = ["train", "dcgan", f"--dataset={pictures}", *short, *other]
    assert "--buckets is not for this recipe" in mistake(capsys, *games)
    assert "--buckets is for folders of pictures" in mistake(capsys, "train", "ddpm", "--dataset=digits", *other)
    deep = ["--multipliers", "1", "1", "1", "1", "--heads=1", "--width=8"]
    sides = mistake(capsys, "train", "ddpm", f"--dataset={pictures}", *short, *deep, *other)
    assert "--buckets has pictures of 24×12 pixels, and the network needs sides of multiples of 8" in sides
