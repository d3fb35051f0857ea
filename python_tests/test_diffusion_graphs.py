"""Sampling by CUDA graphs: their keys, what runs eagerly and why, and that a replayed step is the eager one.

Without a GPU a stand-in takes the place of a captured graph: it calls the captured function again, so whatever that
reads of the row that it was captured at, rather than of memory, gives another image.
"""

from __future__ import annotations

import threading
import warnings

import pytest
import torch
from torch import Tensor, nn

from visgen_fast import ops
from visgen_fast.diffusion import (
    Auto,
    Classifier,
    ClassifierFree,
    CosineVP,
    DynamicThresholding,
    PlusPlus,
    Projected,
    RectifiedFlow,
    TwoConditions,
    Unguided,
    Upsample,
    ZeroStar,
    graphs,
    plan,
    release_graphs,
    sample,
)
from visgen_fast.models.dit import DiT
from visgen_fast.nn.conditions import Condition

SEEDS, LABELS = ops.derive_seeds(0, torch.arange(4)), torch.arange(4)
SHAPE = (3, 4, 4)
CPU = torch.device("cpu")


class Network(nn.Module):
    """One that is not linear and counts its calls; it may say a variance too."""

    def __init__(self, variance: bool = False) -> None:
        super().__init__()
        self.weight, self.variance, self.calls = nn.Parameter(torch.tensor(3.0)), variance, 0

    def forward(self, x: Tensor, t: Tensor, labels) -> Tensor:
        self.calls += 1
        if isinstance(labels, Condition):
            labels = labels.pooled[:, 0] + (0 if labels.tokens is None else labels.tokens.sum((1, 2)))
        output = torch.sin(self.weight * x + t.view(-1, 1, 1, 1)) + 0.1 * labels.view(-1, 1, 1, 1)
        return torch.cat([output, -output], 1) if self.variance else output


class StandIn:
    """In the place of a captured graph."""

    pool = None

    def __init__(self, function, pool) -> None:
        self.replay = function


@pytest.fixture
def captured(monkeypatch):
    """Graphs by the stand-in, on a CPU; gives the list of those that were captured."""
    made: list[StandIn] = []

    def capture(function, pool) -> StandIn:
        made.append(StandIn(function, pool))
        return made[-1]

    monkeypatch.setattr(graphs, "Captured", capture)
    monkeypatch.setattr(graphs, "_can_capture", lambda device: True)
    release_graphs()
    yield made
    release_graphs()


def drawn(model, steps, *, graph: bool, labels=LABELS, seeds=SEEDS, **options) -> Tensor:
    return sample(model, steps, SHAPE, labels, seeds, graph=graph, **options)


GUIDANCES = {
    "none": (None, 1),
    "free": (ClassifierFree(3.0, 10), 1),
    "one by one": (ClassifierFree(3.0, 10, batched=False), 1),
    "for each sample": (ClassifierFree(torch.tensor([1.0, 2.0, 3.0, 4.0]), 10), 1),
    "for each step": (ClassifierFree(lambda t: 1 + t, 10), 1),
    "one in some steps": (ClassifierFree(lambda t: 1.0 if t > 0.5 else 3.0, 10), 2),
    "in an interval": (ClassifierFree(3.0, 10, interval=(0.2, 0.7)), 2),
    "rescaled": (ClassifierFree(3.0, 10, rescale=0.7), 1),
    "plus plus": (PlusPlus(0.6, 10, interval=(0.2, 0.7)), 2),
    "zero star": (ZeroStar(3.0, 10, zero_steps=3), 2),
    "auto": (Auto(2.0, Network()), 1),
    "two": (TwoConditions(3.0, 2.0, 10, lambda y: y + 1), 1),
}


@pytest.mark.parametrize("name", GUIDANCES)
@pytest.mark.parametrize(
    ("sampler", "kind"), [("euler-ancestral", "v"), ("heun", "edm"), ("unipc", "v"), ("dpm++3m-sde", "epsilon")]
)
def test_replayed_steps_draw_what_eager_ones_do_with_a_graph_for_each_kind(name, sampler, kind, captured) -> None:
    guidance, kinds = GUIDANCES[name]
    model, steps = Network(), plan(sampler, CosineVP(), kind, steps=9)
    # The second call reuses the graphs of the first with other seeds and labels.
    for labels, seeds in ((LABELS, SEEDS), (LABELS.flip(0) + 1, SEEDS + 5)):
        found, expected = (
            drawn(model, steps, graph=graph, labels=labels, seeds=seeds, guidance=guidance) for graph in (True, False)
        )
        assert torch.equal(found, expected)
    assert len(captured) == kinds


