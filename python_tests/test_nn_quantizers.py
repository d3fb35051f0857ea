"""Residual and vector quantizers: what comes out of them, for any options and values."""

import copy
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from visgen_fast import ops
from visgen_fast.nn import ResidualQuantizer, VectorQuantizer, beam_search, draw_active_depths

SIZES = st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 7))  # depth, size, dimensions


def quantizer(depth=3, size=16, dimensions=8, spread=1.0, **options):
    """A quantizer with codes that lie among normal data."""
    torch.manual_seed(0)
    made = ResidualQuantizer(depth, size, dimensions, **options)
    with torch.no_grad():
        made.codebook.embedding.normal_(std=spread)
        if options.get("zero_code"):
            made.codebook.embedding[..., 0, :] = 0
        if made.codebook.average_sum is not None:
            made.codebook.average_sum.copy_(made.codebook.embedding)
    return made


@pytest.mark.parametrize("shape", [(5, 8), (2, 3, 8), (2, 3, 4, 8), (0, 3, 8)])
def test_shapes_are_those_of_the_input_with_a_code_for_each_depth(shape):
    made = quantizer()
    out = made(torch.randn(shape))
    assert out.quantized.shape == shape and out.codes.shape == (*shape[:-1], 3) and out.loss.shape == shape[:-1]
    assert out.codes.dtype == torch.int64 and out.loss.dtype == torch.float32


@settings(max_examples=30)
@given(SIZES, st.booleans(), st.integers(0, 2**31))
def test_the_quantized_vector_is_the_sum_of_its_codes(sizes, shared, seed):
    made = quantizer(*sizes, shared=shared).eval()
    x = torch.randn(2, 5, sizes[2], generator=torch.Generator().manual_seed(seed))
    out = made(x)
    assert torch.equal(out.quantized, made.decode(out.codes))
    vectors = made.codebook.embedding if shared else None
    picked = [(vectors if shared else made.codebook.embedding[q])[out.codes[..., q]] for q in range(sizes[0])]
    torch.testing.assert_close(out.quantized, sum(picked), rtol=1e-6, atol=1e-6)


@settings(max_examples=30)
@given(SIZES, st.sampled_from([0.01, 1.0, 100.0]), st.integers(0, 2**31))
def test_with_a_zero_code_no_depth_increases_the_error(sizes, scale, seed):
    made = quantizer(*sizes, zero_code=True).eval()
    x = scale * torch.randn(2, 5, sizes[2], generator=torch.Generator().manual_seed(seed))
    codes = made(x).codes
    errors = [x.norm(dim=-1)] + [(x - made.decode(codes[..., : q + 1])).norm(dim=-1) for q in range(sizes[0])]
    assert all((after <= before * (1 + 1e-5)).all() for before, after in zip(errors, errors[1:], strict=False))


def test_without_a_zero_code_some_depth_increases_it():
    made = quantizer(4, 4, 8).eval()
    x = 0.01 * torch.randn(64, 8)
    assert ((x - made(x).quantized).norm(dim=-1) > x.norm(dim=-1)).all()


def test_dropped_depths_decode_as_nothing():
    made = quantizer(dropout=1.0)
    x = torch.randn(64, 3, 8)
    out = made(x, seeds=torch.arange(64))
    active = (out.codes >= 0).sum(-1)
    assert set(active.unique().tolist()) == {1, 2, 3} and (active == active[:, :1]).all()
    assert ((out.codes >= 0) == (torch.arange(3) < active[..., None])).all()
    made.eval()
    for depths in (1, 2, 3):
        few = active[:, 0] == depths
        exact = made(x[few], active_depths=torch.full((int(few.sum()),), depths))
        assert torch.equal(exact.codes[..., :depths].clamp_min(0), exact.codes[..., :depths])
        assert torch.equal(made.decode(exact.codes), made.decode(exact.codes[..., :depths]))


