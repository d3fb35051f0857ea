"""The settings that every training run has; a recipe's settings add its own."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from ..errors import UserError
from .bounds import AtLeast, Between, check_fields

S = TypeVar("S", bound="TrainingSettings")

# These say how long a run goes on, what it shows, where the data lies and where to compute: a resumed run may be given
# others. Those that may change what a step computes, steps and accumulation, are then warned about.
MAY_CHANGE = {
    *("steps", "data", "cache", "workers", "device", "accumulation"),
    *("parallel", "compile", "checkpoint_activations", "rank_timeout", "max_hours", "profile", "tracker"),
    *("log_every", "sample_every", "checkpoint_every", "keep_checkpoints", "background_saves"),
}


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Optimization, bookkeeping and hardware.

    A bound stands in a field's annotation (`bounds.py`) and is checked, with the field's type, when settings are made.
    `OTHER_RUNS` names the settings that give another run, "" for none, from which the system takes weights. The run's
    own checkpoints hold these too.
    """

    OTHER_RUNS: ClassVar[tuple[str, ...]] = ()

    steps: Annotated[int, AtLeast(1)] = 10_000
    """Optimizer steps."""
    batch_size: Annotated[int, AtLeast(1)] = 128
    """Images in one optimizer step, over all ranks and all accumulated micro-batches together."""
    accumulation: Annotated[int, AtLeast(1)] = 1
    """Micro-batches whose gradients are added up to one optimizer step; more of them need less memory."""
    learning_rate: Annotated[float, Between(0, 1000, "(]")] = 1e-3
    """AdamW's learning rate after the warm-up."""
    warmup_steps: Annotated[int, AtLeast(0)] = 100
    """Steps over which the learning rate rises linearly to its full value."""
    lr_schedule: Literal["constant", "cosine"] = "constant"
    """Learning rate after the warm-up: kept, or lowered to 0 along a half cosine that ends at the last step."""
    beta2: Annotated[float, Between(0, 1, "[)")] = 0.99
    """AdamW's decay of the mean square of the gradients; short runs want less than the usual 0.999."""
    weight_decay: Annotated[float, Between(0, 1000, "[]")] = 0.0
    """AdamW's decoupled weight decay."""
    gradient_clip: Annotated[float, Between(0, math.inf, "(]")] = 1.0
    """Gradients with a larger norm are scaled down to this norm."""
    ema_decay: Annotated[float, Between(0, 1, "[)")] = 0.999
    """Decay of the moving average of the weights, which draws the samples."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """Number format of the network's arithmetic; "no" is float32."""
    device: Literal["auto", "cpu"] = "auto"
    """Where to compute: the accelerator if there is one, or the CPU."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """What several ranks do: "ddp", each holds the whole model; "fsdp", each holds a share of weights and optimizer."""
    compile: bool = False
    """Compile the blocks of the networks by torch.compile."""
    checkpoint_activations: bool = False
    """Keep what goes into each block for the backward pass, and compute what is inside it again."""
    rank_timeout: Annotated[float, Between(0, math.inf, "()")] = 1800.0
    """Seconds that a rank may keep the others waiting before they end, and say which one it was."""
    max_hours: Annotated[float | None, Between(0, math.inf, "()")] = None
    """Stop in time to have saved a checkpoint after so many hours, with exit code 75; by default there is no limit."""
    tracker: Literal["none", "wandb"] = "none"
    """Where the rows of losses.csv go beside TensorBoard, by accelerate's trackers."""
    profile: Annotated[int, AtLeast(0)] = 0
    """Steps to profile, after the first three: a trace and a table of each rank in OUT/profile."""
    horizontal_flip: bool = False
    """Mirror half of the images, left to right."""
    seed: Annotated[int, Between(0, 2**63, "[)")] = 0
    """Everything random in the run follows from this number."""
    workers: Annotated[int, AtLeast(0)] = 0
    """Processes that load images; 0 loads them in the training process."""
    log_every: Annotated[int, AtLeast(1)] = 20
    """Steps between two rows in losses.csv and in TensorBoard."""
    sample_every: Annotated[int, AtLeast(0)] = 500
    """Steps between two sample grids; 0 draws only the last one."""
    checkpoint_every: Annotated[int, AtLeast(0)] = 500
    """Steps between two checkpoints; 0 writes only the last one."""
    keep_checkpoints: Annotated[int, AtLeast(1)] = 2
    """Newest checkpoints to keep."""
    background_saves: bool = False
    """Write checkpoints while training goes on, from a copy of the weights on the CPU."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.parallel == "fsdp" and self.mixed_precision == "fp16":
            raise UserError("--parallel fsdp needs --mixed-precision bf16 or no: fp16 scales a loss on one device")
        if self.checkpoint_activations and getattr(self, "recompute", None) is not None:
            raise UserError("--checkpoint-activations and --recompute do the same: give one of them")


def learning_rate(settings: TrainingSettings, step: int) -> float:
    """The learning rate of optimizer step `step` (0 is the first): a pure function, so there is no state to resume."""
    rate = settings.learning_rate
    if step < settings.warmup_steps:
        return rate * (step + 1) / (settings.warmup_steps + 1)
    if settings.lr_schedule == "constant":
        return rate
    progress = (step - settings.warmup_steps) / max(settings.steps - settings.warmup_steps, 1)
    return rate * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def settings_from(cls: type[S], values: dict[str, Any]) -> S:
    """Settings of class `cls` from the values in a checkpoint; absent ones take their defaults.

    Raises `UserError` for a value that `cls` doesn't have or refuses.
    """
    unknown = sorted(set(values) - {field.name for field in fields(cls)})
    if unknown:
        raise UserError(f"the checkpoint has settings that its recipe no longer knows: {', '.join(unknown)}")
    try:
        return cls(**_with_tuples(values))
    except (TypeError, ValueError) as error:
        raise UserError(f"the checkpoint's settings are not usable: {error}") from error


def require_same(saved: dict[str, Any], settings: TrainingSettings) -> None:
    """Raises `UserError` if `settings` would continue the run of `saved` with other mathematics."""
    saved, given = _with_tuples(saved), asdict(settings)
    changed = [
        f"{name} (was {saved[name]}, now {value})"
        for name, value in given.items()
        if name in saved and name not in MAY_CHANGE and value != saved[name]
    ]
    if changed:
        raise UserError(f"a resumed run must keep its settings, but these differ: {', '.join(changed)}")


def _with_tuples(values: dict[str, Any]) -> dict[str, Any]:
    """Values as settings hold them: JSON, which checkpoints are written in, has lists for tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def differences(saved: TrainingSettings, settings: TrainingSettings) -> list[str]:
    """In a sentence each, how the run of `saved` continued with `settings` differs from one that had them all along."""
    if settings.lr_schedule == "constant" or saved.steps == settings.steps:
        return []
    return [
        f"the steps done followed a cosine decay that ends at step {saved.steps}, the next ones follow one that "
        f"ends at step {settings.steps}"
    ]
