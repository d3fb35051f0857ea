"""VAR's multiscale quantizer."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from visgen_fast import ops
from visgen_fast.nn import MultiscaleQuantizer
from visgen_fast.nn.next_scale_quantizer import PATCH_NUMBERS, phis_of_scales


def small(**changes: object) -> MultiscaleQuantizer:
    """Without revival, so that only gradients move the codebook, and with codes of the size of its inputs."""
    torch.manual_seed(0)
    settings = {"size": 32, "dimensions": 4, "patch_numbers": (1, 2, 3, 5), "dead_below": 0.0}
    quantizer = MultiscaleQuantizer(**{**settings, **changes})
    nn.init.normal_(quantizer.codebook.embedding)
    return quantizer


def maps(quantizer: MultiscaleQuantizer, batch: int = 3, seed: int = 0) -> Tensor:
    seeds = ops.derive_seeds(seed, torch.arange(batch))
    return ops.gaussian(seeds, (quantizer.dimensions, *quantizer.grids[-1]))


def plain(quantizer: MultiscaleQuantizer, f: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
    """The paper's algorithm 1 with VAR's loss, in the plainest PyTorch: (f̂, codes of each scale, loss)."""
    rest, total, loss, codes = f.detach().clone(), torch.zeros_like(f), 0, []
    for scale, (rows, columns) in enumerate(quantizer.grids):
        last = scale == len(quantizer.grids) - 1
        pooled = rest if last else F.interpolate(rest, (rows, columns), mode="area")
        vectors = pooled.permute(0, 2, 3, 1).reshape(-1, quantizer.dimensions)
        book = quantizer.codebook.embedding
        if quantizer.metric == "cosine":
            index = (F.normalize(vectors, dim=1) @ F.normalize(book.detach(), dim=1).T).argmax(1)
        else:
            index = torch.cdist(vectors.double(), book.detach().double()).argmin(1)
        index = index.view(-1, rows, columns)
        h = book[index].permute(0, 3, 1, 2)
        if not last:
            h = F.interpolate(h, f.shape[2:], mode="bicubic")
        phi = quantizer.phi[quantizer.phi_of_scale[scale]]
        h = 0.5 * h + 0.5 * F.conv2d(h, phi.weight, phi.bias, padding=1)
        total = total + h
        rest = rest - h.detach()
        loss = loss + quantizer.commitment_weight * F.mse_loss(f, total.detach()) + F.mse_loss(total, f.detach())
        codes.append(index.flatten(1))
    return total, codes, loss / len(quantizer.grids)


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_codes_features_loss_and_gradients_are_those_of_plain_pytorch(metric: str) -> None:
    quantizer = small(metric=metric)
    f, direction = maps(quantizer).requires_grad_(), maps(quantizer, seed=1)
    parameters = list(quantizer.parameters())

    total, codes, loss = plain(quantizer, f)
    through = f + (total - f).detach()
    expected = torch.autograd.grad((through * direction).sum() + loss, [f, *parameters])
    result = quantizer(f)
    gradients = torch.autograd.grad((result.quantized * direction).sum() + result.loss.mean(), [f, *parameters])

    assert torch.equal(result.codes, torch.cat(codes, 1)[..., None]) and result.codes.dtype == torch.int64
    torch.testing.assert_close(result.quantized, total)
    torch.testing.assert_close(result.loss.mean(), loss)
    assert result.loss.shape == (3, 5, 5)
    for gradient, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-5)
        assert wanted.any()


@settings(max_examples=15)
@given(
    sides=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=4),
    metric=st.sampled_from(["l2", "cosine", "dot"]),
    phi_count=st.integers(0, 4),
    batch=st.integers(1, 3),
)
def test_features_of_the_codes_equal_those_of_the_encoder(
    sides: list[tuple[int, int]], metric: str, phi_count: int, batch: int
) -> None:
    grids = [*sides, (5, 4)]
    quantizer = small(patch_numbers=grids, metric=metric, phi_count=min(phi_count, len(grids)))
    f = maps(quantizer, batch)
    quantized, codes, _ = quantizer(f)
    assert torch.equal(quantizer.decode(codes), quantized)
    assert torch.equal(torch.cat(quantizer.to_codes(f), 1)[..., None], codes)
    for scale, prefix in enumerate(quantizer.prefix_features(codes)):
        first = codes[:, : sum(quantizer.lengths[: scale + 1])]
        assert torch.equal(quantizer.decode(first), prefix)
    assert torch.equal(prefix, quantized)


def test_a_scale_quantizes_what_the_scales_before_leave() -> None:
    quantizer = small()
    f = maps(quantizer)
    codes = quantizer.to_codes(f)
    before = quantizer.prefix_features(quantizer(f).codes)[1]
    rest = F.interpolate(f - before, (3, 3), mode="area").flatten(2).transpose(1, 2)
    assert torch.equal(codes[2], ops.nearest_code(rest, quantizer.codebook.embedding))
    assert [len(some[0]) for some in codes] == [1, 4, 9, 25]


def test_phi_are_shared_by_the_scales_nearest_to_them() -> None:
    # Of VAR's ten scales, as its released weights were trained.
    assert phis_of_scales(len(PATCH_NUMBERS), 4) == [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]
    assert phis_of_scales(10, 1) == [0] * 10
    assert phis_of_scales(10, 10) == list(range(10))
    assert phis_of_scales(1, 1) == [0] and phis_of_scales(5, 0) == []


@given(scales=st.integers(1, 14), count=st.integers(1, 14))
def test_phi_of_a_scale_is_one_of_those_nearest_to_it(scales: int, count: int) -> None:
    chosen = phis_of_scales(scales, count)
    margin = 1 / 12 if count == 4 else 1 / 2 / count
    places = [margin + i * (1 - 2 * margin) / max(count - 1, 1) for i in range(count)]
    for scale, phi in enumerate(chosen):
        at = scale / max(scales - 1, 1)
        assert abs(places[phi] - at) <= min(abs(place - at) for place in places) + 1e-9
    assert chosen == sorted(chosen)


def test_next_scale_inputs_are_the_features_before_each_scale_on_its_grid() -> None:
    quantizer = small(patch_numbers=(1, (2, 3), (4, 6)))
    codes = quantizer(maps(quantizer)).codes
    prefixes = quantizer.prefix_features(codes)
    inputs = quantizer.to_next_scale_inputs(codes)
    assert inputs.shape == (3, 6 + 24, 4)
    second = inputs[:, :6].transpose(1, 2).unflatten(2, (2, 3))
    torch.testing.assert_close(second, F.avg_pool2d(prefixes[0], 2))
    torch.testing.assert_close(inputs[:, 6:].transpose(1, 2).unflatten(2, (4, 6)), prefixes[1])


@pytest.mark.parametrize("learning", ["gradient", "ema"])
def test_each_scale_brings_the_features_closer_once_trained(learning: str) -> None:
    quantizer = small(learning=learning, dead_below=1.0)
    f = F.interpolate(maps(quantizer, 32)[..., :3, :3], (5, 5), mode="bilinear")
    losses = trained(quantizer, f, steps=40)
    assert losses[-1] < 0.85 * losses[0]
    quantizer.eval()
    errors = [(f - prefix).square().mean().item() for prefix in quantizer.prefix_features(quantizer(f).codes)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.4 * f.square().mean()


def trained(quantizer: MultiscaleQuantizer, f: Tensor, steps: int) -> list[float]:
    """The losses of some steps of gradient descent on the quantizer's own loss."""
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=1e-2)
    losses = []
    for _ in range(steps):
        loss = quantizer(f).loss.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        quantizer.commit()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("commit", ["forward", "manual"])
