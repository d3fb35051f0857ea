"""Energies: their gradient is the noise, they learn a density, chains find it, and sums of them are products."""

import math

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from visgen_fast import cli, ops
from visgen_fast.diffusion import CosineVP, DiffusionObjective, LogitNormalTimes, annealed_langevin, plan, sample
from visgen_fast.energies import Composition, EnergyModel, ReplayBuffer, contrastive_divergence, langevin
from visgen_fast.models import DiT
from visgen_fast.recipes.registry import load_recipe
from visgen_fast.recipes.runs import build

CENTRES = torch.tensor([[-0.8, -0.6], [0.7, -0.4], [0.0, 0.9]])
SPREAD = 0.3


class Net(nn.Module):
    """A network of points of a plane."""

    def __init__(self, width=64):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.out = nn.Linear(width, 2)

    def forward(self, x, t, labels):
        return self.out(self.layers(torch.cat((x, t[:, None].to(x.dtype)), 1)))


class Gaussians(nn.Module):
    """Exact noise of data N(mean, 1) on the schedule: ∇E·σ, E = ½·(x − α·mean)², α² + σ² = 1."""

    null_label = 2
    means = torch.tensor([1.0, -2.0, 0.0])

    def energy(self, x, t, labels=None):
        return 0.5 * (x - (CosineVP().alpha(t) * self.means[labels])[:, None]).square().flatten(1).sum(1)

    def forward(self, x, t, labels=None):
        schedule = CosineVP()
        return schedule.sigma(t)[:, None] * (x - (schedule.alpha(t) * self.means[labels])[:, None])


def test_the_noise_is_the_gradient_of_the_energy():
    torch.manual_seed(0)
    model = EnergyModel(Net(), CosineVP().sigma).double()
    x, t = ops.gaussian(torch.arange(3), (2,), dtype=torch.float64), torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    slope = torch.func.jacrev(lambda x: model.energy(x, t))(x)[range(3), range(3)]
    assert (model(x, t) - CosineVP().sigma(t)[:, None] * slope).abs().max() < 1e-6
    with torch.no_grad():
        assert not model(x, t).requires_grad


def test_training_goes_through_the_gradient_of_attention_too():
    torch.manual_seed(0)
    dit = DiT(image_size=4, channels=1, patch_size=2, width=8, depth=1, heads=2, classes=3).double()
    for parameter in dit.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    model = EnergyModel(dit, CosineVP().sigma)
    x, t, labels = torch.randn(2, 1, 4, 4, dtype=torch.float64), torch.tensor([0.3, 0.6]).double(), torch.tensor([0, 3])
    weight = dit.blocks[0].attention.qkv.weight
    loss = lambda: model(x, t, labels).square().sum()  # noqa: E731
    (slope,) = torch.autograd.grad(loss(), weight)
    step = torch.zeros_like(weight)
    step[3, 1] = 1e-4
    with torch.no_grad():
        ends = []
        for sign in (1, -1):
            weight += sign * step
            ends.append(loss())
            weight -= sign * step
    assert ((ends[0] - ends[1]) / 2e-4 - slope[3, 1]).abs() < 1e-3 * slope.abs().max()


def test_the_density_that_score_matching_learns_is_that_of_the_mixture():
    torch.manual_seed(0)
    schedule = CosineVP()
    model = EnergyModel(Net(), schedule.sigma)
    objective = DiffusionObjective(schedule, "epsilon", LogitNormalTimes(mean=-1.0, std=1.0))
    optimizer, steps = torch.optim.AdamW(model.parameters(), lr=1e-2, betas=(0.9, 0.99)), 800
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 5e-3 * (1 + math.cos(math.pi * step / steps))
        seeds = ops.derive_seeds(0, torch.arange(256) + 256 * step)
        x = CENTRES[(ops.uniform(seeds, (1,), stream=1)[:, 0] * 3).ceil().long() - 1]
        x = x + SPREAD * ops.gaussian(seeds, (2,), stream=2)
        optimizer.zero_grad()
        objective(model, x, torch.zeros(256), seeds).mean().backward()
        optimizer.step()
    line = torch.linspace(-2, 2, 41)
    grid, time = torch.cartesian_prod(line, line), torch.tensor(0.15)
    alpha, sigma = schedule.alpha(time), schedule.sigma(time)
    variance = (alpha * SPREAD) ** 2 + sigma**2
    true = (-0.5 * torch.cdist(grid, alpha * CENTRES).square() / variance).exp().sum(1)
    with torch.no_grad():
        learned = (-model.energy(grid, time.expand(len(grid)))).softmax(0)
    assert torch.corrcoef(torch.stack((true, learned)))[0, 1] > 0.98


