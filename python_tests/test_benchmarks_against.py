"""The comparison of two builds tells slower from noise."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import against


@pytest.mark.parametrize(
    "theirs, ours, code",
    [
        ([1.0, 1.1, 1.2], [1.3, 1.4, 1.5], 1),
        ([1.0, 1.1, 1.5], [1.3, 1.4, 1.6], 0),  # within the other's noise
        ([1.0, 1.0, 1.0], [1.01, 1.02, 1.03], 0),  # less than two builds differ by
        ([1.3, 1.4, 1.5], [1.0, 1.1, 1.2], 0),
    ],
)
def test_slower_is_what_lies_above_the_noise_of_the_other_build(monkeypatch, capsys, theirs, ours, code) -> None:
    turns = iter([times for pair in zip(theirs, ours, strict=True) for times in pair])
    monkeypatch.setattr(against, "_times", lambda checkout, families, budget: {"a case": next(turns)})
    assert against.main([str(Path.cwd()), "noise", "--processes", "3"]) == code
    assert ("slower" in capsys.readouterr().out) == bool(code)


def test_both_libraries_are_measured_by_the_cases_of_this_checkout() -> None:
    times = against._times(against.REPOSITORY, ["finite_scalar"], 0.001)
    assert times and all(name.startswith("finite_scalar_quantize") and seconds > 0 for name, seconds in times.items())
