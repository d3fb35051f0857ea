"""How codebooks learn: moving averages, k-means start, revival, commits."""

import pytest
import torch
from torch.nn import functional as F

from visgen_fast import ops
from visgen_fast.nn import ResidualQuantizer, VectorQuantizer
from visgen_fast.nn.codebook import Codebook

DEPTH, SIZE, DIMENSIONS = 3, 16, 8


def quantizer(size=SIZE, **options):
    torch.manual_seed(0)
    made = ResidualQuantizer(DEPTH, size, DIMENSIONS, **{"dead_below": 0, **options})
    with torch.no_grad():
        made.codebook.embedding.normal_()
        if made.codebook.average_sum is not None:
            made.codebook.average_sum.copy_(made.codebook.embedding)
    return made


def state(made):
    return {name: value.clone() for name, value in made.state_dict().items()}


def assert_same_state(a, b, **tolerance):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], **(tolerance or {"rtol": 0, "atol": 0}), msg=name)


def averages(made):
    codebook = made.codebook
    return codebook.average_size.clone(), codebook.average_sum.clone(), codebook.embedding.clone()


def moving_average(average_size, average_sum, rows, codes, decay=0.99, epsilon=1e-5):
    """One update of the paper's appendix, by one-hot vectors: (size, sum, embedding)."""
    one_hot = F.one_hot(codes, len(average_size)).to(rows.dtype)
    average_size = decay * average_size + (1 - decay) * one_hot.sum(0)
    average_sum = decay * average_sum + (1 - decay) * one_hot.T @ rows
    total = average_size.sum()
    smoothed = (average_size + epsilon) / (total + len(average_size) * epsilon) * total
    return average_size, average_sum, average_sum / smoothed[:, None]


@pytest.mark.parametrize("commit", ["forward", "manual"])
def test_codebooks_of_their_own_follow_the_moving_averages(commit):
    made = quantizer(commit=commit).double()
    expected = list(zip(*averages(made), strict=True))
    for _ in range(3):
        x = torch.randn(5, 7, DIMENSIONS, dtype=torch.float64)
        codes = made(x).codes.view(-1, DEPTH)
        made.commit()
        residual = x.view(-1, DIMENSIONS)
        for q in range(DEPTH):
            s, m, e = expected[q]
            expected[q] = moving_average(s, m, residual, codes[:, q])
            residual = residual - e[codes[:, q]]
    for q, (s, m, e) in enumerate(expected):
        torch.testing.assert_close(made.codebook.average_size[q], s)
        torch.testing.assert_close(made.codebook.average_sum[q], m)
        torch.testing.assert_close(made.codebook.embedding[q], e)


@pytest.mark.parametrize("update", ["snapshot", "sequential"])
def test_a_shared_codebook_learns_after_all_depths_or_between_them(update):
    made = quantizer(shared=True, update=update, decay=0.8).double()
    s, m, e = averages(made)
    for _ in range(3):
        x = torch.randn(5, 7, DIMENSIONS, dtype=torch.float64)
        out = made(x)
        residual, total = x.view(-1, DIMENSIONS), torch.zeros_like(x)
        for q in range(DEPTH):
            code = ops.nearest_code(residual, e)
            assert torch.equal(out.codes.view(-1, DEPTH)[:, q], code)
            s, m, learnt = moving_average(s, m, residual, code, decay=0.8)
            residual, total = residual - e[code], total + e[code].view(x.shape)
            e = learnt if update == "sequential" else e
        e = learnt
        torch.testing.assert_close(out.quantized, total)
        torch.testing.assert_close(made.codebook.average_size, s)
        torch.testing.assert_close(made.codebook.average_sum, m)
        torch.testing.assert_close(made.codebook.embedding, e)


