"""Networks that are told texts: padding changes nothing, what is dropped is the null, two streams are one attention."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from visgen_fast import ops
from visgen_fast.models import DiT, MMDiT, UNet
from visgen_fast.models.layers.rotary import rotary_angles, rotate
from visgen_fast.nn import Condition
from visgen_fast.nn.class_condition import ClassCondition, Labels
from visgen_fast.nn.text_condition import TextCondition, Texts

SIZES = {"image_size": (4, 6), "channels": 2, "patch_size": 2, "width": 16, "depth": 2, "heads": 2}
MODERN = {"mlp": "swiglu", "normalized": True, "rotary": True}


def texts(*lengths: int, width: int = 6) -> Texts:
    generator = torch.Generator().manual_seed(0)
    return Texts(torch.randn(sum(lengths), width, generator=generator), torch.tensor(lengths))


def network(kind: str, **options) -> DiT:
    """With weights that are all at work."""
    torch.manual_seed(0)
    told_of = {"pooled": {"pooled": 6}, "cross": {"pooled": 6, "tokens": 6}, "joint": {"pooled": 6, "tokens": 6}}[kind]
    made = (MMDiT if kind == "joint" else DiT)(**told_of, **SIZES, **options)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    return made.eval()


def told(length: int = 5, batch: int = 3) -> Condition:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(batch, length, 6, generator=generator)
    mask = torch.arange(length) < torch.tensor([2, 5, 3])[:batch, None]
    return Condition(torch.randn(batch, 6, generator=generator), tokens, mask)


def asked(batch: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(batch, 2, 4, 6, generator=generator), torch.rand(batch, generator=generator)


@pytest.mark.parametrize("kind", ["pooled", "cross", "joint"])
@pytest.mark.parametrize("options", [{}, MODERN], ids=["plain", "modern"])
@torch.no_grad()
def test_padding_changes_nothing_and_each_part_that_is_read_does(kind: str, options: dict) -> None:
    model, some = network(kind, **options), told()
    x, t = asked()
    found = model(x, t, some)
    assert found.shape == x.shape
    padded = Condition(
        some.pooled,
        torch.cat((some.tokens.where(some.mask[..., None], 7.0), torch.full((3, 4, 6), -5.0)), 1),
        torch.cat((some.mask, torch.zeros(3, 4, dtype=torch.bool)), 1),
    )
    torch.testing.assert_close(model(x, t, padded), found, atol=1e-5, rtol=1e-5)
    alone = Condition(some.pooled[:1], some.tokens[:1, :2], None)
    torch.testing.assert_close(model(x[:1], t[:1], alone), found[:1], atol=1e-5, rtol=1e-5)
    pooled, tokens = Condition(some.pooled.flip(-1), some.tokens, some.mask), some.tokens.flip(-1)
    assert not torch.allclose(model(x, t, pooled), found, atol=1e-3)
    same = torch.allclose(model(x, t, Condition(some.pooled, tokens, some.mask)), found, atol=1e-3)
    assert same == (kind == "pooled")


@pytest.mark.parametrize("cls", [DiT, MMDiT])
def test_a_network_begins_as_the_zero_function_and_all_its_weights_learn(cls: type[DiT]) -> None:
    model = cls(pooled=6, tokens=6, **SIZES, **MODERN, recompute="cheap")
    x, t = asked()
    assert not model(x, t, told()).any()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    model(x, t, told()).square().sum().backward()
    assert [name for name, one in model.named_parameters() if one.grad is None or not one.grad.any()] == []


def test_attention_in_rotary_positions_knows_distances_alone() -> None:
    angles = rotary_angles(5, 7, 8).double()
    query, key = (rotate(one.expand(35, 8), angles) for one in torch.randn(2, 8, dtype=torch.float64))
    scores = (query @ key.mT).view(5, 7, 5, 7)
    for down, right in ((0, 1), (2, 3), (1, 0)):
        torch.testing.assert_close(scores[0, 0, down, right], scores[1, 2, 1 + down, 2 + right], atol=1e-6, rtol=1e-6)
    assert abs(float(scores[0, 0, 0, 1] - scores[0, 0, 1, 0])) > 1e-3


def test_what_a_network_is_not_told_is_one_sentence() -> None:
    x, t = asked()
    with pytest.raises(ValueError, match="is told a Condition with a pooled part, got a condition of labels"):
        network("cross")(x, t, torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="is told a Condition with tokens, got a condition with pooled"):
        network("joint")(x, t, Condition(told().pooled))
    with pytest.raises(ValueError, match=r"is told labels int64 \[B\], got a condition with pooled, tokens, mask"):
        DiT(classes=3, **SIZES)(x, t, told())
    sizes = {"image_size": (4, 6), "channels": 2, "width": 8, "depth": 1, "heads": 1, "classes": 3}
    with pytest.raises(ValueError, match="is told labels"):
        UNet(**sizes, multipliers=(1,), attention_resolutions=())(x, t, told())
    with pytest.raises(ValueError, match="either classes or pooled must be given"):
        DiT(classes=3, pooled=6, **SIZES)
    with pytest.raises(ValueError, match="rotary positions need heads of a multiple of 4 features, got 2"):
        DiT(classes=3, **{**SIZES, "heads": 8}, rotary=True)


def test_texts_are_looked_up_with_their_padding_masked() -> None:
    some = texts(2, 4, 1)
    found = some(torch.tensor([2, 0, 1]))
    assert found.mask.sum(1).tolist() == [1, 2, 4] and found.tokens.shape == (3, 4, 6)
    assert torch.equal(found.tokens[1, :2], some.states[:2]) and torch.equal(found.tokens[2], some.states[2:6])
    assert not found.tokens[0, 1:].any()
    torch.testing.assert_close(found.pooled[2], some.states[2:6].mean(0))


def test_a_dropped_caption_is_the_null_which_learns() -> None:
    torch.manual_seed(0)
    condition = TextCondition(texts(2, 4, 1), drop=0.5)
    seeds, labels = ops.derive_seeds(0, torch.arange(200)), torch.arange(200) % 3
    dropped = condition.dropped(labels, seeds)
    share = (dropped == 3).float().mean()
    assert 0.4 < share < 0.6 and torch.equal(dropped[dropped != 3], labels[dropped != 3])
    kept, null = condition(dropped), condition(torch.tensor([3]))
    for name, part in kept.parts().items():
        assert torch.equal(part[dropped == 3], null.parts()[name].expand(int((dropped == 3).sum()), *part.shape[1:]))
    assert torch.equal(null.tokens[0, 0], condition.null_token) and null.mask.sum() == 1
    (kept.pooled.sum() + kept.tokens.sum()).backward()
    assert condition.null_pooled.grad.any() and condition.null_token.grad.any()


def test_classes_are_vectors_with_a_null_of_their_own() -> None:
    condition = ClassCondition(3, 6, drop=1.0)
    found = condition(condition.dropped(torch.tensor([0, 2]), torch.arange(2)))
    assert torch.equal(found.pooled, condition.embed.weight[3:].expand(2, 6)) and found.tokens.shape == (2, 1, 6)
    with pytest.raises(ValueError, match="label_drop must lie in"):
        Labels(3, 1.5)


def test_texts_that_do_not_fit_are_one_sentence() -> None:
    with pytest.raises(ValueError, match="lengths must add up to the 3 states, got 4"):
        Texts(torch.zeros(3, 2), torch.tensor([2, 2]))
    with pytest.raises(ValueError, match="of at least 1"):
        Texts(torch.zeros(3, 2), torch.tensor([3, 0]))
    with pytest.raises(ValueError, match="texts must have states of 6 features, got 4"):
        TextCondition(texts(2)).tell(texts(1, width=4))
