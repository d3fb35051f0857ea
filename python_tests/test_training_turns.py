"""Players in turns: who learns when, from what, and that a system of one player trains as a plain loop does."""

import copy
import csv
import math

import pytest
import torch
from games import Game, few_digits
from test_tokenizers_training import tiny_system
from torch import nn

from visgen_fast import ops
from visgen_fast.data.images import digits
from visgen_fast.data.order import ImagesByPosition, MicroBatches
from visgen_fast.models.classifier import Classifier
from visgen_fast.recipes.rectified_flow import Settings as RectifiedFlowSettings
from visgen_fast.recipes.rectified_flow import system as rectified_flow_system
from visgen_fast.systems.tokenizer import ReconstructionLoss
from visgen_fast.training import checkpoint
from visgen_fast.training.loop import Trainer
from visgen_fast.training.run import Run
from visgen_fast.training.settings import TrainingSettings, learning_rate
from visgen_fast.training.system import Player, System, players_of

PLAIN = {"batch_size": 16, "learning_rate": 0.01, "warmup_steps": 0, "device": "cpu", "sample_every": 0}


def trainer_of(system, out, images=None, *, resume=False, **settings) -> Trainer:
    run = Run(out, TrainingSettings(**{**PLAIN, **settings}), identity={"recipe": "test"}, resume=resume)
    return Trainer(system, images or few_digits(), run)


def diffusion(settings):
    torch.manual_seed(0)
    return rectified_flow_system(settings, digits().format)


def tokenizer(settings):
    torch.manual_seed(1)
    classifier = Classifier(channels=1, classes=10, widths=(4, 8))
    return tiny_system(ReconstructionLoss("l1", perceptual=1.0), features=classifier)


def steps_of_ops(parameters, averages, settings):
    """Clipping, AdamW and the moving average by our operations."""
    means, squares = ([torch.zeros_like(parameter) for parameter in parameters] for _ in range(2))

    def take(count: int, decay: float) -> None:
        gradients = [parameter.grad for parameter in parameters]
        scale = (settings.gradient_clip / (ops.gradient_norm(gradients) + 1e-6)).clamp(max=1)
        ops.adamw_(
            *(parameters, gradients, means, squares), averages=averages, average_decay=decay, gradient_scale=scale,
            learning_rate=learning_rate(settings, count - 1), betas=(0.9, settings.beta2), step=count,
            weight_decay=settings.weight_decay,
        )  # fmt: skip

    return take


def steps_of_pytorch(parameters, averages, settings):
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, settings.beta2), weight_decay=settings.weight_decay)

    def take(count: int, decay: float) -> None:
        optimizer.param_groups[0]["lr"] = learning_rate(settings, count - 1)
        nn.utils.clip_grad_norm_(parameters, settings.gradient_clip)
        optimizer.step()
        torch._foreach_lerp_(averages, [parameter.detach() for parameter in parameters], 1 - decay)

    return take


