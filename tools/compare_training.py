"""Compares what training code gets from its codebase with what it gets after `apply_visgen_to_…`, against float64.

Losses and the network's gradients of DiT and SiT, for every prediction, variance, path and weight; noised images,
velocities and the signal-to-noise ratio of all of diffusers' schedulers. "Farthest" is the largest difference from the
codebase's own code in float64, as a share of the largest value: ours may be as far as theirs, twice, and 1e-6 more.

    python tools/compare_training.py                                # diffusers, which is installed
    python tools/compare_training.py --dit DiT --sit SiT            # folders of their repositories
    python tools/compare_training.py --gaussian guided-diffusion/guided_diffusion   # OpenAI's class, and its copies
    python tools/compare_training.py --dit DiT --sit SiT --time     # how long, with a network that costs nothing
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import itertools
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from visgen_fast.interop import (  # noqa: E402
    _noising,
    apply_visgen_to_diffusers_training,
    apply_visgen_to_dit,
    apply_visgen_to_sit,
)

SHAPE = (6, 3, 8, 8)
Case = tuple[str, Callable[[torch.dtype], list[Tensor]], Callable[[], Any]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dit", type=Path, metavar="FOLDER", help="a checkout of facebookresearch/DiT")
    parser.add_argument("--sit", type=Path, metavar="FOLDER", help="a checkout of willisma/SiT")
    parser.add_argument("--gaussian", type=Path, metavar="FOLDER", help="a package with a gaussian_diffusion.py")
    parser.add_argument("--time", action="store_true", help="measure CPU time on one thread instead")
    given = parser.parse_args()
    if given.time:
        return time_all(given.dit, given.sit)
    warnings.simplefilter("error", UserWarning)  # a case that runs the codebase's own code compares nothing
    _noising.SMALL = 0  # these images are
    agree = True
    print(f"{'case':78} {'ours':>9} {'theirs':>9}")
    for name, run, apply in cases(given.dit, given.sit, given.gaussian):
        exact = run(torch.float64)
        theirs = farthest(run(torch.float32), exact)
        with apply():
            ours = farthest(run(torch.float32), exact)
        fine = ours <= 2 * theirs + 1e-6  # and not NaN
        agree = agree and fine
        print(f"{name:78} {ours:9.1e} {theirs:9.1e}{'' if fine else '  farther'}")
    print("All agree." if agree else "They do not agree.")
    return 0 if agree else 1


def cases(dit: Path | None, sit: Path | None, gaussian: Path | None) -> Iterator[Case]:
    """Each a name, what it computes in a type of numbers, and what puts ours into it."""
    if dit is not None:
        yield from gaussian_cases("DiT", package(dit / "diffusion"))
    if gaussian is not None:
        yield from gaussian_cases(gaussian.name, package(gaussian))
    if sit is not None:
        yield from transport_cases(package(sit / "transport"))
    yield from diffusers_cases()


def package(folder: Path) -> ModuleType:
    """The package in a folder, by a name of its own; torchdiffeq, which only sampling needs, may be missing."""
    if "torchdiffeq" not in sys.modules and importlib.util.find_spec("torchdiffeq") is None:
        sys.modules["torchdiffeq"] = ModuleType("torchdiffeq")
        sys.modules["torchdiffeq"].odeint = None  # type: ignore[attr-defined]
    name = f"compared_{folder.parent.name}_{folder.name}".replace("-", "_")
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Network(nn.Module):
    """A nonlinear function of images, times and labels, with weights."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layer = nn.Conv2d(SHAPE[1], outputs, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(self.layer(x) + 1e-3 * t.to(x.dtype).view(-1, 1, 1, 1) + 0.1 * y.view(-1, 1, 1, 1))


