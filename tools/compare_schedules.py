"""Compares our schedules, times and preconditioning with those of the package diffusers, to 1e-6.

    pip install diffusers
    python tools/compare_schedules.py

Its Laplace schedule is left out: it takes the root of ᾱ for ᾱ. Its "sigmoid" is `DiscreteVP.sigmoid`.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from visgen_fast.diffusion import (  # noqa: E402
    CosMapTimes,
    DiffusionObjective,
    DiscreteVP,
    EDMWeight,
    KarrasVE,
    ModeTimes,
    RectifiedFlow,
    Shifted,
    UniformTimes,
    edm,
    to_x,
)

TOLERANCE = 1e-6

Pair = tuple[str, Tensor, Tensor]


def pairs() -> Iterator[Pair]:
    """What is compared: a name, theirs and ours."""
    yield from discrete()
    yield from of_edm()
    yield from of_stable_diffusion_3()


def discrete() -> Iterator[Pair]:
    from diffusers import DDIMScheduler, DDPMScheduler
    from diffusers.training_utils import compute_snr

    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    options = {
        "linear": (DiscreteVP.linear(), {"beta_start": 1e-4, "beta_end": 0.02}),
        "scaled_linear": (DiscreteVP.scaled_linear(), {"beta_start": 0.00085, "beta_end": 0.012}),
        "squaredcos_cap_v2": (DiscreteVP.cosine(), {}),
    }
    for name, (ours, betas) in options.items():
        for zero in (False, True):
            theirs = DDIMScheduler(1000, beta_schedule=name, rescale_betas_zero_snr=zero, **betas)
            schedule = ours.with_zero_terminal_snr() if zero else ours
            label = f"{name}{', zero terminal SNR' if zero else ''}"
            yield f"ᾱ of {label}", theirs.alphas_cumprod, schedule.alpha(t) ** 2
        # Theirs is the running product of float32 numbers, whose rounding a quotient with 1 − ᾱ enlarges.
        exact = compute_snr(SimpleNamespace(alphas_cumprod=ours.alphas_cumprod), torch.arange(1000))
        yield f"SNR of {name}", torch.ones(1000), ours.log_snr(t).exp() / exact
    theirs = DDPMScheduler(1000, beta_schedule="sigmoid")
    yield "ᾱ of sigmoid", theirs.alphas_cumprod, DiscreteVP.sigmoid().alpha(t) ** 2


def of_edm() -> Iterator[Pair]:
    from diffusers import EDMEulerScheduler

    theirs = EDMEulerScheduler()
    theirs.set_timesteps(20)
    t = 1 - torch.arange(20, dtype=torch.float64) / 19
    yield "σ of Karras et al.", torch.ones(20), KarrasVE().sigma(t) / theirs.sigmas[:-1]
    sample, output = torch.randn(2, 20, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64).unbind()
    sigma, one, kind = KarrasVE().sigma(t), torch.ones(20, dtype=torch.float64), edm(0.5)
    x_hat = [theirs.precondition_outputs(sample[i], output[i], sigma[i]) for i in range(20)]
    yield "x̂ of EDM's network", torch.stack(x_hat), to_x(output, sample, one, sigma, kind)
    read = [theirs.precondition_inputs(sample[i], sigma[i]) for i in range(20)]
    yield "what EDM's network reads", torch.stack(read), kind.scale_input(sample, one, sigma)
    weight = DiffusionObjective(KarrasVE(), "x", UniformTimes(), weight=EDMWeight()).sample_weights(t)
    yield "weight of EDM, over its formula", torch.ones(20), weight * (sigma * 0.5) ** 2 / (sigma**2 + 0.25)


def of_stable_diffusion_3() -> Iterator[Pair]:
    from diffusers import FlowMatchEulerDiscreteScheduler
    from diffusers.training_utils import compute_density_for_timestep_sampling, compute_loss_weighting_for_sd3

    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    theirs = FlowMatchEulerDiscreteScheduler(shift=3.0)
    yield "σ of SD3's shift", theirs.sigmas.flip(0), Shifted(RectifiedFlow(), 1, 3).sigma(t)
    drawn = [torch.Generator().manual_seed(1) for _ in range(2)]
    mode = compute_density_for_timestep_sampling("mode", 1000, mode_scale=1.29, generator=drawn[0])
    yield "mode sampling", mode, ModeTimes(1.29).quantile(1 - torch.rand(1000, generator=drawn[1]))
    yield "cosmap density", compute_loss_weighting_for_sd3("cosmap", t), CosMapTimes().density(t)


def main() -> int:
    """Prints the differences; 1 where one is beyond the tolerance, 2 where diffusers is missing."""
    if importlib.util.find_spec("diffusers") is None:
        print("diffusers is missing: pip install diffusers", file=sys.stderr)
        return 2
    failed = False
    for name, theirs, ours in pairs():
        difference = (theirs.double() - ours.double()).abs().max().item()
        failed |= not difference < TOLERANCE
        print(f"{name:<42}{difference:9.1e}{'' if difference < TOLERANCE else '  beyond ' + str(TOLERANCE)}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
