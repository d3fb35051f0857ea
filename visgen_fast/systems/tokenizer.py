"""What is trained when a tokenizer is: the tokenizer and, where there is one, its adversary."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..data.images import Images, frames_of, in_chunks, to_range
from ..data.order import Batch
from ..evaluation import evaluate_tokenizer, pixel_errors, psnr
from ..models.classifier import Classifier
from ..models.efficientnet_lite import EfficientNetLite
from ..nn.adversarial import discriminator_loss, generator_loss
from ..nn.bsq import BSQ
from ..nn.codebook import Codebook
from ..nn.lookup_free import LookupFree
from ..nn.quantized import Quantized
from ..nn.residual_quantizer import ResidualQuantizer
from ..tokenizers.losses import adaptive_weight, perceptual_loss, pixel_loss
from ..tokenizers.tokenizer import Reconstructor, Tokenizer
from ..training.system import Findings, Player, System

# Of the figure.
_COLUMNS = 10
# The momentum of the discriminator's optimizer (Radford, Metz and Chintala, "DCGAN", 2016).
_ADVERSARY_BETA1 = 0.5


@dataclass(frozen=True)
class ReconstructionLoss:
    """How the parts of a tokenizer's loss are weighed.

    pixel: absolute (l1) or squared (l2) differences; perceptual: weight of the distance in features; adversarial:
    weight of the adversary, on top of the adaptive one, from optimizer step `adversarial_start` on.
    """

    pixel: Literal["l1", "l2"] = "l2"
    perceptual: float = 0.0
    adversarial: float = 0.0
    adversarial_start: int = 0


class TokenizerSystem(System):
    """A tokenizer, or a plain autoencoder, with the loss of its reconstructions.

    features: a frozen network for the perceptual loss, and for rFID where that loss has no weight; discriminator: the
    adversary, whose turn comes after the tokenizer's and is about the same reconstructions, as in RQ-VAE's training.
    `adversary_lr_scale` is its learning rate over the tokenizer's.

    Quantizers that learn by averages commit once an optimizer step. ValueError where a weighted loss lacks its network.
    """

    figure = "reconstructions"
    examined_by = ("beam", "embed")
    examined = 2000

    def __init__(
        self,
        tokenizer: Reconstructor,
        loss: ReconstructionLoss,
        *,
        features: Classifier | EfficientNetLite | None = None,
        discriminator: nn.Module | None = None,
        adversary_lr_scale: float = 1.0,
    ) -> None:
        super().__init__()
        if loss.perceptual > 0 and features is None:
            raise ValueError("a perceptual loss needs a feature network")
        if (loss.adversarial > 0) != (discriminator is not None):
            raise ValueError("an adversarial loss needs a weight above 0 and a discriminator")
        self.tokenizer, self.loss, self.adversary_lr_scale = tokenizer, loss, adversary_lr_scale
        self.features = None if features is None else copy.deepcopy(features).eval().requires_grad_(False)
        self.frozen = () if features is None else ("features",)
        self.discriminator = discriminator
        self.metric_names = (
            "psnr",
            *(("usage", "perplexity") if isinstance(tokenizer, Tokenizer) else ()),
            *(("perceptual",) if loss.perceptual > 0 else ()),
            *(("adversarial_weight",) if discriminator is not None else ()),
        )
        self._playing = discriminator is not None and loss.adversarial_start == 0
        self._judged: deque[tuple[Tensor, Tensor]] = deque()
        self._seen: dict[str, list[Tensor]] = {}

    def forward(self, batch: Batch) -> Tensor:
        images, reconstruction, quantized = self.reconstruct(to_range(batch.images), batch.seeds)
        closeness = pixel_loss(reconstruction, images, self.loss.pixel)
        self._note("psnr", psnr(pixel_errors(reconstruction.detach(), images)))
        if self.features is not None and self.loss.perceptual > 0:
            distance = perceptual_loss(self.features, frames_of(reconstruction), frames_of(images))
            distance = distance.view(len(images), -1).mean(1)
            closeness = closeness + self.loss.perceptual * distance
            self._note("perceptual", distance)
        loss = closeness + quantized.loss.flatten(1).mean(1)
        if self.discriminator is not None:
            loss = loss + self._deceive(self.discriminator, images, reconstruction, closeness)
        return loss

    def reconstruct(self, images: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor, Quantized]:
        """What the loss compares, images and their reconstructions, and what the latents cost."""
        return images, *self.tokenizer(images, seeds)

    def _deceive(self, discriminator: nn.Module, images: Tensor, reconstruction: Tensor, closeness: Tensor) -> Tensor:
        """What the tokenizer has to pay for each image that doesn't pass for a real one."""
        if not self._playing:
            nothing = torch.zeros((), device=reconstruction.device)
            self._note("adversarial_weight", nothing)
            return nothing
        fooling = generator_loss(None, discriminator(frames_of(reconstruction)), "hinge")
        fooling = fooling.view(len(images), -1).mean(1)
        weight = self.loss.adversarial * adaptive_weight(closeness.mean(), fooling.mean(), self.tokenizer.last_layer)
        self._note("adversarial_weight", weight)
        # Kept for the discriminator's turn: quantizers learn in the forward, and would learn twice if it ran again.
        self._judged.append((images, reconstruction.detach()))
        return weight * fooling

    def judge(self, batch: Batch) -> Tensor:
        """The discriminator's loss for every image of the earliest batch that `forward` saw and this didn't, [B].

        Half of the hinge, as in RQ-VAE's training.
        """
        assert self.discriminator is not None
        judged = self._judged.popleft()
        real, fake = (self.discriminator(frames_of(images)) for images in judged)
        return 0.5 * discriminator_loss(real, fake, "hinge").view(len(judged[0]), -1).mean(1)

    def players(self) -> Sequence[Player]:
        learning = [weight for weight in self.tokenizer.parameters() if weight.requires_grad]
        tokenizer = Player("tokenizer", learning, self.forward)
        if self.discriminator is None:
            return (tokenizer,)
        adversary = Player(
            "discriminator",
            list(self.discriminator.parameters()),
            self.judge,
            lr_scale=self.adversary_lr_scale,
            beta1=_ADVERSARY_BETA1,
            start=self.loss.adversarial_start,
        )
        return (tokenizer, adversary)

    @property
    def averaged(self) -> tuple[str, ...]:
        return ("tokenizer",)

    @property
    def per_micro_batch(self) -> tuple[str, ...]:
        learning = [module for module in self.modules() if module.training]
        entropy = any(isinstance(module, LookupFree | BSQ) and module.entropy_weight > 0 for module in learning)
        revival = any(isinstance(module, Codebook) and module.dead_below > 0 for module in learning)
        return (
            *super().per_micro_batch,
            *(("batch entropies of the codes",) if entropy else ()),
            *(("draws for the revival of dead codes",) if revival else ()),
            *(("adaptive weights of the adversary",) if self.discriminator is not None else ()),
        )

    def before_step(self, step: int) -> None:
        self._playing = self.discriminator is not None and step >= self.loss.adversarial_start
        self._judged.clear()

    def after_step(self) -> None:
        if isinstance(self.tokenizer, Tokenizer):
            self.tokenizer.quantizer.commit()

    def _note(self, name: str, value: Tensor) -> None:
        total, count = self._seen.setdefault(name, [torch.zeros((), device=value.device), torch.zeros(())])
        total += value.detach().mean()
        count += 1

    def metrics(self) -> dict[str, Tensor]:
        found = {name: total / float(count) for name, (total, count) in self._seen.items()}
        self._seen.clear()
        if isinstance(self.tokenizer, Tokenizer):
            self.tokenizer.quantizer.sum_usage_over_ranks()
        return {**found, **self._usage()}

    def _usage(self) -> dict[str, Tensor]:
        """Means over the depths since the last call, of the codes' share in use and of their perplexity."""
        if not isinstance(self.tokenizer, Tokenizer):
            return {}
        usage, perplexity = self.tokenizer.quantizer.usage()
        self.tokenizer.quantizer.reset_usage()
        return {"usage": usage.mean(), "perplexity": perplexity.mean()}

    @torch.no_grad()
    def draw(self, images: Images, *, seed: int, device: torch.device) -> tuple[Tensor, Sequence[str]]:
        """Images in the first row, below them what the codes up to each depth give."""
        shown = to_range(images.read(range(min(_COLUMNS, len(images))))[0].to(device))
        rows = {"input": shown, **self.tokenizer.stages(shown)}
        return torch.stack(list(rows.values())), list(rows)

    def examine(
        self,
        images: Images,
        *,
        device: torch.device,
        beam: int | None = None,
        embed: Callable[[Tensor], Tensor] | None = None,
        **options: Any,
    ) -> Findings:
        """Reconstruction, codes, and which of them add nothing.

        beam: prefixes that a residual quantizer's search keeps; embed: of images to features [B, F], for rFID.
        """
        from ..evaluation.report import as_text, write

        if beam is not None:
            quantizer = self.tokenizer.quantizer if isinstance(self.tokenizer, Tokenizer) else None
            if not isinstance(quantizer, ResidualQuantizer):
                raise ValueError("--beam needs a residual quantizer, and it has none")
            quantizer.beam = beam
        if embed is not None and len(images) < 2:
            raise ValueError("--features compares sets of at least 2 held-out images, but the run has 1")
        found = evaluate_tokenizer(self.tokenizer, (shown for shown, _ in in_chunks(images, device)), embed=embed)
        return Findings([as_text(found)], lambda out, head: write(found, out, {**head, "beam": beam}))

    def evaluate(self, images: Images, *, device: torch.device) -> dict[str, float]:
        """The mean PSNR in decibels of all `images`, and the mean usage and perplexity of the codes they were given.

        These two are left out where codes are too many to be counted. A feature network adds the Fréchet distance
        between the features of images and reconstructions, rFID, and their kernel distance.
        """
        found = evaluate_tokenizer(
            self.tokenizer,
            (shown for shown, _ in in_chunks(images, device)),
            embed=None if self.features is None else self._embedding,
            prefixes=False,
        )
        measured = {
            "psnr": found.psnr,
            **{name: fmean(getattr(found, name)) for name in ("usage", "perplexity") if getattr(found, name)},
            **{name: getattr(found, name) for name in ("rfid", "kernel_distance")},
        }
        return {name: value for name, value in measured.items() if value is not None}

    def _embedding(self, images: Tensor) -> Tensor:
        """The features of images, or of all frames of clips."""
        assert self.features is not None
        return self.features.embedding(frames_of(images))