def test_a_codebook_of_averages_learns_from_all_scales_and_gets_no_gradient(commit: str) -> None:
    quantizer = small(learning="ema", decay=0.0, epsilon=0.0, commit=commit)
    f = maps(quantizer)
    before = quantizer.codebook.embedding.clone()
    codes = quantizer(f).codes[..., 0]
    quantizer.commit()
    assert [name for name, _ in quantizer.named_parameters() if "phi" not in name] == []

    quantizer.codebook.embedding.copy_(before)
    rest, vectors = f, []
    prefixes = [torch.zeros_like(f), *quantizer.prefix_features(codes[..., None])]
    for features, grid in zip(prefixes, quantizer.grids, strict=False):
        rest = f - features
        vectors.append(F.interpolate(rest, grid, mode="area").flatten(2).transpose(1, 2))
    vectors, total = torch.cat(vectors, 1), codes.numel()
    quantizer.codebook.embedding.copy_(before)
    used = codes.unique()
    averages = torch.stack([vectors[codes == code].mean(0) for code in used.tolist()])
    assert 5 < len(used) < total
    twin = small(learning="ema", decay=0.0, epsilon=0.0, commit=commit)
    twin(f)
    twin.commit()
    torch.testing.assert_close(twin.codebook.embedding[used], averages, rtol=1e-4, atol=1e-5)


