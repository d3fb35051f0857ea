"""Compares our samplers with k-diffusion's published ones, step by step, in float64.

Each runs the same nonlinear network from the same noise, on levels that end at 0 and on levels that don't; the states
before every step and the last one must agree to 1e-9 of their size. Of the package only its file sampling.py is loaded,
and of what that imports only torch, numpy and scipy are needed. The last column compares each function with itself
after `apply_visgen_to_k_diffusion`.

    pip install --no-deps k-diffusion && python tools/compare_k_diffusion.py
    python tools/compare_k_diffusion.py --source k_diffusion-0.1.1.post1-py3-none-any.whl   # or its sampling.py

Deliberate differences, which the comparison leaves out:
- k-diffusion draws noise in every step of euler, heun and dpm_2, even where none is added; ours draws what it adds.
- Its dpmpp_2m_sde and dpmpp_3m_sde cannot take a single step that ends at 0 (UnboundLocalError); ours can.
- Its noise depends on the batch unless seeds are listed; ours is a function of a sample's seed.
"""

from __future__ import annotations

import argparse
import importlib.util
import inspect
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from visgen_fast import ops  # noqa: E402
from visgen_fast.diffusion import Plan, Schedule, plan  # noqa: E402
from visgen_fast.interop import apply_visgen_to_k_diffusion  # noqa: E402

CHURN = {"churn": 4.0, "churn_min": 0.1, "churn_max": 5.0, "churn_noise": 1.003}
THEIR_CHURN = {"s_churn": 4.0, "s_tmin": 0.1, "s_tmax": 5.0, "s_noise": 1.003}
CASES: list[tuple[str, dict[str, Any], str, dict[str, Any]]] = [
    ("euler", {}, "sample_euler", {}),
    ("euler", CHURN, "sample_euler", THEIR_CHURN),
    ("heun", {}, "sample_heun", {}),
    ("heun", CHURN, "sample_heun", THEIR_CHURN),
    ("dpm2", {}, "sample_dpm_2", {}),
    ("euler-ancestral", {"eta": 1.0}, "sample_euler_ancestral", {"eta": 1.0}),
    ("euler-ancestral", {"eta": 0.4}, "sample_euler_ancestral", {"eta": 0.4}),
    ("dpm++2s", {"eta": 1.0}, "sample_dpmpp_2s_ancestral", {"eta": 1.0}),
    ("dpm++2s", {"eta": 0.0}, "sample_dpmpp_2s_ancestral", {"eta": 0.0}),
    ("dpm++sde", {}, "sample_dpmpp_sde", {}),
    ("dpm++sde", {"eta": 0.5, "fraction": 0.3}, "sample_dpmpp_sde", {"eta": 0.5, "r": 0.3}),
    ("dpm++2m", {"lower_order_final": False}, "sample_dpmpp_2m", {}),
    ("dpm++2m-sde", {}, "sample_dpmpp_2m_sde", {}),
    ("dpm++2m-sde", {"eta": 0.3}, "sample_dpmpp_2m_sde", {"eta": 0.3}),
    ("dpm++2m-sde", {"variant": "heun"}, "sample_dpmpp_2m_sde", {"solver_type": "heun"}),
    ("dpm++3m-sde", {}, "sample_dpmpp_3m_sde", {}),
    ("dpm++3m-sde", {"eta": 0.0}, "sample_dpmpp_3m_sde", {"eta": 0.0}),
    ("dpm++3m", {}, "sample_dpmpp_3m_sde", {"eta": 0.0}),
    ("adams-bashforth", {"order": 4}, "sample_lms", {"order": 4}),
    ("adams-bashforth", {"order": 2}, "sample_lms", {"order": 2}),
]
TOLERANCE = 1e-9
MOST_NOISE = 80.0


class Ratios(Schedule):
    """k-diffusion's own path: x plus noise of σ = 80·t."""

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return MOST_NOISE * t

    def time(self, log_snr: Tensor) -> Tensor:
        return torch.exp(-log_snr / 2) / MOST_NOISE


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, metavar="FILE", help="k-diffusion's wheel, or its sampling.py")
    text = source(parser.parse_args().source)
    if isinstance(text, str):
        print(text, file=sys.stderr)
        return 2
    theirs, worst = loaded(text[0]), 0.0
    print(f"{'ours':40} {'k-diffusion':28} {'ends at':>8} {'difference':>11} {'applied':>11}")
    for sigmas in levels():
        for name, options, function, their_options in CASES:
            found = difference(theirs, sigmas, name, options, function, their_options)
            applied = difference_applied(theirs, sigmas, function, their_options)
            worst = max(worst, found, applied)
            given = " ".join([name, *(f"{key}={value}" for key, value in options.items() if options is not CHURN)])
            churned = " churned" if options is CHURN else ""
            print(f"{given + churned:40} {function:28} {sigmas[-1].item():8g} {found:11.1e} {applied:11.1e}")
    agree = worst <= TOLERANCE
    print(f"{'All agree' if agree else 'They do not agree'} to {TOLERANCE:g}: the largest difference is {worst:.1e}.")
    return 0 if agree else 1


