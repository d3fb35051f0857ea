"""Whether an image belongs to what a model has learned: scores that are higher the less it does, and what they tell.

A model's likelihood alone is a bad judge: simple images are likely, whatever they show (Nalisnick et al., "Do deep
generative models know what they don't know?", 2019). Three repairs are measured beside it, and two judges that need no
likelihood.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

Scores = Mapping[str, Tensor]  # float64 [N] by the name of the measure


def auroc(inside: Tensor, outside: Tensor) -> float:
    """The share of pairs, one image of each set, of which the outside one has the higher score; ties count half.

    1 tells the sets apart, ½ is chance, and below it outliers seem to belong more. Scores: float [N], [M], none NaN;
    ValueError for an empty set.
    """
    if not len(inside) or not len(outside):
        raise ValueError(f"there must be scores of both sets, got {len(inside)} inside and {len(outside)} outside")
    ranked, asked = inside.double().sort().values, outside.double()
    below, up_to = torch.searchsorted(ranked, asked), torch.searchsorted(ranked, asked, right=True)
    return float((below + up_to).double().mean() / (2 * len(ranked)))


def png_bits(pixels: Tensor) -> Tensor:
    """The bits of each of the images uint8 [B, C, H, W], C = 1 or 3, as a PNG file: float64 [B]."""
    from PIL import Image

    sizes = []
    for image in pixels.cpu():
        file = io.BytesIO()
        shown = image[0] if len(image) == 1 else image.permute(1, 2, 0)
        Image.fromarray(shown.contiguous().numpy()).save(file, "PNG", optimize=True)
        sizes.append(8.0 * len(file.getvalue()))
    return torch.tensor(sizes, dtype=torch.float64)


def of_likelihood(bits: Tensor, png: Tensor, usual: float) -> dict[str, Tensor]:
    """The scores that come of −log₂ p(x) in bits [N].

    png: the bits of the images as PNG files [N]; usual: the mean of −log₂ p over training images.

    likelihood: −log₂ p. complexity: −log₂ p less the PNG's bits, which are large where an image is complex (Serrà et
    al., "Input complexity and out-of-distribution detection with likelihood-based generative models", 2020).
    typicality: how far −log₂ p is from the usual (Nalisnick et al., "Detecting out-of-distribution inputs to deep
    generative models using typicality", 2019).
    """
    bits = bits.double().cpu()
    return {"likelihood": bits, "complexity": bits - png, "typicality": (bits - usual).abs()}


def reconstruction_error(pixels: Tensor, rebuilt: Tensor) -> Tensor:
    """The mean square difference of images in [−1, 1], [B, C, H, W] each: float64 [B].

    rebuilt: by the model, from an image that was partly noised (Graham et al., "Denoising diffusion models for
    out-of-distribution detection", 2023) or encoded.
    """
    return (pixels.double() - rebuilt.double()).square().flatten(1).mean(1).cpu()


def doubt(logits: Tensor) -> Tensor:
    """1 less a classifier's greatest probability, from logits [B, classes]: float64 [B].

    Hendrycks and Gimpel, "A baseline for detecting misclassified and out-of-distribution examples", 2017.
    """
    return 1 - logits.double().softmax(1).amax(1).cpu()


@dataclass(frozen=True)
class Outliers:
    """Scores of images that belong and of some that don't."""

    inside: Scores
    outside: Scores

    def auroc(self) -> dict[str, float]:
        """How well each measure tells them apart."""
        return {name: auroc(self.inside[name], self.outside[name]) for name in self.inside}

    def plot(self, out: Path, name: str) -> None:
        """Draws the histograms of each measure, belonging images against the set `name`, as the PNG file `out`."""
        from matplotlib.figure import Figure

        found = self.auroc()
        figure = Figure(figsize=(3.2 * len(found), 3), layout="constrained")
        for axes, measure in zip(figure.subplots(1, len(found), squeeze=False)[0], found, strict=True):
            sets = [scores[measure] for scores in (self.inside, self.outside)]
            low, high = (float(torch.cat(sets).quantile(share)) for share in (0.005, 0.995))
            bins = torch.linspace(low, max(high, low + 1e-9), 41).tolist()
            for scores, label, colour in zip(sets, ("held out", name), ("#457b9d", "#d1495b"), strict=True):
                axes.hist(scores.clamp(low, high).tolist(), bins, density=True, alpha=0.6, label=label, color=colour)
            axes.set(title=f"{measure}: AUROC {found[measure]:.2f}", yticks=[])
        figure.axes[0].legend()
        figure.savefig(out, dpi=100)
