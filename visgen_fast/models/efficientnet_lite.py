"""EfficientNet-Lite0, a classifier of ImageNet, as a frozen network of features.

Tan and Le, "EfficientNet: rethinking model scaling for convolutional neural networks", 2019, table 1; the Lite form of
its authors has no squeeze-and-excitation, and ReLU6 for swish.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F

# Of each stage: expansion, features, blocks, side of the kernel, stride.
_STAGES = (
    *((1, 16, 1, 3, 1), (6, 24, 2, 3, 2), (6, 40, 2, 5, 2), (6, 80, 3, 3, 2)),
    *((6, 112, 3, 5, 1), (6, 192, 4, 5, 2), (6, 320, 1, 3, 1)),
)
_STEM, _HEAD, _CLASSES = 32, 1280, 1000
_SIDE = 224  # of the images that it was trained on


class EfficientNetLite(nn.Module):
    """Images [B, 1 or 3, H, W] in [−1, 1] to features; its weights are those of a trained one (`of_state`)."""

    channels = 3

    def __init__(self) -> None:
        super().__init__()
        self.stem = _Convolution(3, _STEM, 3, stride=2)
        stages, inputs = [], _STEM
        for expansion, outputs, count, kernel, stride in _STAGES:
            blocks: list[nn.Module] = []
            for place in range(count):
                blocks.append(_Block(inputs, outputs, expansion, kernel, stride if place == 0 else 1))
                inputs = outputs
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)
        self.head = _Convolution(inputs, _HEAD, 1)
        self.output = nn.Linear(_HEAD, _CLASSES)

    @classmethod
    def of_state(cls, tensors: Mapping[str, Tensor]) -> EfficientNetLite:
        """The network of a state dict, its own or another's in the order of the layers; RuntimeError for others."""
        network = cls()
        names = network.state_dict().keys()
        if len(names) != len(tensors):
            raise RuntimeError(f"EfficientNet-Lite0 has {len(names)} tensors, got {len(tensors)}")
        own = names == tensors.keys()
        network.load_state_dict(tensors if own else dict(zip(names, tensors.values(), strict=True)))
        return network

    def features(self, images: Tensor) -> list[Tensor]:
        """The features of the last block of each resolution: 16 at half, 24, 40, 112, and 320 at a 32nd."""
        x, found = F.relu6(self.stem(images.expand(-1, 3, -1, -1))), []
        for place, stage in enumerate(self.stages):
            if place and _STAGES[place][-1] == 2:
                found.append(x)
            x = stage(x)
        return [*found, x]

    def embedding(self, images: Tensor) -> Tensor:
        """What the classifier's last layer sees of images at 224×224 pixels, [B, 1280]."""
        shown = F.interpolate(images, (_SIDE, _SIDE), mode="bilinear", antialias=True)
        return F.relu6(self.head(self.features(shown)[-1])).mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """[B, 1 or 3, H, W] to logits [B, 1000]."""
        return self.output(self.embedding(images))


class _Convolution(nn.Module):
    """A convolution without bias, and batch normalisation. As in TensorFlow, an odd row of padding is the last one."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.convolution = nn.Conv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        padding: list[int] = []
        for side in (x.shape[3], x.shape[2]):
            missing = max((-(-side // self.stride) - 1) * self.stride + self.kernel - side, 0)
            padding += [missing // 2, missing - missing // 2]
        return self.norm(self.convolution(F.pad(x, padding)))


class _Block(nn.Module):
    """Wider, along each feature, narrower; beside its input where that has the same shape."""

    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        width = inputs * expansion
        self.widen = nn.Identity() if expansion == 1 else _Convolution(inputs, width, 1)
        self.along = _Convolution(width, width, kernel, stride=stride, groups=width)
        self.narrow = _Convolution(width, outputs, 1)
        self.beside = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        wide = x if isinstance(self.widen, nn.Identity) else F.relu6(self.widen(x))
        narrow = self.narrow(F.relu6(self.along(wide)))
        return x + narrow if self.beside else narrow
