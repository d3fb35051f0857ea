"""Generators and discriminators in turns: whose bits move when, penalties now and then, images by their seeds."""

import copy

import pytest
import torch
from games import few_digits
from test_training_turns import trainer_of

from visgen_fast.data.order import ImagesByPosition, MicroBatches
from visgen_fast.models import DCGANDiscriminator, DCGANGenerator, StyleDiscriminator, StyleGenerator
from visgen_fast.nn import gradient_penalty
from visgen_fast.systems.adversarial import GameSettings, GANSystem
from visgen_fast.systems.generative import draw_samples
from visgen_fast.systems.vectors import draw_interpolations
from visgen_fast.training import checkpoint

CPU = torch.device("cpu")
NETWORKS = {"dcgan": (DCGANGenerator, DCGANDiscriminator), "stylegan": (StyleGenerator, StyleDiscriminator)}


def gan(name="dcgan", classes=10, **game) -> GANSystem:
    torch.manual_seed(0)
    generator, discriminator = NETWORKS[name]
    sizes = {"image_size": (8, 8), "channels": 1, "width": 4, "classes": classes}
    return GANSystem(generator(latents=8, **sizes), discriminator(**sizes), GameSettings(**game))


def batch_of(count=16, at=0):
    return ImagesByPosition(few_digits(), 0).__getitems__(list(range(at, at + count)))


def same(state, other, of):
    return all(torch.equal(tensor, other[name]) for name, tensor in state.items() if name.startswith(of))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("kind", ["minimax", "non_saturating", "hinge", "relativistic"])
def test_a_turn_leaves_every_bit_of_the_other_network_as_it_is(name, kind, tmp_path):
    system = gan(name, kind=kind, r1=1.0, r2=1.0)
    trainer = trainer_of(system, tmp_path, accumulation=2)
    system.before_step(0)
    batches = [batch_of(8), batch_of(8, at=8)]
    for turn, other in zip(trainer.turns, ("generator", "discriminator"), strict=True):
        before = copy.deepcopy(system.state_dict())
        turn.take(batches, 0.01, 0.9)
        after = system.state_dict()
        assert same(before, after, other) and not same(before, after, turn.player.name)


