"""The benchmarks measure what they say, and a result that is out of date or a promise missed does not pass."""

from __future__ import annotations

import dataclasses
import json
import math
import time

import pytest
import torch

from benchmarks import __main__ as program
from benchmarks import ceilings, harness, machine, promises, sanitized_cases, timing
from benchmarks.capability import instruction_sets, use_instruction_set
from benchmarks.families import FAMILIES, diffuse, dit_step
from benchmarks.shares import COMPILED, shares
from benchmarks.table import as_text
from benchmarks.workload import Contender, Workload
from visgen_fast._library import cpu_capability, set_cpu_capability

# torch's own modules warn of themselves when torch.compile is first used.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")

SMALL_CACHE = machine.Machine("cpu", "a processor", 1, 64 << 10, "none")
CEILINGS = ceilings.Ceilings(10e9, "by hand", 50e9, {})


def workload(**runs):
    """`runs` by name on sets of 4096 numbers; "peer" in a name makes a peer."""
    return Workload(
        name="case",
        make_inputs=lambda index: torch.full((4096,), float(index)),
        contenders=[Contender(name, run, is_peer="peer" in name) for name, run in runs.items()],
        read_bytes=4096 * 4,
        written_bytes=4096 * 4,
        vector_operations=4096,
    )


def test_the_floor_is_the_longer_of_bytes_and_operations():
    assert CEILINGS.floor_seconds(10_000_000, 1e6) == pytest.approx(1e-3)
    assert CEILINGS.floor_seconds(10_000_000, 1e9) == pytest.approx(2e-2)
    assert CEILINGS.memory_floor_seconds(10_000_000) == pytest.approx(1e-3)


@pytest.mark.parametrize("bytes_a_set", [1, 1000, 64 << 10, 1 << 30])
def test_cold_sets_exceed_eight_times_the_last_level_cache(bytes_a_set):
    case = Workload("case", torch.zeros, [], bytes_a_set, 0, 0)
    count = timing.cold_sets(case, SMALL_CACHE)
    assert count >= 2 and count * bytes_a_set >= 8 * SMALL_CACHE.cache_bytes
    assert count == 2 or (count - 1) * bytes_a_set < 8 * SMALL_CACHE.cache_bytes


def test_cold_calls_take_the_sets_in_turn_whoever_calls():
    seen = []
    case = workload(ours=lambda x: seen.append(x[0].item()) or x + 1, peer=lambda x: seen.append(x[0].item()) or x + 1)
    sets = [case.make_inputs(index) for index in range(5)]
    timing.time_cold(case.contenders, sets, SMALL_CACHE, budget=1e-9)
    timed = seen[-10:]  # five calls each are the fewest
    assert timed == [0, 1, 2, 3, 4] * 2


def test_outputs_of_cold_calls_stay_alive_until_their_set_comes_round():
    alive, counts = set(), []

    class Output(torch.Tensor):
        pass

    def run(x):
        counts.append(len(alive))
        output = (x + 1).as_subclass(Output)
        alive.add(id(output))
        return Tracked(output, alive)

    class Tracked(list):
        def __init__(self, output, alive):
            super().__init__([output])
            self.alive = alive

        def __del__(self):
            self.alive.discard(id(self[0]))

    case = workload(ours=run)
    timing.time_cold(case.contenders, [torch.zeros(8) for _ in range(3)], SMALL_CACHE, budget=0.01)
    # The slot's own older output has been dropped by the time of the call: two others are alive.
    assert set(counts[4:]) == {2}


