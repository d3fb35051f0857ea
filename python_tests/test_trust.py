"""Kernels on a device that nobody has reported on: compared with the reference before their first use."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from backends import OPERATIONS, running_on
from torch._subclasses.fake_tensor import FakeTensorMode

from visgen_fast import _trust, cli, ops, reference
from visgen_fast.ops import _self_test

CPU = torch.device("cpu")
RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results"


@pytest.fixture(autouse=True)
def unproven(monkeypatch, tmp_path):
    """The CPU is a device that nobody knows; outcomes lie in a folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(_trust, "UNPROVEN_DEVICES", {"cpu"})
    monkeypatch.setattr(_trust, "_outcomes", {})
    monkeypatch.setattr(_trust, "_mode", lambda: "1")


@pytest.fixture
def wrong_activate():
    """The kernel of `activate` is off by 1 in its last column."""
    right = torch.ops.visgen_fast.activate.default

    def wrong(x, bias, kind):
        out = reference.activate(x, ("gelu_tanh", "gelu", "silu")[kind], bias)
        out[..., -1] += 1
        return out

    library = torch.library.Library("visgen_fast", "IMPL")  # noqa: TOR901
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Warning only once for all operators")
        library.impl("activate", wrong, "CPU", allow_override=True)
    yield right
    library._destroy()


def test_every_family_is_tried_with_all_its_operations():
    called = {name for family in _self_test.FAMILIES for name, _, _ in _self_test.calls(family, CPU)}
    assert called == set(ops.__all__) - {"Purpose", "draw_seeds", "confident_mask", "solver_step_"}
    assert {getattr(ops, name).__module__.rpartition(".")[2] for name in called} == set(_self_test.FAMILIES)


@pytest.mark.parametrize("family", _self_test.FAMILIES)
def test_right_kernels_are_right(family, library, device):
    assert _self_test.complaint_about(family, device) == ""


@pytest.mark.filterwarnings("error")
def test_a_trusted_device_is_tried_once(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(_self_test, "complaint_about", lambda family, device: asked.append(family) or "")
    x = torch.ones(3, 4)
    for _ in range(3):
        ops.activate(x)
    assert asked == ["activate"]
    _trust._outcomes.clear()  # another process
    ops.activate(x)
    assert asked == ["activate"]
    assert list(json.loads(_trust.outcomes_file().read_text()).values()) == [{"activate": ""}]


def test_a_wrong_kernel_gives_way_to_the_reference_with_one_warning(wrong_activate):
    x = torch.randn(3, 4)
    with pytest.warns(UserWarning, match="activate gave numbers off by 1 on cpu: plain PyTorch serves") as caught:
        results = [ops.activate(x) for _ in range(3)]
    assert len(caught) == 1 and all(torch.equal(result, reference.activate(x)) for result in results)
    with warnings.catch_warnings(action="error"):
        seeds = ops.derive_seeds(0, torch.arange(3))  # another family
    assert torch.equal(seeds, reference.derive_seeds(0, torch.arange(3)))


def test_a_wrong_gradient_is_found(monkeypatch):
    library = torch.library.Library("visgen_fast", "IMPL")  # noqa: TOR901
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Warning only once for all operators")
        library.impl("activate_backward", lambda grad, x, bias, *rest: (grad, None), "CPU", allow_override=True)
    try:
        with pytest.warns(UserWarning, match="activate "):
            x = torch.randn(3, 4, requires_grad=True)
            ops.activate(x).sum().backward()
        expected = torch.autograd.grad(reference.activate(x).sum(), x)[0]
        torch.testing.assert_close(x.grad, expected)
    finally:
        library._destroy()


def test_a_kernel_that_raises_gives_way_too(monkeypatch, wrong_activate):
    def fails(*arguments):
        raise RuntimeError("CUDA error: no kernel image is available\nfor this device")

    monkeypatch.setattr(_self_test, "_results", lambda module, *rest: fails())
    with pytest.warns(UserWarning, match=r"activate failed \(CUDA error: no kernel image is available\) on cpu"):
        assert torch.equal(ops.activate(torch.ones(3)), reference.activate(torch.ones(3)))


def test_nothing_is_tried_while_a_graph_is_captured_or_traced(monkeypatch):
    monkeypatch.setattr(_self_test, "complaint_about", lambda *arguments: pytest.fail("the kernels were tried"))
    x = torch.randn(3, 4)
    with monkeypatch.context() as patch:
        patch.setattr(_trust, "_is_capturing", lambda device: True)
        assert torch.equal(ops.activate(x), reference.activate(x))
    torch._dynamo.reset()
    compiled = torch.compile(ops.activate, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), reference.activate(x))
    with FakeTensorMode():
        ops.activate(torch.ones(3))
    torch.func.vmap(ops.activate)(x)
    assert not _trust._outcomes