def test_the_generator_learns_from_the_discriminator_of_the_same_step(tmp_path):
    """What a step does is what the two would do by hand, one after the other."""
    trainer = trainer_of(gan(), tmp_path, learning_rate=0.05)
    system = copy.deepcopy(trainer.system)
    trainer.optimize()
    batch = ImagesByPosition(few_digits(), 0).__getitems__(next(iter(MicroBatches(0, 16))))
    for turn in (0, 1):
        player = system.players()[turn]
        options = {"lr": 0.05, "betas": (0.5, 0.99), "weight_decay": 0.0, "fused": True}
        optimizer = torch.optim.AdamW(player.parameters, **options)
        gradients = torch.autograd.grad(player.loss(batch).mean(), player.parameters)
        for weight, gradient in zip(player.parameters, gradients, strict=True):
            weight.grad = gradient
        torch.nn.utils.clip_grad_norm_(player.parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    for key, tensor in system.state_dict().items():
        torch.testing.assert_close(trainer.system.state_dict()[key], tensor, atol=1e-6, rtol=1e-5)


def test_the_generator_learns_in_every_nth_step(tmp_path):
    trainer = trainer_of(gan(generator_every=3), tmp_path)
    moved = []
    for _ in range(7):
        before = copy.deepcopy(trainer.system.state_dict())
        trainer.optimize()
        moved.append(not same(before, trainer.system.state_dict(), "generator"))
    assert moved == [True, False, False] * 2 + [True]


def test_a_penalty_taken_every_nth_step_counts_n_fold():
    batch = batch_of()
    plain, every = gan(), gan(r1=0.8, r2=0.4, penalty_every=3)
    images, labels = batch.images.float() / 127.5 - 1, batch.labels
    fakes = plain.generator(plain.generator.draw(batch.seeds), labels, batch.seeds)
    steep = [gradient_penalty(lambda x: plain.discriminator(x, labels), shown).detach() for shown in (images, fakes)]
    plain.before_step(0)
    without = plain(batch).detach()
    for step in range(5):
        every.before_step(step)
        extra = every(batch).detach() - without
        expected = 3 * (0.4 * steep[0] + 0.2 * steep[1]) if step % 3 == 0 else torch.zeros(16)
        torch.testing.assert_close(extra, expected, atol=1e-5, rtol=1e-4)
    found = every.metrics()
    assert float(found["penalty"]) == pytest.approx(float((0.4 * steep[0] + 0.2 * steep[1]).mean()), rel=1e-4)
    assert float(every.metrics()["penalty"]) == 0 == float(plain.metrics()["penalty"])


@pytest.mark.parametrize("name", NETWORKS)
def test_a_resumed_game_equals_one_that_never_stopped(name, tmp_path):
    game = {"r1": 1.0, "penalty_every": 2, "generator_every": 2, "kind": "relativistic"}
    trainer_of(gan(name, **game), tmp_path / "straight", steps=5).run()
    trainer_of(gan(name, **game), tmp_path / "resumed", steps=3).run()
    trainer_of(gan(name, **game), tmp_path / "resumed", steps=5, resume=True).run()
    ends = [tmp_path / folder / "checkpoints" / "step-00000005" for folder in ("straight", "resumed")]
    for part in checkpoint.PARTS:
        assert len({(end / f"{part}.safetensors").read_bytes() for end in ends}) == 1
    assert {key.partition(".")[0] for key in checkpoint.read(ends[0]).tensors("average")} == {"generator"}


@pytest.mark.parametrize("name", NETWORKS)
def test_what_training_sees_does_not_depend_on_the_size_of_micro_batches(name, tmp_path):
    steps = []
    for accumulation in (1, 4):
        # A small rate: the first steps of Adam turn rounding into signs where a gradient is about 0.
        trainer = trainer_of(
            gan(name, r1=1.0), tmp_path / str(accumulation), accumulation=accumulation, learning_rate=1e-6
        )
        assert trainer.system.per_micro_batch == ()
        steps += [trainer.optimize() for _ in range(2)][1:]
    for loss in ("discriminator", "generator"):
        torch.testing.assert_close(steps[0].losses[loss], steps[1].losses[loss], atol=0, rtol=1e-5)
    torch.testing.assert_close(steps[0].gradient_norm, steps[1].gradient_norm, atol=0, rtol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("classes", [0, 10])
def test_an_image_is_drawn_by_its_seed_class_and_place(name, classes):
    system = gan(name, classes=classes).eval()
    drawn = draw_samples(system, [2, 5], 3, seed=1, device=CPU)
    assert drawn.shape == (2, 3, 1, 8, 8)
    torch.testing.assert_close(draw_samples(system, [5], 2, seed=1, device=CPU)[0], drawn[1, :2], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(draw_samples(system, [5], 2, seed=2, device=CPU)[0], drawn[1, :2])
    grid, names = system.draw(few_digits(), seed=0, device=CPU)
    assert grid.shape[:2] == ((10, 10) if classes else (1, 40)) and len(names) == classes


@pytest.mark.parametrize("name", NETWORKS)
def test_between_two_images_latents_turn_and_styles_go_straight(name):
    system = gan(name).eval()
    ends = draw_samples(system, [3], 2, seed=4, device=CPU)[0]
    walk = draw_interpolations(system, [3], 5, [4], device=CPU)[0]
    torch.testing.assert_close(walk[0], ends[0], atol=1e-5, rtol=1e-4)
    seeds = torch.stack([draw_interpolations(system, [3], 2, [s], device=CPU)[0, 0] for s in (4, 6)])
    from_seed_to_seed = draw_interpolations(system, [3], 2, [4, 6], device=CPU)[0]
    torch.testing.assert_close(from_seed_to_seed[0], seeds[0], atol=1e-5, rtol=1e-4)
    first, second = torch.randn(2, 1, 8)
    half = torch.tensor([0.5], dtype=torch.float64)
    middle = system.between(first, second, half)
    if name == "stylegan":
        torch.testing.assert_close(middle, (first + second) / 2)
    else:
        torch.testing.assert_close(walk[-1], ends[1], atol=1e-5, rtol=1e-4)
        assert float(middle.norm()) == pytest.approx(float((first.norm() + second.norm()) / 2), rel=0.2)
        assert float(middle.norm()) > 1.1 * float(((first + second) / 2).norm())


def test_truncation_takes_variety():
    system = gan("stylegan", classes=0).eval()
    for layer in system.generator.map:
        layer.bias.data.normal_()
    spread = []
    for truncation in (1.0, 0.7, 0.5, 0.0):
        drawn = draw_samples(system, [0], 20, seed=0, device=CPU, truncation=truncation)[0]
        spread.append(float(drawn.var(0).mean()))
    assert spread == sorted(spread, reverse=True) and spread[-1] < 1e-6 < 1e-3 < spread[0]


def test_wrong_options_are_refused_in_a_sentence():
    with pytest.raises(ValueError, match="and this model has no mapping network"):
        gan().options(truncation=0.5)
    with pytest.raises(ValueError, match=r"truncation must lie in \[0, 1\], got 1.5"):
        gan("stylegan").options(truncation=1.5)
    with pytest.raises(ValueError, match="steps must be 1: an image is made of its latent vector in one call"):
        gan().options(steps=2)
    with pytest.raises(ValueError, match="guidance is no option of this system, which has truncation"):
        gan().options(guidance=2.0)
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 10\), got 10 to 10"):
        gan().sample(torch.tensor([10]), torch.tensor([0]))
    assert gan("stylegan").options(truncation=0.5) == {"steps": 1, "truncation": 0.5} and gan().options() == {
        "steps": 1
    }