def test_slower_contenders_call_less_often_and_evenly():
    schedule = timing._turns([12, 3])
    assert (schedule.count(0), schedule.count(1)) == (12, 3)
    halves = schedule[: len(schedule) // 2], schedule[len(schedule) // 2 :]
    assert all(1 in half for half in halves)


def test_a_timing_is_the_time_of_the_call():
    case = workload(ours=lambda x: time.sleep(0.01) or x, peer=lambda x: time.sleep(0.02) or x)
    for timings in (
        timing.time_cold(case.contenders, [torch.zeros(4)] * 2, SMALL_CACHE, budget=0.1),
        timing.time_warm(case.contenders, torch.zeros(4), SMALL_CACHE, budget=0.1),
    ):
        ours, peer = timings
        assert 0.01 <= ours.low <= ours.median <= ours.high
        assert 0.02 <= peer.low and ours.low < peer.low


def test_peak_memory_counts_temporaries_and_outputs_but_not_inputs():
    x = torch.randn(1 << 18)
    mebibyte = 1 << 20
    assert timing.peak_memory(lambda x: x + 1, x, "cpu") == pytest.approx(mebibyte, abs=4096)
    assert timing.peak_memory(lambda x: (x + 1) * (x + 2), x, "cpu") == pytest.approx(3 * mebibyte, abs=4096)


def test_a_measured_case_compares_with_the_best_peer_and_the_floor():
    runs = dict.fromkeys(("ours", "peer_a", "peer_b", "reference"), torch.neg)
    case = harness.measure(workload(**runs), SMALL_CACHE, CEILINGS, budget=0.01)
    medians = {name: entry["cold"]["median"] for name, entry in case["entries"].items()}
    assert case["best_peer_seconds"] == min(medians["peer_a"], medians["peer_b"])
    for name, entry in case["entries"].items():
        assert entry["times_faster_than_best_peer"] == case["best_peer_seconds"] / medians[name]
        assert entry["times_floor"] == medians[name] / case["floor_seconds"]
        assert entry["peak_bytes"] == 4096 * 4
    assert json.loads(json.dumps(case)) == case


def test_an_error_is_measured_against_float64():
    exact = torch.tensor([0.0, 1.0, 100.0], dtype=torch.float64)
    wrong = Contender("ours", torch.clone, accuracy=lambda x: ([torch.tensor([1e-3, 1.0, 100.5])], [exact]))
    assert harness._error(wrong, torch.zeros(3)) == pytest.approx(5e-3)
    lost = Contender("ours", torch.clone, accuracy=lambda x: ([torch.tensor([math.nan, 1.0, 100.0])], [exact]))
    assert math.isnan(harness._error(lost, torch.zeros(3)))


def measured(seconds, instruction_set, best_peer=6.0):
    ours = {"instruction_set": instruction_set, "cold": {"median": seconds}}
    peers = {"eager": {"cold": {"median": best_peer}}, "other": {"cold": {"median": 2 * best_peer}}}
    return {"name": "case", "entries": {"ours": ours, **peers}}


FASTER = promises.Promise(
    "times faster",
    lambda cases: promises.times_faster(cases["case"], promises.ours_entry(cases["case"], "avx2"), "eager", "other"),
    needs=["case"],
    at_least=3,
)


@pytest.mark.parametrize(("seconds", "kept"), [(1.0, True), (2.0, True), (2.1, False), (math.nan, False)])
def test_a_promise_is_kept_up_to_its_bound_and_missed_beyond(seconds, kept):
    lines, held = promises.check([FASTER], [measured(seconds, "avx2")])
    assert held == [kept]
    assert ("MISS" in lines[0]) is not kept and ("pass" in lines[0]) is kept


@pytest.mark.parametrize("cases", [[], [measured(1.0, "baseline")]])
def test_a_promise_that_cannot_be_measured_does_not_pass_silently(cases):
    lines, held = promises.check([FASTER], cases)
    assert held == [] and "pass" not in lines[0] and "not measured" in lines[0]


@pytest.mark.parametrize("name", FAMILIES)
def test_promises_name_cases_of_their_family(name):
    known = {case.name for device in ("cpu", "cuda") for case in FAMILIES[name].cases(device)}
    assert {needed for promise in FAMILIES[name].PROMISES for needed in promise.needs} <= known


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_cases_of_a_family_have_distinct_names(name, device):
    names = [case.name for case in FAMILIES[name].cases(device)]
    assert len(set(names)) == len(names)


def test_the_sanitizers_watch_every_case_of_the_tests(monkeypatch):
    called = []
    monkeypatch.setattr(sanitized_cases, "run", lambda case, dtype, device: called.append((case, dtype)))
    sanitized_cases.main("cpu")
    assert {str(case) for case, _ in called} == {str(case) for case in sanitized_cases.CASES}
    assert len(set(called)) == len(called) == 2 * len(sanitized_cases.CASES)


@pytest.mark.parametrize(
    "case", [case for case in sanitized_cases.CASES if case.small or case.differentiable == ()], ids=str
)
def test_what_the_sanitizers_watch_runs_backward_too(case):
    gradients = sanitized_cases.run(case, torch.float32, torch.device("cpu"))
    assert len(gradients) == len(case.differentiable)


@pytest.mark.parametrize(
    "case",
    [
        diffuse.Case((2, 3, 5, 5)),
        diffuse.Case((2, 3, 5, 5), prediction="v"),
        diffuse.Case((2, 3, 5, 5), torch.uint8),
        diffuse.Case((2, 3, 5, 5), operation="add_noise"),
        diffuse.Case((2, 3, 5, 5), noise_given=True),
    ],
    ids=lambda case: case.name,
)
def test_all_contenders_compute_the_same_thing(case):
    made = diffuse.workload(case, "cpu")
    inputs = made.make_inputs(0)
    eager = [contender for contender in made.contenders if "compile" not in contender.name]
    assert len(eager) >= 3
    for contender in eager:
        assert harness._error(contender, inputs) < 1e-5, contender.name
        outputs = contender.run(inputs)
        outputs = [outputs] if isinstance(outputs, torch.Tensor) else outputs
        assert sum(output.nbytes for output in outputs) == made.written_bytes


@pytest.mark.parametrize("prediction", ["velocity", "v"])
def test_everyone_starts_from_pictures_times_and_indices(prediction):
    made = diffuse.workload(diffuse.Case((2, 3, 5, 5), prediction=prediction), "cpu")
    inputs = made.make_inputs(0)
    assert {name for name, value in vars(inputs).items() if value is not None} == {"x", "time", "index"}
    others = dataclasses.replace(inputs, index=inputs.index + 2)
    for contender in made.contenders:
        if contender.name.startswith("ours"):
            (x_t, _), (other, _) = contender.run(inputs), contender.run(others)
            assert not torch.equal(x_t, other), contender.name  # the seeds are derived in the call
        if "compile" not in contender.name:
            at_data, _ = contender.run(dataclasses.replace(inputs, time=torch.zeros(2)))
            at_noise, _ = contender.run(dataclasses.replace(inputs, time=torch.ones(2)))
            torch.testing.assert_close(at_data, inputs.x)  # and so is what it makes of the times
            assert not torch.allclose(at_noise, inputs.x, atol=0.1), contender.name


def test_what_stands_beside_a_promise_is_told_and_binds_nothing():
    case = measured(1.0, "avx2", best_peer=6.0)
    for name, entry in case["entries"].items():
        entry["peer"] = name != "ours"
    case["entries"]["third"] = {"peer": True, "cold": {"median": 2.0}}

    def beside(cases):
        return "{:.2f} times faster than {}".format(
            *promises.best_peer(cases["case"], promises.ours_entry(cases["case"], "avx2"))
        )

    lines, held = promises.check([dataclasses.replace(FASTER, beside=beside)], [case])
    assert held == [True] and "pass    6.00" in lines[0] and lines[1].strip() == "2.00 times faster than third"


def test_the_first_promise_of_diffusion_tells_of_the_best_of_all_peers():
    def case(**medians):
        entries = {
            name.replace("_", " "): {"peer": True, "cold": {"median": median}} for name, median in medians.items()
        }
        entries = {name.replace("compile", "torch.compile"): entry for name, entry in entries.items()}
        ours = {"peer": False, "instruction_set": "avx512", "cold": {"median": 1.0}}
        return {"name": diffuse._FLOAT32, "entries": {"ours": ours, **entries}}

    lines, held = promises.check(diffuse.PROMISES[:1], [case(eager=7.0, compile=20.0, third=2.5)])
    assert held == [True] and "7.00" in lines[0]
    assert "2.50 times faster than the best of all peers, third" in lines[1]


def test_the_floor_of_float32_diffusion_counts_inputs_and_outputs_once():
    made = diffuse.workload(diffuse.Case((2, 3, 5, 5)), "cpu")
    assert made.read_bytes == 2 * 75 * 4 + 2 * 4 + 2 * 8
    assert made.written_bytes == 2 * 2 * 75 * 4


def test_an_instruction_set_is_chosen_within_a_block_and_restored():
    before = cpu_capability()
    assert "baseline" in instruction_sets() and cpu_capability() == before
    with use_instruction_set("baseline"):
        assert cpu_capability() == "baseline"
    assert cpu_capability() == before
    with pytest.raises(ValueError, match="instruction set"), use_instruction_set("abacus"):
        pass
    assert cpu_capability() == before
    set_cpu_capability(before)


def test_the_nontemporal_copy_copies_and_the_multiply_adds_are_counted():
    library = ceilings.compiled_loops()
    source = torch.randint(0, 256, (4096 + 64,), dtype=torch.uint8)
    source = source[-source.data_ptr() % 64 :][:4096]
    target = torch.zeros(4096 + 64, dtype=torch.uint8)
    target = target[-target.data_ptr() % 64 :][:4096]
    library.copy_nontemporal(target.data_ptr(), source.data_ptr(), 2048)
    assert torch.equal(target[:2048], source[:2048]) and not target[2048:].any()
    assert library.multiply_add(200) == 2 * library.multiply_add(100) > 0


def cache_folder(tmp_path, shared):
    """A folder like /sys/devices/system/cpu, with the last-level caches that `shared` lists for each CPU."""
    for cpu, (cpus, size) in enumerate(shared):
        for index, (level, own, bytes_text) in enumerate([(1, str(cpu), "32K"), (3, cpus, size)]):
            folder = tmp_path / f"cpu{cpu}" / "cache" / f"index{index}"
            folder.mkdir(parents=True)
            for name, text in (("level", str(level)), ("shared_cpu_list", own), ("size", bytes_text)):
                (folder / name).write_text(f"{text}\n")
    return tmp_path


def test_last_level_caches_are_counted_once_each(tmp_path, monkeypatch):
    folder = cache_folder(tmp_path, [("0-1", "32768K"), ("0-1", "32768K"), ("2-3", "16M"), ("2-3", "16M")])
    for cpus, expected in (([0, 1], 32 << 20), ([1, 2, 3], 48 << 20), ([3], 16 << 20), ([7], 32 << 20)):
        monkeypatch.setattr(machine, "_usable_cpus", lambda cpus=cpus: cpus)
        assert machine.last_level_cache_bytes(folder) == expected


def test_the_program_prints_writes_and_draws_a_family(tmp_path, capsys, monkeypatch):
    small = diffuse.Case((2, 3, 8, 8))
    monkeypatch.setattr(diffuse, "cases", lambda device: [small])
    monkeypatch.setattr(program, "measure_ceilings", lambda machine: CEILINGS)
    monkeypatch.setattr(program, "describe", lambda device: SMALL_CACHE)
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: function)  # compiling takes most of a run
    threads = torch.get_num_threads()
    try:
        status = program.main(["diffuse", "--seconds", "0.01", "--threads", "1", "--out", str(tmp_path), "--check"])
    finally:
        torch.set_num_threads(threads)
    assert status == 1  # no promise is about this case, and a check that held nothing to account is none
    printed = capsys.readouterr().out
    assert small.name in printed and "not measured" in printed and "no promise was measured" in printed
    result = json.loads((tmp_path / "diffuse.json").read_text())
    entries = result["cases"][0]["entries"]
    assert {"ours", "eager", "torch.compile", "reference", "reference, compiled"} <= set(entries)
    assert entries["ours"]["error"] < 1e-5
    assert (tmp_path / "diffuse.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nois"], "family must be one of activate, binary_quantize, diffuse"),
        (["--threads", "0"], "expected a positive whole number"),
    ],
)
def test_a_bad_argument_is_refused_in_a_sentence(arguments, message, capsys):
    with pytest.raises(SystemExit) as refusal:
        program.main(arguments)
    assert refusal.value.code == 2 and message in capsys.readouterr().err