def test_conditions_of_every_kind_are_copied_in(captured) -> None:
    def condition(key: int) -> Condition:
        generator = torch.Generator().manual_seed(key)
        return Condition(pooled=torch.rand(4, 1, generator=generator), tokens=torch.rand(4, 2, 3, generator=generator))

    null = Condition(pooled=torch.zeros(1, 1), tokens=torch.ones(1, 2, 3))
    for batched in (True, False):
        guidance, steps, model = ClassifierFree(2.0, null, batched=batched), plan("euler", CosineVP(), "v"), Network()
        for key in (0, 1):
            options = {"guidance": guidance, "labels": condition(key)}
            found, expected = (drawn(model, steps, graph=graph, **options) for graph in (True, False))
            assert torch.equal(found, expected)
    assert len(captured) == 2


def test_learned_variance_known_parts_starts_and_callbacks_are_as_without_graphs(captured) -> None:
    known = (torch.full((4, *SHAPE), 0.5), torch.tensor([1.0, 0, 0, 1]))
    steps = plan("ddpm", CosineVP(), "v", steps=9, variance="learned_range")
    seen: dict[bool, list] = {True: [], False: []}
    results = [
        drawn(
            Network(variance=True), steps, graph=graph, known=known, initial=(known[0], 0.8),
            guidance=ClassifierFree(2.0, 10), callback=lambda *told, graph=graph: seen[graph].append(told),
        )
        for graph in (True, False)
    ]  # fmt: skip
    assert torch.equal(*results) and len(seen[True]) == len(seen[False]) == 7
    for (step, t, x, denoised), (other_step, other_t, other_x, other) in zip(seen[True], seen[False], strict=True):
        assert (step, t) == (other_step, other_t) and torch.equal(x, other_x) and torch.equal(denoised, other)


def test_a_result_is_the_caller_s_own(captured) -> None:
    model, steps = Network(), plan("euler", CosineVP(), "v", steps=5)
    first = drawn(model, steps, graph=True)
    kept = first.clone()
    drawn(model, steps, graph=True, seeds=SEEDS + 1)
    assert torch.equal(first, kept)


def test_the_network_runs_once_a_row_and_is_warmed_up_by_the_first(captured) -> None:
    model = Network()
    drawn(model, plan("heun", CosineVP(), "v", times=[0.9, 0.6, 0.3]), graph=True)
    assert model.calls == 4 and len(captured) == 1


def test_calls_share_graphs_only_where_everything_is_alike(captured) -> None:
    model, base = Network(), {"steps": 4}

    def call(model=model, sampler="ddim", guidance=None, labels=LABELS, seeds=SEEDS, dtype=torch.float32, **options):
        before = len(captured)
        steps = plan(sampler, CosineVP(), "v", **{**base, **options})
        sample(model, steps, SHAPE, labels, seeds, guidance=guidance, dtype=dtype, graph=True)
        return len(captured) - before

    assert call() == 1 and call() == 0  # a plan of equal numbers is the same
    assert call(steps=5) == 1 and call(sampler="dpm++2m") == 1 and call(dtype=torch.float64) == 1
    release_graphs()
    assert call() == 1 and call(labels=LABELS[:2], seeds=SEEDS[:2]) == 1 and call(model=Network()) == 1
    assert call(guidance=ClassifierFree(2.0, 10)) == 1 and call(guidance=ClassifierFree(2.0, 10)) == 0
    assert call(guidance=ClassifierFree(2.5, 10)) == 1
    release_graphs()
    scale = torch.full((4,), 2.0)
    assert call(guidance=ClassifierFree(scale, 10)) == 1 and call(guidance=ClassifierFree(scale, 10)) == 0
    scale += 1
    assert call(guidance=ClassifierFree(scale, 10)) == 1  # what was computed of it when the run began is another
    model.weight = nn.Parameter(torch.tensor(2.0))
    assert call() == 1 and call() == 0  # its weights lie elsewhere
    model.weight.data.fill_(1.0)
    assert call() == 0  # the same place: graphs read it as it is
    model.eval()
    assert call() == 1


def test_a_new_value_in_the_same_place_is_seen(captured) -> None:
    model, steps = Network(), plan("ddim", CosineVP(), "v", steps=4)
    first = drawn(model, steps, graph=True)
    model.weight.data.fill_(1.0)
    second = drawn(model, steps, graph=True)
    assert not torch.equal(first, second) and torch.equal(second, drawn(model, steps, graph=False))


def test_only_the_last_few_kinds_of_call_are_kept(captured) -> None:
    model = Network()
    for steps in range(3, 3 + graphs.MOST_KEPT + 1):
        drawn(model, plan("ddim", CosineVP(), "v", steps=steps), graph=True)
    assert len(graphs._kept) == graphs.MOST_KEPT
    before = len(captured)
    drawn(model, plan("ddim", CosineVP(), "v", steps=3), graph=True)
    assert len(captured) == before + 1


def test_threads_take_turns_at_the_same_graphs(captured) -> None:
    model, steps = Network(), plan("dpm++2m", CosineVP(), "v", steps=20)
    expected = [drawn(model, steps, graph=False, seeds=SEEDS + k) for k in range(4)]
    found: dict[int, Tensor] = {}

    def work(k: int) -> None:
        found[k] = drawn(model, steps, graph=True, seeds=SEEDS + k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[k], expected[k]) for k in range(4))


