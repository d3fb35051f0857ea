"""Where a run computes: on one device or on several ranks, in the number format that its settings say."""

from __future__ import annotations

import gc
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch.distributed
import torch.distributed.nn  # keeps the group of all ranks as a default, and for ever, if it is imported later
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.utils import broadcast_object_list, is_wandb_available

from ..errors import UserError
from .settings import TrainingSettings

logger = logging.getLogger(__name__)

_OFF = {"", "0", "no", "false"}
# Variables by which the environment would have Accelerate compute otherwise, or in another way, than the settings say.
_ENGINES = (
    "ACCELERATE_DYNAMO_BACKEND",
    "ACCELERATE_DOWNCAST_BF16",
    "ACCELERATE_USE_DEEPSPEED",
    "ACCELERATE_USE_FSDP",
    "ACCELERATE_USE_MEGATRON_LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG",
)


def accelerator_for(settings: TrainingSettings) -> Accelerator:
    """What runs the network where and in the number format that the settings say; `UserError` if that can't be had.

    The environment decides which ranks there are and on which devices: what it says of the mathematics is answered with
    a warning and has no effect.
    """
    if settings.tracker == "wandb" and not is_wandb_available():
        raise UserError("--tracker wandb needs the package wandb: pip install wandb")
    try:
        with _settings_alone(settings):
            accelerator = Accelerator(
                cpu=settings.device == "cpu",
                mixed_precision=settings.mixed_precision,
                log_with=None if settings.tracker == "none" else settings.tracker,
                # Buffers are the same on all ranks by construction; what they collect in a step is each rank's own.
                kwargs_handlers=[
                    DistributedDataParallelKwargs(broadcast_buffers=False),
                    # Longer than `Watch` waits, which can name a rank.
                    InitProcessGroupKwargs(timeout=timedelta(seconds=2 * settings.rank_timeout + 10)),
                ],
            )
    except ValueError as error:
        raise UserError(f"mixed_precision {settings.mixed_precision} is not to be had here: {error}") from error
    # Accelerate would leave the format float32 and say nothing.
    if settings.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise UserError("mixed_precision fp16 needs an accelerator: on the CPU it must be no or bf16")
    return accelerator


@contextmanager
def _settings_alone(settings: TrainingSettings) -> Iterator[None]:
    """While this lasts, the environment has no variable that would change what a run computes."""
    harmless = {
        **dict.fromkeys(_ENGINES, _OFF),
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": {"", "1", str(settings.accumulation)},
        "ACCELERATE_MIXED_PRECISION": {*_OFF, settings.mixed_precision},
    }
    taken = {name: os.environ.pop(name) for name in harmless if name in os.environ}
    for name, value in taken.items():
        if value.lower() not in harmless[name]:
            logger.warning("%s=%s in the environment has no effect: the settings say what a run computes", name, value)
    try:
        yield
    finally:
        os.environ.update(taken)


@contextmanager
def device_of_weights(settings: TrainingSettings) -> Iterator[None]:
    """While this lasts, systems are built where this rank needs their weights.

    Where they are going to be sharded, that is the CPU of the main rank, whose weights are those of all: the others
    build on the meta device, and never hold the whole.
    """
    if settings.parallel == "ddp" or int(os.environ.get("RANK", 0)) == 0:
        yield
        return
    with torch.device("meta"), warnings.catch_warnings():
        # Of weights that other runs lend, which would be loaded into tensors that hold nothing.
        warnings.filterwarnings("ignore", message=".*copying from a non-meta parameter")
        yield


def on_main_rank(accelerator: Accelerator, action: Callable[[], None]) -> None:
    """Does `action` on the main rank while the others wait; what it raises ends all of them.

    `UserError` is raised on every rank. Any other error is raised where it happened, and RuntimeError elsewhere.
    """
    failure: Exception | None = None
    if accelerator.is_main_process:
        try:
            action()
        except Exception as error:  # raised below, when the others no longer wait
            failure = error
    told: list[tuple[bool, str] | None] = [(isinstance(failure, UserError), str(failure)) if failure else None]
    broadcast_object_list(told)
    if failure is not None:
        raise failure
    if told[0] is not None:
        is_users, sentence = told[0]
        raise UserError(sentence) if is_users else RuntimeError(f"the main rank failed: {sentence}")


def leave_ranks() -> None:
    """Ends this process's part among the ranks, if it has one; nothing may use the Trainer after it.

    Gloo's threads hold Python's tensors a moment longer than the sums they are in, and one that lets go of them while
    Python ends aborts the process. They end with the last reference to their group.
    """
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
        gc.collect()
