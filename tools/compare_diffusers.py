"""Compares our schedulers with diffusers' own, state by state, and writes the table of what was compared.

Each scheduler runs three times from the same noise, with the same draws: ours in float32, diffusers' in float32, and
diffusers' formulas in float64 from the same noise levels. Ours must stay within 1e-5 of the last, as a share of the
largest value of each state, or within twice the distance that diffusers' own float32 has. Where diffusers' is not
finite, ours must be finite or refused with a ValueError.

    python tools/compare_diffusers.py              # a summary, and each trajectory that is not as above
    python tools/compare_diffusers.py --all        # each trajectory
    python tools/compare_diffusers.py UniPC --all  # of the schedulers with this in their names

Deliberate differences:
- The coefficients are computed in float64 from diffusers' levels, and exponentials without cancellation.
- 16-bit states are computed in float32 and rounded once; float64 ones are not rounded to float32 on the way.
- A final σ of 0 is reached by the limit of the formula where diffusers' is NaN or infinite: UniPC with bh1, without
  lower_order_final, and where the noise is what it integrates.
- DDPM's "fixed_large_log" is the square root of β; diffusers takes the square root of the logarithm, NaN.
- DDIM's share of the old noise is never the square root of a rounding error below 0.
- Levels that repeat add nothing to a multistep method's history; diffusers divides by their distance, 0.
- Equal timesteps of different σ are told apart where the timestep is one of `timesteps`; diffusers begins with the
  second of them and runs over the end.
- A prediction of noise where no signal is left, and a flow's shift_terminal with one step, are refused in a sentence.
"""

from __future__ import annotations

import argparse
import inspect
import itertools
import logging
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from visgen_fast.interop import diffusers as ours  # noqa: E402

TOLERANCE = 1e-5
PREDICTIONS = ("epsilon", "sample", "v_prediction")
SPACINGS = ("linspace", "leading", "trailing")
SHAPE = (2, 3, 6, 6)


@dataclass(frozen=True)
class Trajectory:
    """A scheduler's name, its configuration, how its steps are called, and where it begins."""

    scheduler: str
    config: dict[str, Any]
    step: dict[str, Any] = field(default_factory=dict)
    steps: int = 12
    start: int = 0
    levels: dict[str, Any] = field(default_factory=dict)  # of set_timesteps, in the place of a number of steps

    @property
    def name(self) -> str:
        given = {**self.config, **self.step, **self.levels, **({"from": self.start} if self.start else {})}
        return " ".join([self.scheduler, *(f"{key}={value}" for key, value in given.items()), f"steps={self.steps}"])


def options(**choices: tuple[Any, ...]) -> Iterator[dict[str, Any]]:
    """All combinations of the choices."""
    for values in itertools.product(*choices.values()):
        yield dict(zip(choices, values, strict=True))


def trajectories() -> Iterator[Trajectory]:
    yield from multistep()
    yield from by_sigmas()
    yield from by_timesteps()
    yield from long_or_repeated()


SIGMAS: tuple[dict[str, Any], ...] = (
    {}, {"use_karras_sigmas": True}, {"use_exponential_sigmas": True}, {"use_beta_sigmas": True},
)  # fmt: skip