@pytest.mark.parametrize("options", [{}, {"shared": True}, {"zero_code": True}])
@pytest.mark.parametrize("parts", [2, 5])
def test_accumulated_micro_batches_teach_what_one_batch_does(parts, options):
    whole, split = (quantizer(commit="manual", **options) for _ in range(2))
    for _ in range(3):
        x = torch.randn(40, 3, DIMENSIONS)
        whole(x)
        whole.commit()
        for part in x.chunk(parts):
            split(part)
        split.commit()
    a, b = state(whole), state(split)
    assert (a.pop("codebook.batches"), b.pop("codebook.batches")) == (3, 3 * parts)  # these alone may tell
    assert_same_state(a, b, rtol=1e-5, atol=1e-6)


def test_a_manual_commit_is_what_changes_the_codebook_and_an_empty_one_changes_nothing():
    made = quantizer(commit="manual", dead_below=1.0)
    before = state(made)
    made.commit()
    assert_same_state(before, state(made))
    made(torch.randn(40, DIMENSIONS))
    embedding = made.codebook.embedding.clone()
    assert torch.equal(embedding, before["codebook.embedding"])
    made.commit()
    after = state(made)
    assert not torch.equal(after["codebook.embedding"], embedding)
    made.commit()
    assert_same_state(after, state(made))


def test_only_training_mode_teaches_with_or_without_gradients():
    made = quantizer().eval()
    before = state(made)
    made(torch.randn(40, DIMENSIONS))
    assert_same_state(before, state(made))
    made.train()
    with torch.no_grad():
        made(torch.randn(40, DIMENSIONS))
    assert not torch.equal(before["codebook.embedding"], made.codebook.embedding)


@pytest.mark.parametrize("gradient", ["rotation", "rotation_per_depth"])
def test_the_backward_after_a_commit_sees_the_codebook_of_its_forward(gradient):
    made = quantizer(gradient=gradient, decay=0.1)
    x = torch.randn(40, DIMENSIONS, requires_grad=True)
    upstream = torch.randn(40, DIMENSIONS)
    vectors = made.codebook.embedding.clone()
    (expected,) = torch.autograd.grad(ops.residual_quantize(x, vectors, gradient=gradient)[0], x, upstream)
    out = made(x)
    made(torch.randn(40, DIMENSIONS))
    assert not torch.allclose(vectors, made.codebook.embedding, atol=0.1)
    assert torch.equal(torch.autograd.grad(out.quantized, x, upstream)[0], expected)


def test_a_depth_that_no_vector_uses_stays_as_it_is():
    made = quantizer(dead_below=1.0)
    before = state(made)
    made(torch.randn(40, DIMENSIONS), active_depths=torch.full((40,), 1))
    after = state(made)
    for name in ("embedding", "average_size", "average_sum"):
        same = (before[f"codebook.{name}"] == after[f"codebook.{name}"]).flatten(1).all(-1)
        assert same.tolist() == [False, True, True]


def one_dead_code(**options):
    """A codebook of 4 codes far apart of which no vector uses the last, and vectors near the first three."""
    torch.manual_seed(0)
    made = VectorQuantizer(4, 2, dead_below=0.999, **options)
    centres = torch.tensor([[0.0, 0], [10, 0], [0, 10], [1000, 1000]])
    made.codebook.embedding[0] = centres
    made.codebook.average_sum[0] = centres
    return made, centres[torch.arange(300) % 3] + 0.1 * torch.randn(300, 2)


def test_revival_resets_embedding_sum_and_size_together():
    made, x = one_dead_code()
    made(x)
    revived = made.codebook.embedding[0, 3].clone()
    assert (x == revived).all(-1).any()
    assert made.codebook.average_size[0, 3] == 0.999
    torch.testing.assert_close(made.codebook.average_sum[0, 3], 0.999 * revived)
    assert (made.codebook.average_size[0, :3] > 0.999).all()
    made.codebook.dead_below = 0.0
    for _ in range(3):  # a stale average would take the code back to where it died
        made(x)
        assert (made.codebook.embedding[0, 3] - revived).norm() < 1