def test_dropout_depends_on_the_seeds_alone():
    seeds = ops.derive_seeds(0, torch.arange(1000))
    active = draw_active_depths(seeds, 8)
    assert torch.equal(active[500:], draw_active_depths(seeds[500:], 8))
    counts = torch.bincount(active, minlength=9)
    assert counts[0] == 0 and len(counts) == 9 and (counts[1:] > 80).all()  # 125 ± 10.5 expected
    assert set(draw_active_depths(seeds, 8, multiple_of=3).unique().tolist()) == {3, 6, 8}
    half = draw_active_depths(seeds, 8, probability=0.5)
    assert 380 < (half < 8).sum() < 495 and (draw_active_depths(seeds, 8, probability=0.0) == 8).all()


def test_no_depth_is_dropped_in_evaluation_mode():
    assert (quantizer(dropout=1.0).eval()(torch.randn(64, 8)).codes >= 0).all()


def test_the_loss_is_the_mean_over_depths_of_what_each_prefix_leaves():
    made = quantizer(dead_below=0).double()
    x = torch.randn(5, 7, 8, dtype=torch.float64, requires_grad=True)
    vectors = made.codebook.embedding.clone()
    out = made(x)
    prefixes = [ops.decode_codes(out.codes[..., : q + 1], vectors) for q in range(3)]
    expected = 0.25 * sum((x - prefix).square().mean(-1) for prefix in prefixes) / 3
    torch.testing.assert_close(out.loss, expected)
    (gradient,) = torch.autograd.grad(out.loss.sum(), x, retain_graph=True)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), x)[0])


def test_depth_weights_weigh_the_depths():
    x = torch.randn(5, 8)
    single = [quantizer(depth_weights=[float(q == p) for q in range(3)]).eval()(x).loss for p in range(3)]
    rising = quantizer(depth_weights=[1, 2, 3]).eval()(x).loss
    torch.testing.assert_close(rising, (single[0] + 2 * single[1] + 3 * single[2]) / 6)


def test_codebooks_learn_by_gradient_where_that_is_asked_for():
    made = quantizer(learning="gradient", dead_below=0)
    x = torch.randn(64, 8)
    optimizer = torch.optim.Adam(made.parameters(), 5e-2)
    losses = []
    for _ in range(50):
        out = made(x)
        losses.append(out.loss.mean())
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]


def test_the_zero_code_stays_zero_when_codebooks_learn_by_gradient():
    made = quantizer(learning="gradient", zero_code=True)
    x = 0.3 * torch.randn(64, 8)
    optimizer = torch.optim.Adam(made.parameters(), 1e-1)
    for _ in range(5):
        made(x).loss.mean().backward()
        optimizer.step()
    assert (made(x).codes == 0).any() and not made.codebook.embedding[:, 0].any()


@pytest.mark.parametrize("gradient", ["straight_through", "straight_through_per_depth", "rotation_per_depth"])
@pytest.mark.parametrize("update", ["snapshot", "sequential"])
def test_gradients_are_those_of_the_operation(gradient, update):
    made = quantizer(shared=True, gradient=gradient, update=update, decay=0.9999, dead_below=0)
    x = torch.randn(5, 7, 8, requires_grad=True)
    upstream = torch.randn(5, 7, 8)
    vectors = made.codebook.embedding.clone()
    expected = ops.residual_quantize(x, vectors, depth=3, gradient=gradient)[0]
    out = made(x).quantized
    got, wanted = (torch.autograd.grad(value, x, upstream)[0] for value in (out, expected))
    tolerance = 1e-6 if update == "snapshot" else 1e-2  # the codebook that learns between depths moves a little
    torch.testing.assert_close(got, wanted, rtol=tolerance, atol=tolerance)


