"""Drawing codes by CUDA graphs: what is replayed is what is drawn eagerly, and what cannot be captured is drawn so.

Without a GPU a stand-in takes the place of a captured graph: it calls the captured function again, so whatever that
takes from the call that it was captured at, rather than from memory, gives other codes.
"""

from __future__ import annotations

import warnings

import pytest
import torch
from code_models import BLOCKS, awake, masked, scales, sequence

from visgen_fast import ops
from visgen_fast.autoregression import graphs, raster, release_graphs, sample, shuffled, snake
from visgen_fast.models import PixelCNN, SpaceDepthModel

LABELS = torch.tensor([0, 1, 2, 0])


def seeds(run: int) -> torch.Tensor:
    return ops.derive_seeds(run, torch.arange(4))


class StandIn:
    """In the place of a captured graph."""

    def __init__(self, function) -> None:
        self.replay = function


@pytest.fixture
def captured(monkeypatch):
    """Graphs by the stand-in, on a CPU; gives the list of those that were captured."""
    made: list[StandIn] = []

    def capture(function) -> StandIn:
        made.append(StandIn(function))
        return made[-1]

    monkeypatch.setattr(graphs, "Captured", capture)
    monkeypatch.setattr(graphs, "_can_capture", lambda device: True)
    release_graphs()
    yield made
    release_graphs()


MODELS = {
    "sequence": lambda: sequence(snake((2, 3, 1)), 5, classes=3),
    "space and depth": lambda: SpaceDepthModel((2, 2), 3, 5, inner_depth=1, classes=3, **BLOCKS),
    "PixelCNN": lambda: PixelCNN((3, 2, 2), 5, width=8, depth=2, classes=3),
    "scales": lambda: scales((1, 2), 5, classes=3),
    "masked": lambda: masked(shuffled((2, 2, 1), 1), 5, classes=3),
}
OPTIONS = {
    "plain": lambda run: {},
    "guided": lambda run: {"guidance": 2.5, "top_k": 3},
    "by progress": lambda run: {"guidance": lambda progress: 1 + progress, "top_p": 0.9},
    "tensors": lambda run: {
        "guidance": torch.tensor([1.0, 0.0, 2.0, 3.0]) + run,
        "temperature": torch.tensor([0.5, 1.0, 2.0, 0.0]) * (1 + run),
        "top_k": torch.tensor([1, 2, 3, 5]).roll(run),
    },
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_a_replayed_loop_draws_what_an_eager_one_does(make, options, captured):
    model = awake(make)
    for run in range(4):
        labels = LABELS.roll(run)
        drawn = sample(model, labels, seeds(run), graph=True, **options(run))
        assert torch.equal(drawn, sample(model, labels, seeds(run), **options(run)))
    assert len(captured) == 1


def test_known_codes_are_copied_into_the_graph(captured):
    model = awake(MODELS["sequence"])
    for run in range(3):
        known = torch.full((4, 2, 3, 1), -1)
        known[:, 0] = run
        drawn = sample(model, LABELS, seeds(run), graph=True, known=known)
        assert torch.equal(drawn, sample(model, LABELS, seeds(run), known=known)) and (drawn[:, 0] == run).all()
    sample(model, LABELS, seeds(0), graph=True)  # a kind of its own
    assert len(captured) == 1


def test_what_differs_is_another_graph_and_old_ones_go(captured):
    model = awake(MODELS["sequence"])
    for temperature in (0.5, 1.0, 1.5, 2.0, 2.5):
        for _ in range(2):
            sample(model, LABELS, seeds(0), graph=True, temperature=temperature)
    assert len(captured) == 5 and len(graphs._kept) == graphs.MOST_KEPT
    for _ in range(2):
        sample(model, LABELS[:2], seeds(0)[:2], graph=True, temperature=2.5)
    assert len(captured) == 6
    model.head.weight = torch.nn.Parameter(model.head.weight.detach().clone())  # elsewhere in memory
    sample(model, LABELS, seeds(0), graph=True, temperature=2.5)
    assert len(captured) == 6
    release_graphs()
    assert not graphs._kept


def test_results_stay_when_the_graph_is_replayed(captured):
    model = awake(MODELS["sequence"])
    results = [sample(model, LABELS, seeds(run), graph=True) for run in range(3)]
    for run, codes in enumerate(results):
        assert torch.equal(codes, sample(model, LABELS, seeds(run)))


def test_callbacks_see_the_same_as_eagerly(captured):
    model = awake(MODELS["sequence"])
    for _ in range(2):
        seen, expected = [], []
        sample(model, LABELS, seeds(1), graph=True, callback=lambda step, codes, seen=seen: seen.append((step, codes)))
        sample(model, LABELS, seeds(1), callback=lambda step, codes, to=expected: to.append((step, codes)))
        assert len(seen) == len(expected) == 6
        for (step, codes), (other_step, others) in zip(seen, expected, strict=True):
            assert step == other_step and torch.equal(codes, others)


def test_on_a_cpu_codes_are_drawn_eagerly_and_a_warning_says_so():
    model = awake(lambda: sequence(raster((2, 2, 1)), 4))
    with pytest.warns(UserWarning, match="graph=True needs CUDA, and these seeds are on cpu: codes are drawn eagerly"):
        codes = sample(model, None, seeds(0), graph=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(codes, sample(model, None, seeds(0)))


def test_what_cannot_be_captured_is_drawn_eagerly(monkeypatch, captured):
    def refuse(function):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(graphs, "Captured", refuse)
    model = awake(MODELS["sequence"])
    sample(model, LABELS, seeds(0), graph=True)
    with pytest.warns(UserWarning, match=r"cannot be captured \(operation not permitted when stream is capturing\)"):
        codes = sample(model, LABELS, seeds(1), graph=True)
    assert torch.equal(codes, sample(model, LABELS, seeds(1)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(sample(model, LABELS, seeds(2), graph=True), sample(model, LABELS, seeds(2)))


def test_under_autocast_codes_are_drawn_eagerly(captured):
    model = awake(MODELS["sequence"], torch.float32)
    with torch.autocast("cpu"), pytest.warns(UserWarning, match="cannot capture under autocast"):
        sample(model, LABELS, seeds(0), graph=True)
    assert captured == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_a_captured_loop_draws_what_an_eager_one_does():
    model = awake(MODELS["sequence"], torch.float32).cuda()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for run in range(4):
            told = LABELS.cuda(), seeds(run).cuda()
            drawn = sample(model, *told, graph=True, guidance=2.0, top_p=0.9)
            assert torch.equal(drawn, sample(model, *told, guidance=2.0, top_p=0.9))
    release_graphs()
