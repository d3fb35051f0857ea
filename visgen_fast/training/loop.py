"""The training loop."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor

from ..data.images import Images
from ..data.order import Batch, ImagesByPosition, MicroBatches, load
from ..errors import Stopped, UserError
from .checkpoint import Checkpoint
from .copies import Copies
from .pace import Pacing
from .place import accelerator_for, on_main_rank
from .profiling import Profile
from .report import Report
from .run import Run
from .saving import Saver
from .settings import differences, learning_rate
from .shards import Shards
from .stopping import Stopping
from .system import System, players_of
from .turn import Turn
from .waiting import DataClock
from .watch import Watch

logger = logging.getLogger(__name__)


class Step(NamedTuple):
    """What an optimizer step gave on this rank.

    loss: the mean loss of the first player that acted; gradient_norm: of the gradients of all that acted, before
    clipping; reached: the same without gradients that the loss scaler of fp16 left out after an overflow, which reached
    no weight; losses: by player.
    """

    loss: Tensor
    gradient_norm: Tensor
    reached: Tensor
    losses: dict[str, Tensor]


class Trainer:
    """Trains a system on images, its players in turns, each with AdamW, in the folder of `run`.

    One process, or one of the ranks that `torchrun` or `accelerate launch` started: all ranks together take
    `settings.batch_size` images a step and do what one rank would have done, but for what the system's
    `per_micro_batch` names, and the k-means start of codebooks. `held_out` are images never trained on, for the figures
    and the final metrics; without them the figures show training images. A run that is resumed goes on, with the same
    settings and ranks, bit for bit as if it had never stopped; how it differs otherwise is logged.

    Raises `UserError` where the settings and the machine don't agree, or the run was one on other images.
    """

    def __init__(self, system: System, images: Images, run: Run, *, held_out: Images | None = None) -> None:
        self.system, self.folder, self.settings = system, run, run.settings
        self.images, self.held_out = images, held_out
        system.freeze()
        self.accelerator = accelerator_for(self.settings)
        self.weights = self._placed()
        self.average = self.weights.average
        system.follow(self.average.module)
        self.turns = self._prepare_turns()
        self.saver = Saver(run, self.weights, self.accelerator)
        self.stopping = Stopping(self.settings, self.accelerator)
        self.watch = Watch(self.accelerator, self.settings.rank_timeout)
        self.step = 0
        self.measured: dict[str, float] = {}
        # Every rank has looked for a run before the first one writes.
        self.accelerator.wait_for_everyone()
        if run.saved is None:
            try:
                system.begin(images, device=self.accelerator.device)
            except ValueError as error:
                raise UserError(str(error)) from error
        else:
            self._restore(run.saved)
        self.batches = self._load_batches(self._source())
        self.clock = DataClock(self.accelerator.device)
        self.seen_complaints: set[str] = set()

    @property
    def place(self) -> str:
        """Where the run computes, for people."""
        ranks = self.accelerator.num_processes
        spread = ", sharded" if self.weights.sharded else ""
        return f"on {self.accelerator.device.type}" + (f" × {ranks} ranks{spread}" if ranks > 1 else "")

    def _placed(self) -> Copies | Shards:
        if self.settings.parallel == "ddp" or self.accelerator.num_processes == 1:
            return Copies(self.system, self.settings, self.accelerator)
        if type(self.system).follow is not System.follow:
            raise UserError("--parallel fsdp is not for losses that read the averaged weights, as this recipe's does")
        return Shards(self.system, self.settings, self.accelerator)

    def _prepare_turns(self) -> list[Turn]:
        players, turns = players_of(self.system), []
        for place, player in enumerate(players):
            others = [parameter for other in players if other is not player for parameter in other.parameters]
            turns.append(Turn(player, place, others, self.weights, self.settings, self.accelerator))
        return turns

    def _source(self) -> Images:
        mirrored, made = self.settings.horizontal_flip, []
        on_main_rank(self.accelerator, lambda: made.append(self.system.source(self.images, mirrored=mirrored)))
        return made[0] if made else self.system.source(self.images, mirrored=mirrored)

    def _load_batches(self, source: Images) -> Iterator[Batch]:
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
        flip, size = settings.horizontal_flip, settings.batch_size
        data = ImagesByPosition(source, settings.seed, horizontal_flip=flip, batch_size=size)
        return load(data, positions, workers=settings.workers, pin_memory=accelerator.device.type == "cuda")

    def run(self) -> None:
        """Trains up to `settings.steps`, then draws the run's images and its loss curve.

        `Stopped` where a signal or `settings.max_hours` ends it before; it has saved a checkpoint then.
        """
        settings = self.settings
        try:
            self.watch.start()
            on_main_rank(self.accelerator, self.folder.begin)
            if settings.tracker != "none":
                self.accelerator.init_trackers("visgen_fast", {**self.folder.identity, **asdict(settings)})
            ranks = self.accelerator.num_processes
            self.pacing = Pacing(self.system, self.turns, settings, self.accelerator.device, ranks)
            profile = Profile(self.folder.out, settings.profile, self.accelerator.process_index)
            with self._report() as report, self.stopping.listening(), profile.running():
                since = self._since_now()
                while self.step < settings.steps:
                    since.note(self.optimize())
                    profile.step()
                    saving = self._due(settings.checkpoint_every, at_end=True)
                    drawing = self._due(settings.sample_every, at_end=False)
                    if saving or drawing or self._due(settings.log_every, at_end=True):
                        self._tell(since, report)
                        if saving:
                            self.save(background=settings.background_saves and self.step < settings.steps)
                        if drawing:
                            self._draw(report, self.step)
                        since = self._since_now()
                    self._stop_if_told(since, report)
                self.stopping.finish()
                self._finish(report)
        except Exception as error:
            cause = self.watch.explain(error)
            if cause is error:
                raise
            raise cause from error
        finally:
            self.watch.close()
            self.saver.close()
            self.folder.close()
            for tracker in self.accelerator.trackers:
                tracker.finish()

    def _stop_if_told(self, since: Since, report: Report | None) -> None:
        reason = self.stopping.reason()
        if reason is None or self.step == self.settings.steps:
            return
        if since.step < self.step:
            self._tell(since, report)
        self.save()
        self.stopping.finish()
        raise Stopped(f"stopped {reason} at step {self.step}, after a checkpoint: --resume goes on from there")

    def optimize(self) -> Step:
        """One optimizer step: the turns of the players that act in it, on the same images."""
        rate = learning_rate(self.settings, self.step)
        self.watch.step(self.step)
        self.weights.call(self.system.before_step, self.step)
        batches = [self._next_batch() for _ in range(self.settings.accumulation)]
        self.watch.done()
        losses, norms, reached, moved = {}, [], [], set()
        decay = self.average.decay_at(self.step + 1)
        for turn in self.turns:
            if turn.player.acts(self.step):
                losses[turn.player.name], norm = turn.take(batches, rate, decay)
                norms.append(norm)
                moved |= turn.moved
                self.watch.done()
                reached.append(torch.zeros_like(norm) if turn.optimizer.step_was_skipped else norm)
        self.system.after_step()
        self.clock.given()
        self.step += 1
        self.average.update(self.step, moved)
        gradient_norm, reached_norm = (torch.linalg.vector_norm(torch.stack(parts)) for parts in (norms, reached))
        return Step(next(iter(losses.values())), gradient_norm, reached_norm, losses)

    def _next_batch(self) -> Batch:
        batch = self.clock.next(self.batches)
        for complaint in batch.complaints:
            if complaint not in self.seen_complaints:
                self.seen_complaints.add(complaint)
                logger.warning("skipped %s", complaint)
        return batch

    def _due(self, every: int, *, at_end: bool) -> bool:
        ended = self.step == self.settings.steps
        return at_end if ended else bool(every) and self.step % every == 0

    def save(self, *, background: bool = False) -> None:
        """Writes a checkpoint; in the background, of the weights as they are now."""
        scaler = self.accelerator.scaler
        state = {
            "images": self._describe_images(),
            "ranks": self.accelerator.num_processes,
            "loss_scaler": None if scaler is None else scaler.state_dict(),
            "remembered": dict(self.system.remembered),
            "operations": {turn.player.name: turn.operations for turn in self.turns},
        }
        frozen = {name: self.system.get_submodule(name).state_dict() for name in self.system.frozen}
        began = time.monotonic()
        self.saver.save(self.step, self.weights.tensors(self._optimizers), frozen, state, background=background)
        self.stopping.saved(time.monotonic() - began)

    @property
    def _optimizers(self) -> list[torch.optim.Optimizer]:
        """The players' own, without Accelerate's wrapping."""
        return [turn.optimizer.optimizer for turn in self.turns]

    def _restore(self, saved: Checkpoint) -> None:
        """Takes over everything a checkpoint holds; raises `UserError` if it is of another run."""
        if self.accelerator.is_main_process:
            for difference in self._differences(saved):
                logger.warning("%s", difference)
        if saved.state["images"] != self._describe_images():
            raise UserError(
                f"the run in {self.folder.out} was trained on other images: their number, size or classes differ"
            )
        self.weights.load(saved, self._optimizers)
        if self.accelerator.scaler is not None:
            try:
                self.accelerator.scaler.load_state_dict(saved.state["loss_scaler"])
            except (KeyError, TypeError, RuntimeError) as error:
                raise saved.damaged(f"state.json has no state of the loss scaler ({error!r})") from error
        self.step = saved.state["step"]
        counted = saved.state.get("operations")
        for turn in self.turns:
            found = counted.get(turn.player.name) if isinstance(counted, dict) else None
            turn.operations = found if isinstance(found, float) and found >= 0 else turn.operations

    def _differences(self, saved: Checkpoint) -> list[str]:
        """In a sentence each, how the run of a checkpoint goes on otherwise than it would have there."""
        settings = self.folder.saved_settings
        found = differences(settings, self.settings)
        now = self.settings.accumulation, self.accelerator.num_processes
        former = settings.accumulation, saved.state["ranks"]
        concerned = self.system.per_micro_batch
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
        # The loss of the first player is the run's.
        others = [f"{turn.player.name}_loss" for turn in self.turns[1:]]
        return closing(
            Report(
                self.folder.out,
                steps=self.settings.steps,
                start=self.step,
                figure=self.system.figure,
                metric_names=(*others, *self.system.metric_names),
            )
        )

    def _since_now(self) -> Since:
        names = [turn.player.name for turn in self.turns]
        return Since(names, self.step, self.accelerator.device, self.clock.seconds)

    def _tell(self, since: Since, report: Report | None) -> None:
        """Notes a row of what happened since the last one; `UserError` where it is no longer a number."""
        losses = since.losses(self.accelerator)
        metrics = self.weights.call(self.system.metrics)
        measured = [self.accelerator.reduce(metrics[name].float(), "mean").item() for name in self.system.metric_names]
        if report is not None:
            seconds = time.monotonic() - since.began
            pace = self.pacing.of(self.step - since.step, since.counts, seconds, self.clock.seconds - since.waited)
            now, norm = learning_rate(self.settings, self.step - 1), float(since.gradient_norm)
            shown = next(loss for loss, count in zip(losses, since.counts.values(), strict=True) if count)
            row = report.losses(self.step, losses[0], now, norm, pace, *losses[1:], *measured, shown=shown)
            self.accelerator.log(row, self.step)
        for loss, count in zip(losses, since.counts.values(), strict=True):
            if count:
                self._require_finite("loss", loss)
        # A bad gradient of any step since the last row has spoiled weights that the losses may not show.
        self._require_finite("gradient", float(since.reached))

    def _require_finite(self, name: str, value: float) -> None:
        if not math.isfinite(value):
            raise UserError(f"the {name} is no longer finite at step {self.step}: try a lower --learning-rate")

    def _draw(self, report: Report | None, step: int | None) -> None:
        """Draws the run's figure with the averaged weights, on the main rank."""

        def draw() -> None:
            assert report is not None
            images = self.images if self.held_out is None else self.held_out
            drawn, names = system.draw(images, seed=self.settings.seed, device=self.accelerator.device)
            report.draw(drawn, names, step)

        with self.weights.drawing() as system:
            on_main_rank(self.accelerator, draw)

    def _finish(self, report: Report | None) -> None:
        self._draw(report, None)

        def measure() -> None:
            assert report is not None
            report.curve()
            if self.held_out is not None:
                self.measured = system.evaluate(self.held_out, device=self.accelerator.device)
                report.metrics(self.measured)

        with self.weights.drawing() as system:
            on_main_rank(self.accelerator, measure)
        if self.seen_complaints:
            logger.warning("%d images could not be decoded and others stood in for them", len(self.seen_complaints))


class Since:
    """What happened since the last row of losses.csv, which was at step `step`; `waited` is what a DataClock said."""

    def __init__(self, players: Sequence[str], step: int, device: torch.device, waited: float) -> None:
        self.step, self.began, self.waited = step, time.monotonic(), waited
        self.totals = {name: torch.zeros((), device=device) for name in players}
        self.counts = dict.fromkeys(players, 0)
        self.gradient_norm = self.reached = torch.zeros((), device=device)

    def note(self, step: Step) -> None:
        for name, loss in step.losses.items():
            self.totals[name] += loss
            self.counts[name] += 1
        self.gradient_norm, self.reached = step.gradient_norm, self.reached + step.reached

    def losses(self, accelerator: Accelerator) -> list[float]:
        """The mean loss of each player over all ranks and its turns, NaN for one that had no turn."""
        totals = accelerator.reduce(torch.stack(list(self.totals.values())), "mean").tolist()
        return [total / count if count else math.nan for total, count in zip(totals, self.counts.values(), strict=True)]
