"""How far images that are drawn together are from the same drawn alone: `python -m benchmarks.batch_differences`.

Noise and the sampler's arithmetic do not depend on the batch; a network's matrix products do, in their last bits. This
draws images of a DiT-S/2 with random weights, or of a run's model, in both ways and prints how they differ.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from visgen_fast import ops
from visgen_fast.diffusion import ClassifierFree, RectifiedFlow, plan, sample
from visgen_fast.models.dit import DiT
from visgen_fast.recipes.runs import load_system


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the differences of some samplers, and that they are 0 for a network that does not know the batch."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.batch_differences", description=__doc__.splitlines()[0])
    for name, default in {"images": 8, "steps": 50}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--run", type=Path, metavar="DIR", help="a run of the recipe rectified-flow")
    parser.add_argument("--samplers", nargs="+", default=["euler"])
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    name, model, shape, null = _model(options.run)
    model = model.to(options.device).eval()
    for sampler in options.samplers:
        for called, network in ((name, model), ("a network of one operation", _elementwise)):
            found = differences(network, shape, null, sampler, options.images, options.steps, options.device)
            print(
                f"{called}, {sampler}, {options.steps} steps, {options.images} images of {list(shape)}, float32: "
                f"largest difference {found[0]:.2g}, root of the mean square {found[1]:.2g}, "
                f"of images with standard deviation {found[2]:.2g}"
            )
    return 0


def differences(
    network: Callable[..., Tensor],
    shape: tuple[int, ...],
    null: int,
    sampler: str,
    images: int,
    steps: int,
    device: str,
) -> tuple[float, float, float]:
    """(largest, root of the mean square, standard deviation of the images) of images drawn together and alone."""
    made, guidance = plan(sampler, RectifiedFlow(), "velocity", steps=steps), ClassifierFree(2.0, null)
    labels, seeds = torch.arange(images) % null, ops.derive_seeds(0, torch.arange(images))

    def draw(part: slice) -> Tensor:
        return sample(network, made, shape, labels[part], seeds[part], guidance=guidance, device=device)

    together = draw(slice(None))
    alone = torch.cat([draw(slice(i, i + 1)) for i in range(images)])
    apart = (together - alone).double()
    return apart.abs().max().item(), apart.square().mean().sqrt().item(), together.std().item()


def _model(run: Path | None) -> tuple[str, nn.Module, tuple[int, ...], int]:
    """A name, a network, the shape of its images, and its null label."""
    if run is not None:
        system = load_system(run)
        return f"the model of {run.resolve().name}", system.prior.model, system.shape, system.condition.null_label
    torch.manual_seed(0)
    model = DiT(image_size=32, channels=4, patch_size=2, width=384, depth=12, heads=6, classes=1000)
    for parameter in model.parameters():  # gates and output begin at 0, which would make it the zero function
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    return "DiT-S/2, random weights", model, (4, 32, 32), model.null_label


def _elementwise(x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    shape = -1, *[1] * (x.dim() - 1)
    return torch.sin(x + labels.view(shape)) - t.view(shape)


if __name__ == "__main__":
    raise SystemExit(main())
