"""The study of invalid codes repeats nothing, goes on after a failure, and reports what it has."""

import json

import pytest

from benchmarks import invalid_codes as study
from benchmarks import tables
from benchmarks.invalid_codes_report import as_document, summary_table


def summary(depth: int) -> dict:
    shares = [1 / (depth + 1)] * (depth + 1)
    return {
        **{"mean": [1.0 / (d + 1) for d in range(depth + 1)], "best_prefix": shares},
        **{"invalid_share": 0.25, "harmful_share": 0.125, "non_improving_share": 0.0625, "excess": 0.03125},
    }


def evaluation(depth: int) -> dict:
    spaces = {space: summary(depth) for space in ("vector", "latent", "pixel")}
    return {"psnr": 20.0, "usage": [0.5] * depth, "invalid_codes": spaces}


@pytest.fixture
def calls(monkeypatch):
    """The commands that the study gives; each writes what the command line would, unless its depth is in `broken`."""
    made, broken = [], set()

    def command_line(arguments, log):
        made.append(arguments)
        depth = next((int(a.removeprefix("--depth=")) for a in arguments if a.startswith("--depth=")), None)
        out = study.Path(arguments[arguments.index("--out") + 1])
        if arguments[0] == "train" and depth in broken:
            return 0.0, "failed (out of luck)"
        if arguments[0] == "evaluate":
            (out / "evaluation.json").parent.mkdir(parents=True, exist_ok=True)
            (out / "evaluation.json").write_text(json.dumps(evaluation(int(out.parent.name.split("-")[-1]))))
        return 1.0, None

    monkeypatch.setattr(study, "_visgen", command_line)
    return made, broken


def run(tmp_path, *options: str) -> int:
    folders = [f"--runs={tmp_path / 'runs'}", f"--out={tmp_path / 'out'}"]
    return study.main(["--datasets", "photographs", *folders, *options])


def test_each_variant_is_trained_once_and_the_beam_uses_the_baselines_weights(tmp_path, calls):
    made, _ = calls
    assert run(tmp_path, "--depths", "2", "3") == 0
    trained = [call for call in made if call[0] == "train"]
    assert len(trained) == 2 * (len(study.VARIANTS) - 1) and len(made) == len(trained) + 2 * len(study.VARIANTS)
    beams = [call for call in made if "--beam=4" in call]
    assert [call[-3].split("/")[-2:] for call in beams] == [["baseline", "run"]] * 2
    made.clear()
    assert run(tmp_path, "--depths", "2", "3") == 0 and made == []


def test_other_options_are_trained_and_measured_anew(tmp_path, calls):
    made, _ = calls
    chosen = ["--depths", "2", "--variants", "zero code", "--jobs", "1"]
    run(tmp_path, *chosen)
    made.clear()
    run(tmp_path, *chosen, "--steps=5")
    assert [call[0] for call in made] == ["train", "evaluate"] and "--steps=5" in made[0]


def test_an_interrupted_training_goes_on_where_it_was(tmp_path, calls):
    made, broken = calls
    broken.add(2)
    chosen = ["--depths", "2", "--variants", "zero code"]
    assert run(tmp_path, *chosen) == 1
    checkpoint = tmp_path / "runs" / "photographs-2" / "zero-code" / "run" / "checkpoint"
    checkpoint.parent.mkdir()
    checkpoint.touch()
    broken.clear()
    assert run(tmp_path, *chosen) == 0 and checkpoint.exists()
    assert run(tmp_path, *chosen, "--steps=5") == 0 and not checkpoint.exists()


def test_what_failed_is_told_and_the_rest_is_reported(tmp_path, calls, capsys):
    _, broken = calls
    broken.add(3)
    assert run(tmp_path, "--depths", "2", "3") == 1
    assert "photographs, depth 3, zero code: failed (out of luck)" in capsys.readouterr().out
    entries = json.loads((tmp_path / "out" / "results.json").read_text())["entries"]
    assert {(entry["depth"], entry["variant"]) for entry in entries} == {(2, name) for name in study.VARIANTS}
    assert (tmp_path / "out" / "photographs.png").exists()


def test_the_table_has_a_row_for_every_entry():
    entries = [
        {"dataset": "photographs", "depth": depth, "variant": name, "evaluation": evaluation(depth)}
        for depth in (4, 8)
        for name in study.VARIANTS
    ]
    document = as_document(entries, {name: variant.description for name, variant in study.VARIANTS.items()})
    rows = [line for line in document.splitlines() if line.startswith("| ") and "20.00" in line]
    assert len(rows) == 16
    assert all("| 25.0% | 25.0% | 25.0% | 12.5% |" in row and row.endswith("| 3.1% | 50% |") for row in rows)
    assert "all prefixes alike (dropout) 2, ∝ d (rising) 3, half on the last (half dropout) 4." in document


def test_a_page_holds_what_the_study_found_and_what_is_missing(tmp_path, calls):
    page, results = tmp_path / "docs" / "page.md", tmp_path / "benchmarks" / "results"
    page.parent.mkdir()
    (tmp_path / "README.md").touch()
    marked = "<!-- invalid codes -->\n<!-- /invalid codes -->\n"
    page.write_text(marked)
    place = f"--repository={tmp_path}"
    assert tables.main([place]) == 0 and page.read_text() == marked
    run(tmp_path, "--depths", "2", "3", "--variants", "baseline", "zero code", f"--out={results / 'invalid_codes'}")
    assert tables.main([place, "--check"]) == 1
    assert tables.main([place]) == 0 and tables.main([place, "--check"]) == 0
    text = page.read_text()
    assert "| zero code | 20.00 | 20.00 | 25.0% | 25.0% |" in text
    for linked in ("photographs.png", "table.md"):
        assert f"](../benchmarks/results/invalid_codes/{linked})" in text
        assert (results / "invalid_codes" / linked).exists()
    one, other = ({"depth": depth, "variant": "zero code", "evaluation": evaluation(depth)} for depth in (2, 3))
    lines = summary_table("digits", [one, {**other, "variant": "baseline"}]).splitlines()
    assert lines[2:] == ["| zero code | 20.00 | – | 25.0% | – |", "| baseline | – | 20.00 | – | 25.0% |"]