def test_the_cosine_metric_gives_codes_of_length_one():
    torch.manual_seed(0)
    made = VectorQuantizer(16, 8, metric="cosine", dead_below=0)
    x = 3 * torch.randn(64, 8)
    for _ in range(3):
        before = made.codebook.embedding[0].clone()
        out = made(x)
        assert torch.equal(out.codes[:, 0], (x @ before.T).argmax(-1))
        torch.testing.assert_close(out.quantized.norm(dim=-1), torch.ones(64))
        torch.testing.assert_close(made.codebook.embedding.norm(dim=-1), torch.ones(1, 16))
        assert not torch.equal(made.codebook.embedding[0], before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_vectors_have_the_codes_of_their_float32_values(dtype):
    x = torch.randn(64, 8).to(dtype)
    exact, rounded = (quantizer().eval()(value) for value in (x.float(), x))
    assert torch.equal(rounded.codes, exact.codes) and torch.equal(rounded.quantized, exact.quantized.to(dtype))
    assert rounded.loss.dtype == torch.float32
    made = quantizer()
    with torch.autocast("cpu", torch.bfloat16):
        made(x)
    assert made.codebook.embedding.dtype == torch.float32


def test_usage_tells_the_share_of_codes_and_their_perplexity():
    made = quantizer(2, 4, 2).eval()
    with torch.no_grad():
        made.codebook.embedding[0] = torch.tensor([[0.0, 0], [10, 0], [20, 0], [30, 0]])
        made.codebook.embedding[1] = torch.tensor([[0.0, 0], [1, 0], [2, 0], [3, 0]])
    made(torch.tensor([[0.0, 0], [10, 0], [20, 0], [10, 0]]))
    share, perplexity = made.usage()
    assert share.tolist() == [0.75, 0.25]
    torch.testing.assert_close(perplexity, torch.tensor([math.exp(1.5 * math.log(2)), 1.0]))
    made.reset_usage()
    assert made.usage()[0].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("options", [{}, {"commit": "manual"}, {"learning": "gradient", "dead_below": 0}])
def test_training_counts_usage_as_evaluation_does(options):
    x = torch.randn(64, 8)
    trained, evaluated = quantizer(**options), quantizer(**options).eval()
    trained(x)
    trained.commit()
    evaluated(x)
    assert torch.equal(trained.code_counts, evaluated.code_counts) and trained.code_counts.sum() == 3 * 64


@settings(max_examples=12)
@given(SIZES, st.booleans(), st.integers(0, 2**31))
def test_a_wider_beam_never_leaves_a_larger_error(sizes, shared, seed):
    depth, size, dimensions = sizes
    generator = torch.Generator().manual_seed(seed)
    codebooks = torch.randn((size, dimensions) if shared else (depth, size, dimensions), generator=generator)
    x = torch.randn(20, dimensions, generator=generator)
    before = None
    for beam in (1, 2, 3, 8):
        codes = beam_search(x, codebooks, beam, depth=depth)
        error = (x.double() - ops.decode_codes(codes, codebooks.double())).norm(dim=-1)
        if beam == 1:
            assert torch.equal(codes, ops.residual_quantize(x, codebooks, depth=depth)[1])
        assert before is None or (error <= before + 1e-6).all()
        before = error


def test_a_beam_as_wide_as_all_prefixes_finds_the_best_sum():
    codebooks, x = torch.randn(3, 4, 6), torch.randn(50, 6)
    every = torch.cartesian_prod(*[torch.arange(4)] * 3)
    sums = ops.decode_codes(every, codebooks)
    best = torch.cdist(x.double(), sums.double()).amin(-1)
    found = (x - ops.decode_codes(beam_search(x, codebooks, 64), codebooks)).norm(dim=-1)
    torch.testing.assert_close(found, best.float())
    greedy = (x - ops.decode_codes(beam_search(x, codebooks, 1), codebooks)).norm(dim=-1)
    assert (found < greedy - 1e-3).any()


def test_the_beam_serves_evaluation_and_leaves_bad_rows_as_the_greedy_search_does():
    greedy, wide = quantizer().eval(), quantizer(beam=4).eval()
    x = torch.randn(64, 8)
    assert (wide(x).quantized - x).square().mean() < (greedy(x).quantized - x).square().mean()
    x[3, 2] = torch.nan
    out = wide(x)
    assert not out.codes[3].any() and out.quantized[3].isnan().all() and out.quantized[:3].isfinite().all()
    few = wide(x, active_depths=torch.full((64,), 2))
    assert (few.codes[:, 2] == -1).all() and torch.equal(few.codes[:, :2], out.codes[:, :2])


def test_evaluation_is_one_graph_and_equals_eager():
    made = quantizer().eval()
    x = torch.randn(4, 5, 8)
    expected = made(x)
    compiled = torch.compile(made, fullgraph=True, backend="aot_eager")(x)
    for got, wanted in zip(compiled, expected, strict=True):
        assert torch.equal(got, wanted)


def test_training_is_one_graph_and_equals_eager():
    eager, compiled = (quantizer(dropout=0.5, gradient="rotation") for _ in range(2))
    program = torch.compile(compiled, fullgraph=True, backend="aot_eager")
    for step in range(2):
        x, seeds = torch.randn(64, 8), torch.arange(64) + step
        assert torch.equal(program(x, seeds=seeds).quantized, eager(x, seeds=seeds).quantized)
    for name, value in eager.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[name], value)


