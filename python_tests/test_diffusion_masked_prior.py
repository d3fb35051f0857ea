"""MAR: what is hidden from it, that hidden vectors tell it nothing, and the order and the flow by which it draws."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from visgen_fast import ops
from visgen_fast.autoregression import nll
from visgen_fast.diffusion.masked_prior import MaskedPrior, MaskedSampling, hidden_share
from visgen_fast.models import MAR
from visgen_fast.models.layers.patches import patchify, unpatchify

SEEDS, LABELS, SHAPE = ops.derive_seeds(0, torch.arange(4)), torch.tensor([0, 1, 2, 0]), (3, 4, 4)


def prior(**sampling) -> MaskedPrior:
    torch.manual_seed(0)
    model = MAR((2, 2), 12, width=16, depth=1, heads=2, flow_width=8, flow_depth=1, classes=3)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return MaskedPrior(model.eval(), 2, MaskedSampling(**{"steps": 3, "flow_steps": 2, **sampling}))


def pictures(count: int = 4) -> torch.Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(1))


def test_most_vectors_are_hidden_by_a_cut_normal():
    shares = hidden_share(ops.derive_seeds(0, torch.arange(20_000)))
    assert 0.7 <= shares.min() and shares.max() <= 1
    normal = torch.distributions.Normal(1.0, 0.25)
    low = normal.cdf(torch.tensor(0.7))
    for share in (0.8, 0.9):
        expected = (normal.cdf(torch.tensor(share)) - low) / (0.5 - low)
        assert abs((shares < share).double().mean() - expected) < 0.015


def test_what_is_hidden_tells_nothing_and_what_is_seen_tells_every_place():
    model = prior().model
    vectors, hidden = patchify(pictures(), 2), torch.tensor([True, False, True, False]).expand(4, -1)
    found = model.features(vectors, hidden, LABELS)
    other = model.features(torch.where(hidden[..., None], vectors + 1, vectors), hidden, LABELS)
    assert torch.equal(found, other)
    seen = model.features(torch.where(hidden[..., None], vectors, vectors + 1), hidden, LABELS)
    assert ((found - seen).abs().amax(-1) > 1e-3).all()


def test_the_loss_is_the_sample_s_own_and_teaches_all_that_there_is():
    made = prior()
    losses = made.loss(pictures(), LABELS, SEEDS)
    alone = made.loss(pictures()[2:3], LABELS[2:3], SEEDS[2:3])
    torch.testing.assert_close(alone[0], losses[2])
    losses.sum().backward()
    assert all(parameter.grad is not None for parameter in made.model.parameters())
    pixels = ((pictures().clamp(-1, 1) + 1) * 127.5).byte()
    torch.testing.assert_close(made.loss(pixels, LABELS, SEEDS), made.loss(pixels / 127.5 - 1, LABELS, SEEDS))


class Known(nn.Module):
    """A network whose flow leads straight to a vector that each place and label has; remembers what was hidden."""

    grid, length, dimensions = (2, 2), 4, 12

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("goals", torch.randn(3, 4, 12, generator=torch.Generator().manual_seed(2)))
        self.hidden: list[torch.Tensor] = []

    def features(self, vectors, hidden, condition=None):
        self.hidden.append(hidden)
        return self.goals[condition]

    def flow(self, x, t, features):
        return (x - features) / t[:, None]


def test_each_place_is_drawn_once_in_a_random_order_by_its_flow():
    network = Known()
    made, steps = MaskedPrior(network, 2, MaskedSampling(steps=3, flow_steps=4)), []
    drawn = made.draw(SHAPE, LABELS, SEEDS, callback=lambda step, left, *_: steps.append((step, left)))
    torch.testing.assert_close(drawn, unpatchify(network.goals[LABELS], 2, (4, 4)), rtol=1e-4, atol=1e-4)
    assert [int(hidden[0].sum()) for hidden in network.hidden] == [4, 3, 2] and steps[-1] == (2, 0.0)
    assert len({tuple(hidden.tolist()) for hidden in network.hidden[1]}) > 1  # not the same order for all
    for before, after in zip(network.hidden, network.hidden[1:], strict=False):
        assert not (after & ~before).any()


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_sample_is_the_same_alone_and_in_a_batch(guidance):
    made = prior(guidance=guidance)
    together = made.draw(SHAPE, LABELS, SEEDS, null=3)
    alone = made.draw(SHAPE, LABELS[2:3], SEEDS[2:3], null=3)
    torch.testing.assert_close(alone[0], together[2], rtol=1e-4, atol=1e-5)
    assert torch.equal(made.draw(SHAPE, LABELS, SEEDS, null=3), together)


def test_guidance_grows_to_its_weight_and_temperature_scales_the_noise():
    made = prior(steps=1)
    one, two, three = (made.draw(SHAPE, LABELS, SEEDS, null=3, guidance=g) for g in (1.0, 1.5, 2.0))
    none = made.draw(SHAPE, torch.full_like(LABELS, 3), SEEDS)
    assert not torch.allclose(one, none) and not torch.allclose(two, three)
    cold = made.draw(SHAPE, LABELS[:1].expand(4), SEEDS, temperature=0.0)
    torch.testing.assert_close(cold[0], cold[1])


WRONG = {
    "steps": ({"steps": 0}, "steps must be at least 1, got 0"),
    "temperature": ({"temperature": -1.0}, "temperature must be at least 0 and finite, got -1.0"),
    "top_k": ({"top_k": 3}, "top_k is no option of a masked model of vectors, which has steps, guidance, temperature"),
}


@pytest.mark.parametrize("options, sentence", WRONG.values(), ids=WRONG)
def test_an_option_that_does_not_fit_gets_a_sentence(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        prior().options(**options)


def test_it_has_no_exact_likelihood():
    with pytest.raises(ValueError, match="model must be a CodeModel: MAR has no exact likelihood"):
        nll(prior().model, torch.zeros(1, 2, 2, 1).long())