def plain_loop(system, settings, steps):
    """Four steps of a system of one player: the losses, and the average of the system."""
    average = copy.deepcopy(system)
    parameters = [parameter for parameter in system.parameters() if parameter.requires_grad]
    take = steps(
        parameters, [average.get_parameter(name) for name, p in system.named_parameters() if p.requires_grad], settings
    )
    data = ImagesByPosition(digits(), settings.seed, horizontal_flip=True)
    positions = iter(MicroBatches(0, settings.batch_size, accumulation=settings.accumulation))
    losses = []
    average.requires_grad_(False)
    for step in range(4):
        system.before_step(step)
        losses.append(0.0)
        for _ in range(settings.accumulation):
            batch = data.__getitems__(next(positions))
            torch.manual_seed(batch.module_seed)
            share = system(batch).mean() / settings.accumulation
            share.backward()
            losses[step] += float(share.detach())
        take(step + 1, min(settings.ema_decay, (2 + step) / (11 + step)))
        system.zero_grad()
        system.after_step()
    return losses, average


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("make", [diffusion, tokenizer])
def test_a_system_of_one_player_trains_bit_for_bit_as_a_plain_loop(make, accumulation, tmp_path):
    settings = RectifiedFlowSettings(
        **{**PLAIN, "warmup_steps": 2}, **{"width": 16, "depth": 1, "heads": 2, "dropout": 0.2, "weight_decay": 0.1},
        **{"gradient_clip": 0.5, "horizontal_flip": True, "accumulation": accumulation, "steps": 4},
    )  # fmt: skip
    trainer = Trainer(make(settings), digits(), Run(tmp_path, settings, identity={}))
    found = [float(trainer.optimize().loss) for _ in range(4)]
    for steps, bits_are_equal in ((steps_of_ops, True), (steps_of_pytorch, False)):
        system = make(settings)
        losses, average = plain_loop(system, settings, steps)
        assert found == pytest.approx(losses, rel=1e-6 if bits_are_equal else 1e-4)
        tensors = [(name, trainer.system.state_dict()[name], tensor) for name, tensor in system.state_dict().items()]
        followed = [(name, trainer.average.module.get_parameter(name), p) for name, p in average.named_parameters()]
        for name, ours, tensor in tensors + followed:
            if bits_are_equal:
                assert torch.equal(ours, tensor), name
            elif make is diffusion:  # some of the tokenizer's gradients are 0 but for rounding, which AdamW magnifies
                torch.testing.assert_close(ours, tensor, rtol=1e-3, atol=1e-4, msg=name)


def test_only_the_player_s_own_weights_learn_in_its_turn(tmp_path):
    game = Game()
    required = {}

    def note(name, loss):
        def noting(batch):
            required[name] = {key.partition(".")[0] for key, weight in game.named_parameters() if weight.requires_grad}
            return loss(batch)

        return noting

    players = [Player(p.name, p.parameters, note(p.name, p.loss)) for p in game.players()]
    game.players = lambda: players
    trainer = trainer_of(game, tmp_path)
    gradients = []
    for turn in trainer.turns:
        turn.optimizer.optimizer.register_step_pre_hook(
            lambda *_: gradients.append(
                {key.partition(".")[0] for key, w in game.named_parameters() if w.grad is not None}
            )
        )
    trainer.optimize()
    assert required == {name: {name} for name in ("generator", "adversary", "critic")}
    assert gradients == [{"generator"}, {"adversary"}, {"critic"}]
    assert {key.partition(".")[0] for key, weight in game.named_parameters() if weight.requires_grad} == set(required)


def test_a_later_player_sees_what_an_earlier_one_learned_in_the_same_step(tmp_path):
    game = Game()
    before = float(game.generator[0].weight.detach().sum())
    trainer_of(game, tmp_path, accumulation=2).optimize()
    seen = {
        name: [weight for other, _, weight in game.turns if other == name]
        for name in ("generator", "adversary", "critic")
    }
    after = float(game.generator[0].weight.detach().sum())
    assert before != after
    assert seen == {"generator": [before] * 2, "adversary": [after] * 2, "critic": [after] * 2}


def test_torch_s_generators_are_seeded_anew_for_every_turn_of_every_micro_batch(tmp_path):
    game = Game()
    trainer_of(game, tmp_path, accumulation=2).optimize()
    seeds = [seed for _, seed, _ in game.turns]
    assert len(set(seeds)) == 6
    again = Game()
    trainer_of(again, tmp_path, accumulation=2).optimize()
    assert [seed for _, seed, _ in again.turns] == seeds


def test_at_rest_a_player_neither_steps_nor_decays(tmp_path):
    game = Game(every=3, start=2)
    trainer = trainer_of(game, tmp_path, weight_decay=0.5)
    moved = {"generator": [], "adversary": [], "critic": []}
    for step in range(7):
        before = copy.deepcopy(game.state_dict())
        trainer.optimize()
        for name, steps in moved.items():
            if any(
                not torch.equal(tensor, before[key])
                for key, tensor in game.state_dict().items()
                if key.startswith(name)
            ):
                steps.append(step)
    assert moved == {"generator": list(range(7)), "adversary": [0, 3, 6], "critic": [2, 3, 4, 5, 6]}
    counts = [int(next(iter(turn.optimizer.state.values()))["step"]) for turn in trainer.turns]
    assert counts == [7, 3, 5]