def test_chains_find_the_density():
    ended = langevin(
        lambda x: 2 * (x - 1).square().sum(1), torch.zeros(3000, 1), torch.arange(3000), steps=60, step_size=0.05
    )
    assert abs(ended.mean() - 1) < 0.03 and abs(ended.std() - 0.5 / math.sqrt(1 - 0.1)) < 0.02  # of steps that long


def test_contrastive_divergence_learns_mean_and_spread():
    parameters = nn.Parameter(torch.tensor([0.0, 0.0]))
    energy = lambda x: 0.5 * ((x - parameters[0]) * parameters[1].exp()).square().sum(1)  # noqa: E731
    optimizer = torch.optim.Adam([parameters], lr=0.05)
    for step in range(250):
        seeds = ops.derive_seeds(1, torch.arange(128) + 128 * step)
        x = 1 + 0.5 * ops.gaussian(seeds, (1,))
        optimizer.zero_grad()
        contrastive_divergence(energy, x, seeds, steps=5, step_size=0.02).mean().backward()
        optimizer.step()
    mean, spread = parameters[0].item(), math.exp(-parameters[1].item())
    assert abs(mean - 1) < 0.15 and abs(spread - 0.5) < 0.1


class Bowls(nn.Module):
    """The energy of a normal distribution for each of two labels, whose means and spreads are learned."""

    def __init__(self):
        super().__init__()
        self.means, self.scales = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))

    def forward(self, x, labels):
        return 0.5 * ((x[:, 0] - self.means[labels]) * self.scales[labels].exp()).square()


def test_a_buffer_begins_chains_far_from_the_data_and_is_rebuilt_from_the_weights_and_seeds():
    bowls = Bowls()
    options = {"classes": 2, "per_class": 64, "refresh": 20, "steps": 30, "step_size": 0.05, "seed": 0}
    buffer, optimizer = ReplayBuffer(bowls, (1,), **options), torch.optim.Adam(bowls.parameters(), lr=0.03)
    for step in range(250):
        seeds, labels = ops.derive_seeds(1, torch.arange(128) + 128 * step), torch.arange(128) % 2
        x = torch.tensor([[1.5], [-1.0]])[labels] + 0.5 * ops.gaussian(seeds, (1,))
        buffer.before_step(bowls, step)
        start = buffer.states(labels, seeds)
        optimizer.zero_grad()
        loss = contrastive_divergence(
            lambda x, labels=labels: bowls(x, labels), x, seeds, steps=5, step_size=0.05, start=start
        )
        loss.mean().backward()
        optimizer.step()
    assert (bowls.means - torch.tensor([1.5, -1.0])).abs().max() < 0.15
    assert ((-bowls.scales).exp() - 0.5).abs().max() < 0.1
    assert sorted(buffer.state_dict()) == ["former.means", "former.scales"]
    again = ReplayBuffer(Bowls(), (1,), **options)
    again.load_state_dict(buffer.state_dict())
    again.before_step(bowls, 251)  # within the time of the states that were drawn at step 240
    assert torch.equal(again.states(labels, seeds), start)
    again.before_step(bowls, 260)
    assert not torch.equal(again.states(labels, seeds), start) and torch.equal(again.former.means, bowls.means)