def multistep() -> Iterator[Trajectory]:
    name = "DPMSolverMultistepScheduler"
    kinds = ("dpmsolver++", "sde-dpmsolver++", "dpmsolver", "sde-dpmsolver")
    for config in options(solver_order=(1, 2, 3), algorithm_type=kinds, solver_type=("midpoint", "heun"),
                          prediction_type=PREDICTIONS, timestep_spacing=SPACINGS):  # fmt: skip
        if config["algorithm_type"] == "sde-dpmsolver" and config["solver_order"] == 3:
            continue  # diffusers has no formula for it either
        ends = {} if "++" in config["algorithm_type"] else {"final_sigmas_type": "sigma_min"}
        yield Trajectory(name, config | ends)
        yield Trajectory(name, config | ends, steps=20, start=7)
    for config in options(solver_order=(2, 3), final_sigmas_type=("zero", "sigma_min"), euler_at_final=(False, True),
                          lower_order_final=(False, True)):  # fmt: skip
        yield from (Trajectory(name, config, steps=steps) for steps in (1, 2, 3, 12, 20))
    spacings = (*SIGMAS, {"use_lu_lambdas": True}, {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"})
    for order, spaced in itertools.product((1, 2, 3), spacings):
        yield Trajectory(name, {"solver_order": order} | spaced)
        yield Trajectory(name, {"solver_order": order, "beta_schedule": "scaled_linear"} | spaced)
        yield Trajectory(name, {"solver_order": order, "algorithm_type": "sde-dpmsolver++"} | spaced)
    for kind in ("dpmsolver++", "dpmsolver"):
        ends = "zero" if "++" in kind else "sigma_min"
        yield Trajectory(name, {"thresholding": True, "sample_max_value": 1.5, "algorithm_type": kind,
                                "final_sigmas_type": ends})  # fmt: skip
    flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}
    yield from (Trajectory(name, {"solver_order": order} | flow) for order in (1, 2, 3))
    yield Trajectory(name, {"variance_type": "learned_range"})
    yield Trajectory(name, {"beta_schedule": "squaredcos_cap_v2"}, levels={"timesteps": [999, 800, 500, 200, 90, 3]})

    name = "UniPCMultistepScheduler"
    for config in options(solver_order=(1, 2, 3), solver_type=("bh1", "bh2"), predict_x0=(True, False),
                          prediction_type=PREDICTIONS, final_sigmas_type=("zero", "sigma_min")):  # fmt: skip
        yield Trajectory(name, config)
        yield Trajectory(name, config, steps=20, start=7)
    for config in options(solver_order=(1, 2, 3), lower_order_final=(True, False), timestep_spacing=SPACINGS):
        yield from (Trajectory(name, config, steps=steps) for steps in (1, 2, 3, 12, 50))
    for order, spaced in itertools.product((1, 2, 3), spacings):
        if "use_lu_lambdas" not in spaced:
            yield Trajectory(name, {"solver_order": order} | spaced)
            yield Trajectory(name, {"solver_order": order, "disable_corrector": [0, 1, 5]} | spaced)
    yield from (Trajectory(name, {"solver_order": order} | flow) for order in (1, 2, 3))
    yield Trajectory(name, {"shift_terminal": 0.1} | flow)
    yield Trajectory(name, {"thresholding": True, "sample_max_value": 1.5, "solver_order": 3})
    yield from (Trajectory(name, {"shift_terminal": 0.1} | flow, steps=steps) for steps in (1, 999))


def long_or_repeated() -> Iterator[Trajectory]:
    """Hundreds of steps, and levels whose timesteps are equal numbers."""
    for name in ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler"):
        for order, steps in itertools.product((2, 3), (200, 999)):
            yield Trajectory(name, {"solver_order": order}, steps=steps)
        for spaced in ({"use_karras_sigmas": True}, {"use_lu_lambdas": True}, {"use_exponential_sigmas": True}):
            if name.startswith("DPM") or "use_lu_lambdas" not in spaced:
                yield Trajectory(name, {"beta_schedule": "squaredcos_cap_v2"} | spaced, steps=25)
    yield Trajectory("DPMSolverMultistepScheduler", {"solver_order": 3, "algorithm_type": "sde-dpmsolver++"}, steps=200)
    for name in ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "DDPMScheduler", "DDIMScheduler"):
        yield Trajectory(name, {}, steps=200)
    yield Trajectory("FlowMatchEulerDiscreteScheduler", {"shift_terminal": 0.1}, steps=1)


