"""What latents are worth downstream: how many images a linear classifier of them gets right."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

# Of an image; a grid with more is averaged down.
_MOST_FEATURES = 4096
_MOST_ITERATIONS = 300
_Z = 1.959964  # of a 95% interval


@dataclass(frozen=True)
class Probe:
    """A linear classifier's share of right answers on images that it never saw, with its 95% interval.

    chance: the share of the most frequent class among them; features: of an image; fitted, measured: numbers of images.
    """

    accuracy: float
    low: float
    high: float
    chance: float
    features: int
    fitted: int
    measured: int


def features_of(latents: Tensor) -> Tensor:
    """Latents [B, D, h, w], or [B, D], as features float32 [B, F]: all of them, or averages where there are many."""
    if latents.dim() == 4 and latents[0].numel() > _MOST_FEATURES:
        channels, height, width = latents.shape[1:]
        shrunk = math.sqrt(_MOST_FEATURES / latents[0].numel())
        latents = F.adaptive_avg_pool2d(latents, (max(1, int(height * shrunk)), max(1, int(width * shrunk))))
    return latents.flatten(1).float().cpu()


def linear_probe(features: Tensor, labels: Tensor, unseen: Tensor, unseen_labels: Tensor) -> Probe:
    """Fits logistic regression to features [N, F] of labels int64 [N], and measures it on unseen ones.

    Features are brought to mean 0 and deviation 1 first; the weights are decayed a little (C = 0.1 of scikit-learn).
    The interval is Wilson's. ValueError unless there are two classes.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(labels.unique()) < 2:
        raise ValueError("a probe needs images of at least two classes")
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=_MOST_ITERATIONS))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the bound on its time
        classifier.fit(features.numpy(), labels.numpy())
    right = torch.from_numpy(classifier.predict(unseen.numpy())) == unseen_labels
    count, share = len(right), float(right.double().mean())
    centre = (share + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    half = _Z / (1 + _Z**2 / count) * math.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
    chance = float(torch.bincount(unseen_labels).max()) / count
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return Probe(share, low, high, chance, features.shape[1], len(labels), count)
