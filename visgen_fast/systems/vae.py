"""What is trained when a variational autoencoder is."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .. import ops
from ..data.images import AT_A_TIME, Images
from ..data.order import Batch
from ..diffusion.inversion import slerp
from ..models.vae import VAE
from ..nn.likelihoods import Likelihood, log_likelihood, mean_image, observe
from .vectors import VectorSystem

# Of the figure.
_COLUMNS, _MOST_LATENTS, _REACH = 10, 16, 3.0
# Nats below which a latent tells nothing.
_DEAD = 0.01


class VAESystem(VectorSystem):
    """A variational autoencoder with its bound of −log₂ p(x), in bits per dimension; classes tell it nothing.

    beta: weight of the divergence of the latents from N(0, 1) in the loss; the bound is the loss of weight 1 (Higgins
    et al., "beta-VAE", 2017). Beside it training reports the divergence in nats, and the spread around the output.
    """

    figure = "reconstructions"
    metric_names = ("bits_per_dimension", "kl", "spread")
    gives_likelihood = True

    def __init__(self, vae: VAE, likelihood: Likelihood, beta: float) -> None:
        super().__init__()
        self.vae, self.likelihood, self.beta = vae, likelihood, beta
        self._bits = 1 / (math.log(2) * math.prod(vae.shape))
        self._seen: list[Tensor] = []
        # A black and white pixel has no spread.
        vae.log_scale.requires_grad_(likelihood != "bernoulli")

    def forward(self, batch: Batch) -> Tensor:
        reconstruction, kl = self.terms(batch.images, batch.seeds)
        kl = kl.sum(1)
        self._seen.append(torch.stack((reconstruction + kl, kl)).detach().mean(1))
        return (reconstruction + self.beta * kl) * self._bits

    def terms(self, pixels: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor]:
        """−ln p(x | z) [B] of pixels uint8 [B, C, H, W], z drawn by the seeds, and the divergence of each latent.

        Both in nats; the second [B, latents]. Their sum bounds −ln p(x).
        """
        observed = observe(pixels, seeds, self.likelihood)
        posterior = self.vae.encode(observed)
        output = self.vae.decode(posterior.sample(seeds))
        return -log_likelihood(output, observed, self.vae.log_scale, self.likelihood), posterior.kl()

    @torch.no_grad()
    def bits(self, pixels: Tensor, seeds: Tensor) -> Tensor:
        reconstruction, kl = self.terms(pixels, seeds)
        return (reconstruction.double() + kl.double().sum(1)) / math.log(2)

    @torch.no_grad()
    def rebuild(self, pixels: Tensor, seeds: Tensor) -> Tensor:
        """From the means of the latents."""
        observed = observe(pixels, seeds, self.likelihood)
        return self.render(self.vae.encode(observed).mean, None, seeds)

    def metrics(self) -> dict[str, Tensor]:
        bound, kl = torch.stack(self._seen).mean(0)
        self._seen.clear()
        return {"bits_per_dimension": bound * self._bits, "kl": kl, "spread": self.vae.log_scale.detach().exp()}

    @torch.no_grad()
    def evaluate(self, images: Images, *, device: torch.device) -> dict[str, float]:
        """The bound of `images`, with one draw of the latents each, and of it the latents' part.

        dead_latents: how many tell less than 0.01 nats of an image on average.
        """
        reconstruction, kl = self._measure(images, device)
        bits = (reconstruction + float(kl.sum())) * self._bits
        found = {
            "bits_per_dimension": bits,
            "latent_bits": float(kl.sum()) * self._bits,
            "kl": float(kl.sum()),
            "dead_latents": float((kl < _DEAD).sum()),
        }
        return found if self.likelihood == "bernoulli" else {**found, "spread": float(self.vae.log_scale.exp())}

    def _measure(self, images: Images, device: torch.device) -> tuple[float, Tensor]:
        """The mean of −ln p(x | z), and the mean divergence of each latent, float64 [latents]."""
        total, kl = 0.0, torch.zeros(self.vae.latents, dtype=torch.float64)
        for places in torch.arange(len(images)).split(AT_A_TIME):
            pixels = images.read(places.tolist())[0].to(device)
            seeds = ops.derive_seeds(0, places.to(device), purpose=ops.Purpose.LIKELIHOOD)
            terms = self.terms(pixels, seeds)
            total += float(terms[0].double().sum())
            kl += terms[1].double().sum(0).cpu()
        return total / len(images), kl / len(images)

    @torch.no_grad()
    def draw(self, images: Images, *, seed: int, device: torch.device) -> tuple[Tensor, Sequence[str]]:
        """Images, their reconstructions, samples; then the first image with one latent moved from −3 to 3 in each row.

        The latents that tell most of an image come first; their divergence in nats stands beside them.
        """
        places = torch.arange(min(_COLUMNS, len(images)))
        shown = images.read(places.tolist())[0].to(device)
        seeds = ops.derive_seeds(seed, places.to(device), purpose=ops.Purpose.INITIAL_STATE)
        observed = observe(shown, seeds, self.likelihood)
        means = self.vae.encode(observed).mean
        rows = {
            "input": 2 * observed - 1 if self.likelihood == "bernoulli" else observed,
            "reconstruction": self.render(means, None, seeds),
            "samples": self.sample(torch.zeros_like(seeds), seeds),
        }
        rows |= self.traverse(means[0], self._measure(images, device)[1], len(places))
        return torch.stack(list(rows.values())), list(rows)

    @torch.no_grad()
    def traverse(self, point: Tensor, kl: Tensor, count: int) -> dict[str, Tensor]:
        """Rows of `count` images around latents [D], one latent of each row moved from −3 to 3; at most 16 of them.

        kl: of each latent, [D], by which the rows are sorted, the largest first, and named.
        """
        reach, rows = torch.linspace(-_REACH, _REACH, count, device=point.device), {}
        for latent in kl.argsort(descending=True)[:_MOST_LATENTS].tolist():
            moved = point.repeat(count, 1)
            moved[:, latent] = reach
            rows[f"latent {latent}: {kl[latent]:.2f}"] = mean_image(self.vae.decode(moved), self.likelihood)
        return rows

    @torch.no_grad()
    def divergences(self, images: Images, *, device: torch.device) -> Tensor:
        """The mean divergence of each latent from N(0, 1) over the images, in nats, float64 [D]."""
        return self._measure(images, device)[1]

    @property
    def classes(self) -> int:
        return 0

    def points(self, labels: Tensor | None, seeds: Tensor, truncation: float) -> Tensor:
        return ops.gaussian(seeds, (self.vae.latents,), stream=ops.Purpose.INITIAL_STATE.stream())

    def between(self, first: Tensor, second: Tensor, shares: Tensor) -> Tensor:
        """Along a great circle."""
        return slerp(first, second, shares)

    def render(self, points: Tensor, labels: Tensor | None, seeds: Tensor) -> Tensor:
        return mean_image(self.vae.decode(points), self.likelihood)
