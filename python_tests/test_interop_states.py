"""Codebooks go from our modules to other codebases' state dicts and back, and quantize the same there."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from vector_quantize_pytorch import ResidualVQ
from vector_quantize_pytorch import VectorQuantize as VQ

from visgen_fast.interop import (
    from_rqvae,
    from_var,
    from_vector_quantize_pytorch,
    to_rqvae,
    to_var,
    to_vector_quantize_pytorch,
)
from visgen_fast.nn import MultiscaleQuantizer, ResidualQuantizer, VectorQuantizer

X = torch.randn(4, 50, 8, generator=torch.Generator().manual_seed(0))


def trained(quantizer):
    """The quantizer after two updates of its codebooks, in evaluation mode."""
    for seed in range(2):
        quantizer(torch.randn(4, 50, 8, generator=torch.Generator().manual_seed(seed)))
    return quantizer.eval()


def states_without_draws(quantizer):
    """What has a counterpart elsewhere: not the random state that revives codes."""
    return {
        name: value for name, value in quantizer.state_dict().items() if name.split(".")[-1] not in ("seed", "batches")
    }


@pytest.mark.parametrize("shared", [False, True])
def test_vector_quantize_pytorch_continues_with_our_codebooks(shared):
    ours = trained(ResidualQuantizer(3, 16, 8, shared=shared, decay=0.8, dead_below=0.0))
    theirs = ResidualVQ(dim=8, num_quantizers=3, codebook_size=16, shared_codebook=shared)
    theirs.load_state_dict(to_vector_quantize_pytorch(ours))
    quantized, codes, _ = theirs.eval()(X)
    expected = ours(X)
    torch.testing.assert_close(quantized, expected.quantized)
    assert torch.equal(codes, expected.codes)
    if not shared:  # whose averages they move once a depth, we once a step
        theirs.train()(X), ours.train()(X)
        torch.testing.assert_close(theirs.codebooks, ours.codebook.embedding)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("learning", ["ema", "gradient"])
def test_we_continue_with_codebooks_of_vector_quantize_pytorch(shared, learning):
    options = {"learnable_codebook": True, "ema_update": False} if learning == "gradient" else {}
    theirs = ResidualVQ(dim=8, num_quantizers=3, codebook_size=16, shared_codebook=shared, **options)
    trained(theirs)
    ours = ResidualQuantizer(3, 16, 8, shared=shared, learning=learning).eval()
    from_vector_quantize_pytorch(ours, theirs.state_dict())
    quantized, codes, _ = theirs(X)
    got = ours(X)
    torch.testing.assert_close(got.quantized, quantized)
    assert torch.equal(got.codes, codes)


def test_a_vector_quantizer_has_the_layout_of_one_vector_quantize():
    theirs = VQ(dim=8, codebook_size=16, use_cosine_sim=True)
    ours, other = VectorQuantizer(16, 8, metric="cosine"), ResidualQuantizer(1, 16, 8)
    from_vector_quantize_pytorch(ours, theirs.state_dict())
    from_vector_quantize_pytorch(other, theirs.state_dict())
    assert to_vector_quantize_pytorch(ours).keys() == theirs.state_dict().keys()
    torch.testing.assert_close(to_vector_quantize_pytorch(ours), dict(theirs.state_dict()), rtol=0, atol=0)
    torch.testing.assert_close(other.codebook.embedding, theirs._codebook.embed, rtol=0, atol=0)


def test_a_codebook_that_waits_for_its_first_vectors_still_does():
    theirs = VQ(dim=8, codebook_size=16, kmeans_init=True)
    ours = VectorQuantizer(16, 8, kmeans_iterations=5)
    from_vector_quantize_pytorch(ours, theirs.state_dict())
    ours(X)
    assert ours.codebook.initialized and ours.codebook.embedding.std() > 0.1


@pytest.mark.parametrize(
    ("to", "back"), [(to_vector_quantize_pytorch, from_vector_quantize_pytorch), (to_rqvae, from_rqvae)]
)
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("learning", ["ema", "gradient"])
def test_there_and_back_changes_nothing(to, back, shared, learning):
    options = {"shared": shared, "learning": learning}
    ours, other = trained(ResidualQuantizer(3, 16, 8, **options)), ResidualQuantizer(3, 16, 8, **options)
    back(other, to(ours))
    torch.testing.assert_close(states_without_draws(other), states_without_draws(ours), rtol=0, atol=0)


def test_the_layout_of_rq_vae_has_a_row_for_padding():
    ours = trained(ResidualQuantizer(2, 16, 8, shared=True))
    state = to_rqvae(ours)
    assert list(state) == [
        f"codebooks.{depth}.{name}" for depth in range(2) for name in ("weight", "cluster_size_ema", "embed_ema")
    ]
    weight = state["codebooks.1.weight"]
    assert weight.shape == (17, 8) and not weight[-1].any()
    torch.testing.assert_close(weight[:-1], ours.codebook.embedding, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("phis", "names"),
    [
        (0, []),
        (1, ["qresi"]),
        (2, ["qresi_ls.0", "qresi_ls.1"]),
        (3, ["0", "1", "2"]),
    ],
)
def test_var_has_our_multiscale_state_under_its_names(phis, names):
    options = {"patch_numbers": (1, 2, 4), "phi_count": phis}
    ours, other = MultiscaleQuantizer(16, 8, **options), MultiscaleQuantizer(16, 8, **options)
    ours(torch.randn(2, 8, 4, 4))
    state = to_var(ours)
    phi = [f"quant_resi.{name}.{kind}" for name in names for kind in ("weight", "bias")]
    assert list(state) == ["embedding.weight", "ema_vocab_hit_SV", *phi]
    assert state["embedding.weight"].shape == (16, 8) and state["ema_vocab_hit_SV"].shape == (3, 16)
    from_var(other, state)
    picture = torch.randn(2, 8, 4, 4)
    assert torch.equal(other.eval()(picture).codes, ours.eval()(picture).codes)
    torch.testing.assert_close(to_var(other), state, rtol=0, atol=0)


def test_a_multiscale_state_that_does_not_fit_is_refused_with_the_reason():
    state = to_var(MultiscaleQuantizer(16, 8, (1, 2, 4)))
    with pytest.raises(ValueError, match=r"codebook.embedding \[12, 8\], got \[16, 8\]"):
        from_var(MultiscaleQuantizer(12, 8, (1, 2, 4)), state)
    with pytest.raises(ValueError, match="it lacks .*quant_resi.qresi.weight"):
        from_var(MultiscaleQuantizer(16, 8, (1, 2, 4), phi_count=1), state)
    with pytest.raises(ValueError, match='learning="gradient"'):
        from_var(MultiscaleQuantizer(16, 8, (1, 2, 4), learning="ema"), state)


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        (ResidualVQ(dim=8, codebook_dim=4, num_quantizers=2, codebook_size=16), "project_in.bias"),
        (ResidualVQ(dim=8, num_quantizers=3, codebook_size=16), "layers.2._codebook.embed"),
        (
            ResidualVQ(dim=8, num_quantizers=2, codebook_size=12),
            r"embedding \[2, 16, 8\] of quantizer, got \[2, 12, 8\]",
        ),
        (VQ(dim=8, codebook_size=16), "the 2 codebooks of quantizer, got 1"),
        (VQ(dim=8, codebook_size=16, affine_param=True), "codebook_mean"),
        (VQ(dim=16, codebook_size=16, heads=2, separate_codebook_per_head=True, codebook_dim=8), "several heads"),
        (nn.Linear(2, 2), r"it lacks \['layers.0._codebook.cluster_size'"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_with_the_reason(theirs, message):
    with pytest.raises(ValueError, match=message):
        from_vector_quantize_pytorch(ResidualQuantizer(2, 16, 8), theirs.state_dict())