def source(given: Path | None) -> tuple[str] | str:
    """(the text of sampling.py,), or a sentence that says what is missing."""
    if given is None:
        package = importlib.util.find_spec("k_diffusion")
        if package is None or not package.submodule_search_locations:
            return "k-diffusion is missing: pip install --no-deps k-diffusion, or name its wheel with --source"
        given = Path(package.submodule_search_locations[0]) / "sampling.py"
    if importlib.util.find_spec("scipy") is None:
        return "scipy is missing, which k-diffusion's sample_lms integrates with: pip install scipy"
    if not given.is_file():
        return f"--source must be k-diffusion's wheel or its sampling.py, and {given} is no file"
    if given.suffix == ".whl":
        return (zipfile.ZipFile(given).read("k_diffusion/sampling.py").decode(),)
    return (given.read_text(),)


def loaded(text: str) -> ModuleType:
    """k-diffusion's sampling.py as a module, without what it imports for other purposes than these."""
    names = ("torchdiffeq", "torchsde", "tqdm", "tqdm.auto", "k_diffusion", "k_diffusion.utils")
    stubs = {name: ModuleType(name) for name in names}
    stubs["torchdiffeq"].odeint = None
    stubs["tqdm.auto"].trange, stubs["tqdm.auto"].tqdm = lambda count, disable: range(count), None
    stubs["k_diffusion"].utils = stubs["k_diffusion.utils"]
    stubs["k_diffusion.utils"].append_dims = lambda x, dims: x[(..., *[None] * (dims - x.dim()))]
    module = ModuleType("k_diffusion.sampling")
    module.__package__ = "k_diffusion"
    before = {name: sys.modules.get(name) for name in names}
    sys.modules.update(stubs)
    try:
        exec(compile(text, "sampling.py", "exec"), module.__dict__)  # noqa: S102
    finally:
        for name, was in before.items():
            sys.modules.pop(name) if was is None else sys.modules.__setitem__(name, was)
    return module


def levels() -> Iterator[Tensor]:
    """σ of ten steps: falling to 0, and to 0.05."""
    ratios = torch.linspace(20.0 ** (1 / 7), 0.05 ** (1 / 7), 11, dtype=torch.float64) ** 7
    yield torch.cat((ratios[:-1], torch.zeros(1, dtype=torch.float64)))
    yield ratios


def network(x: Tensor, sigma: Tensor) -> Tensor:
    level = sigma.view(-1, *[1] * (x.dim() - 1))
    return torch.tanh(x / (1 + level)) + 0.2 * torch.sin(3 * x / (1 + level) + level)


def difference(
    theirs: ModuleType, sigmas: Tensor, name: str, options: dict[str, Any], function: str, their_options: dict[str, Any]
) -> float:
    """The largest difference of two states, over the largest value of theirs."""
    expected, drawn, takes_noise = published(theirs, sigmas, function, their_options)
    steps = plan(name, Ratios(), "x", times=sigmas / MOST_NOISE, **options)
    # Churn rides on the row before: the first one is in their first state, and every step has drawn one.
    noise = iter(drawn) if takes_noise else None
    found = ours(steps, expected[0], lambda step: drawn[step + 1] if noise is None else next(noise))
    return gap(found, expected)


def difference_applied(theirs: ModuleType, sigmas: Tensor, function: str, options: dict[str, Any]) -> float:
    """The same for k-diffusion's own function and what takes its place."""
    expected = published(theirs, sigmas, function, options)[0]
    with apply_visgen_to_k_diffusion(theirs):
        return gap(published(theirs, sigmas, function, options)[0], expected)


def gap(found: Tensor, expected: Tensor) -> float:
    gaps, sizes = (some.abs().flatten(1).amax(1) for some in (found - expected, expected))
    return (gaps / sizes).max().item()


def published(
    theirs: ModuleType, sigmas: Tensor, function: str, options: dict[str, Any]
) -> tuple[Tensor, list[Tensor], bool]:
    """The states, the noise drawn, and whether a noise sampler drew it."""
    generator, drawn = torch.Generator().manual_seed(0), []

    def draw(*_: Any) -> Tensor:
        drawn.append(torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=generator))
        return drawn[-1]

    begun, states = sigmas[0] * torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=generator), []
    theirs.torch = SimpleNamespace(**{**vars(torch), "randn_like": draw})
    takes_noise = "noise_sampler" in inspect.signature(getattr(theirs, function)).parameters
    ended = getattr(theirs, function)(
        network, begun, sigmas, callback=lambda at: states.append(at["x"]), **options,
        **({"noise_sampler": draw} if takes_noise else {}),
    )  # fmt: skip
    return torch.stack([*states, ended]), drawn, takes_noise


def ours(steps: Plan, x: Tensor, noise: Callable[[int], Tensor]) -> Tensor:
    """The state before every step, and the last one."""
    states, slots = [x], tuple(torch.empty_like(x) for _ in range(steps.slots))
    for row in range(steps.calls):
        step = steps.step_of_row[row]
        output = network(x, MOST_NOISE * steps.times[row].expand(len(x)))
        z = noise(step) if steps.table[row, 15] else None
        x, slots = ops.solver_step(x, output, steps.table, row, slots=slots, noise=z)
        if row + 1 == steps.calls or steps.step_of_row[row + 1] != step:
            states.append(x)
    return torch.stack(states)


if __name__ == "__main__":
    sys.exit(main())
