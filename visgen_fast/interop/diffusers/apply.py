"""Our schedulers in the place of diffusers'."""

from __future__ import annotations

import functools
from typing import Any, Literal

from .._replacement import Replacement

NAMES = (
    "DDIMScheduler",
    "DDPMScheduler",
    "DPMSolverMultistepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LCMScheduler",
    "TCDScheduler",
    "UniPCMultistepScheduler",
)


def apply_visgen_to_diffusers(pipeline: Any = None, *, noise: Literal["torch", "visgen"] = "torch") -> Replacement:
    """Makes diffusers' schedulers take each step as one operation; their names, options, state and files stay.

    DDPM, DDIM, EulerDiscrete, EulerAncestralDiscrete, HeunDiscrete, DPMSolverMultistep, UniPCMultistep,
    FlowMatchEulerDiscrete, LCM and TCD are replaced; other schedulers are left, and so are other people's subclasses.

    Args:
        pipeline: its schedulers are replaced by ours in the same state, as if they had been ours from the start. By
            default the names in `diffusers` are: what is imported, loaded or made from a configuration afterwards is
            ours.
        noise: "torch" draws what diffusers draws. "visgen" draws a seed for each sample instead, and the noise is a
            function of it: the same on every device, and no noise goes through memory.

    Returns:
        What to call `revert()` on, or to use in a `with`, to have diffusers' own back. A pipeline gets its own
        schedulers back in the state in which they were.

    What differs from diffusers beside the rounding, and which settings run diffusers' own code, the page "diffusers" of
    the documentation lists.

    Raises:
        ImportError: diffusers is not there.
        ValueError: noise is neither; the pipeline has none of these schedulers.
    """
    import diffusers

    if noise not in ("torch", "visgen"):
        raise ValueError(f"noise must be 'torch' or 'visgen', got {noise!r}")
    replacement = Replacement()
    if pipeline is None:
        for name, cls in classes().items():
            for owner, attribute, value in (
                (diffusers, name, cls),
                (diffusers.schedulers, name, cls),
                (cls, "visgen_noise", noise),
            ):
                replacement._undo.append(functools.partial(setattr, owner, attribute, getattr(owner, attribute)))
                setattr(owner, attribute, value)
        return replacement
    ours = {cls._stock: cls for cls in classes().values()}
    components = getattr(pipeline, "components", None) or vars(pipeline)
    found = {name: one for name, one in components.items() if type(one) in ours or type(one) in ours.values()}
    if not found:
        raise ValueError("pipeline must have one of the schedulers that are replaced; got none: " + ", ".join(NAMES))
    for name, theirs in found.items():
        made = theirs
        if type(theirs) in ours:
            made = _in_the_state_of(theirs, ours[type(theirs)])
            replacement._undo.append(functools.partial(_put_back, pipeline, name, made, theirs))
            setattr(pipeline, name, made)
        replacement._undo.append(functools.partial(setattr, made, "visgen_noise", made.visgen_noise))
        made.visgen_noise = noise
    return replacement


def classes() -> dict[str, Any]:
    """Ours, by diffusers' names."""
    from . import multistep, sigmas, timesteps

    files = vars(multistep) | vars(sigmas) | vars(timesteps)
    return {name: files[name] for name in NAMES}


def _in_the_state_of(theirs: Any, cls: Any) -> Any:
    made = cls.__new__(cls)
    made.__dict__.update({name: list(value) if type(value) is list else value for name, value in vars(theirs).items()})
    return made


def _put_back(pipeline: Any, name: str, made: Any, theirs: Any) -> None:
    """Unless another scheduler was put there meanwhile."""
    if getattr(pipeline, name, None) is made:
        setattr(pipeline, name, theirs)