def test_each_player_s_gradient_is_clipped_on_its_own(tmp_path):
    game = Game()
    trainer = trainer_of(game, tmp_path, gradient_clip=1e-3)
    norms = []
    for turn in trainer.turns:
        turn.optimizer.optimizer.register_step_pre_hook(
            lambda optimizer, *_: norms.append(
                float(
                    ops.gradient_norm([w.grad for w in optimizer.param_groups[0]["params"]]) * optimizer.gradient_scale
                )
            )
        )
    step = trainer.optimize()
    assert norms == pytest.approx([1e-3] * 3, rel=1e-3) and float(step.gradient_norm) > 3e-3


def own_weight(game: Game) -> nn.Parameter:
    """A weight of the system itself, which no average and no turn would know."""
    game.scale = nn.Parameter(torch.ones(2))
    return game.scale


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda g: [Player("a", list(g.generator.parameters()), g)] * 2, "names of their own, got a, a"),
        (lambda g: [Player("a", list(g.generator.parameters()), g, every=2)], "one player must act in every step"),
        (lambda g: [Player("a", [], g)], "the player a has no weights"),
        (
            lambda g: [Player("a", list(g.generator.parameters()), g, every=2, place=1)],
            "one player must act in every step",
        ),
        (lambda g: [*g.players(), Player("a", [], g, every=2, place=2)], r"place in \[0, every\), got 1 and 2 for a"),
        (
            lambda g: [*g.players(), Player("a", [], g, turn_steps=0)],
            "turn_steps must be at least 1 .* got 0 and 0 for a",
        ),
        (lambda g: [*g.players(), Player("a", [], g, every=0)], "every must be at least 1 .* got 0 and 0 for a"),
        (lambda g: [*g.players(), Player("a", [], g, start=-1)], "start at least 0, got 1 and -1 for a"),
        (lambda g: [Player(n, list(g.critic.parameters()), g) for n in "ab"], "player b also belong to a"),
        (lambda g: [Player("a", list(g.features.parameters()), g)], "player a need no gradient"),
        (lambda g: [*g.players(), Player("a", [nn.Parameter(torch.ones(2))], g)], "of the player a are in none of the"),
        (lambda g: [*g.players(), Player("a", [own_weight(g)], g)], "of the player a are in none of the system's sub"),
        (lambda g: [Player("a", list(g.generator.parameters()), g)], "adversary.0.weight requires .* no player"),
    ],
)
def test_players_that_do_not_share_out_the_weights_are_refused(wrong, said):
    game = Game()
    players = wrong(game)
    game.players = lambda: players
    with pytest.raises(ValueError, match=said):
        players_of(game)


@pytest.mark.parametrize("stop", range(1, 6))
def test_a_run_resumed_after_any_step_of_a_game_equals_one_that_never_stopped(stop, tmp_path):
    games = {"every": 2, "start": 3, "dropout": 0.3}
    trainer_of(Game(**games), tmp_path / "straight", steps=6, accumulation=2).run()
    trainer_of(Game(**games), tmp_path / "resumed", steps=stop, accumulation=2).run()
    other = Game(**games)
    with torch.no_grad():
        other.features[0].weight.zero_()  # what is frozen comes from the checkpoint too
    trainer_of(other, tmp_path / "resumed", steps=6, accumulation=2, resume=True).run()
    ends = [tmp_path / name / "checkpoints" / "step-00000006" for name in ("straight", "resumed")]
    for part in checkpoint.PARTS:
        assert len({(end / f"{part}.safetensors").read_bytes() for end in ends}) == 1
    assert (ends[0] / "state.json").read_text() == (ends[1] / "state.json").read_text()
    assert "critic.weight.exp_avg" in checkpoint.read(ends[0]).tensors("optimizer")


