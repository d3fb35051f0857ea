"""A small convolutional classifier whose inner activations serve as features: for perceptual losses and for FID."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from .layers.residual import ResidualBlock


class Classifier(nn.Module):
    """Images [B, channels, H, W] to logits [B, classes].

    widths: features at each level, the finest first; each level is a residual block, and has half the resolution of the
    one before. ValueError where widths is empty or a size below 1.
    """

    def __init__(self, *, channels: int, classes: int, widths: Sequence[int] = (32, 64, 128)) -> None:
        super().__init__()
        if not widths or min(*widths, channels, classes) < 1:
            raise ValueError(f"channels, classes and widths must be at least 1, got {channels}, {classes}, {widths}")
        self.channels = channels
        self.levels = nn.ModuleList()
        for before, width in zip((channels, *widths), widths, strict=False):
            stride = 1 if len(self.levels) == 0 else 2
            convolution = nn.Conv2d(before, width, 3, stride=stride, padding=1)
            self.levels.append(nn.Sequential(convolution, ResidualBlock(width, width), nn.ReLU()))
        self.output = nn.Linear(widths[-1], classes)

    @classmethod
    def of_state(cls, tensors: Mapping[str, Tensor]) -> Classifier:
        """The classifier whose state dict is `tensors`, which tell its sizes; KeyError or RuntimeError for others."""
        widths: list[int] = []
        while (first := f"levels.{len(widths)}.0.weight") in tensors:
            widths.append(len(tensors[first]))
        channels, classes = tensors["levels.0.0.weight"].shape[1], len(tensors["output.bias"])
        classifier = cls(channels=channels, classes=classes, widths=widths)
        classifier.load_state_dict(tensors)
        return classifier

    def features(self, images: Tensor) -> list[Tensor]:
        """The activations of each level, [B, width, H/2^level, W/2^level], none negative."""
        found = []
        for level in self.levels:
            images = level(images)
            found.append(images)
        return found

    def embedding(self, images: Tensor) -> Tensor:
        """What the last layer sees, [B, widths[-1]]: the last level's activations, averaged over space."""
        return self.features(images)[-1].mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """[B, channels, H, W] in [−1, 1] to logits [B, classes]."""
        return self.output(self.embedding(images))
