"""The emulation of CUDA finds the faults of kernels, and names kernel, block, thread and line."""

import re

import numpy as np
import pytest
from cuda_on_host import FAULTS, aligned, kernels, marked_lines

SCHEDULES = range(-1, 19)  # descending, ascending, and 18 shuffles
COUNT = 50  # of the buffer's elements: less than the 64 threads, and no multiple of anything
FOUND_BY_ANY_BUILD = ["barrier_not_reached", "exchange_not_reached", "misaligned_load", "shuffle_from_nobody"]

# What the report must say, and which thread it may name.
SENTENCES = {
    "barrier_not_reached": r"sync_block\(\) is not reached by thread \((3[3-9]|[4-6]\d), 0, 0\), which has returned",
    "barriers_mixed_up": r"sync_block\(\) meets another one",
    "unwritten_read": r"reads shared memory that no thread has written: byte 28 of the shared variable `tile`",
    "out_of_bounds": r"reads out of bounds: byte 200 of a buffer of 200 bytes",
    "out_of_bounds_in_shared_memory": r"writes out of bounds: byte 256 of the shared variable `tile` of 256 bytes",
    "out_of_bounds_in_dynamic_memory": r"writes out of bounds: byte 512 of the shared variable `dynamic_shared`",
    "missing_barrier": r"a race: |no thread has written",
    "missing_second_barrier": r"a race: .* with no barrier in between",
    "missing_warp_barrier": r"a race: |no thread has written",
    "misaligned_load": r"a misaligned access: its address is 4 bytes above a multiple of 16",
    "exchange_not_reached": r"an exchange between lanes is not reached by thread \(\d+, 0, 0\), which has returned",
    "shuffle_from_nobody": r"a shuffle reads lane 20, which takes no part in it",
    "copy_not_awaited": r"reads shared memory that no thread has written",
    "race_between_blocks": r"a race: writes byte \d+ of a buffer of 200 bytes, which another block writes",
    "addition_not_atomic": r"a race: ",
    "null_pointer": r"writes through a null pointer",
}


def run_fault(variant: str, name: str, right: bool, schedule: int) -> tuple[str, np.ndarray]:
    library = kernels(variant)
    library.set_schedule(schedule)
    x = aligned(np.linspace(0.0, 1.0, COUNT, dtype=np.float32))
    report = library.fault(name, right, x, COUNT)
    library.set_schedule(0)
    return report, x


def test_every_wrong_kernel_has_a_sentence() -> None:
    assert set(marked_lines()) == set(SENTENCES)


@pytest.mark.parametrize("name", SENTENCES)
def test_a_wrong_kernel_is_caught_under_every_schedule_with_kernel_block_thread_and_line(name: str) -> None:
    places = "|".join(f"{FAULTS.name}:{line}" for line in marked_lines()[name])
    blocks = "[01]" if name == "race_between_blocks" else "0"
    for schedule in SCHEDULES:
        report, _ = run_fault("_checked", name, False, schedule)
        head = rf"kernel {name}<false>, block \({blocks}, 0, 0\), thread \(\d+, 0, 0\), csrc/.*/({places}): "
        assert re.match(head, report), (schedule, report)
        assert re.search(SENTENCES[name], report), (schedule, report)


@pytest.mark.parametrize("name", SENTENCES)
def test_the_right_version_is_clean_and_gives_the_same_under_every_schedule(name: str) -> None:
    _, expected = run_fault("", name, True, 0)
    for schedule in SCHEDULES:
        report, result = run_fault("_checked", name, True, schedule)
        assert report == ""
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("name", FOUND_BY_ANY_BUILD)
def test_faults_that_need_no_shadow_memory_are_caught_by_the_fast_build(name: str) -> None:
    report, _ = run_fault("", name, False, 0)
    assert re.search(SENTENCES[name], report)
    assert f"{FAULTS.name}:{marked_lines()[name][0]}: " in report


@pytest.mark.parametrize("name", ["missing_barrier", "missing_second_barrier", "missing_warp_barrier"])
def test_a_missing_barrier_changes_results_when_the_schedule_is_reversed(name: str) -> None:
    _, right = run_fault("", name, True, 0)
    results = [run_fault("", name, False, schedule)[1] for schedule in (0, -1)]
    assert any(not np.array_equal(result, right, equal_nan=True) for result in results)


def test_the_launch_after_a_fault_is_unharmed() -> None:
    run_fault("_checked", "barrier_not_reached", False, 3)
    report, x = run_fault("_checked", "barrier_not_reached", True, 3)
    assert report == ""
    np.testing.assert_array_equal(x, np.ones(COUNT, np.float32))
