"""Two ranks teach a codebook what one does with all vectors, hold the same bits, and meet as often as promised.

This file is also the program that the ranks run: `torchrun --nproc-per-node 2 test_nn_ranks.py OUT`.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tolerances import assert_same_bits
from torch import distributed as dist

import visgen_fast
from visgen_fast.nn import FSQ, MultiscaleQuantizer, Quantizer, ResidualQuantizer

STEPS, DEPTH = 3, 3
OPTIONS = {
    "snapshot": {"dead_below": 0},
    "shared": {"dead_below": 0, "shared": True},
    "sequential": {"dead_below": 0, "shared": True, "update": "sequential"},
    "manual": {"dead_below": 0, "commit": "manual"},
    "revival": {"dead_below": 5.0},
    "shared revival": {"dead_below": 5.0, "shared": True},
    "k-means": {"kmeans_iterations": 4, "dead_below": 5.0},
    "shared k-means": {"kmeans_iterations": 4, "dead_below": 5.0, "shared": True},
    "manual revival": {"dead_below": 1e9, "commit": "manual"},  # of every code at every commit
    "gradient": {"learning": "gradient", "dead_below": 5.0},
    "multiscale": {"learning": "ema", "dead_below": 0},
}
ALIKE = [name for name, options in OPTIONS.items() if options["dead_below"] == 0]  # whatever the number of ranks


MICRO_BATCHES = {"manual revival": 2}
COLLECTIVES = {"sequential": DEPTH, "multiscale": 2}  # the latter's second one counts codes by scale


def quantizer(name: str) -> Quantizer:
    torch.manual_seed(0)
    if name == "multiscale":
        return MultiscaleQuantizer(16, 8, (1, (2, 1), (5, 1)), phi_count=2, **OPTIONS[name])
    return ResidualQuantizer(DEPTH, 16, 8, **OPTIONS[name])


def train(name: str, rank: int, world: int) -> dict[str, torch.Tensor]:
    """The state after a few steps, the first with a not-a-number, and how many collectives the last step took."""
    made = quantizer(name)
    generator, seen = torch.Generator().manual_seed(1), []
    for _ in range(STEPS):
        collectives = 0
        x = torch.randn(24, 5, 8, generator=generator)
        x[0, 0, 0] = torch.nan
        if name == "multiscale":
            x = x.transpose(1, 2)[..., None]  # as maps of 5×1
        all_reduce = dist.all_reduce

        def counted(*arguments, all_reduce=all_reduce):
            nonlocal collectives
            collectives += 1
            return all_reduce(*arguments)

        dist.all_reduce = counted
        ours = x[rank * 24 // world : (rank + 1) * 24 // world]
        for part in ours.chunk(MICRO_BATCHES.get(name, 1)):
            made(part)
        made.commit()
        seen.append(x)
        dist.all_reduce = all_reduce
    last = {"code_counts": made.code_counts, "collectives": torch.tensor(collectives), "seen": torch.cat(seen, 0)}
    return {**made.state_dict(), **last}


def usage(rank: int, world: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The usage on all ranks of a quantizer that counts its own rank's codes."""
    made = FSQ((5, 5))
    made(torch.randn(24, 2, generator=torch.Generator().manual_seed(1)).chunk(world)[rank])
    made.sum_usage_over_ranks()
    return made.usage()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two ranks ended with."""
    out = tmp_path_factory.mktemp("ranks")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(visgen_fast.__file__).parents[1])}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", __file__, str(out)]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert finished.returncode == 0, finished.stderr
    return [torch.load(out / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", OPTIONS)
def test_codebooks_are_the_same_bits_on_all_ranks(ranks, name):
    first, second = (states[name] for states in ranks)
    assert len(first) > 5
    for key, value in first.items():
        assert_same_bits(value, second[key], key)
        assert value.isfinite().all() or key == "seen", key


@pytest.mark.parametrize("name", ALIKE)
def test_two_ranks_teach_what_one_does(ranks, name):
    expected = train(name, 0, 1)
    for key in ("codebook.embedding", "codebook.average_size", "codebook.average_sum", "code_counts"):
        torch.testing.assert_close(ranks[0][name][key], expected[key], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_commit_takes_one_collective_and_a_sequential_one_as_many_as_depths(ranks, name):
    assert ranks[0][name]["collectives"] == COLLECTIVES.get(name, 1)


@pytest.mark.parametrize("name", ["revival", "shared revival"])
def test_both_ranks_offer_vectors_for_dead_codes(ranks, name):
    revived = ranks[0][name]["codebook.average_size"] == 5
    assert revived[..., ::2].any() and revived[..., 1::2].any()  # each rank's share is every other code


def test_usage_summed_over_ranks_is_that_of_one_rank_with_all_vectors(ranks):
    assert ranks[0]["usage"] == ranks[1]["usage"] == usage(0, 1)


def test_a_revived_code_is_one_vector_of_one_rank_however_many_micro_batches_offered_some(ranks):
    codes = ranks[0]["manual revival"]["codebook.embedding"][0]  # residuals of the first depth are the vectors
    seen = ranks[0]["manual revival"]["seen"].flatten(0, 1)
    assert (codes[:, None] == seen).all(-1).any(-1).float().mean() > 0.9


if __name__ == "__main__":
    from visgen_fast.training.place import leave_ranks

    dist.init_process_group("gloo")
    this = dist.get_rank()
    found = {name: train(name, this, 2) for name in OPTIONS}
    torch.save({**found, "usage": usage(this, 2)}, Path(sys.argv[1]) / f"{this}.pt")
    leave_ranks()
    assert not [task for task in Path("/proc/self/task").glob("*/comm") if "gloo" in task.read_text()]
