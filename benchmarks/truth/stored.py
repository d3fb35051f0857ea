"""Claims that the results of a study in benchmarks/results decide; nothing is trained here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import permutations
from statistics import fmean
from typing import Any, Literal

import torch

from ..noise_levels_effects import effects
from ..studies import RESULTS, read
from .claim import Claim, NotMeasured, Row

Entry = Mapping[str, Any]
Side = Literal["below", "above"]
_DEPTHS = (4, 8, 16)


def _entries(study: str, command: str) -> list[Entry]:
    found = read(RESULTS / study / "results.json").get("entries", [])
    if not found:
        raise NotMeasured(f"the study has no results yet: python -m benchmarks.{command}")
    return found


def _codes(variant: str) -> dict[tuple[str, int], Entry]:
    """What each data set and depth of the study of invalid codes has in pixels."""
    entries = _entries("invalid_codes", "invalid_codes")
    return {
        (entry["dataset"], entry["depth"]): entry["evaluation"]["invalid_codes"]["pixel"]
        for entry in entries
        if entry["variant"] == variant
    }


def invalid_codes_rise() -> Sequence[Row]:
    found = _codes("baseline")
    rises = [
        found[dataset, deep]["invalid_share"] - found[dataset, shallow]["invalid_share"]
        for dataset in _datasets(found)
        for shallow, deep in zip(_DEPTHS, _DEPTHS[1:], strict=False)
    ]
    return [Row("rise of the share with the depth, two data sets", rises, "above", 0.0)]


def invalid_share_sizes() -> Sequence[Row]:
    found = _codes("baseline")
    quoted = zip(_DEPTHS, (0.3, 0.4, 0.5), strict=True)
    off = [
        abs(fmean(found[dataset, depth]["invalid_share"] for dataset in _datasets(found)) - one)
        for depth, one in quoted
    ]
    return [Row("largest difference from 30, 40 and 50%", [max(off)], "below", 0.1, "size")]


def middle_stage() -> Sequence[Row]:
    """Of depth 8: which code lowers the error by the largest factor, and what is lost to the best prefix."""
    found, places, lost = _codes("baseline"), [], []
    for dataset in _datasets(found):
        mean = found[dataset, 8]["mean"]
        factors = [before / after for before, after in zip(mean, mean[1:], strict=False)]
        places.append(float(factors.index(max(factors)) + 1))
        lost.append(found[dataset, 8]["excess"])
    return [
        Row("code of the largest fall of the error", places, "above", 1.5),
        Row("share of the error lost to the best prefix", lost, "below", 0.01),
    ]


def short_prefixes() -> Sequence[Row]:
    """The error after one code, with quantizer dropout over that without."""
    plain, dropped = _codes("baseline"), _codes("dropout")
    ratios = [dropped[key]["mean"][1] / plain[key]["mean"][1] for key in plain]
    return [
        Row("error of one code with dropout over that without, two data sets at three depths", ratios, "below", 1.0)
    ]


def _datasets(found: Iterable[tuple[str, int]]) -> list[str]:
    return list(dict.fromkeys(dataset for dataset, _ in found))


def _levels(dataset: str | None = None) -> list[Entry]:
    return [
        entry
        for entry in _entries("noise_levels", "noise_levels")
        if dataset in (None, entry["dataset"]) and entry["variant"]
    ]


def against_cosine(
    variant: str, measure: str, *, dataset: str | None = None, size: tuple[str, float] | None = None
) -> Sequence[Row]:
    """The effect of a variant on a measure, seed by seed; below 0 is better. size: what it was quoted as at best."""
    rows = []
    for name in dict.fromkeys(entry["dataset"] for entry in _levels(dataset)):
        entries = _levels(name)
        baselines = {entry["variant"]: "cosine" for entry in entries}
        found = effects(entries, baselines).get(variant, {}).get(measure)
        if found is None or len(found.differences) < 3:
            raise NotMeasured(f"the study of noise levels has fewer than 3 seeds of {variant} on {name}")
        finite = [min(max(one, -9.0), 9.0) for one in found.differences]  # a loss that was never reached
        rows.append(Row(f"{measure} on {name}, {variant} less cosine", finite, "below", 0.0))
        if size is not None:
            rows.append(Row(f"{size[0]} on {name}", finite, "below", size[1], "size"))
    if not rows:
        raise NotMeasured(f"the study of noise levels has no runs on {dataset}")
    return rows


def _bound(entry: Entry) -> float:
    """½∫ of the error of ε over λ: the part of −ln p that the network decides, per pixel."""
    evaluation = entry["evaluation"]
    levels, errors = (torch.tensor(evaluation[name], dtype=torch.float64) for name in ("log_snr", "error"))
    return float(0.5 * torch.trapezoid(levels.exp() * errors, levels))  # errors are of x


def _quality(entry: Entry) -> float:
    return entry["evaluation"]["kernel_distance"]


def inversions() -> Sequence[Row]:
    """Pairs of variants of which one has, in every seed, the lower bound and the larger kernel distance."""
    counts = []
    for dataset in dict.fromkeys(entry["dataset"] for entry in _levels()):
        entries = _levels(dataset)
        by_variant = _by_seed(entries)
        pairs = [
            pair for pair in permutations(by_variant, 2) if by_variant[pair[0]].keys() == by_variant[pair[1]].keys()
        ]
        counts.append(float(sum(_inverted(by_variant[one], by_variant[other]) for one, other in pairs)))
        if len(entries) < 20:
            raise NotMeasured(f"the study of noise levels has {len(entries)} of 20 runs on {dataset}")
    return [Row("inversions that all seeds agree on, in the data set with fewest", [min(counts)], "above", 0.5)]


def _by_seed(entries: Sequence[Entry]) -> dict[str, dict[int, Entry]]:
    found: dict[str, dict[int, Entry]] = {}
    for entry in entries:
        found.setdefault(entry["variant"], {})[entry["seed"]] = entry
    return found


def _inverted(one: Mapping[int, Entry], other: Mapping[int, Entry]) -> bool:
    return len(one) >= 3 and all(
        _bound(one[seed]) < _bound(other[seed]) and _quality(one[seed]) > _quality(other[seed]) for seed in one
    )


def better_judge() -> Sequence[Row]:
    """Rank correlation with the kernel distance over the variants of a seed: the weighted loss's less the bound's."""
    differences = []
    for dataset in dict.fromkeys(entry["dataset"] for entry in _levels()):
        for seed in (0, 1, 2):
            some = [entry for entry in _levels(dataset) if entry["seed"] == seed]
            if len(some) < 6:
                raise NotMeasured(
                    f"the study of noise levels has {len(some)} of 6 variants of seed {seed} on {dataset}"
                )
            quality = [_quality(entry) for entry in some]
            weighted = [entry["evaluation"]["importance_weighted_loss"] for entry in some]
            differences.append(_ranks(quality, weighted) - _ranks(quality, [_bound(entry) for entry in some]))
    return [Row("rank correlation with quality, weighted loss less bound", differences, "above", 0.0)]


def _ranks(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's correlation, of values without ties."""
    ranks = torch.stack([torch.tensor(values).argsort().argsort().double() for values in (one, other)])
    return float(torch.corrcoef(ranks)[0, 1])