def results(losses: Callable[[Network, Tensor, dict[str, Any]], dict[str, Tensor]], outputs: int, dtype: Any) -> list:
    """Each term, and the gradients of the weights, of six images."""
    network = Network(outputs).to(dtype)
    torch.manual_seed(2)
    x = torch.randn(SHAPE, dtype=torch.float64).clamp(-1, 1).to(dtype)
    terms = losses(network, x, {"y": torch.arange(SHAPE[0])})
    terms["loss"].mean().backward()
    return [*(term.detach() for term in terms.values()), *(weight.grad for weight in network.parameters())]


def gaussian_cases(codebase: str, module: ModuleType) -> Iterator[Case]:
    own = importlib.import_module(f"{module.__name__}.gaussian_diffusion")
    spaced = importlib.import_module(f"{module.__name__}.respace")
    for schedule, mean, variance, loss, respaced in itertools.product(
        ("linear", "squaredcos_cap_v2" if codebase == "DiT" else "cosine"),
        ("EPSILON", "START_X"),
        ("LEARNED_RANGE", "FIXED_LARGE", "FIXED_SMALL"),
        ("MSE", "RESCALED_MSE"),
        (False, True),
    ):
        options = {
            "betas": own.get_named_beta_schedule(schedule, 1000),
            "model_mean_type": own.ModelMeanType[mean],
            "model_var_type": own.ModelVarType[variance],
            "loss_type": own.LossType[loss],
        }
        if codebase != "DiT":
            options["rescale_timesteps"] = respaced
        times = range(0, 1000, 10) if respaced else range(1000)
        diffusion = spaced.SpacedDiffusion(use_timesteps=times, **options)

        def run(dtype: torch.dtype, diffusion: Any = diffusion, learned: bool = variance == "LEARNED_RANGE") -> list:
            last = diffusion.num_timesteps - 1
            t = torch.tensor([0, last, 1, last // 3, 0, last // 2])
            noise = torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).to(dtype)
            return results(
                lambda network, x, told: diffusion.training_losses(network, x, t, told, noise=noise),
                SHAPE[1] * (1 + learned),
                dtype,
            )

        name = " ".join([codebase, schedule, mean, variance, loss, "respaced" if respaced else ""])
        yield name, run, apply_visgen_to_dit
        yield f"{name} (this diffusion)", run, lambda diffusion=diffusion: apply_visgen_to_dit(diffusion)


def transport_cases(module: ModuleType) -> Iterator[Case]:
    for path, prediction, weight in itertools.product(
        ("Linear", "GVP", "VP"), ("velocity", "noise", "score"), (None, "velocity", "likelihood")
    ):
        transport = module.create_transport(path, prediction, weight, 0.05, 0.05)

        def run(dtype: torch.dtype, transport: Any = transport) -> list:
            noise = torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).to(dtype)
            times, draw = torch.tensor([0.06, 0.94, 0.3, 0.5, 0.7, 0.2], dtype=dtype), type(transport).sample
            # The same numbers in every type; of other images, by which ours tries itself, the usual draws.
            transport.sample = lambda x1: (times, noise, x1) if len(x1) == len(times) else draw(transport, x1)
            try:
                return results(lambda network, x, told: transport.training_losses(network, x, told), SHAPE[1], dtype)
            finally:
                del transport.sample

        yield f"SiT {path} {prediction}, weight {weight}", run, apply_visgen_to_sit


def diffusers_cases() -> Iterator[Case]:
    import diffusers
    from diffusers import training_utils

    every = [getattr(diffusers.schedulers, name, None) for name in dir(diffusers.schedulers)]
    for cls in (cls for cls in every if isinstance(cls, type) and type(cls).__name__ != "DummyObject"):
        for method in ("add_noise", "get_velocity", "scale_noise"):
            if not hasattr(cls, method) or not _computes(cls, method):
                continue

            def run(dtype: torch.dtype, cls: Any = cls, method: str = method) -> list:
                return [of_scheduler(cls, method, dtype)]

            yield f"diffusers {cls.__name__}.{method}", run, apply_visgen_to_diffusers_training
    scheduler = diffusers.DDPMScheduler()

    def ratios(dtype: torch.dtype) -> list:
        # Looked up at each call, as scripts do that import it.
        exact = diffusers.DDPMScheduler()
        exact.alphas_cumprod = scheduler.alphas_cumprod.to(dtype)
        return [training_utils.compute_snr(exact, torch.arange(1000)).double().log()]

    yield "diffusers compute_snr, logarithm", ratios, apply_visgen_to_diffusers_training