def by_sigmas() -> Iterator[Trajectory]:
    churn = {"s_churn": 5.0, "s_tmin": 0.3, "s_tmax": 10.0, "s_noise": 1.01}
    zero = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
    for start, spaced in itertools.product((0, 4), (*SIGMAS, zero)):
        for config in options(prediction_type=PREDICTIONS, timestep_spacing=SPACINGS):
            yield Trajectory("EulerDiscreteScheduler", config | spaced, start=start)
            yield Trajectory("EulerDiscreteScheduler", config | spaced, churn, start=start)
            if not spaced and config["prediction_type"] != "sample":
                yield Trajectory("EulerAncestralDiscreteScheduler", config, start=start)
            if "rescale_betas_zero_snr" not in spaced:
                yield Trajectory("HeunDiscreteScheduler", config | spaced, start=start)
                yield Trajectory("HeunDiscreteScheduler", config | spaced | {"clip_sample": True}, start=start)
    yield Trajectory("EulerAncestralDiscreteScheduler", zero)
    for end in ("zero", "sigma_min"):
        yield Trajectory("EulerDiscreteScheduler", {"final_sigmas_type": end, "interpolation_type": "log_linear"})
    yield Trajectory("EulerDiscreteScheduler", {}, levels={"sigmas": [14.6, 6.3, 2.0, 0.8, 0.2, 0.0]})
    yield Trajectory("HeunDiscreteScheduler", {"beta_schedule": "exp"})
    for stochastic, shifted in itertools.product((False, True), (
        *SIGMAS, {"shift": 3.0}, {"shift_terminal": 0.1}, {"invert_sigmas": True},
    )):  # fmt: skip
        yield Trajectory("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": stochastic} | shifted)
        yield Trajectory("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": stochastic} | shifted, start=4)
    yield Trajectory("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True}, levels={
        "sigmas": [1.0, 0.7, 0.4, 0.2], "mu": 0.8,
    })  # fmt: skip


def by_timesteps() -> Iterator[Trajectory]:
    held: tuple[dict[str, Any], ...] = (
        {"clip_sample": False}, {"clip_sample": True}, {"thresholding": True, "sample_max_value": 1.5},
    )  # fmt: skip
    variances = ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned_range")
    for config, limit in itertools.product(
        options(prediction_type=PREDICTIONS, timestep_spacing=SPACINGS, variance_type=variances), held
    ):
        yield Trajectory("DDPMScheduler", config | limit)
    zero = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}
    yield Trajectory("DDPMScheduler", zero)
    yield Trajectory("DDPMScheduler", {}, levels={"timesteps": [999, 700, 300, 100, 40, 0]})
    for config, limit, step in itertools.product(
        options(prediction_type=PREDICTIONS, timestep_spacing=SPACINGS, set_alpha_to_one=(True, False)), held,
        options(eta=(0.0, 0.4, 1.0), use_clipped_model_output=(False, True)),
    ):  # fmt: skip
        yield Trajectory("DDIMScheduler", config | limit, step)
    yield from (Trajectory("DDIMScheduler", zero, {"eta": eta}) for eta in (0.0, 1.0))
    for prediction, limit, steps in itertools.product(PREDICTIONS, held, (1, 4)):
        yield Trajectory("LCMScheduler", {"prediction_type": prediction} | limit, steps=steps)
    for prediction, eta, steps in itertools.product(PREDICTIONS, (0.0, 0.3, 1.0), (1, 4, 8)):
        yield Trajectory("TCDScheduler", {"prediction_type": prediction}, {"eta": eta}, steps=steps)
    yield Trajectory("LCMScheduler", {}, steps=8, start=3)
    yield Trajectory("TCDScheduler", {}, steps=8, start=3)


def network(x: Tensor, at: float, learned: bool) -> Tensor:
    output = torch.tanh(0.7 * x) + 0.1 * torch.sin(2 * x + at / 500)
    return torch.cat([output, torch.tanh(x)], 1) if learned else output


def run(theirs: Any, case: Trajectory, dtype: torch.dtype = torch.float32, *, exact: bool = False) -> Tensor:
    """The state after every step; `exact`: diffusers' formulas in float64, from the same levels and the same draws."""
    scheduler = getattr(theirs, case.scheduler)(**case.config)
    scheduler.set_timesteps(**(case.levels or {"num_inference_steps": case.steps}))
    if case.start:
        scheduler.set_begin_index(case.start)
    generator = torch.Generator().manual_seed(0)
    scale = float(getattr(scheduler, "init_noise_sigma", 1.0))
    x = (scale * torch.randn(SHAPE, generator=generator)).to(torch.float64 if exact else dtype)
    step: dict[str, Any] = dict(case.step)
    if "generator" in inspect.signature(scheduler.step).parameters:
        step["generator"] = generator
    learned = case.config.get("variance_type") == "learned_range"
    states = []
    with in_float64(scheduler, dtype) if exact else warnings.catch_warnings():
        for time in scheduler.timesteps[case.start :]:
            read = scheduler.scale_model_input(x, time) if hasattr(scheduler, "scale_model_input") else x
            x = scheduler.step(network(read, float(time), learned), time, x, **step)[0]
            states.append(x)
    return torch.stack(states)


