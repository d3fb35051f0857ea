"""The family `select`: draws follow the filtered softmax, ties stay together, and a bad row says so."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from visgen_fast import ops, reference
from visgen_fast.reference import noise

LEAST_P = 1e-4


def seeds(count: int, run: int = 0) -> Tensor:
    return ops.derive_seeds(run, torch.arange(count))


def definition(logits: list[float], t: float, top_k: int | None, top_p: float | None) -> list[float]:
    """The probabilities of one row's codes, as the words of the definition have them."""
    kept = [x > -math.inf and (top_k is None or sum(y > x for y in logits) < top_k) for x in logits]
    if t == 0:
        first = logits.index(max(logits))
        return [float(i == first) for i in range(len(logits))]
    weights = [math.exp((x - max(logits)) / t) if keep else 0.0 for x, keep in zip(logits, kept, strict=True)]
    if top_p is not None and top_p < 1:
        above = [sum(w for y, w in zip(logits, weights, strict=True) if y > x) / sum(weights) for x in logits]
        weights = [w * (share < top_p or x == max(logits)) for w, x, share in zip(weights, logits, above, strict=True)]
    return [w / sum(weights) for w in weights]


def assert_drawn_from(codes: Tensor, probabilities: list[float]) -> None:
    """By the χ² test; what has no probability never comes."""
    p = torch.tensor(probabilities, dtype=torch.float64)
    counts = torch.bincount(codes.flatten(), minlength=len(p))
    assert not counts[p == 0].any()
    if int((p > 0).sum()) > 1:
        assert stats.chisquare(counts[p > 0].numpy(), (p[p > 0] * codes.numel()).numpy()).pvalue > LEAST_P


FILTERS = {
    "plain": {},
    "cold": {"temperature": 0.5},
    "hot": {"temperature": 3.0},
    "argmax": {"temperature": 0.0},
    "top_k": {"top_k": 3},
    "top_k 1": {"top_k": 1},
    "top_p": {"top_p": 0.7},
    "top_p 0": {"top_p": 0.0},
    "top_p 1": {"top_p": 1.0},
    "all": {"temperature": 1.7, "top_k": 5, "top_p": 0.8},
}
ROW = [0.3, -1.0, 2.0, 2.0, -math.inf, 1.0, 0.3, 0.31, -3.0]


@pytest.mark.parametrize("filters", FILTERS.values(), ids=FILTERS)
def test_draws_follow_the_filtered_softmax(filters, backend, device):
    logits = torch.tensor(ROW, device=device).expand(400, 100, -1)
    codes = ops.sample_tokens(logits, seeds(400).to(device), **filters).cpu()
    expected = definition(ROW, filters.get("temperature", 1.0), filters.get("top_k"), filters.get("top_p"))
    assert_drawn_from(codes, expected)


@settings(max_examples=60)
@given(
    row=st.lists(st.integers(-8, 8), min_size=1, max_size=9),
    t=st.sampled_from([0.0, 0.25, 1.0, 4.0]),
    top_k=st.one_of(st.none(), st.integers(1, 12)),
    top_p=st.one_of(st.none(), st.sampled_from([0.0, 0.3, 0.9, 1.0])),
)
def test_whatever_is_kept_comes_and_nothing_else(row, t, top_k, top_p):
    """Ties among small integers are common, and each kept code of theirs must come."""
    probabilities = definition([x / 2 for x in row], t, top_k, top_p)
    logits = (torch.tensor(row, dtype=torch.float64) / 2).expand(1, 3000, -1)
    drawn = set(ops.sample_tokens(logits, seeds(1), temperature=t, top_k=top_k, top_p=top_p).unique().tolist())
    assert drawn <= {i for i, p in enumerate(probabilities) if p > 0}
    assert drawn >= {i for i, p in enumerate(probabilities) if p > 0.01}


def rows_of(kind: str, count: int, codes: int, device: torch.device) -> Tensor:
    x = 3 * torch.randn(count, codes, generator=torch.Generator().manual_seed(codes))
    made = {
        "random": lambda: x,
        "ascending": lambda: x.sort(-1).values,
        "descending": lambda: x.sort(-1, descending=True).values,
        "equal": lambda: torch.ones_like(x),
        "few values": lambda: x.round(),
        "masked": lambda: x.masked_fill(torch.arange(codes) % 7 != 3, -math.inf),
        "far apart": lambda: x * 1e30,
        "close together": lambda: 1000 + x * 1e-4,
        "zeros of both signs": lambda: torch.where(x > 0, 0.0, torch.where(x > -1, -0.0, x)),
        "float64": lambda: x.double() * 1e-9 + 1,
    }
    return made[kind]().to(device)


