"""What `visgen-fast evaluate` does with a few-step model: it stands beside its teacher."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError, writing

if TYPE_CHECKING:
    import torch

    from ..data.images import Images
    from ..systems.student import StudentSystem
    from ..training.checkpoint import Checkpoint

STEPS = (1, 2, 4, 8)


def compare(
    system: StudentSystem,
    saved: Checkpoint,
    images: Images,
    out: Path,
    *,
    teacher: Path | None,
    features: str | None,
    steps: tuple[int, ...] | None,
    pictures: int,
    device: torch.device,
    head: dict[str, Any],
) -> str:
    """Measures the student against the run `teacher`; writes few_steps.json and few_steps.png, and returns the text."""
    from ..data.images import Part, evenly, in_chunks
    from ..evaluation.few_steps import as_text, evaluate_few_steps, write
    from ..recipes.features import features_named
    from ..recipes.runs import load_system
    from ..systems.generative import GenerativeSystem, draw_samples
    from ..training.figures import image_grid

    if teacher is None:
        raise UserError("--teacher must be the run that the few-step model is compared with, and none was given")
    other = load_system(teacher)
    if not isinstance(other, GenerativeSystem) or getattr(other, "shape", None) != system.shape:
        raise UserError(f"--teacher must be a run of a diffusion model of images {system.shape}, and {teacher} is none")
    labels = images.format.some_labels(len(images.format.class_names))
    count, scale = max(1, pictures // len(labels)), system.drawing.guidance[0]
    system, other = system.to(device), other.to(device)

    def drawing(of: GenerativeSystem, **options: Any) -> Any:
        return lambda number: draw_samples(of, labels, count, seed=0, device=device, steps=number, **options).flatten(
            0, 1
        )

    import torch

    judge = None if features is None else features_named(features, saved.images.channels, device)
    data = None
    if judge is not None:
        some = Part(images, evenly(len(images), pictures))
        data = torch.cat([shown for shown, _ in in_chunks(some, device)])
    sampler = {"sampler": "euler"}
    try:
        found, drawn = evaluate_few_steps(
            drawing(system), drawing(other, guidance=scale, **sampler), steps or STEPS, data=data, features=judge
        )
    except ValueError as error:
        raise UserError(f"the few-step model in {saved.path} cannot be compared: {error}") from error
    with writing(out):
        write(found, out, {**head, "guidance": scale})
        names = [f"{one.model} {one.steps}" for one in found.measures]
        image_grid(drawn, names).save(out / "few_steps.png")
    return as_text(found)