def test_revival_draws_again_at_every_commit_and_the_same_after_a_resume():
    made, x = one_dead_code()
    made(x)
    saved = state(made)
    drawn = []
    for _ in range(5):
        made.codebook.average_size[0, 3] = 0
        made(x)
        drawn.append(made.codebook.embedding[0, 3].clone())
    assert len({tuple(vector.tolist()) for vector in drawn}) > 3
    other, _ = one_dead_code()
    other.codebook.seed.fill_(1)
    other.load_state_dict(saved)
    for vector in drawn:
        other.codebook.average_size[0, 3] = 0
        other(x)
        assert torch.equal(other.codebook.embedding[0, 3], vector)


@pytest.mark.parametrize("shared", [False, True])
def test_revived_codes_are_residuals_of_the_batch_at_their_depths(shared):
    made = quantizer(shared=shared, dead_below=1e9)
    x = torch.randn(40, DIMENSIONS)
    before = made.codebook.embedding.clone()
    codes = made(x).codes
    residuals = [x - ops.decode_codes(codes[:, :q], before) for q in range(DEPTH)]
    books = made.codebook.embedding[None] if shared else made.codebook.embedding
    for q, book in enumerate(books):
        among = torch.cat(residuals) if shared else residuals[q]
        distance = torch.cdist(book.double(), among.double(), compute_mode="donot_use_mm_for_euclid_dist")
        assert (distance.amin(-1) < 1e-5).all()
        assert len(distance.argmin(-1).unique()) > SIZE // 2


def test_vectors_with_nan_or_infinity_never_become_codes():
    for options in ({"dead_below": 1e9}, {"kmeans_iterations": 3}):
        made = quantizer(**options)
        x = torch.randn(40, DIMENSIONS)
        x[::2, 3] = torch.nan
        x[1::4, 5] = -torch.inf
        for _ in range(4):
            made(x)
        for name, value in made.state_dict().items():
            assert value.isfinite().all(), name


@pytest.mark.parametrize("options", [{}, {"kmeans_iterations": 3}, {"shared": True, "kmeans_iterations": 3}])
def test_the_zero_code_stays_zero(options):
    made = ResidualQuantizer(DEPTH, SIZE, DIMENSIONS, zero_code=True, dead_below=1e9, **options)
    for _ in range(3):
        made(torch.randn(40, DIMENSIONS))
        assert not made.codebook.embedding[..., 0, :].any()
        assert made.codebook.embedding[..., 1:, :].any(-1).float().mean() > 0.5


def test_a_candidate_is_any_vector_of_all_micro_batches_as_likely():
    torch.manual_seed(0)
    codebook = Codebook(4000, 1, dead_below=1e9)
    for value, rows in ((1.0, 10), (2.0, 30), (3.0, 40)):
        x = torch.full((rows, 1), value)
        codebook.observe(x, torch.zeros(rows, 1, dtype=torch.int64), codebook.vectors())
    codebook.commit()
    shares = torch.stack([(codebook.embedding == value).float().mean() for value in (1.0, 2.0, 3.0)])
    torch.testing.assert_close(shares, torch.tensor([1 / 8, 3 / 8, 4 / 8]), atol=0.03, rtol=0)


def test_the_k_means_start_finds_clusters_once():
    torch.manual_seed(0)
    centres = 10 * torch.randn(SIZE, DIMENSIONS)
    x = centres.repeat(50, 1) + 0.01 * torch.randn(50 * SIZE, DIMENSIONS)
    plain, made = (quantizer(kmeans_iterations=n, decay=0.999) for n in (0, 10))
    errors = [(x - one(x).quantized).square().mean() for one in (plain, made)]
    assert made.codebook.initialized and errors[1] < 0.05 * errors[0]
    assert made.codebook.average_size[0].sum() > 0.9 * len(x)  # the averages start with what the clusters hold
    started = made.codebook.embedding.clone()
    made(x + 100)
    assert (made.codebook.embedding - started).norm() < 0.2 * started.norm()