def of_scheduler(cls: Any, method: str, dtype: torch.dtype) -> Tensor:
    scheduler = cls()
    generator = torch.Generator().manual_seed(3)
    images, noise = (torch.randn(SHAPE, dtype=torch.float64, generator=generator).to(dtype) for _ in range(2))
    if hasattr(scheduler, "set_timesteps") and getattr(scheduler, "timesteps", None) is None:
        scheduler.set_timesteps(20)
    times = getattr(scheduler, "timesteps", torch.arange(1000).flip(0))
    times = times[torch.linspace(0, len(times) - 1, SHAPE[0]).long()]
    if method == "scale_noise":
        return scheduler.scale_noise(images, times, noise)
    return getattr(scheduler, method)(images, noise, times)


def _computes(cls: Any, method: str) -> bool:
    """Whether a scheduler of the class can be made and asked this without more arguments."""
    try:
        of_scheduler(cls, method, torch.float32)
    except Exception as error:
        print(f"left out: {cls.__name__}.{method}: {type(error).__name__} {str(error).splitlines()[:1]}")
        return False
    return True


def time_all(dit: Path | None, sit: Path | None) -> int:
    """Milliseconds of CPU time of a call, and of its backward where it is a loss: the least of fifteen."""
    import diffusers

    torch.set_num_threads(1)
    shape = (16, 3, 256, 256)
    x, noise, t = torch.randn(shape), torch.randn(shape), torch.randint(0, 1000, shape[:1])
    output = torch.randn(16, 6, 256, 256, requires_grad=True)
    calls: list[tuple[str, Callable[[], Any], Callable[[], Any]]] = []
    if dit is not None:
        diffusion = package(dit / "diffusion").create_diffusion("")
        losses = lambda: diffusion.training_losses(lambda *_: output, x, t)["loss"].mean().backward()  # noqa: E731
        calls.append(("DiT training_losses and backward", losses, apply_visgen_to_dit))
    if sit is not None:
        transport = package(sit / "transport").create_transport()
        of_sit = lambda: transport.training_losses(lambda *_: output[:, :3], x)["loss"].mean().backward()  # noqa: E731
        calls.append(("SiT training_losses and backward", of_sit, apply_visgen_to_sit))
    ddpm, flow = diffusers.DDPMScheduler(), diffusers.FlowMatchEulerDiscreteScheduler()
    calls.append(("DDPMScheduler.add_noise", lambda: ddpm.add_noise(x, noise, t), apply_visgen_to_diffusers_training))
    times = flow.timesteps[t]
    calls.append(
        ("FlowMatch….scale_noise", lambda: flow.scale_noise(x, times, noise), apply_visgen_to_diffusers_training)
    )
    print(f"{'float32 16×3×256×256, one thread':40} {'theirs, ms':>10} {'ours, ms':>10}")
    for name, call, apply in [*calls, ("drawing the noise", lambda: torch.randn_like(x), contextlib.nullcontext)]:
        theirs = least(call)
        with apply():
            print(f"{name:40} {theirs:10.1f} {least(call):10.1f}")
    return 0


def least(call: Callable[[], Any]) -> float:
    call()
    taken = []
    for _ in range(15):
        begun = time.process_time()
        call()
        taken.append(1000 * (time.process_time() - begun))
    return min(taken)


def farthest(found: list[Tensor], exact: list[Tensor]) -> float:
    """The largest difference, over the largest value, of any of the tensors."""
    gaps = [
        (one.double() - other.double()).abs().max() / other.double().abs().max().clamp_min(1e-30)
        for one, other in zip(found, exact, strict=True)
    ]
    return torch.stack(gaps).max().item()  # NaN where one is


if __name__ == "__main__":
    sys.exit(main())