def _alike(decomposition: str) -> Entry:
    for entry in _entries("subtasks", "subtasks"):
        if entry["decomposition"] == decomposition:
            return entry
    raise NotMeasured(f"the study of sub-tasks has not measured {decomposition} yet")


def _estimate(what: str, found: Entry, side: Side, bound: float) -> Row:
    return Row(what, [found["value"]], side, bound, known=(found["low"], found["high"]))


def places_of_text() -> Sequence[Row]:
    found = _alike("text, places in a window")
    return [
        _estimate("transfer between places over that within one", found["transfer"], "above", 0.8),
        _estimate("mean cosine of two places' gradients", found["cosine"], "above", 0.0),
    ]


def ends_of_rows() -> Sequence[Row]:
    """Ends of rows of pixels against places of a text; the interval of the difference adds squares."""
    pixels, text = (_alike(name)["transfer"] for name in ("pixels, ends of rows", "text, places in a window"))
    difference = pixels["value"] - text["value"]
    reach = math.hypot(*((one["high"] - one["low"]) / 2 for one in (pixels, text)))
    known = (difference - reach, difference + reach)
    return [
        Row("transfer between ends and insides of rows, less that of text", [difference], "below", 0.0, known=known)
    ]


def power_law() -> Sequence[Row]:
    """The exponents of the study of scaling laws, and the error of its largest run as the others predict it."""
    laws = read(RESULTS / "scaling" / "results.json").get("laws")
    if laws is None:
        raise NotMeasured("the study has no results yet: python -m benchmarks.scaling")
    rows = []
    for name in ("parameters", "steps"):
        if isinstance(laws[name], str):
            raise NotMeasured(f"the study has no law in {name}: {laws[name]}")
        (term,) = laws[name]["terms"].values()
        rows.append(Row(f"exponent of {name}", [term["exponent"]], "above", 0.0, known=tuple(term["interval"])))
    off = laws["both"]["left_out"]["off"] if isinstance(laws["both"], dict) else None
    return rows if off is None else [*rows, Row("error of the largest run's prediction", [abs(off)], "below", 0.03)]