def test_dead_codes_are_replaced_by_what_scales_had_to_quantize() -> None:
    quantizer = small(dead_below=1.0)
    nn.init.constant_(quantizer.codebook.embedding[1:], 100.0)
    quantizer(maps(quantizer))
    # Of 32 codes all but the first are out of reach, and must come from the 117 vectors; a few found no finite offer.
    assert quantizer.codebook.embedding.abs().amax(1).lt(5).sum() == 32


def test_kmeans_start_sets_the_codes_among_the_features(monkeypatch: pytest.MonkeyPatch) -> None:
    quantizer = small(kmeans_iterations=3)
    nn.init.constant_(quantizer.codebook.embedding, 100.0)
    f = maps(quantizer, 8)
    first = quantizer(f)
    assert quantizer.codebook.embedding.abs().max() < 5 and first.codes.unique().numel() > 16
    started = quantizer.codebook.embedding.clone()
    monkeypatch.setattr(quantizer.codebook, "start", None)  # it is not even asked again
    quantizer(maps(quantizer, 8, seed=5))
    assert torch.equal(quantizer.codebook.embedding, started)


def test_hits_are_an_average_of_the_codes_use_by_scale_and_usage_counts_it() -> None:
    quantizer = small()
    first, second = quantizer(maps(quantizer)).codes, quantizer(maps(quantizer, seed=1)).codes

    def counted(codes: Tensor) -> Tensor:
        return torch.stack([some.flatten().bincount(minlength=32) for some in quantizer.split(codes)]).float()

    torch.testing.assert_close(quantizer.hits, 0.99 * counted(first) + 0.01 * counted(second))
    counts = counted(first) + counted(second)
    share, perplexity = quantizer.usage()
    assert torch.equal(share, (counts > 0).float().mean(1)) and share.shape == (4,)
    frequency = counts / counts.sum(1, keepdim=True)
    torch.testing.assert_close(perplexity, torch.special.entr(frequency).sum(1).exp())

    quantizer.reset_usage()
    quantizer.eval()
    hits = quantizer.hits.clone()
    quantizer(maps(quantizer))
    assert torch.equal(quantizer.hits, hits) and torch.equal(quantizer.code_counts, counted(first).long())
    assert torch.equal(quantizer.usage()[0], (counted(first) > 0).float().mean(1))


def test_samples_of_few_scales_are_those_of_a_prefix_with_no_loss_at_the_others() -> None:
    quantizer = small()
    f = maps(quantizer)
    full, some = quantizer(f), quantizer(f, active_depths=torch.tensor([1, 4, 2]))
    prefixes = quantizer.prefix_features(full.codes)
    for sample, active in enumerate([1, 4, 2]):
        length = sum(quantizer.lengths[:active])
        assert torch.equal(some.codes[sample, :length], full.codes[sample, :length])
        assert (some.codes[sample, length:] == -1).all()
        torch.testing.assert_close(some.quantized[sample], prefixes[active - 1][sample])
        errors = torch.stack([(f - prefix)[sample].square().mean(0) for prefix in prefixes[:active]])
        torch.testing.assert_close(some.loss[sample], 1.25 * errors.sum(0) / 4)
    assert torch.equal(quantizer.decode(some.codes), some.quantized)


