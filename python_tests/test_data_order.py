"""The order of the data: a pure function of seed and position."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from visgen_fast import ops
from visgen_fast.data.images import ImagesInMemory
from visgen_fast.data.order import Batch, EndlessPermutation, ImagesByPosition, MicroBatches, load

seeds = st.integers(-(2**63), 2**63 - 1)


def some_images(count: int = 37) -> ImagesInMemory:
    pixels = torch.arange(count * 12, dtype=torch.int64).remainder(251).to(torch.uint8).view(count, 1, 12, 1)
    return ImagesInMemory(pixels.expand(count, 1, 12, 12).contiguous(), torch.arange(count) % 3, ["a", "b", "c"])


def take(positions: MicroBatches, count: int) -> list[list[int]]:
    iterator = iter(positions)
    return [next(iterator) for _ in range(count)]


@given(length=st.integers(1, 50), seed=seeds, epoch=st.integers(0, 2**40))
@settings(max_examples=30, deadline=None)
def test_every_epoch_shows_every_image_exactly_once(length, seed, epoch):
    positions = torch.arange(length) + epoch * length
    indices = EndlessPermutation(length, seed)(positions)
    assert indices.sort().values.tolist() == list(range(length))


@given(length=st.integers(1, 20), seed=seeds, positions=st.lists(st.integers(0, 200), min_size=1, max_size=30))
@settings(max_examples=30, deadline=None)
def test_the_index_at_a_position_does_not_depend_on_what_was_asked_before(length, seed, positions):
    together = EndlessPermutation(length, seed)(torch.tensor(positions))
    alone = [int(EndlessPermutation(length, seed)(torch.tensor([position]))) for position in positions]
    assert together.tolist() == alone


def test_epochs_and_seeds_differ_in_their_order():
    first = EndlessPermutation(100, 0)(torch.arange(200)).view(2, 100)
    other = EndlessPermutation(100, 1)(torch.arange(100))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], other)


@given(
    steps=st.integers(1, 3),
    world=st.integers(1, 4),
    accumulation=st.integers(1, 3),
    share=st.integers(1, 5),
    start_step=st.integers(0, 7),
)
@settings(max_examples=50, deadline=None)
def test_ranks_and_micro_batches_together_have_each_step_s_positions_once(
    steps, world, accumulation, share, start_step
):
    batch_size = world * accumulation * share
    start = start_step * batch_size
    seen = []
    for rank in range(world):
        positions = MicroBatches(start, batch_size, rank=rank, world=world, accumulation=accumulation)
        micro_batches = take(positions, steps * accumulation)
        assert all(len(batch) == share and all(at % world == rank for at in batch) for batch in micro_batches)
        seen += [(count // accumulation, at) for count, batch in enumerate(micro_batches) for at in batch]
    expected = [(step, start + step * batch_size + at) for step in range(steps) for at in range(batch_size)]
    assert sorted(seen) == expected


def test_a_position_s_image_label_seed_and_mirroring_are_the_same_however_positions_are_grouped():
    data = ImagesByPosition(some_images(), 5, horizontal_flip=True)
    together = data.__getitems__(list(range(100)))
    for positions in (list(range(1, 100, 2)), [99], [50, 3]):
        alone = ImagesByPosition(some_images(), 5, horizontal_flip=True).__getitems__(positions)
        for name in ("images", "labels", "seeds", "positions"):
            assert torch.equal(getattr(alone, name), getattr(together, name)[positions])


def test_a_sample_s_seed_is_derived_from_the_run_s_seed_and_its_position():
    batch = ImagesByPosition(some_images(), 5).__getitems__([4, 1_000_000])
    assert torch.equal(batch.seeds, ops.derive_seeds(5, torch.tensor([4, 1_000_000])))
    assert batch.positions.tolist() == [4, 1_000_000]


def test_half_of_the_images_are_mirrored_and_the_others_are_untouched():
    pixels = torch.arange(16, dtype=torch.uint8).view(1, 1, 4, 4)
    data = ImagesByPosition(ImagesInMemory(pixels, torch.tensor([0]), ["a"]), 0, horizontal_flip=True)
    drawn = data.__getitems__(list(range(1000))).images
    plain, mirrored = (drawn == pixels).flatten(1).all(1), (drawn == pixels.flip(-1)).flatten(1).all(1)
    assert torch.all(plain ^ mirrored)
    # Five standard deviations of a fair coin thrown 1000 times.
    assert abs(int(mirrored.sum()) - 500) < 79


def test_loading_processes_deliver_the_same_batches_as_the_training_process():
    def batches(workers: int) -> list[Batch]:
        data = ImagesByPosition(some_images(), 5, horizontal_flip=True)
        loaded = load(data, MicroBatches(24, 8), workers=workers, pin_memory=False)
        return [next(loaded) for _ in range(6)]

    for here, there in zip(batches(0), batches(2), strict=True):
        assert torch.equal(here.images, there.images)
        assert torch.equal(here.labels, there.labels)
        assert torch.equal(here.seeds, there.seeds)
        assert here.module_seed == there.module_seed
