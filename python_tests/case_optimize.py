"""Cases of the family `optimize`."""

from __future__ import annotations

import torch
from case import Arguments, Case, lay_out, random

SHAPES = {
    "one_element": [(1,)],
    "primes": [(3, 7), (3,), (3, 11, 13)],
    "scalars": [(), (2,), ()],
    "network": [(384, 96), (384,), (96, 384), (96,), (17,), (3, 4, 4, 4)],
    "larger_than_a_unit": [(5,), (123, 457), (1,), (16384,)],
    "many": [(1 + i % 7,) for i in range(200)],
    "some_empty": [(0, 3), (4,), (0,)],
    "no_elements": [(0,)],
}


def norm_case(label: str, layout: str = "contiguous") -> Case:
    def arguments(dtype: torch.dtype, device: torch.device) -> Arguments:
        given = [random(shape, dtype, device, i) for i, shape in enumerate(SHAPES[label])]
        return {"gradients": [lay_out(x, layout) if x.dim() == 4 else x for x in given]}

    return Case("gradient_norm", label if layout == "contiguous" else layout, arguments)


OPTIMIZE = [*(norm_case(label) for label in SHAPES), norm_case("network", "channels_last")]


def adamw_case(
    label: str, layout: str = "contiguous", *, averages: bool = True, states: torch.dtype | None = None
) -> Case:
    """A step in the middle of a training, after which a parameter has moved by about a tenth."""

    def arguments(dtype: torch.dtype, device: torch.device) -> Arguments:
        def tensors(key: int, kind: torch.dtype) -> list[torch.Tensor]:
            given = [random(shape, kind, device, 100 * key + i) for i, shape in enumerate(SHAPES[label])]
            return [lay_out(x, layout) if x.dim() == 4 else x for x in given]

        real = states or dtype
        result: Arguments = {
            "parameters": tensors(0, dtype),
            "gradients": tensors(1, dtype),
            "means": [0.3 * mean for mean in tensors(2, real)],
            "squares": [square.square() for square in tensors(3, real)],
            **{"learning_rate": 0.1, "betas": (0.9, 0.99), "eps": 1e-6, "weight_decay": 0.1, "step": 7},
            "gradient_scale": 0.7,
        }
        if averages:
            result |= {"averages": tensors(4, real), "average_decay": 0.8}
        return result

    states_label = "" if states is None else f"_{str(states).removeprefix('torch.')}_states"
    return Case("adamw_", f"{label}{'' if layout == 'contiguous' else '_' + layout}{states_label}", arguments)


# They overwrite their arguments, so that the contract cannot hold them: test_optimize.py does.
IN_PLACE = [
    *(adamw_case(label) for label in SHAPES),
    adamw_case("network", "channels_last"),
    adamw_case("network", states=torch.float32),
    adamw_case("primes", averages=False),
]