def test_further_numbers_are_stored_and_printed_by_contender():
    made = dataclasses.replace(
        workload(ours=lambda x: x * 2, peer=lambda x: x + x),
        images=64,
        details=lambda inputs: {"share of sums": {"peer": 0.25}},
    )
    case = harness.measure(made, SMALL_CACHE, CEILINGS, budget=0.01)
    seconds = case["entries"]["ours"]["cold"]["median"]
    assert case["details"]["images a second"]["ours"] == pytest.approx(64 / seconds)
    header, shares, rate = as_text(case).splitlines()[-3:]
    assert header.split() == ["ours", "peer"] and shares.split()[-2:] == ["–", "0.25"]
    assert rate.split()[:3] == ["images", "a", "second"]
    plain = harness.measure(workload(ours=lambda x: x * 2, peer=lambda x: x + x), SMALL_CACHE, CEILINGS, budget=0.01)
    assert plain["details"] == {} and len(as_text(plain).splitlines()) == 4


@pytest.mark.filterwarnings("ignore:Warning. Profiler clears events:UserWarning")
def test_shares_of_a_training_step_add_up_and_know_every_kind_of_operation(monkeypatch):
    tiny = {"image_size": 4, "channels": 1, "patch_size": 2, "width": 16, "depth": 1, "heads": 2, "classes": 3}
    monkeypatch.setitem(dit_step._SIZES, "digits", tiny)
    made = dit_step.workload(dit_step.Case("digits", 4), "cpu")
    batch = made.make_inputs(0)
    runs = {contender.name: contender.run for contender in made.contenders if "compile" not in contender.name}
    first = {name: run(batch) for name, run in runs.items()}
    assert set(runs) == {"ours", "ours, recompute", "eager"}
    assert all(torch.allclose(loss, first["eager"], atol=1e-5) for loss in first.values())
    for run in runs.values():
        found = shares(lambda run=run: run(batch), "cpu")
        assert sum(found.values()) == pytest.approx(1) and found.pop(COMPILED) == 0
        assert all(share > 0 for share in found.values())
