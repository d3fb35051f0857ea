"""`visgen-fast demo`: trains a small model on images that are at hand, two minutes on two CPU cores."""

from __future__ import annotations

import shlex

from .train import train

# With what their presets leave, both show what they are in about 150 seconds of one core's work.
_TRAINING = {
    "fashion-mnist": "--size 20 --patch-size 4 --width 128 --depth 4 --steps 1000 --batch-size 64 --learning-rate 2e-3 "
    "--warmup-steps 50 --lr-schedule cosine --ema-decay 0.99",
    "digits": "--size 16 --patch-size 4 --ema-decay 0.995",
}


def demo(arguments: list[str]) -> int:
    """Trains on Fashion-MNIST where it is installed, else on digits; `arguments` are further ones of `train`."""
    from ..data.idx import FASHION_MNIST_FOLDER

    dataset = "fashion-mnist" if FASHION_MNIST_FOLDER.is_dir() else "digits"
    command = shlex.split(f"rectified-flow --dataset {dataset} {_TRAINING[dataset]} --out runs/demo") + arguments
    print(f"visgen-fast train {shlex.join(command)}", flush=True)
    return train(command)
