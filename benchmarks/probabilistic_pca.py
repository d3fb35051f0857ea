"""The likelihood of images by probabilistic PCA, in closed form: the best that a linear autoencoder can reach.

Tipping and Bishop, "Probabilistic principal component analysis", 1999; that the maximum of a linear variational
autoencoder's bound is this likelihood: Lucas et al., "Don't blame the ELBO!", 2019.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def bits_per_value(train: Tensor, test: Tensor, latents: int) -> float:
    """−log₂ p of a value of `test` [M, D], by probabilistic PCA with so many latents, fitted to `train` [N, D].

    The covariance is WWᵀ + σ²I: the largest eigenvalues λ of that of `train` stay, σ² is the mean of all others.
    """
    train, test = train.double(), test.double()
    mean, dimensions = train.mean(0), train.shape[1]
    values, vectors = torch.linalg.eigh((train - mean).T @ (train - mean) / len(train))
    values, vectors = values.flip(0), vectors.flip(1)
    noise = values[latents:].mean()
    along = (test - mean) @ vectors[:, :latents]
    rest = (test - mean).square().sum(1) - along.square().sum(1)
    log_determinant = values[:latents].log().sum() + (dimensions - latents) * noise.log()
    distance = (along.square() / values[:latents]).sum(1) + rest / noise
    nats = 0.5 * (dimensions * math.log(2 * math.pi) + log_determinant + distance)
    return float(nats.mean()) / (dimensions * math.log(2))
