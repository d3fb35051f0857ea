"""Networks built of modulated norms have the gradients of float64, and learn as those of plain PyTorch do."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.published import as_published
from visgen_fast import ops
from visgen_fast.diffusion import DiffusionObjective, LogitNormalTimes, RectifiedFlow
from visgen_fast.models import DiT
from visgen_fast.nn import AdaptiveInstanceNorm, FeedForward, GatedResidualNorm, ResidualStream

WIDTH = 24
STEPS = 200


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


# ----------------------------------------------------------------------------- a pattern that compilers got wrong


def chained_from_embedding(x, embedding, table):
    """Four slices of one table, added to those of an embedding: [4, D] and [B, 4, D], as in PixArt and Wan."""
    scale_1, shift_1, scale_2, shift_2 = zip(table.unbind(0), embedding.unbind(1), strict=True)
    return ops.modulated_norm(ops.modulated_norm(x, scale_1, shift_1), scale_2, shift_2)


def chained_from_projection(x, embedding, table):
    """Four slices of one tensor, which the table is added to before: [B, 4·D], as in DiT."""
    scale_1, shift_1, scale_2, shift_2 = (embedding + table).flatten(1).chunk(4, 1)
    y = ops.modulated_norm(x, scale_1, shift_1)
    return ops.gated_residual_norm(x, y, None, scale_2, shift_2)[1]


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("network", [chained_from_embedding, chained_from_projection])
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_two_norms_that_share_a_table_have_the_gradients_of_float64(network, batch, compiled):
    """For which compiled code on GPUs was silently wrong: github.com/pytorch/pytorch/issues/193061."""

    def gradients(function, dtype):
        shapes = (batch, 16, 64), (batch, 4, 64), (4, 64)
        leaves = [normal(*shape, seed=seed, dtype=dtype).requires_grad_() for seed, shape in enumerate(shapes)]
        output = function(*leaves)
        return [output, *torch.autograd.grad(output, leaves, normal(*output.shape, seed=9, dtype=dtype))]

    exact = gradients(network, torch.float64)
    found = gradients(torch.compile(network, fullgraph=True) if compiled else network, torch.float32)
    for one, other in zip(found, exact, strict=True):
        assert (one.double() - other).abs().max() <= 2e-6 * other.abs().max()


# ----------------------------------------------------------------------------- the same losses


class PlainNorm(nn.Module):
    """`GatedResidualNorm` in plain PyTorch."""

    def forward(self, x, branch, gate, scale, shift):
        if branch is not None:
            x = x + gate * branch
        return x, F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


class Stream(nn.Module):
    """What each of an MM-DiT's streams has of its own."""

    def __init__(self):
        super().__init__()
        self.norm, self.mlp = GatedResidualNorm(WIDTH), FeedForward(WIDTH, 2 * WIDTH)
        self.modulation = nn.Linear(WIDTH, 6 * WIDTH)
        self.qkv, self.project = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)