def test_the_k_means_start_is_the_same_every_time_and_not_repeated_after_a_resume():
    x = torch.randn(200, DIMENSIONS)
    made, again = (quantizer(kmeans_iterations=3) for _ in range(2))
    made(x)
    again(x)
    assert_same_state(state(made), state(again))
    resumed = quantizer(kmeans_iterations=3)
    resumed.load_state_dict(made.state_dict())
    made(x + 1)
    resumed(x + 1)
    assert_same_state(state(made), state(resumed))


def test_a_shared_codebook_starts_with_codes_for_all_depths():
    x = torch.randn(2000, DIMENSIONS)
    made = quantizer(size=48, shared=True, kmeans_iterations=5)
    codes = made(x).codes
    one_depth = VectorQuantizer(48, DIMENSIONS, kmeans_iterations=5, dead_below=0)
    left = (x - one_depth(x).quantized).square().mean()
    assert (x - made.decode(codes)).square().mean() < 0.7 * left
    assert (made.usage()[0] > 0.5).all()


def test_fewer_vectors_than_codes_start_and_revive_them():
    made = quantizer(size=64, kmeans_iterations=2, dead_below=1.0)
    for _ in range(3):
        made(torch.randn(5, DIMENSIONS))
    made(torch.randn(0, DIMENSIONS))
    assert all(value.isfinite().all() for value in made.state_dict().values())


@pytest.mark.parametrize("x", [torch.randn(0, DIMENSIONS), torch.full((5, DIMENSIONS), torch.nan)])
def test_a_batch_without_finite_vectors_does_not_start_k_means(x):
    made = quantizer(kmeans_iterations=3)
    before = state(made)
    made(x)
    assert not made.codebook.initialized and not made.codebook.started
    after = state(made)
    for name in ("codebook.embedding", "codebook.average_size", "codebook.average_sum"):
        assert torch.equal(before[name], after[name])
    made(torch.randn(200, DIMENSIONS))
    assert made.codebook.initialized and made.codebook.started


def test_what_was_observed_before_a_state_was_loaded_is_forgotten():
    made = quantizer(commit="manual", dead_below=1.0)
    saved = state(made)
    made(torch.randn(40, DIMENSIONS))
    made.load_state_dict(saved)
    made.commit()
    assert_same_state(saved, state(made))


def test_a_codebook_of_another_type_gathers_in_that_type():
    made = quantizer(commit="manual", dead_below=1.0)
    made(torch.randn(40, DIMENSIONS))
    made.commit()
    made.double()
    for _ in range(2):
        made(torch.randn(40, DIMENSIONS, dtype=torch.float64))
        made.commit()
    assert made.codebook.embedding.dtype == torch.float64 and made.codebook.embedding.isfinite().all()


def test_a_cosine_code_whose_vectors_cancel_stays_as_it_is():
    made = VectorQuantizer(2, 2, metric="cosine", decay=0.0, dead_below=0)
    codes = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]])
    made.codebook.embedding.copy_(codes)
    made(torch.tensor([[0.0, 1.0], [0.0, -1.0], [-1.0, 0.1]]))  # the first two are as near to both codes
    assert torch.equal(made.codebook.embedding[0, 0], codes[0, 0])
    assert not torch.equal(made.codebook.embedding[0, 1], codes[0, 1])
    torch.testing.assert_close(made.codebook.embedding.norm(dim=-1), torch.ones(1, 2))


def test_a_vector_of_no_direction_revives_no_cosine_code():
    made = VectorQuantizer(8, 2, metric="cosine", dead_below=1e9)
    made(torch.zeros(20, 2))
    torch.testing.assert_close(made.codebook.embedding.norm(dim=-1), torch.ones(1, 8))