def _transfers(case: str) -> list[float]:
    """The transfer between times of each seed of a path."""
    entries = _entries("paths/subtasks", "paths subtasks")
    found = [entry["transfer"] for entry in entries if entry["case"] == case]
    if len(found) < 3:
        raise NotMeasured(f"the study of paths has {len(found)} of 3 seeds of {case}")
    return found


def _apart(case: str, other: str, side: Side) -> Row:
    differences = [one - another for one, another in zip(_transfers(case), _transfers(other), strict=True)]
    return Row(f"transfer between times, {case} less {other}", differences, side, 0.0)


def learned_paths() -> Sequence[Row]:
    return [_apart(case, "fixed schedule", "below") for case in ("learned schedule", "DSB", "DSB matching")]


def reparametrized_bridges() -> Sequence[Row]:
    return [_apart(case, "DSB, previous state", "above") for case in ("DSB, terminal", "DSB, flow")]


def flows_against_diffusion() -> Sequence[Row]:
    """On each data set the least FID of a flow less that of a diffusion model, after the same time."""
    entries = _entries("paths/flows", "paths flows")
    rows = []
    for dataset in dict.fromkeys(entry["dataset"] for entry in entries):
        fid = {entry["run"]: entry["fid"] for entry in entries if entry["dataset"] == dataset}
        flows = min(value for run, value in fid.items() if run.startswith(("real-nvp", "tar-flow")))
        others = min(value for run, value in fid.items() if not run.startswith(("real-nvp", "tar-flow")))
        rows.append(
            Row(f"FID on {dataset}, the best flow less the best diffusion model", [flows - others], "above", 0.0)
        )
    return rows


def _trained(number: int, source: str, text: str, refuted_if: str, measure: Callable[[], Sequence[Row]]) -> Claim:
    return Claim(number, source, text, "trained", refuted_if, measure=measure)


_KERNEL, _STEPS = "kernel distance", "steps to the baseline's final loss"
CLAIMS = (
    _trained(1, "000:36, 003:55", "text: predicting a token doesn't depend on its place", "e < 0.8", places_of_text),
    _trained(2, "000:47, 003:85", "raster patches: rows are continuous, their ends not", "not lower", ends_of_rows),
    _trained(
        *(8, "000:64, 003:243", "learned paths (VDM, DSB) may be equivariant, in practice not yet"),
        *("learned above fixed", learned_paths),
    ),
    _trained(
        *(9, "003:247", "bridges lose the reparametrization, and so conflict more", "no difference or worse"),
        reparametrized_bridges,
    ),
    _trained(59, "001:61", "normalizing flows are the worst generators", "better", flows_against_diffusion),
    _trained(
        14, "000:74, 003:297", "later codes of an RQ-VAE often don't help, or hurt", "falling", invalid_codes_rise
    ),
    _trained(15, "003:301", "… 30, 40, over 50%", "size only", invalid_share_sizes),
    _trained(17, "003:305", "at depth 8 one middle stage dominates", "the first or a late one", middle_stage),
    _trained(21, "003:295", "RQ codes make variable length", "not better", short_prefixes),
    _trained(32, "000:106, 003:369", "lower NLL needn't be better pictures", "no inversion", inversions),
    _trained(37, "000:118, 003:393", "NLL with equal weights judges badly", "ELBO is the better judge", better_judge),
    _trained(
        *(41, "000:131", "Laplace sampling beats cosine (10.85 → 7.96)", "worse"),
        partial(against_cosine, "laplace", _KERNEL, size=("share of the distance, quoted −27%", -0.2)),
    ),
    _trained(
        *(42, "000:60, 003:193", "Min-SNR speeds up (3.4×)", "slower"),
        partial(against_cosine, "min-snr", _STEPS, size=("ln of the share of steps, quoted 1/3.4", -1.0)),
    ),
    _trained(
        *(
            51,
            "001:13",
            "the low-resolution schedule learns inefficiently at high resolution; shifting repairs it",
            "worse",
        ),
        partial(against_cosine, "shifted", _KERNEL, dataset="photographs"),
    ),
    _trained(43, "000:139", "weighted loss is a power law in parameters and in steps", "exponent 0", power_law),
)
