"""What the loop trains: one or several networks with the losses that teach them and the way to draw with them."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from ..data.buckets import Buckets
from ..data.images import Images
from ..data.order import Batch
from ..errors import UserError


@dataclass(frozen=True)
class Player:
    """One of those who take turns in an optimizer step: weights of a system, and the loss that teaches them.

    In a player's turn only its `parameters` require gradients, so that its loss may pass through the networks of the
    others and teach them nothing. It has an optimizer of its own, and its gradient is clipped on its own. A later
    player sees what the earlier ones learned in the same step.

    loss: batch → the loss of every image, [B]; lr_scale: its learning rate over the run's; beta1: AdamW's decay of its
    mean gradient. It acts from optimizer step `start` on: a turn has `turn_steps` steps, and of every `every` turns it
    has the one numbered `place`. At rest it neither steps nor decays.
    """

    name: str
    parameters: Sequence[nn.Parameter]
    loss: Callable[[Batch], Tensor]
    lr_scale: float = 1.0
    beta1: float = 0.9
    every: int = 1
    start: int = 0
    turn_steps: int = 1
    place: int = 0

    def acts(self, step: int) -> bool:
        """Whether it has a turn in optimizer step `step` (0 is the first)."""
        return step >= self.start and step // self.turn_steps % self.every == self.place


@dataclass(frozen=True)
class Findings:
    """What a trained system was found to be worth.

    lines: for a terminal. write: (folder, head) → None, writes evaluation.json, the head and what was found, and
    figures beside it.
    """

    lines: Sequence[str]
    write: Callable[[Path, Mapping[str, Any]], None]


class System(nn.Module, ABC):
    """Networks, as sub-modules, with their loss. The loop knows nothing else about what it trains.

    Whatever has weights is in a sub-module, so that the moving average and checkpoints treat one network and several
    alike.

    figure: the name of the run's figure; metric_names: of what `metrics` measures while the system trains; frozen: the
    names of sub-modules, "text.encoder" for one inside another, that come trained and stay as they are: always in
    evaluation mode, without gradients, never averaged, and once in a run's folder; remembered: what checkpoints keep in
    their state.json beside the settings, to build the system again; examined_by: the options of `examine`; examined: on
    how many images, if nothing else is asked for.
    """

    figure: str = "samples"
    metric_names: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    remembered: Mapping[str, Any] = MappingProxyType({})
    examined_by: tuple[str, ...] = ()
    examined = 512

    @property
    def tokens(self) -> int | None:
        """What an image is for the network, where that works on a sequence of tokens."""
        return None

    @abstractmethod
    def forward(self, batch: Batch) -> Tensor:
        """The loss of every image of the batch, [B]; with several players, that of the first."""

    def players(self) -> Sequence[Player]:
        """Who learns in a step, in the order of their turns; by default one, all weights that require a gradient.

        Every weight that requires a gradient belongs to one player, and one of them acts in every step.
        """
        return (Player("system", _trainable(self.parameters()), self.forward),)

    @property
    def averaged(self) -> tuple[str, ...]:
        """The names of the direct sub-modules whose moving average draws and evaluates: all but the frozen ones.

        A network that draws nothing, such as a discriminator, need not be among them.
        """
        return tuple(name for name, _ in self.named_children() if name not in self.frozen)

    def train(self, mode: bool = True) -> System:
        """Training mode, or evaluation mode, for all but the frozen sub-modules."""
        super().train(mode)
        for name in self.frozen:
            self.get_submodule(name).eval()
        return self

    def freeze(self) -> None:
        """Puts the frozen sub-modules into evaluation mode, without gradients, as training needs them."""
        for name in self.frozen:
            self.get_submodule(name).eval().requires_grad_(False)

    @abstractmethod
    def draw(self, images: Images, *, seed: int, device: torch.device) -> tuple[Tensor, Sequence[str]]:
        """The run's figure: rows of images [rows, columns, C, H, W] in [−1, 1], and the rows' names.

        `images` were held out from training where the recipe holds some out.
        """

    @property
    def per_micro_batch(self) -> tuple[str, ...]:
        """What training draws for, or takes over, a rank's micro-batch: it depends on which images share that.

        All else that a step does is the same whatever the number of ranks and of accumulated micro-batches.
        """
        drops = any(isinstance(module, nn.Dropout) and module.p > 0 for module in self.modules() if module.training)
        return ("dropout",) if drops else ()

    def begin(self, images: Images, *, device: torch.device) -> None:
        """Called before the first step of a new run, on every rank, with all that it is trained on.

        For what is measured on images; ValueError where it cannot be.
        """

    def follow(self, average: System) -> None:
        """Told once, before the first step, the system of the averaged weights: for losses that read these."""

    def before_step(self, step: int) -> None:
        """Called before the turns of optimizer step `step` (0 is the first)."""

    def after_step(self) -> None:
        """Called after the turns of a step: for what learns otherwise than by gradients, and is whole on every rank."""

    def metrics(self) -> dict[str, Tensor]:
        """The scalars `metric_names`, over this rank's images since the last call."""
        return {}

    def source(self, images: Images, *, mirrored: bool) -> Images:
        """What training reads of the `images`, which it sees `mirrored` too: by default themselves.

        On one rank first, and then on the others. `UserError` for images of several shapes, unless it takes them.
        """
        if isinstance(images, Buckets):
            raise UserError(f"--buckets is not for this recipe: {type(self).__name__} takes images of one shape")
        return images

    def evaluate(self, images: Images, *, device: torch.device) -> dict[str, float]:
        """What a finished run is worth, measured on images that were held out, where there are some."""
        return {}

    def examine(self, images: Images, *, device: torch.device, **options: Any) -> Findings:
        """What `visgen-fast evaluate` finds of the system, which is on that device; by default what `evaluate` says.

        options: those named in `examined_by`, None where nothing is asked for. ValueError for images that cannot be
        measured.
        """
        measures = self.evaluate(images, device=device)

        def write(out: Path, head: Mapping[str, Any]) -> None:
            out.mkdir(parents=True, exist_ok=True)
            found = {**head, "images": len(images), "measures": measures}
            (out / "evaluation.json").write_text(json.dumps(found, indent=1) + "\n")

        return Findings(as_lines(measures), write)