class in_float64:  # noqa: N801  (a context)
    """One of diffusers' schedulers computes in float64, where it would in float32; noise is drawn as before."""

    def __init__(self, scheduler: Any, drawn: torch.dtype) -> None:
        self.module, self.drawn = sys.modules[type(scheduler).__module__], drawn
        for name, value in vars(scheduler).items():
            if isinstance(value, Tensor) and value.is_floating_point() and name != "timesteps":
                setattr(scheduler, name, value.double())
        self.default = torch.float32 if "TCD" in type(scheduler).__name__ else torch.float64

    def __enter__(self) -> None:
        self.kept = (self.module.torch, self.module.__dict__.get("randn_tensor"))
        draw = self.kept[1]

        def drawn(shape: Any, dtype: Any = None, **options: Any) -> Tensor:
            return draw(shape, dtype=self.drawn, **options).double()

        self.module.torch = SimpleNamespace(**{**vars(torch), "float32": torch.float64})
        self.module.randn_tensor = drawn
        torch.set_default_dtype(self.default)

    def __exit__(self, *_: Any) -> None:
        torch.set_default_dtype(torch.float32)
        self.module.torch, self.module.randn_tensor = self.kept


def distance(states: Tensor, exact: Tensor) -> float:
    """The largest difference of two states, as a share of the state's largest value."""
    gap, size = ((one.double()).flatten(1).abs().amax(1) for one in (states.double() - exact, exact))
    return (gap / size).max().item()


@dataclass(frozen=True)
class Verdict:
    ours: float
    theirs: float
    words: str  # nothing where all is as it should be
    note: str = ""


def compare(case: Trajectory, dtype: torch.dtype = torch.float32) -> Verdict:
    try:
        theirs, exact = run(diffusers, case, dtype), run(diffusers, case, dtype, exact=True)
    except (IndexError, AssertionError, torch.linalg.LinAlgError) as error:
        theirs = exact = torch.full((1,), torch.nan)
        print(f"{case.name}: diffusers' own raises {type(error).__name__}")
    broken = not (theirs.isfinite().all() and exact.isfinite().all())
    try:
        states = run(ours, case, dtype)
    except ValueError as error:
        return Verdict(
            0.0, 0.0, "" if broken else f"refused: {error}", f"diffusers is not finite, ours refuses: {error}"
        )
    if not states.isfinite().all():
        return Verdict(0.0, 0.0, "ours is not finite")
    if broken:
        return Verdict(0.0, 0.0, "", "diffusers is not finite, ours is")
    mine, own = distance(states, exact), distance(theirs, exact)
    allowed = max(TOLERANCE if dtype == torch.float32 else torch.finfo(dtype).eps, 2 * own)
    return Verdict(mine, own, "" if mine <= allowed else f"{mine:.1e} away, diffusers' own float32 {own:.1e}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", default="", help="only the schedulers with this in their names")
    parser.add_argument("--all", action="store_true", help="a line for each trajectory")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    warnings.filterwarnings("error", message=".*diffusers' own code.*")
    logging.disable()
    found: dict[str, list[Verdict]] = {}
    for case in trajectories():
        if arguments.name in case.scheduler:
            verdict = compare(case)
            found.setdefault(case.scheduler, []).append(verdict)
            if arguments.all or verdict.words:
                said = verdict.words or verdict.note or f"{verdict.ours:.1e}, diffusers {verdict.theirs:.1e}"
                print(f"{case.name}: {said}")
    print("| scheduler | trajectories | ours, farthest from float64 | diffusers', farthest | only ours finite |")
    print("|---|---|---|---|---|")
    for name, verdicts in found.items():
        farthest = [max(getattr(verdict, whose) for verdict in verdicts) for whose in ("ours", "theirs")]
        finite = sum(bool(verdict.note) for verdict in verdicts)
        print(
            f"| {name.removesuffix('Scheduler')} | {len(verdicts)} | {farthest[0]:.1e} | {farthest[1]:.1e} | {finite} |"
        )
    failures = sum(bool(verdict.words) for verdicts in found.values() for verdict in verdicts)
    print(f"{failures} trajectories are not as they should be" if failures else "every trajectory is as it should be")
    return min(failures, 1)


if __name__ == "__main__":
    sys.exit(main())