ROWS = ["random", "ascending", "descending", "equal", "few values", "masked", "far apart", "close together",
        "zeros of both signs", "float64"]  # fmt: skip


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("codes", [1, 37, 1031, 5000])
def test_any_row_is_drawn_from_as_the_definition_says(kind, codes, backend, device):
    """Whole rows and rows that end anywhere; filters that list their codes and, beyond 2048, those that cannot."""
    many = not backend.startswith("cuda-on")
    logits = rows_of(kind, 6 if many else 2, codes, device).unflatten(0, (2, -1))
    two = seeds(2).to(device)
    settings = [
        {},
        {"temperature": 1e-30},
        {"temperature": 1e30},
        {"top_k": 1, "log_probability": True},
        {"top_k": 40, "temperature": 0.5},
        {"top_k": 2048},
        {"top_k": 2100, "top_p": 0.5},
        {"top_k": 4999, "top_p": 0.01},
        {"top_p": 0.9, "temperature": 2.0},
        {"top_p": 0.0},
        {"unconditional": logits.flip(-1), "guidance": 1.7, "top_k": 100, "top_p": 0.9, "log_probability": True},
    ]
    for options in settings:
        drawn, expected = (module.sample_tokens(logits, two, **options) for module in (ops, reference))
        for actual, true in zip(*([x] if isinstance(x, Tensor) else x for x in (drawn, expected)), strict=True):
            torch.testing.assert_close(actual, true, rtol=2e-7, atol=0, equal_nan=True)


@pytest.fixture(scope="module")
def million() -> tuple[Tensor, dict, Tensor]:
    logits = 2 * torch.randn(10, 100_000, 8, generator=torch.Generator().manual_seed(0))
    options = {"temperature": 0.9, "top_k": 6, "top_p": 0.95}
    return logits, options, reference.sample_tokens(logits, seeds(10), **options)


def test_a_million_draws_are_those_of_the_definition(million, backend, device):
    logits, options, expected = million
    some = 10 if not backend.startswith("cuda-on") else 1
    rows = slice(None) if some == 10 else slice(0, 2000)
    drawn = ops.sample_tokens(logits[:some, rows].to(device), seeds(some).to(device), **options)
    assert torch.equal(drawn.cpu(), expected[:some, rows])


@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf])
@pytest.mark.parametrize("place", [0, 1, 40, 1030])
def test_one_bad_logit_anywhere_is_noticed(bad, place, backend, device):
    logits = rows_of("random", 2, 1031, device)
    logits[1, place] = bad
    for options in ({}, {"temperature": 0.0}, {"top_k": 5}, {"top_p": 0.5}, {"top_k": 600}):
        codes, found = ops.sample_tokens(logits, seeds(2).to(device), log_probability=True, **options)
        assert codes[0] >= 0 and codes[1] == -1 and found[1].isnan() and found[0].isfinite()


def test_the_code_is_the_argmax_of_guided_tempered_logits_plus_noise():
    c, u = (torch.randn(3, 5, 101, generator=torch.Generator().manual_seed(i)) for i in range(2))
    score = (u + 2.5 * (c - u)).double() + 0.8 * ops.gumbel(seeds(3), (5, 101), stream=7, dtype=torch.float64)
    drawn = ops.sample_tokens(c, seeds(3), unconditional=u, guidance=2.5, temperature=0.8, stream=7)
    assert torch.equal(drawn, score.argmax(-1))


def test_the_log_probability_is_before_temperature_and_filters():
    c, u = (torch.randn(2, 3, 11, generator=torch.Generator().manual_seed(i)) for i in range(2))
    codes, found = ops.sample_tokens(
        c, seeds(2), unconditional=u, guidance=1.5, temperature=0.1, top_k=2, top_p=0.5, log_probability=True
    )
    expected = (u + 1.5 * (c - u)).double().log_softmax(-1).gather(-1, codes[..., None])[..., 0]
    assert found.dtype == torch.float32 and torch.equal(found, expected.float())