def test_the_losses_of_all_players_are_written_and_a_step_without_the_first_is_no_row_of_its_curve(tmp_path):
    game = Game()
    first, second, third = game.players()
    players = [Player("generator", first.parameters, first.loss, every=4), second, third]
    game.players = lambda: players
    trainer_of(game, tmp_path, steps=6, log_every=1).run()
    with (tmp_path / "losses.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[5:] == ["adversary_loss", "critic_loss", "brightness"]
    assert [math.isfinite(float(row["loss"])) for row in rows] == [True, False, False, False, True, False]
    assert all(math.isfinite(float(row["adversary_loss"])) for row in rows) and (tmp_path / "loss.png").exists()


def test_the_average_is_of_what_the_system_names_and_the_rest_exists_once(tmp_path):
    game = Game()
    trainer = trainer_of(game, tmp_path)
    averaged = trainer.average.module
    assert averaged.features is game.features and averaged.adversary is game.adversary
    assert averaged.generator is not game.generator and not averaged.generator.training and not averaged.training
    assert game.training and game.adversary.training and game.generator.training and not game.features.training
    for _ in range(3):
        trainer.optimize()
    assert not torch.equal(averaged.generator[0].weight, game.generator[0].weight)
    trainer.save()
    trainer.folder.close()
    saved = checkpoint.read(tmp_path)
    names = {name: {key.partition(".")[0] for key in saved.tensors(name)} for name in ("weights", "average")}
    assert names == {"weights": {"generator", "adversary", "critic"}, "average": {"generator"}}
    built = Game()
    with torch.no_grad():
        for weight in built.parameters():
            weight.zero_()
    saved.load_averaged(built)
    for key, tensor in averaged.state_dict().items():
        assert torch.equal(built.state_dict()[key], tensor), key


def test_what_is_frozen_stays_in_evaluation_mode_whatever_mode_the_system_is_put_into():
    game = Game().eval().train()
    assert game.generator.training and not any(module.training for module in game.features.modules())


class Careless(Game):
    """Names what is frozen, and leaves its network as it was made."""

    def __init__(self) -> None:
        super().__init__()
        self.features.train().requires_grad_(True)
        self.adversary, self.critic = self.adversary.requires_grad_(False), self.critic.requires_grad_(False)

    players = System.players


def test_training_freezes_what_the_system_names_and_teaches_it_nothing(tmp_path):
    game = Careless()
    before = copy.deepcopy(game.features.state_dict())
    trainer_of(game, tmp_path, steps=2).run()
    assert not game.features.training
    for name, tensor in game.features.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_a_frozen_network_inside_an_averaged_one_is_shared_and_tied_weights_stay_tied(tmp_path):
    class Inside(Game):
        def __init__(self):
            super().__init__()
            self.generator.add_module("inner", self.features)
            self.tied = nn.Linear(1, 1, bias=False)
            self.tied.weight = self.generator[0].weight
            del self.features
            self.frozen = ("generator.inner",)

        features = property(lambda self: self.generator.inner)

        def _fake(self, batch):
            real = batch.images.float().flatten(1)
            return real, self.generator[2](self.generator[0](real))

        @property
        def averaged(self):
            return ("generator", "tied")

        def players(self):
            first, *others = super().players()
            return [
                Player("generator", [weight for weight in first.parameters if weight.requires_grad], first.loss),
                *others,
            ]

    game = Inside()
    trainer = trainer_of(game, tmp_path)
    trainer.optimize()
    averaged = trainer.average.module
    assert averaged.generator.inner is game.generator.inner
    assert averaged.tied.weight is averaged.generator[0].weight is not game.tied.weight
    trainer.save()
    trainer.folder.close()
    names = {name: set(checkpoint.read(tmp_path).tensors(name)) for name in ("weights", "average")}
    assert "tied.weight" in names["average"] and not any("inner" in key for keys in names.values() for key in keys)
    other = Inside()
    resumed = trainer_of(other, tmp_path, resume=True)
    assert resumed.step == 1 and other.tied.weight is other.generator[0].weight
    assert torch.equal(other.tied.weight, game.tied.weight)