def test_dropout_draws_scales_from_the_seeds_in_training_only() -> None:
    quantizer = small(dropout=1.0)
    f, seeds = maps(quantizer, 64), ops.derive_seeds(3, torch.arange(64))
    codes = quantizer(f, seeds=seeds).codes
    assert torch.equal(quantizer(f, seeds=seeds).codes, codes)
    active = torch.stack([some[:, 0] >= 0 for some in quantizer.split(codes)]).sum(0)
    assert active.unique().tolist() == [1, 2, 3, 4]
    assert (torch.cat(quantizer.to_codes(f), 1) >= 0).all()
    assert (quantizer.eval()(f).codes >= 0).all()


def test_works_under_autocast_and_in_bfloat16_with_the_arithmetic_of_float32() -> None:
    quantizer = small()
    f = maps(quantizer).bfloat16()
    expected = quantizer(f.float())
    with torch.autocast("cpu", torch.bfloat16):
        result = quantizer(f)
        decoded = quantizer.decode(result.codes)
    assert torch.equal(result.codes, expected.codes) and result.quantized.dtype == torch.bfloat16
    assert torch.equal(decoded, expected.quantized)
    assert torch.equal(result.quantized, expected.quantized.bfloat16())


@torch.no_grad()
def test_one_graph_quantizes_and_learns() -> None:
    eager, compiled = (small(patch_numbers=(1, 2), phi_count=1, dead_below=1.0) for _ in range(2))
    f = maps(eager)
    expected, result = eager(f), torch.compile(compiled, fullgraph=True, backend="aot_eager")(f)
    assert torch.equal(result.codes, expected.codes)
    torch.testing.assert_close(result.quantized, expected.quantized)
    for name, value in compiled.state_dict().items():
        torch.testing.assert_close(value, eager.state_dict()[name])


def test_the_state_is_that_of_vars_checkpoints_under_other_names() -> None:
    quantizer = small(size=16, dimensions=32, patch_numbers=PATCH_NUMBERS)
    shapes = {name: tuple(value.shape) for name, value in quantizer.state_dict().items()}
    phis = {f"phi.{i}.{name}": shape for i in range(4) for name, shape in (("weight", (32, 32, 3, 3)), ("bias", (32,)))}
    expected = {"codebook.embedding": (16, 32), "hits": (10, 16), **phis}
    assert expected.items() <= shapes.items()
    assert {name for name, _ in quantizer.named_parameters()} == {*phis, "codebook.embedding"}


def test_what_does_not_fit_is_refused_by_name() -> None:
    for name, wrong in {
        "patch_numbers": (1, 5, 4),
        "phi_count": 5,
        "metric": "l1",
        "commit": "never",
        "dropout": 1.5,
        "size": 0,
    }.items():
        with pytest.raises(ValueError, match=name):
            small(**{name: wrong})
    quantizer = small()
    f = maps(quantizer)
    with pytest.raises(ValueError, match="active_depths must be integers"):
        quantizer(f, active_depths=torch.ones(3))
    with pytest.raises(ValueError, match=r"active_depths must be \[3\]"):
        quantizer(f, active_depths=torch.ones(2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"x must be \[B, 4, 5, 5\], got \[1, 4, 5, 4\]"):
        quantizer(torch.zeros(1, 4, 5, 4))
    with pytest.raises(ValueError, match=r"codes must be \[B, L, 1\] with L one of \[1, 5, 14, 39\], got \[2, 6, 1\]"):
        quantizer.decode(torch.zeros(2, 6, 1, dtype=torch.int64))