@pytest.mark.parametrize("options", [{}, {"commit": "manual"}, {"shared": True}, {"learning": "gradient"}])
def test_training_never_waits_for_the_device(options):
    """Under fake tensors, which have no values, whatever reads one raises."""
    with FakeTensorMode():
        made = ResidualQuantizer(3, 16, 8, zero_code=True, dropout=0.5, **options)
        for _ in range(2):
            x = torch.randn(4, 5, 8, requires_grad=True)
            out = made(x, seeds=torch.zeros(4, dtype=torch.int64))
            (out.quantized.sum() + out.loss.sum()).backward()
            made.commit()
        made.usage()
    assert x.grad is not None


def test_copies_and_pickles_go_on_alike():
    made = quantizer(kmeans_iterations=2)
    x = torch.randn(64, 8)
    made(x)
    copies = [copy.deepcopy(made), pickle.loads(pickle.dumps(made)), quantizer(kmeans_iterations=2)]
    copies[2].load_state_dict(made.state_dict())
    expected = made(x).quantized
    for other in copies:
        assert torch.equal(other(x).quantized, expected)
        assert torch.equal(other.codebook.embedding, made.codebook.embedding)


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"metric": "dot"}, "metric must be one of l2, cosine"),
        ({"metric": "cosine"}, "metric must be l2 for depth 3"),
        ({"update": "sequential"}, "update must be snapshot"),
        ({"commit": "never"}, "commit must be one of"),
        ({"learning": "magic"}, "learning must be ema or gradient"),
        ({"dropout": 1.5}, "dropout must lie in"),
        ({"decay": 1.0}, "decay must lie in"),
        ({"dead_below": -1.0}, "dead_below must be at least 0"),
        ({"depth_weights": [1.0, 2.0]}, "depth_weights must be 3 numbers"),
        ({"dead_below": math.nan}, "dead_below must be at least 0"),
        ({"epsilon": math.nan}, "epsilon must be at least 0"),
        ({"gradient": "nonsense"}, "gradient must be one of none, straight_through"),
        ({"commitment_weight": math.nan}, "commitment_weight must be at least 0 and finite"),
        ({"codebook_weight": -1.0}, "codebook_weight must be at least 0 and finite"),
        ({"depth": 1, "metric": "cosine", "zero_code": True}, "zero_code must be False"),
        ({"beam": 0}, "beam must be at least 1"),
        ({"size": 0}, "size must be at least 1"),
    ],
)
def test_a_wrong_argument_is_named(options, sentence):
    arguments = {"depth": 3, "size": 16, "dimensions": 8, **options}
    with pytest.raises(ValueError, match=sentence):
        ResidualQuantizer(**arguments)


def test_vectors_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"x must be \[B, ..., 8\]"):
        quantizer()(torch.randn(3, 7))


@pytest.mark.parametrize("options", [{}, {"beam": 2}, {"shared": True, "update": "sequential"}])
def test_active_depths_are_checked_on_every_path(options):
    made = quantizer(**options).train("beam" not in options)
    x = torch.randn(4, 5, 8)
    with pytest.raises(ValueError, match="active_depths must be integers"):
        made(x, active_depths=torch.ones(4))
    with pytest.raises(ValueError, match=r"active_depths must be \[4\] or broadcastable to \[4, 5\], got \[3\]"):
        made(x, active_depths=torch.ones(3, dtype=torch.int64))
    assert (made(x, active_depths=torch.ones(4, 5, dtype=torch.int32)).codes >= 0).sum() == 20