def test_a_sum_of_energies_draws_from_the_product():
    """N(1, 1)·N(−2, 1)/N(0, 1) is N(−1, 1); and away from the second, N(1, 1)/N(−2, 1)·N(0, 1) is N(3, 1)."""
    for weights, mean in (((1.0, 1.0), -1.0), ((1.0, -1.0), 3.0)):
        model = Composition(Gaussians(), [(0, weights[0]), (1, weights[1])])
        table = plan(annealed_langevin, CosineVP(), "epsilon", times=torch.linspace(0.999, 0, 40), corrections=2)
        drawn = sample(model, table, (1,), torch.zeros(4000, dtype=torch.int64), torch.arange(4000))
        assert abs(drawn.mean() - mean) < 0.08 and abs(drawn.std() - 1) < 0.06
        x, t = torch.tensor([[0.5], [0.2]]), torch.tensor([0.1, 0.1])
        shift = CosineVP().alpha(t[0]) * mean
        apart = model.energy(x, t).diff() - 0.5 * (x[:, 0] - shift).square().diff()
        assert apart.abs() < 1e-5


def test_the_recipe_s_energy_draws_and_scores_images():
    recipe = load_recipe("energy")
    settings = recipe.settings_for("digits", width=8, depth=1, heads=1, sampling_steps=2)
    system = build(recipe, settings, recipe.pictures(settings).format).eval()
    drawn = system.sample(torch.tensor([3, 4]), torch.arange(2))
    energy = system.prior.model.energy(drawn, torch.full((2,), 0.1), torch.tensor([3, 4]))
    assert drawn.shape == (2, 1, 8, 8) and energy.shape == (2,) and bool((energy > 0).all())
    pixels, seeds = torch.full((2, 1, 8, 8), 128, dtype=torch.uint8), torch.arange(2)
    scores = system.energies(pixels, seeds)
    # An untrained network is 0, so that E = ½‖x_t‖²/σ; at λ = 4 of a grey image x_t is σ·z.
    sigma = torch.sigmoid(torch.tensor(-4.0)).sqrt()
    noise = ops.gaussian(seeds, (1, 8, 8))
    assert torch.allclose(scores, 0.5 * sigma * noise.square().flatten(1).sum(1), rtol=0.05)
    system.condition.drop = 0
    assert system.energies(pixels, seeds) is None  # it has never seen "no class"


def test_blocks_that_are_computed_again_are_differentiated_twice(tmp_path):
    shape = ["--steps=3", "--batch-size=4", "--width=8", "--depth=2", "--heads=1", "--sample-every=0", "--device=cpu"]
    weights = {}
    for name, options in {"kept": [], "again": ["--checkpoint-activations"]}.items():
        assert cli.main(["train", "energy", *shape, *options, f"--out={tmp_path / name}"]) == 0
        (folder,) = (tmp_path / name / "checkpoints").iterdir()
        weights[name] = load_file(folder / "weights.safetensors")
    for key, expected in weights["kept"].items():
        torch.testing.assert_close(weights["again"][key], expected, rtol=1e-5, atol=1e-6)


def test_a_network_that_recomputes_is_refused():
    sizes = {"image_size": 4, "channels": 1, "patch_size": 2, "width": 16, "depth": 1, "heads": 2, "classes": 3}
    with pytest.raises(ValueError, match="recompute must be None in an energy, which is differentiated twice, got 'ch"):
        EnergyModel(DiT(**sizes, recompute="cheap"), torch.sqrt)


def test_what_does_not_fit_gets_a_sentence():
    with pytest.raises(ValueError, match="an energy has no likelihood: it is known up to a constant, so compare"):
        EnergyModel(Net(), CosineVP().sigma).log_likelihood(torch.zeros(1, 2))
    with pytest.raises(ValueError, match="the model must have a null label"):
        Composition(Net(), [(0, 1.0)])
    with pytest.raises(ValueError, match="terms must be at least one pair of a label and its weight, got none"):
        Composition(Gaussians(), [])
    with pytest.raises(ValueError, match="step_size must be positive, got 0"):
        langevin(lambda x: x.sum(1), torch.zeros(1, 1), torch.arange(1), steps=1, step_size=0)
    with pytest.raises(ValueError, match=r"step must lie in \[0, 1\], got 2"):
        plan(annealed_langevin, CosineVP(), "epsilon", steps=3, step=2)