def as_lines(measures: Mapping[str, float]) -> list[str]:
    """Measures by name for a terminal."""
    return [f"{name.replace('_', ' ')}: {value:.4g}" for name, value in measures.items()]


def players_of(system: System) -> Sequence[Player]:
    """The system's players; ValueError unless each weight to train is one player's, and every step has a turn."""
    players = system.players()
    names = [player.name for player in players]
    if len(set(names)) != len(names):
        raise ValueError(f"players must have names of their own, got {', '.join(names)}")
    if not _always_one(players):
        raise ValueError("one player must act in every step: with every = 1 and start = 0, or several in turns")
    owners: dict[nn.Parameter, str] = {}
    within = {parameter for _, child in system.named_children() for parameter in child.parameters()}
    for player in players:
        if player.every < 1 or player.start < 0:
            got = f"{player.every} and {player.start} for {player.name}"
            raise ValueError(f"every must be at least 1 and start at least 0, got {got}")
        if player.turn_steps < 1 or not 0 <= player.place < player.every:
            got = f"{player.turn_steps} and {player.place} for {player.name}"
            raise ValueError(f"turn_steps must be at least 1 and place in [0, every), got {got}")
        if not player.parameters:
            raise ValueError(f"the player {player.name} has no weights to train")
        for parameter in player.parameters:
            if parameter in owners or not parameter.requires_grad:
                other = f"also belong to {owners[parameter]}" if parameter in owners else "need no gradient"
                raise ValueError(f"weights of the player {player.name} {other}")
            if parameter not in within:
                raise ValueError(f"weights of the player {player.name} are in none of the system's sub-modules")
            owners[parameter] = player.name
    for name, parameter in system.named_parameters():
        if parameter.requires_grad and parameter not in owners:
            raise ValueError(f"{name} requires a gradient and belongs to no player: give it to one or freeze it")
    return players


def _always_one(players: Sequence[Player]) -> bool:
    """Whether some of them share all turns of one length among them, from the first step on."""
    places: dict[tuple[int, int], set[int]] = {}
    for player in players:
        if player.start == 0:
            places.setdefault((player.every, player.turn_steps), set()).add(player.place)
    return any(len(there) == every for (every, _), there in places.items())


def _trainable(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    return [parameter for parameter in parameters if parameter.requires_grad]
