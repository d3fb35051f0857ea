"""The training loop."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs

from ..data.images import Images
from ..data.order import Batch, ImagesByPosition, MicroBatches, load
from ..errors import UserError
from . import checkpoint
from .average import MovingAverage
from .report import Report
from .settings import TrainingSettings, differences, learning_rate, require_same
from .system import System

logger = logging.getLogger(__name__)


class Trainer:
    """Trains a system on images, with AdamW, and keeps the run in the folder `out`.

    One process, or one of the ranks that `torchrun` or `accelerate launch` started: all ranks together take
    `settings.batch_size` images a step and do what one rank would have done, but for what the system's
    `per_micro_batch` names, and the k-means start of codebooks. `identity` is stored in the checkpoints: what it takes
    to build the system again. `held_out` are images never trained on, for the figures and the final metrics; without
    them the figures show training images. With `resume`, the run goes on from its newest checkpoint, if it has one:
    with the same settings and ranks, bit for bit as if it had never stopped; how it differs otherwise is logged.

    Raises `UserError` where the settings and the machine don't agree, or `out` holds another run.
    """

    def __init__(
        self,
        system: System,
        images: Images,
        settings: TrainingSettings,
        out: Path,
        *,
        identity: dict[str, Any],
        held_out: Images | None = None,
        resume: bool = False,
    ) -> None:
        self.settings, self.out, self.identity = settings, out, identity
        self.images, self.held_out = images, held_out
        self.accelerator = _accelerator(settings)
        self.average = MovingAverage(system, settings.ema_decay)
        self.average.module.to(self.accelerator.device)
        optimizer = torch.optim.AdamW(
            _with_betas(system.parameter_groups(), settings.beta2),
            lr=settings.learning_rate,
            betas=(0.9, settings.beta2),
            weight_decay=settings.weight_decay,
        )
        self.system, self.optimizer = self.accelerator.prepare(system, optimizer)
        self.step = 0
        self.measured: dict[str, float] = {}
        self._open_run(resume)
        self.batches = self._load_batches()
        self.seen_complaints: set[str] = set()

    @property
    def bare_system(self) -> System:
        """The trained system without its data-parallel wrapping."""
        return self.accelerator.unwrap_model(self.system)

    @property
    def place(self) -> str:
        """Where the run computes, for people."""
        ranks = self.accelerator.num_processes
        return f"on {self.accelerator.device.type}" + (f" × {ranks} ranks" if ranks > 1 else "")

    def _open_run(self, resume: bool) -> None:
        """Reads the newest checkpoint where that is asked for, and refuses to mix two runs in one folder."""
        existing = checkpoint.checkpoints(self.out / "checkpoints")
        if existing and not resume:
            raise UserError(
                f"{self.out} holds a run already: continue it with --resume, or give another folder as --out"
            )
        # Every rank has looked before the first one writes.
        self.accelerator.wait_for_everyone()
        if existing:
            self._restore(checkpoint.read(existing[-1]))

    def _load_batches(self) -> Iterator[Batch]:
        settings, accelerator = self.settings, self.accelerator
        try:
            positions = MicroBatches(
                self.step * settings.batch_size,
                settings.batch_size,
                rank=accelerator.process_index,
                world=accelerator.num_processes,
                accumulation=settings.accumulation,
            )
        except ValueError as error:
            raise UserError(str(error)) from error
        data = ImagesByPosition(self.images, settings.seed, horizontal_flip=settings.horizontal_flip)
        return load(data, positions, workers=settings.workers, pin_memory=accelerator.device.type == "cuda")

    def run(self) -> None:
        """Trains up to `settings.steps`, then draws the run's images and its loss curve."""
        settings = self.settings
        with self._report() as report:
            total, norms = torch.zeros(2, device=self.accelerator.device)
            since, began = self.step, time.monotonic()
            while self.step < settings.steps:
                loss, gradient_norm = self.optimize()
                total += loss
                # After an overflow of fp16 the loss scaler leaves the step out: such a gradient reached no weight.
                if not self.optimizer.step_was_skipped:
                    norms += gradient_norm
                saving = self._due(settings.checkpoint_every, at_end=True)
                drawing = self._due(settings.sample_every, at_end=False)
                if saving or drawing or self._due(settings.log_every, at_end=True):
                    mean = self.accelerator.reduce(total, "mean").item() / (self.step - since)
                    rate = (self.step - since) * settings.batch_size / (time.monotonic() - began)
                    self._note_losses(report, mean, float(gradient_norm), rate, self._metrics())
                    self._require_finite("loss", mean)
                    # A bad gradient of any step since the last row has spoiled weights that the losses may not show.
                    self._require_finite("gradient", float(norms))
                    if saving:
                        self.save()
                    if drawing:
                        self._draw(report, self.step)
                    total.zero_()
                    norms.zero_()
                    since, began = self.step, time.monotonic()
            self._finish(report)

    def optimize(self) -> tuple[torch.Tensor, torch.Tensor]:
        """One optimizer step; the mean loss of this rank's images, and the norm of the gradient before clipping."""
        rate = learning_rate(self.settings, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("lr_scale", 1.0)
        self.bare_system.before_step(self.step)
        loss = torch.zeros((), device=self.accelerator.device)
        for _ in range(self.settings.accumulation):
            batch = self._next_batch()
            with self.accelerator.accumulate(self.system):
                micro_loss = self.system(batch).mean()
                self.accelerator.backward(micro_loss)
                loss += micro_loss.detach() / self.settings.accumulation
                if self.accelerator.sync_gradients:
                    gradient_norm = self._clip_gradients()
                self.optimizer.step()
                self.optimizer.zero_grad()
        self.bare_system.after_step()
        self.step += 1
        self.average.update(self.bare_system, self.step)
        return loss, gradient_norm

    def _clip_gradients(self) -> torch.Tensor:
        """Scales down the gradient of each group that is too long; the norm of all of them before."""
        self.accelerator.unscale_gradients()
        norms = [
            torch.nn.utils.clip_grad_norm_(group["params"], self.settings.gradient_clip)
            for group in self.optimizer.param_groups
        ]
        return torch.linalg.vector_norm(torch.stack(norms))

    def _metrics(self) -> list[float]:
        """What the system measured since the last call, over all ranks."""
        metrics = self.bare_system.metrics()
        names = self.bare_system.metric_names
        return [self.accelerator.reduce(metrics[name].float(), "mean").item() for name in names]

    def _next_batch(self) -> Batch:
        batch = next(self.batches)
        for complaint in batch.complaints:
            if complaint not in self.seen_complaints:
                self.seen_complaints.add(complaint)
                logger.warning("skipped %s", complaint)
        torch.manual_seed(batch.module_seed)
        return batch.to(self.accelerator.device)

    def _due(self, every: int, *, at_end: bool) -> bool:
        ended = self.step == self.settings.steps
        return at_end if ended else bool(every) and self.step % every == 0

    def save(self) -> None:
        """Writes a checkpoint, on the main rank."""
        if self.accelerator.is_main_process:
            scaler = self.accelerator.scaler
            checkpoint.write(
                self.out / "checkpoints",
                self.step,
                {
                    "weights": self.bare_system.state_dict(),
                    "average": self.average.module.state_dict(),
                    "optimizer": checkpoint.optimizer_tensors(self.optimizer.optimizer, self.bare_system),
                },
                {
                    **self.identity,
                    "settings": asdict(self.settings),
                    "images": self._describe_images(),
                    "ranks": self.accelerator.num_processes,
                    "position": self.step * self.settings.batch_size,
                    "loss_scaler": None if scaler is None else scaler.state_dict(),
                },
                keep=self.settings.keep_checkpoints,
            )
        self.accelerator.wait_for_everyone()

    def _restore(self, saved: checkpoint.Checkpoint) -> None:
        """Takes over everything a checkpoint holds; raises `UserError` if it is of another run."""
        for name, value in self.identity.items():
            if saved.state[name] != value:
                raise UserError(f"{self.out} holds a run with {name} {saved.state[name]}, not {value}")
        require_same(saved.state["settings"], self.settings)
        if self.accelerator.is_main_process:
            for difference in self._differences(saved.state):
                logger.warning("%s", difference)
        if saved.state["images"] != self._describe_images():
            raise UserError(f"the run in {self.out} was trained on other images: their number, size or classes differ")
        saved.load_into(self.bare_system, "weights")
        saved.load_into(self.average.module, "average")
        checkpoint.load_optimizer(self.optimizer.optimizer, self.bare_system, saved.tensors("optimizer"))
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(saved.state["loss_scaler"])
        self.step = saved.state["step"]

    def _differences(self, state: dict[str, Any]) -> list[str]:
        """In a sentence each, how the run of a checkpoint's `state` goes on otherwise than it would have there."""
        found = differences(state["settings"], self.settings)
        now = self.settings.accumulation, self.accelerator.num_processes
        former = state["settings"]["accumulation"], state.get("ranks", now[1])
        concerned = self.bare_system.per_micro_batch
        if former != now and concerned:
            found.append(
                f"the next steps have other {', '.join(concerned)} than with the former accumulation of {former[0]} on "
                f"{former[1]} ranks: these depend on which images share a micro-batch"
            )
        return found

    def _describe_images(self) -> dict[str, Any]:
        return {"count": len(self.images), **self.images.format.to_json()}

    def _report(self) -> AbstractContextManager[Report | None]:
        if not self.accelerator.is_main_process:
            return nullcontext()
        self.out.mkdir(parents=True, exist_ok=True)
        content = {**self.identity, "settings": asdict(self.settings)}
        (self.out / "settings.json").write_text(json.dumps(content, indent=2) + "\n")
        system = self.bare_system
        return closing(
            Report(
                self.out,
                steps=self.settings.steps,
                start=self.step,
                figure=system.figure,
                metric_names=system.metric_names,
            )
        )

    def _note_losses(
        self, report: Report | None, loss: float, gradient_norm: float, rate: float, metrics: list[float]
    ) -> None:
        if report is not None:
            now = learning_rate(self.settings, self.step - 1)
            report.losses(self.step, loss, now, gradient_norm, rate, *metrics)

    def _require_finite(self, name: str, value: float) -> None:
        if not math.isfinite(value):
            raise UserError(f"the {name} is no longer finite at step {self.step}: try a lower --learning-rate")

    def _draw(self, report: Report | None, step: int | None) -> None:
        """Draws the run's figure with the averaged weights, on the main rank."""
        if report is not None:
            images = self.images if self.held_out is None else self.held_out
            drawn, names = self.average.module.draw(images, seed=self.settings.seed, device=self.accelerator.device)
            report.draw(drawn, names, step)
        self.accelerator.wait_for_everyone()

    def _finish(self, report: Report | None) -> None:
        self._draw(report, None)
        if report is not None:
            report.curve()
            if self.held_out is not None:
                self.measured = self.average.module.evaluate(self.held_out, device=self.accelerator.device)
                report.metrics(self.measured)
        if self.seen_complaints:
            logger.warning("%d images could not be decoded and others stood in for them", len(self.seen_complaints))
        self.accelerator.end_training()


def _with_betas(groups: list[dict[str, Any]], beta2: float) -> list[dict[str, Any]]:
    """Parameter groups as AdamW takes them: a `beta1` of a group's own comes with the run's β₂."""
    groups = [dict(group) for group in groups]
    for group in groups:
        if "beta1" in group:
            group["betas"] = (group.pop("beta1"), beta2)
    return groups


def _accelerator(settings: TrainingSettings) -> Accelerator:
    """What runs the network where and in the number format that the settings say; `UserError` if that can't be had."""
    try:
        accelerator = Accelerator(
            cpu=settings.device == "cpu",
            mixed_precision=settings.mixed_precision,
            gradient_accumulation_steps=settings.accumulation,
            # Buffers are the same on all ranks by construction; what they collect between two steps is each rank's own.
            kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
        )
    except ValueError as error:
        raise UserError(f"mixed_precision {settings.mixed_precision} is not to be had here: {error}") from error
    # Accelerate would leave the format float32 and say nothing.
    if settings.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise UserError("mixed_precision fp16 needs an accelerator: on the CPU it must be no or bf16")
    return accelerator