def test_equal_scores_go_to_the_lowest_index():
    assert ops.sample_tokens(torch.zeros(1, 2, 7), seeds(1), temperature=0.0).tolist() == [[0, 0]]
    tied = torch.tensor([[1.0, 3.0, 2.0, 3.0]])
    assert ops.sample_tokens(tied, seeds(1), temperature=0.0, top_k=1).tolist() == [1]


def test_parameters_of_samples_act_as_the_numbers_would():
    c, u = (torch.randn(4, 6, 33, generator=torch.Generator().manual_seed(i)) for i in range(2))
    rows = {
        "guidance": [1.0, 0.0, 3.5, -0.5],
        "temperature": [0.0, 0.5, 1.0, 2.0],
        "top_k": [1, 4, 33, 40],
        "top_p": [0.0, 0.5, 0.9, 1.0],
    }
    tensors = {name: torch.tensor(values) for name, values in rows.items()}
    together = ops.sample_tokens(c, seeds(4), unconditional=u, **tensors)
    for i in range(4):
        own = {name: values[i] for name, values in rows.items()}
        own |= {name: tensors[name][i].item() for name in ("guidance", "temperature", "top_p")}
        alone = ops.sample_tokens(c[i : i + 1], seeds(4)[i : i + 1], unconditional=u[i : i + 1], **own)
        assert torch.equal(alone[0], together[i])


def test_values_of_tensors_out_of_range_act_as_the_nearest_legal_ones():
    logits, six = torch.randn(6, 50, generator=torch.Generator().manual_seed(0)), seeds(6)

    def drawn(**parameters):
        return ops.sample_tokens(logits, six, **parameters)

    def filled(value, dtype=torch.float64):
        return torch.full((6,), value, dtype=dtype)

    assert torch.equal(drawn(temperature=filled(-2.0)), drawn(temperature=0.0))
    assert torch.equal(drawn(top_k=filled(-3, torch.int64)), drawn(top_k=1))
    assert torch.equal(drawn(top_p=filled(-0.5)), drawn(top_p=0.0))
    assert torch.equal(drawn(top_p=filled(7.0)), drawn())
    assert (drawn(temperature=filled(math.inf)) >= 0).all()
    u = torch.randn(6, 50, generator=torch.Generator().manual_seed(1))
    largest = filled(torch.finfo(torch.float32).max)
    for guidance, nearest in ((math.inf, largest), (-math.inf, -largest)):
        assert torch.equal(drawn(unconditional=u, guidance=filled(guidance)), drawn(unconditional=u, guidance=nearest))


@pytest.mark.parametrize("parameter", ["guidance", "temperature", "top_p"])
def test_a_parameter_that_is_nan_makes_its_sample_bad(parameter):
    logits = torch.zeros(3, 2, 5)
    rows = {parameter: torch.tensor([0.5, math.nan, 0.5])}
    codes, found = ops.sample_tokens(logits, seeds(3), unconditional=logits, log_probability=True, **rows)
    assert (codes[[0, 2]] >= 0).all() and (codes[1] == -1).all()
    assert found[1].isnan().all() and found[[0, 2]].isfinite().all()


@pytest.mark.parametrize("filters", FILTERS.values(), ids=FILTERS)
def test_a_bad_row_gives_minus_one_and_nan(filters):
    logits = torch.zeros(1, 5, 4)
    logits[0, 1, 2], logits[0, 2, 0], logits[0, 3] = math.nan, math.inf, -math.inf
    codes, found = ops.sample_tokens(logits, seeds(1), log_probability=True, **filters)
    assert codes[0, 1:4].tolist() == [-1] * 3 and found[0, 1:4].isnan().all()
    assert (codes[0, [0, 4]] >= 0).all() and found[0, [0, 4]].isfinite().all()