@pytest.mark.parametrize(
    "around",
    [
        torch.inference_mode,
        torch.no_grad,
        lambda: torch.autocast("cpu", dtype=torch.bfloat16),
        lambda: torch.device("meta"),
    ],
)
@pytest.mark.parametrize("family", _self_test.FAMILIES)
def test_the_surroundings_of_the_first_call_change_nothing(family, around):
    with around():
        assert _trust.serves(family, CPU, _self_test.complaint_about)


def test_what_is_known_is_compiled():
    x = torch.randn(3, 4)
    ops.activate(x)
    graphs = []
    torch._dynamo.reset()
    torch.compile(ops.activate, fullgraph=True, backend=lambda graph, _: graphs.append(graph) or graph)(x)
    assert "visgen_fast.activate" in graphs[0].code


def is_compiled_in() -> bool:
    """Whether the operation is in the graph of a first call that is traced."""
    graphs = []
    torch._dynamo.reset()
    torch.compile(ops.activate, fullgraph=True, backend=lambda graph, _: graphs.append(graph) or graph)(torch.ones(3))
    return "visgen_fast.activate" in graphs[0].code


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
def test_a_first_call_that_is_traced_or_captured_takes_what_is_known(monkeypatch):
    assert not is_compiled_in()
    assert cli.main(["info", "--check"]) == 0  # the disk knows now
    assert is_compiled_in()
    _trust._outcomes.clear()
    _trust.outcomes_file().unlink()
    monkeypatch.setattr(_trust, "_is_capturing", lambda device: True)
    assert not _trust.serves("activate", CPU, _self_test.complaint_about)
    monkeypatch.setattr(_trust, "_is_trusted", lambda device: True)  # a report, or the environment
    assert _trust.serves("activate", CPU, _self_test.complaint_about)
    _trust._outcomes.clear()
    assert is_compiled_in()


def test_the_environment_trusts_everything(monkeypatch, wrong_activate):
    monkeypatch.setattr(_trust, "_mode", lambda: "0")
    x = torch.zeros(2, 3)
    assert not torch.equal(ops.activate(x), reference.activate(x))


def test_it_tells_of_each_when_asked(monkeypatch, capsys):
    monkeypatch.setattr(_trust, "_mode", lambda: "verbose")
    ops.activate(torch.ones(3))
    assert capsys.readouterr().err == "visgen_fast: activate on cpu: right\n"


def test_outcomes_that_cannot_be_read_or_kept_are_found_out_again(monkeypatch):
    _trust.outcomes_file().parent.mkdir()
    _trust.outcomes_file().write_text("[not JSON")
    assert _trust.read() == {}
    monkeypatch.setattr(_trust.os, "replace", lambda *paths: (_ for _ in ()).throw(OSError("full")))
    assert torch.equal(ops.activate(torch.ones(3)), reference.activate(torch.ones(3)))


def test_info_prints_a_table_and_says_what_is_wrong(capsys, wrong_activate):
    assert cli.main(["info", "--check"]) == 1
    printed = capsys.readouterr().out
    assert "activate gave numbers off by 1" in printed and printed.count("right") == len(_self_test.FAMILIES) - 1
    with pytest.warns(UserWarning, match="activate gave"):
        ops.activate(torch.ones(3))  # the outcome is known


def test_an_emulated_device_is_tried_like_any_other():
    with running_on("cuda-on-host"), warnings.catch_warnings(action="error"):
        assert torch.equal(ops.derive_seeds(1, torch.arange(5)), reference.derive_seeds(1, torch.arange(5)))
    assert "derive_seeds" in OPERATIONS and _trust._outcomes == {("noise", "cpu", None): True}


def test_what_is_proven_has_a_report():
    reports = [json.loads(path.read_text()) for path in RESULTS.glob("*/noise.json")]
    machines = [report.get("machine", {}) for report in reports if isinstance(report, dict)]
    reported = {
        (int(m["instruction_set"][3:-1]), int(m["instruction_set"][-1])) for m in machines if m.get("device") == "cuda"
    }
    assert reported == _trust.PROVEN
