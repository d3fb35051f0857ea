"""RIN: latents that work at one cost, and begin where a pass before left them."""

from __future__ import annotations

import pytest
import torch
from test_models_hdit import awake
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from visgen_fast import ops
from visgen_fast.diffusion import DiffusionObjective, RectifiedFlow, UniformTimes
from visgen_fast.diffusion.prior import SamplerSettings
from visgen_fast.diffusion.self_conditioning import SelfConditionedPrior
from visgen_fast.models import RIN

SIZES = {
    **{"image_size": (4, 8), "channels": 1, "patch_size": 2, "interface": 8, "latents": 5, "width": 16},
    **{"blocks": 2, "depth": 1, "heads": 2, "classes": 3},
}


def small(**changes: object) -> RIN:
    torch.manual_seed(0)
    return RIN(**{**SIZES, **changes})


def inputs(batch: int = 4) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    seeds = ops.derive_seeds(1, torch.arange(batch))
    return ops.gaussian(seeds, (1, 4, 8)), ops.uniform(seeds, (1,))[:, 0], torch.arange(batch) % 4, seeds


def prior(share: float, **settings: object) -> SelfConditionedPrior:
    objective = DiffusionObjective(RectifiedFlow(), "velocity", UniformTimes())
    sampler = SamplerSettings(**{"steps": 3, "guidance": 1.0} | settings)
    return SelfConditionedPrior(awake(small()), objective, sampler, share)


def test_it_begins_as_the_zero_function_and_all_its_weights_learn() -> None:
    model, (x, t, labels, _) = small(), inputs()
    assert torch.equal(model(x, t, labels), torch.zeros_like(x))
    _, left = awake(model).with_latents(x, t, labels)
    model(x, t, labels, left.detach()).square().sum().backward()
    assert left.shape == (4, 5, 16)
    assert [name for name, parameter in model.named_parameters() if not parameter.grad.any()] == []


def test_latents_of_zero_are_none_and_others_change_what_is_said() -> None:
    model, (x, t, labels, _) = awake(small()), inputs()
    alone, left = model.with_latents(x, t, labels)
    assert torch.equal(model(x, t, labels, torch.zeros_like(left)), alone)
    begun = model(x, t, labels, left * torch.tensor([1.0, 0, 1, 0]).view(4, 1, 1))
    torch.testing.assert_close(begun[1::2], alone[1::2])
    assert ((begun - alone)[::2].abs().amax((1, 2, 3)) > 1e-3).all()


def test_every_weight_has_a_gradient_and_every_rank_two_passes_whatever_is_chosen(monkeypatch) -> None:
    some, (x, t, labels, _) = prior(0.5), inputs()
    calls, whole = [], some.model.with_latents
    monkeypatch.setattr(some.model, "with_latents", lambda *told: calls.append(len(told[0])) or whole(*told))
    output = some.twice(torch.zeros(4, dtype=torch.bool))(x, t, labels)
    output.sum().backward()
    assert calls == [1, 4] and all(parameter.grad is not None for parameter in some.model.parameters())
    torch.testing.assert_close(output, some.model(x, t, labels))


def test_before_training_a_pass_before_changes_nothing() -> None:
    model, (x, t, labels, _) = small(), inputs()
    torch.nn.init.normal_(model.output.weight)
    alone, left = model.with_latents(x, t, labels)
    assert alone.any() and torch.equal(model(x, t, labels, left), alone)


def test_what_latents_do_among_themselves_costs_the_same_at_any_resolution() -> None:
    def costs(side: int) -> dict[str, int]:
        with torch.device("meta"), FlopCounterMode(display=False) as counter:
            x, told = torch.empty(1, 1, side, side), torch.empty(1, dtype=torch.int64)
            small(image_size=side)(x, torch.empty(1), told)
        found = counter.get_flop_counts()
        parts = {name: f"RIN.blocks.0.{name}" for name in ("work.0", "read", "write")}
        return {name: sum(found[place].values()) for name, place in parts.items()}

    few, many = costs(8), costs(32)
    assert many["work.0"] == few["work.0"] > 0
    assert many["write"] > 8 * few["write"] and many["read"] > few["read"]


def test_a_part_of_the_images_is_passed_over_twice_and_teaches_by_the_second_pass_alone(monkeypatch) -> None:
    some, (x, _, labels, seeds) = prior(0.5), inputs(16)
    passes, whole = [], some.model.with_latents

    def watched(x_t: Tensor, t: Tensor, labels: Tensor, latents: Tensor | None = None) -> tuple[Tensor, Tensor]:
        passes.append((len(x_t), torch.is_grad_enabled(), latents))
        return whole(x_t, t, labels, latents)

    monkeypatch.setattr(some.model, "with_latents", watched)
    losses = some.loss(x, labels, seeds)
    (first, taught, _), (second, teaches, begun) = passes
    chosen = begun.flatten(1).any(1)
    assert 2 < first == int(chosen.sum()) < 14 and second == 16
    assert not taught and teaches and not begun.requires_grad and losses.requires_grad
    alone = torch.cat([some.loss(x[i : i + 1], labels[i : i + 1], seeds[i : i + 1]) for i in range(16)])
    torch.testing.assert_close(losses, alone, rtol=1e-4, atol=1e-5)  # whoever is in the batch
    never = prior(0.0)
    plain = never.objective(never.model, x, labels, seeds)
    assert torch.equal(never.loss(x, labels, seeds), plain)
    torch.testing.assert_close(losses[~chosen], plain[~chosen], rtol=1e-4, atol=1e-5)
    assert (losses - plain)[chosen].abs().min() > 1e-6


@pytest.mark.parametrize(("settings", "null"), [({}, None), ({"guidance": 3.0, "interval": (0.0, 0.7)}, 3)])
def test_a_step_begins_with_the_latents_of_the_one_before(settings: dict, null: int | None) -> None:
    some, (_, _, labels, seeds) = prior(0.5, **settings), inputs(2)
    drawn = some.draw((1, 4, 8), labels, seeds, null=null)
    assert torch.equal(some.draw((1, 4, 8), labels, seeds, null=null), drawn)  # nothing is left of the first time
    torch.testing.assert_close(some.draw((1, 4, 8), labels[1:], seeds[1:], null=null), drawn[1:], rtol=1e-4, atol=1e-4)
    some.share = 0.0
    assert (some.draw((1, 4, 8), labels, seeds, null=null) - drawn).abs().max() > 1e-3


def test_what_does_not_fit_is_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"^heads must divide width 8, got 3$"):
        small(width=12, heads=3)
    with pytest.raises(ValueError, match=r"^patch_size must divide image_size \(4, 8\), got 3$"):
        small(patch_size=3)
    with pytest.raises(ValueError, match=r"^share must lie in \[0, 1\], got 2$"):
        prior(2)