def test_a_call_that_fails_lets_the_next_one_in(captured) -> None:
    model, steps = Network(), plan("ddim", CosineVP(), "v", steps=4)

    def stop(*told) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drawn(model, steps, graph=True, callback=stop)
    assert torch.equal(drawn(model, steps, graph=True), drawn(model, steps, graph=False))


def test_without_cuda_sampling_runs_eagerly_and_says_so() -> None:
    model, steps = Network(), plan("ddim", CosineVP(), "v", steps=4)
    with pytest.warns(UserWarning, match="graph=True needs CUDA, and these images are on cpu: sampling runs eagerly"):
        found = drawn(model, steps, graph=True)
    assert torch.equal(found, drawn(model, steps, graph=False))


@pytest.mark.parametrize(
    ("model", "guidance", "said"),
    [
        (lambda x, t, y: x, None, "captures torch.nn.Module, whose weights it can watch, and <function .* is none"),
        (Network(), Auto(2.0, lambda x, t, y: x), "captures torch.nn.Module, .* and <function .* is none"),
        (Network(), Projected(3.0, 10), "cannot capture Projected, which computes on the host at each step"),
        (Network(), Upsample(0.5, 2), "cannot capture Upsample, which"),
        (Network(), Classifier(1.0, lambda x, t, y: x.sum((1, 2, 3))), "cannot capture Classifier, which"),
        (Network(), DynamicThresholding(Unguided()), "cannot capture DynamicThresholding, which"),
        (Network(), ClassifierFree(lambda t: 1 + t, 10, rescale=0.5), "cannot capture ClassifierFree, which"),
    ],
)
def test_what_cannot_be_captured_runs_eagerly_and_is_named(model, guidance, said, captured) -> None:
    steps = plan("ddim", CosineVP(), "v", steps=4)
    with pytest.warns(UserWarning, match=f"graph=True {said}.*: sampling runs eagerly"):
        found = drawn(model, steps, graph=True, guidance=guidance)
    assert torch.equal(found, drawn(model, steps, graph=False, guidance=guidance)) and not captured


def test_under_autocast_sampling_runs_eagerly(captured) -> None:
    with torch.autocast("cpu"), pytest.warns(UserWarning, match="graph=True cannot capture under autocast"):
        drawn(Network(), plan("ddim", CosineVP(), "v", steps=4), graph=True)


def test_a_network_that_cuda_cannot_capture_runs_eagerly_with_its_reason(monkeypatch, captured) -> None:
    def capture(function, pool) -> StandIn:
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    monkeypatch.setattr(graphs, "Captured", capture)
    model, steps = Network(), plan("ddim", CosineVP(), "v", steps=6)
    said = r"this step cannot be captured \(operation not permitted when stream is capturing\): it runs eagerly"
    with pytest.warns(UserWarning, match=said) as told:
        found = drawn(model, steps, graph=True)
    assert len(told) == 1 and torch.equal(found, drawn(model, steps, graph=False))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", [name for name in GUIDANCES if name != "auto"])
@pytest.mark.parametrize("sampler", ["euler-ancestral", "heun", "unipc"])
def test_graphs_on_cuda_draw_what_eager_steps_do_with_one_for_each_kind(name, sampler) -> None:
    release_graphs()
    torch.manual_seed(0)
    model = DiT(image_size=4, channels=3, patch_size=2, width=32, depth=2, heads=2, classes=20).cuda().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    guidance, kinds = GUIDANCES[name]
    steps, seen = plan(sampler, RectifiedFlow(), "velocity", steps=12), {True: [], False: []}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for labels, seeds in ((LABELS, SEEDS), (LABELS.flip(0) + 1, SEEDS + 5)):
            found, expected = (
                sample(
                    model, steps, SHAPE, labels, seeds, guidance=guidance, graph=graph, device="cuda",
                    callback=lambda i, t, x, denoised, graph=graph: seen[graph].append(denoised),
                )
                for graph in (True, False)
            )  # fmt: skip
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    for replayed, eager in zip(seen[True], seen[False], strict=True):
        torch.testing.assert_close(replayed, eager, rtol=1e-4, atol=1e-4)
    (kept,) = graphs._kept.values()
    assert len(kept.graphs) == kinds
    release_graphs()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_network_that_waits_for_cuda_runs_eagerly_with_its_reason() -> None:
    class Waits(Network):
        def forward(self, x: Tensor, t: Tensor, labels) -> Tensor:
            return super().forward(x, t, labels) * (1 + 0 * float(x.sum()))

    release_graphs()
    model, steps = Waits().cuda(), plan("ddim", CosineVP(), "v", steps=6)
    with pytest.warns(UserWarning, match="this step cannot be captured"):
        found = drawn(model, steps, graph=True, device="cuda")
    torch.testing.assert_close(found, drawn(model, steps, graph=False, device="cuda"))
    release_graphs()