class JointBlock(nn.Module):
    """Two streams, one attention over both (Esser et al., "Scaling rectified flow transformers", 2024, figure 2)."""

    def __init__(self):
        super().__init__()
        self.streams = nn.ModuleList(Stream() for _ in range(2))

    def forward(self, given, condition):
        parts = [own.modulation(condition)[:, None].chunk(6, -1) for own in self.streams]
        entered = [
            own.norm(*stream, part[0], part[1]) for own, stream, part in zip(self.streams, given, parts, strict=True)
        ]
        qkv = [own.qkv(h).unflatten(-1, (3, 2, -1)) for own, (_, h) in zip(self.streams, entered, strict=True)]
        query, key, value = torch.cat(qkv, 1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        found = []
        for own, (x, _), part, heads in zip(
            self.streams, entered, parts, mixed.split([x.shape[1] for x, _ in entered], 1), strict=True
        ):
            x, h = own.norm(x, own.project(heads), part[2], part[3], part[4])
            found.append(ResidualStream(x, own.mlp(h), part[5]))
        return found


class JointTransformer(nn.Module):
    """A velocity for image tokens from text tokens, and a vector."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(JointBlock() for _ in range(2))
        self.norm, self.output = GatedResidualNorm(WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, image, text, condition):
        streams = [ResidualStream(image), ResidualStream(text)]
        for block in self.blocks:
            streams = block(streams, condition)
        zero = torch.zeros_like(condition)[:, None]
        return self.output(self.norm(*streams[0], zero, zero)[1])


class Generator(nn.Module):
    """A learned constant, styled by AdaIN at each resolution, with noise of its own (Karras et al., 2019)."""

    def __init__(self):
        super().__init__()
        self.mapping = nn.Sequential(nn.Linear(8, 16), nn.SiLU(), nn.Linear(16, 16))
        self.constant = nn.Parameter(normal(1, 12, 2, 2, seed=1))
        self.convolutions = nn.ModuleList(nn.Conv2d(12, 12, 3, padding=1) for _ in range(2))
        self.norms = nn.ModuleList(AdaptiveInstanceNorm(12, 16) for _ in range(2))
        self.output = nn.Conv2d(12, 1, 1)

    def forward(self, z):
        w, x = self.mapping(z), self.constant.expand(len(z), -1, -1, -1)
        for number, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            x = F.interpolate(x, scale_factor=2)
            x = convolution(x) + 0.1 * normal(len(z), 1, *x.shape[2:], seed=number)
            x = norm(F.silu(x), w)
        return self.output(x)


class PlainInstanceNorm(AdaptiveInstanceNorm):
    """Means and deviations are computed by themselves, as people write it."""

    def forward(self, x, style):
        scale, shift = (part[..., None, None] for part in self.linear(style).chunk(2, 1))
        centred = x - x.mean((2, 3), keepdim=True)
        return centred / (centred.square().mean((2, 3), keepdim=True) + self.eps).sqrt() * (1 + scale) + shift


class Discriminator(nn.Module):
    """A projection of images that are normalized by what a style asks for."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 12, 3, padding=1), nn.Conv2d(12, 12, 3, stride=2, padding=1)
        self.norm, self.style, self.output = AdaptiveInstanceNorm(12, 16), nn.Parameter(normal(16)), nn.Linear(192, 1)

    def forward(self, x):
        h = self.norm(F.silu(self.first(x)), self.style.expand(len(x), -1))
        return self.output(F.silu(self.second(h)).flatten(1))[:, 0]


def plain(model):
    """A copy in plain PyTorch."""
    copied = as_published(model)
    for module in copied.modules():
        for name, child in module.named_children():
            if type(child) is GatedResidualNorm:
                setattr(module, name, PlainNorm())
            elif type(child) is AdaptiveInstanceNorm:
                child.__class__ = PlainInstanceNorm
    return copied


def awake(model):
    for number, parameter in enumerate(model.parameters()):
        if not parameter.any():
            parameter.data = 0.1 * normal(*parameter.shape, seed=number)
    return model


def r1(discriminator, images):
    """The mean square of the gradient of the logits (Mescheder et al., 2018)."""
    images = images.detach().requires_grad_()
    gradient = torch.autograd.grad(discriminator(images).sum(), images, create_graph=True)[0]
    return gradient.square().flatten(1).sum(1).mean()


def losses_of_dit(change):
    torch.manual_seed(0)
    sizes = {"image_size": 8, "channels": 1, "patch_size": 2, "width": WIDTH, "depth": 2, "heads": 2, "classes": 4}
    model = change(awake(DiT(**sizes)))
    objective = DiffusionObjective(RectifiedFlow(), "velocity", LogitNormalTimes())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    labels = torch.arange(8) % 4
    images = torch.sin(torch.arange(64.0) * (1 + labels[:, None])).view(8, 1, 8, 8)
    for step in range(STEPS):
        loss = objective(model, images, labels, ops.derive_seeds(step, torch.arange(8))).mean()
        yield step_of(optimizer, loss)


def losses_of_joint(change):
    torch.manual_seed(0)
    model = change(JointTransformer())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(STEPS):
        image, text, condition = normal(4, 9, WIDTH, seed=step), normal(4, 5, WIDTH, seed=1), normal(4, WIDTH, seed=2)
        target = image.roll(1, 1) + text.mean(1, keepdim=True)
        yield step_of(optimizer, F.mse_loss(model(image, text, condition), target))


def losses_of_stylegan(change):
    """A game multiplies differences: of plain PyTorch too, with weights that differ in their last place.

    With smooth activations and this rate it does not within so many steps, or there would be nothing to compare.
    """
    torch.manual_seed(0)
    players = [change(Generator()), change(Discriminator())]
    optimizers = [torch.optim.Adam(player.parameters(), lr=2e-4, betas=(0.0, 0.99)) for player in players]
    generator, discriminator = players
    real = torch.sin(torch.arange(64.0) * torch.arange(1, 9)[:, None]).view(8, 1, 8, 8)
    for step in range(STEPS):
        z = normal(8, 8, seed=step)
        gap = F.softplus(discriminator(generator(z).detach())) + F.softplus(-discriminator(real))
        yield step_of(optimizers[1], gap.mean() + 0.5 * r1(discriminator, real))
        yield step_of(optimizers[0], F.softplus(-discriminator(generator(z))).mean())


def step_of(optimizer, loss):
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


@pytest.mark.parametrize("losses", [losses_of_dit, losses_of_joint, losses_of_stylegan])
def test_a_network_loses_the_same_with_these_operations_and_without(losses):
    ours, theirs = (torch.tensor(list(losses(change))) for change in (lambda model: model, plain))
    assert (ours - theirs).abs().max() < 1e-4
    assert not torch.equal(ours, theirs)  # or both would have computed the same
    assert ours.isfinite().all() and (losses is losses_of_stylegan or ours[-20:].mean() < 0.8 * ours[:20].mean())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)], ids=str)
def test_r1_through_adaptive_instance_norms_has_the_gradients_of_plain_pytorch(dtype, tolerance):
    torch.manual_seed(0)
    discriminator, found = Discriminator(), []
    images = normal(4, 1, 8, 8, dtype=dtype)
    for change, precision in ((lambda model: model, dtype), (plain, torch.float64)):
        network = change(copy.deepcopy(discriminator)).to(precision)
        penalty = r1(network, images.to(precision))
        gradients = torch.autograd.grad(penalty, list(network.parameters()), materialize_grads=True)
        found.append([penalty.double(), *(gradient.double() for gradient in gradients)])
    largest = max(gradient.abs().max() for gradient in found[1][1:])
    assert largest > 1e-3
    for one, other in zip(*found, strict=True):
        assert (one - other).abs().max() <= tolerance * max(largest, other.abs().max())