def test_what_either_network_masks_is_masked_and_guidance_one_is_the_conditional_alone():
    c, u = torch.zeros(1, 2000, 4), torch.zeros(1, 2000, 4)
    c[..., 0], u[..., 1] = -math.inf, -math.inf
    assert ops.sample_tokens(c, seeds(1), unconditional=u, guidance=3.0).unique().tolist() == [2, 3]
    assert ops.sample_tokens(c, seeds(1), unconditional=u).unique().tolist() == [1, 2, 3]
    odd = torch.full_like(u, math.nan)
    of_samples = ops.sample_tokens(c, seeds(1), unconditional=odd, guidance=torch.ones(1))
    assert torch.equal(of_samples, ops.sample_tokens(c, seeds(1)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_logits_of_16_bits_are_drawn_from_as_their_float32(dtype):
    c, u = (torch.randn(3, 300, generator=torch.Generator().manual_seed(i)).to(dtype) for i in range(2))
    options = {"guidance": 1.7, "temperature": 0.9, "top_k": 40, "top_p": 0.9, "log_probability": True}
    low = ops.sample_tokens(c, seeds(3), unconditional=u, **options)
    full = ops.sample_tokens(c.float(), seeds(3), unconditional=u.float(), **options)
    assert torch.equal(low[0], full[0]) and torch.equal(low[1], full[1])


def test_a_sample_has_its_codes_alone_and_in_any_batch():
    logits = torch.randn(5, 3, 40, generator=torch.Generator().manual_seed(0))
    together = ops.sample_tokens(logits, seeds(5), top_p=0.9)
    assert torch.equal(ops.sample_tokens(logits[3:4], seeds(5)[3:4], top_p=0.9)[0], together[3])


def test_every_one_of_many_equal_logits_has_noise_of_its_own():
    """With few bits of noise many codes would share a value, and only the first of each could ever be drawn."""
    count, draws = 2**18, 2**12
    assert len(ops.gumbel(seeds(1), (count,), dtype=torch.float64).unique()) == count
    codes = ops.sample_tokens(torch.zeros(1, 1, 1).expand(16, draws // 16, count), seeds(16)).flatten()
    repeated = draws - len(codes.unique())  # close to Poisson's distribution
    assert stats.poisson.cdf(repeated, draws * (draws - 1) / 2 / count) > LEAST_P
    assert stats.poisson.sf(repeated - 1, draws * (draws - 1) / 2 / count) > LEAST_P
    assert stats.kstest(codes.numpy() / count, "uniform").pvalue > LEAST_P


def test_the_tail_of_a_zipf_distribution_has_its_mass():
    """Of codes that are each less probable than 2⁻²⁰, as with 24 bits of noise it has not."""
    draws, rank = 400_000, torch.arange(1, 4097, dtype=torch.float64)
    p = rank.pow(-2) / rank.pow(-2).sum()
    codes = ops.sample_tokens(p.log().float().expand(100, draws // 100, -1), seeds(100))
    rare = p < 2.0**-20
    expected, found = draws * float(p[rare].sum()), int(rare[codes].sum())
    assert abs(found - expected) <= 4 * math.sqrt(expected)


def test_the_tail_of_the_noise_has_its_mass():
    """P(g > x) = 1 − exp(−e⁻ˣ), down to the least that 16 million numbers show."""
    numbers = torch.cat([ops.gumbel(seeds(1, run), (2**21,), dtype=torch.float64)[0] for run in range(8)])
    for level in (-2.0, 0.0, 4.0, 10.0, 13.0):
        p = -math.expm1(-math.exp(-level))
        expected, found = p * len(numbers), int((numbers > level).sum())
        assert abs(found - expected) <= 4 * math.sqrt(expected * (1 - p)) + 1


@pytest.mark.parametrize("word, expected", [(0, -3.5247), (2**32 - 1, 33.964)])
def test_noise_is_finite_at_the_ends_of_its_bits(word, expected, monkeypatch):
    monkeypatch.setattr(noise, "random_words", lambda seeds, count, stream: torch.full((1, count), word))
    assert reference.gumbel(seeds(1), (3,), dtype=torch.float64)[0].tolist() == pytest.approx([expected] * 3, abs=1e-3)


SAMPLE = {
    "temperature=-1": ({"temperature": -1.0}, "temperature must be at least 0 and finite, got -1.0"),
    "temperature=inf": ({"temperature": math.inf}, "temperature must be at least 0 and finite, got inf"),
    "temperature=nan": ({"temperature": math.nan}, "temperature must be at least 0 and finite, got nan"),
    "top_k=0": ({"top_k": 0}, "top_k must be at least 1, got 0"),
    "top_p=1.5": ({"top_p": 1.5}, "top_p must lie in [0, 1], got 1.5"),
    "top_p=nan": ({"top_p": math.nan}, "top_p must lie in [0, 1], got nan"),
    "guidance=inf": ({"guidance": math.inf}, "guidance must be finite, got inf"),
    "no unconditional": (
        {"guidance": 2.0, "unconditional": None},
        "unconditional must be given for a guidance other than 1",
    ),
    "unconditional of another shape": (
        {"unconditional": torch.zeros(2, 3)},
        "unconditional must be torch.float32 of the logits' shape [2, 5], got torch.float32 of shape [2, 3]",
    ),
    "top_k of float": (
        {"top_k": torch.ones(2)},
        "top_k must be an integer or int64 [B], got torch.float32",
    ),
    "temperature of another batch": (
        {"temperature": torch.ones(3)},
        "temperature must be one number or have shape [2], got [3]",
    ),
    "top_p of integers": (
        {"top_p": torch.ones(2, dtype=torch.int64)},
        "top_p must be a number or a floating-point tensor [B], got torch.int64",
    ),
    "no codes": ({"logits": torch.zeros(2, 0)}, "logits must be [B, …, V] with at least one code, got [2, 0]"),
    "integers": (
        {"logits": torch.zeros(2, 5, dtype=torch.int64)},
        "logits must be float32, bfloat16, float16 or float64, got torch.int64",
    ),
    "seeds": ({"seeds": torch.arange(3)}, "seeds must have one number for each of the 2 samples, got 3"),
}


@pytest.mark.parametrize("wrong, sentence", SAMPLE.values(), ids=SAMPLE)
def test_a_wrong_argument_of_a_draw_gets_a_sentence(wrong, sentence):
    logits = torch.zeros(2, 5)
    with pytest.raises(ValueError) as caught:
        ops.sample_tokens(**{"logits": logits, "seeds": torch.arange(2), "unconditional": logits, **wrong})
    assert str(caught.value) == sentence


@settings(max_examples=50)
@given(count=st.integers(0, 12), known=st.lists(st.booleans(), min_size=9, max_size=9), t=st.sampled_from([0.0, 2.0]))
def test_a_mask_has_exactly_the_least_sure_of_the_unknown(count, known, t):
    log_p = -torch.rand(2, 9, generator=torch.Generator().manual_seed(0)).double()
    unknown = ~torch.tensor([known, known[::-1]])
    mask = ops.confident_mask(log_p, seeds(2), unknown=unknown, count=count, temperature=t, stream=5)
    score = log_p + t * ops.gumbel(seeds(2), (9,), stream=5, dtype=torch.float64)
    for row in range(2):
        ranked = sorted((score[row, i].item(), i) for i in range(9) if unknown[row, i])
        assert mask[row].nonzero()[:, 0].tolist() == sorted(i for _, i in ranked[:count])


def test_a_mask_counts_exactly_with_ties_nan_and_counts_of_samples():
    log_p = torch.tensor([[-1.0, -1.0, -1.0, -1.0], [-1.0, math.nan, -math.inf, -9.0], [0.0, -1.0, -2.0, -3.0]])
    unknown = torch.ones(3, 4, dtype=torch.bool)
    mask = ops.confident_mask(log_p, seeds(3), unknown=unknown, count=torch.tensor([2, 2, -5]))
    assert mask.tolist() == [[True, True, False, False], [False, True, True, False], [False] * 4]


MASK = {
    "count=-1": ({"count": -1}, "count must be at least 0, got -1"),
    "temperature": ({"temperature": -1.0}, "temperature must be at least 0 and finite, got -1.0"),
    "unknown": ({"unknown": torch.ones(2, 3)}, "unknown must be bool [2, 3], got torch.float32 of shape [2, 3]"),
    "dimensions": ({"log_probability": torch.zeros(2, 3, 1)}, "log_probability must be [B, N], got [2, 3, 1]"),
}


@pytest.mark.parametrize("wrong, sentence", MASK.values(), ids=MASK)
def test_a_wrong_argument_of_a_mask_gets_a_sentence(wrong, sentence):
    given = {"log_probability": torch.zeros(2, 3), "unknown": torch.ones(2, 3, dtype=torch.bool), "count": 1}
    with pytest.raises(ValueError) as caught:
        ops.confident_mask(**{**given, "seeds": torch.arange(2), **wrong})
    assert str(caught.value) == sentence
