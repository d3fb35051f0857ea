"""Quantizers that round each dimension by itself: lookup-free, finite scalar, binary spherical."""

import pytest
import torch

from visgen_fast import ops
from visgen_fast.nn import BSQ, FSQ, LookupFree

MAKERS = {"lookup-free": lambda: LookupFree(6), "finite scalar": lambda: FSQ((7, 5, 4)), "spherical": lambda: BSQ(6)}


@pytest.fixture(params=MAKERS)
def quantizer(request):
    return MAKERS[request.param]()


def test_every_code_stands_for_a_vector_that_has_this_code(quantizer):
    codes = torch.arange(quantizer.size)[:, None]
    vectors = quantizer.decode(codes)
    assert vectors.shape == (quantizer.size, quantizer.dimensions) and len(vectors.unique(dim=0)) == quantizer.size
    if isinstance(quantizer, FSQ):  # its input is bounded before it is rounded
        drawn = quantizer(2 * torch.randn(5000, 3))
        assert torch.equal(vectors[drawn.codes[:, 0]], drawn.quantized) and len(drawn.codes.unique()) == quantizer.size
    else:
        assert torch.equal(quantizer(vectors).codes, codes)


def test_the_quantized_vector_is_what_its_code_decodes_to(quantizer):
    x = torch.randn(3, 4, 5, quantizer.dimensions)
    out = quantizer(x)
    assert out.codes.shape == (3, 4, 5, 1) and out.codes.dtype == torch.int64 and out.loss.shape == (3, 4, 5)
    torch.testing.assert_close(quantizer.decode(out.codes), out.quantized, rtol=1e-6, atol=1e-6)
    assert not quantizer.decode(torch.full((3, 1), -1)).any() and not quantizer.decode(out.codes[..., :0]).any()


def test_codes_of_two_depths_or_out_of_range_are_refused(quantizer):
    with pytest.raises(ValueError, match=r"codes must be \[..., 1\] or \[..., 0\]"):
        quantizer.decode(torch.tensor([[3, 7]]))
    for wrong in (-5, quantizer.size):
        with pytest.raises(RuntimeError, match=rf"codes must lie in \[-1, {quantizer.size}\), got 0 to|got {wrong} to"):
            quantizer.decode(torch.tensor([[0], [wrong]]))


@pytest.mark.parametrize(
    "make, sentence",
    [
        (lambda: FSQ([1, 5]), "levels must be one or more integers from 2"),
        (lambda: FSQ([5, 5], bound="x"), "bound must be one of"),
        (lambda: LookupFree(70), r"bits must lie in \[1, 62\]"),
        (lambda: LookupFree(4, group_size=0), "group_size must lie in"),
        (lambda: LookupFree(4, scale=-1), "scale must be positive"),
        (lambda: LookupFree(4, commitment_weight=float("nan")), "commitment_weight must be at least 0 and finite"),
        (lambda: BSQ(40, group_size=None), "group_size must be given"),
        (lambda: BSQ(4, inverse_temperature=0.0), "inverse_temperature must be positive"),
        (lambda: BSQ(4, diversity=-1.0), "diversity must be at least 0 and finite"),
    ],
)
def test_a_wrong_argument_is_named_at_construction(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


def test_gradients_reach_the_input_and_usage_is_counted(quantizer):
    x = torch.randn(500, quantizer.dimensions, requires_grad=True)
    out = quantizer(x)
    out.quantized.sum().backward()
    assert x.grad.abs().sum() > 0
    assert quantizer.code_counts.sum() == 500
    share, perplexity = quantizer.usage()
    assert share == len(out.codes.unique()) / quantizer.size and 1 < perplexity <= quantizer.size
    quantizer.reset_usage()
    assert not quantizer.code_counts.any() and not quantizer.state_dict()


def test_codes_too_many_to_count_have_an_unknown_usage():
    made = BSQ(40)
    assert made(torch.randn(5, 40)).codes.max() < 2**40
    assert all(value.isnan().all() for value in made.usage())


def test_the_lookup_free_loss_is_the_papers():
    x = torch.randn(50, 6, requires_grad=True)
    made = LookupFree(6, inverse_temperature=2.0, entropy_weight=0.3, diversity=0.7, commitment_weight=0.25)
    corners = made.decode(torch.arange(64)[:, None])
    probability = (-2.0 * torch.cdist(x, corners).square()).softmax(-1)
    mean = probability.mean(0)
    entropies = torch.special.entr(probability).sum(-1).mean() - 0.7 * torch.special.entr(mean).sum()
    expected = 0.3 * entropies + 0.25 * (x - x.sign().detach()).square().mean()
    loss = made(x).loss.mean()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)
    got, wanted = (torch.autograd.grad(value, x)[0] for value in (loss, expected))
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-5)
    made.eval()
    torch.testing.assert_close(made(x).loss, 0.25 * (x - x.sign()).square().mean(-1))


def test_the_spherical_loss_is_the_papers():
    x = torch.randn(50, 6)
    made = BSQ(6, group_size=None, entropy_weight=0.3, confidence=0.5, diversity=0.7, commitment_weight=0.25)
    _, _, per_sample, batch = ops.binary_spherical_quantize(x, group_size=None)
    on_sphere = x / x.norm(dim=-1, keepdim=True)
    commitment = (on_sphere - x.sign() / 6**0.5).square().sum(-1)
    torch.testing.assert_close(made(x).loss, 0.3 * (0.5 * per_sample - 0.7 * batch) + 0.25 * commitment)


def test_there_is_one_depth(quantizer):
    with pytest.raises(ValueError, match="active_depths must be None"):
        quantizer(torch.randn(3, quantizer.dimensions), active_depths=torch.ones(3, dtype=torch.int64))
