"""The truth report: verdicts follow the rule, exact claims hold, and none of them survives a planted falsehood."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image
from torch import nn

from benchmarks.truth import checkpoints
from benchmarks.truth.__main__ import CLAIMS, main
from benchmarks.truth.claim import Claim, NotMeasured, Row, judged
from visgen_fast.data.images import ImagesInMemory
from visgen_fast.systems.generative import GenerativeSystem
from visgen_fast.systems.tokenizer import TokenizerSystem

EXACT = [claim for claim in CLAIMS if claim.kind == "exact"]
MISPRINTS = (70, 80)


@pytest.mark.parametrize("claim", EXACT, ids=lambda claim: str(claim.number))
def test_an_exact_claim_holds_and_a_planted_falsehood_is_refuted(claim):
    found = judged(claim)
    assert found.verdict == ("misprint" if claim.number in MISPRINTS else "supported"), found.reason
    assert claim.planted is not None and judged(claim, claim.planted).verdict == "refuted"


def test_every_claim_is_there_once():
    assert [claim.number for claim in CLAIMS] == list(range(1, 82))
    assert len(EXACT) == 22 and all(claim.measure or claim.needs for claim in CLAIMS)


@pytest.mark.parametrize(
    ("effects", "verdict"),
    [
        ([0.9, 1.0, 1.1], "supported"),
        ([-0.9, -1.0, -1.1], "refuted"),
        ([1.0, 0.0, 0.2], "open"),
        ([1e-9], "supported"),
        ([-1e-9], "refuted"),
        ([0.0], "supported"),
    ],
)
def test_a_verdict_follows_from_the_interval_and_the_bound(effects, verdict):
    assert Row("x", effects, "above", 0.0).verdict == verdict
    assert Row("x", [-one for one in effects], "below", 0.0).verdict == verdict


def test_the_interval_is_that_of_t():
    low, high = Row("x", [1.0, 2.0, 3.0], "above", 0.0).interval
    known = Row("x", [1.0], "above", 0.0, known=(-1.0, 3.0))
    assert known.interval == (-1.0, 3.0) and known.verdict == "open"
    assert (low, high) == pytest.approx((2 - 2.484, 2 + 2.484), abs=1e-3)  # 4.303/√3


def claim_of(*rows: Row) -> Claim:
    return Claim(1, "000:1", "a claim", "exact", "not", measure=lambda: rows)


def test_directions_and_sizes_are_judged_apart_and_misprints_need_what_was_meant():
    right, wrong, unsure = (Row("x", effects, "above", 0.0) for effects in ([1.0], [-1.0], [-1.0, 0.0, 1.0]))
    size = Row("x", [1.0], "below", 0.5, "size")
    assert (judged(claim_of(right, size)).verdict, judged(claim_of(right, size)).size) == (
        *("supported", "not consistent at this scale"),
    )
    assert judged(claim_of(size)).verdict == "open"
    assert judged(claim_of(unsure, wrong)).verdict == "refuted" and judged(claim_of(right, unsure)).verdict == "open"
    printed, meant = Row("x", [-1.0], "above", 0.0, "printed"), Row("x", [1.0], "above", 0.0, "evident")
    assert judged(claim_of(printed, meant)).verdict == "misprint"
    assert judged(claim_of(printed, Row("x", [-1.0], "above", 0.0, "evident"))).verdict == "refuted"

    def missing():
        raise NotMeasured("a study is missing")

    assert judged(Claim(1, "", "", "trained", "", measure=missing)).reason == "a study is missing"


def test_the_report_is_written_and_kept_measures_are_not_taken_again(tmp_path, capsys, monkeypatch):
    options = [f"--out={tmp_path / 'out'}", f"--runs={tmp_path / 'runs'}"]
    assert main(["14", "18", "70", "46", "3", *options]) == 0
    stored = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [(one["claim"], one["verdict"]) for one in stored["claims"]] == [
        *((14, "supported"), (18, "supported"), (70, "misprint"), (46, "supported"), (3, "not measured")),
    ]
    assert stored["claims"][4]["measured"] == [] and "rolled at random" in stored["claims"][4]["reason"]
    table = (tmp_path / "out" / "table.md").read_text()
    assert "| 70 | 002:378 |" in table and "**misprint**; size not consistent at this scale" in table
    with Image.open(tmp_path / "out" / "claim-70.png") as figure:
        assert min(figure.size) > 300
    assert not (tmp_path / "out" / "claim-3.png").exists()
    monkeypatch.setattr("benchmarks.truth.statistic._frechet", None)
    assert main(["46", *options]) == 0
    assert "| statistic | 1 | 0 |" in capsys.readouterr().out


def test_an_unknown_claim_is_one_sentence(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["99", f"--out={tmp_path}"])
    assert "there is no claim 99; they have the numbers 1 to 81" in capsys.readouterr().err


class Drawing(GenerativeSystem):
    """Draws the class's grey value, with an error that the steps divide, by a network that guidance calls twice."""

    def __init__(self):
        super().__init__()
        self.model = nn.Identity()

    def forward(self, batch): ...

    def options(self, **asked): ...

    def sample(self, labels, seeds, *, callback=None, steps=20, guidance=1.0):
        for _ in range(2 if guidance != 1 else 1):
            self.model(seeds)
        value = torch.where((seeds % 2 == 0) | (guidance != 1), labels, 1 - labels).float()
        return (value + seeds.sign() / steps)[:, None, None, None].expand(-1, 1, 2, 2)


def test_claims_about_a_diffusion_model_are_measured_on_a_run_of_yours(monkeypatch):
    images = ImagesInMemory(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 0, 1]), ["0", "1"])
    monkeypatch.setattr(checkpoints, "_run", lambda name: (None, None, Drawing()))
    monkeypatch.setattr(checkpoints, "images_to_measure", lambda *both: (images, True))
    monkeypatch.setattr(
        checkpoints,
        "trained_classifier",
        lambda *both: lambda x: torch.stack((0.5 - x[:, 0, 0, 0], x[:, 0, 0, 0] - 0.5), 1),
    )
    steps, guided = (
        {row.what: row for row in measure()} for measure in (checkpoints.enough_steps, checkpoints.guidance_helps)
    )
    assert all(row.verdict == "supported" for row in (*steps.values(), *guided.values()))
    assert guided["the same, at least"].effects == [2.0]


def test_depth_is_coarse_to_fine_where_later_codes_add_finer_waves(monkeypatch):
    waves = [torch.cos(torch.arange(16) * cycles * torch.pi / 8).expand(4, 1, 16, 16) for cycles in (1, 2, 4, 6)]

    class Stages(nn.Module):
        def stages(self, images):
            return dict(enumerate(torch.stack(waves).cumsum(0)))

    class System(TokenizerSystem):
        def __init__(self):
            nn.Module.__init__(self)
            self.tokenizer = Stages()

    monkeypatch.setattr(checkpoints, "_run", lambda name: (None, None, System()))
    monkeypatch.setattr(checkpoints, "_pictures", lambda *given: (torch.zeros(4, 1, 16, 16, dtype=torch.uint8), None))
    assert [row.effects for row in checkpoints.coarse_to_fine()] == [[1.0] * 3] * 2
    waves.reverse()
    assert checkpoints.coarse_to_fine()[0].verdict == "refuted"


def test_a_run_that_is_missing_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(checkpoints, "FOLDER", tmp_path)
    claim = next(claim for claim in CLAIMS if claim.number == 69)
    assert judged(claim).reason == "it needs a run of yours, in build/truth/checkpoints/diffusion"
