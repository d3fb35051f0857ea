"""Cases of the family `solve`."""

from __future__ import annotations

from functools import partial

import torch
from case import Arguments, Case, lay_out, random
from torch import Tensor


def solver_table(device: torch.device, *, slots: int, noise: bool = True) -> Tensor:
    """Three rows of a sampler's table: every operand used, some of them, and a clamped image written to a slot."""
    table = random((3, 32), torch.float64, device, 41) / 2
    for first in (8, 16, 24):
        table[:, first + 3 + slots : first + 7] = 0
        table[:, first + 7] *= noise
    table[1, 8:16:2] = 0
    table[:, 3] = torch.tensor([0.0, 0.0, 0.5])
    table[:, 4:6] = 0
    table[:, 6:8] = torch.tensor([[0, 1], [1, -1], [0, -1]] if slots > 1 else [[-1, -1]] * 3)
    return table


def solver_case(
    label: str,
    shape: tuple[int, ...],
    *,
    step: int | list[int] = 0,
    slots: int = 2,
    outputs: int = 2,
    layout: str = "contiguous",
    noise: bool = True,
) -> Case:
    """Guided by two outputs, with weights of each sample, or of all at row 1; `step`: a row, or one for each sample."""

    def arguments(dtype: torch.dtype, device: torch.device) -> Arguments:
        x, *others = (lay_out(random(shape, dtype, device, 42 + j), layout) for j in range(1 + outputs + slots))
        given: Arguments = {
            "x": x,
            "outputs": others[:outputs],
            "table": solver_table(device, slots=slots, noise=noise),
            "step": step if isinstance(step, int) else torch.tensor(step, device=device),
            "slots": others[outputs:],
            "weights": random((outputs,) if step == 1 else (1, shape[0], outputs), torch.float64, device, 50),
        }
        if noise and step == 0:
            given |= {"seeds": torch.arange(shape[0], device=device) * 7919 - 3, "stream": 5 << 32}
        elif noise:  # a stream for each row is what test_solve.py looks at
            given["noise"] = random(shape, dtype, device, 51)
        return given

    return Case("solver_step", label, arguments)


def _products(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Arguments:
    x, *outputs = (random(shape, dtype, device, 60 + j) for j in range(3))
    return {"outputs": outputs, "x": x}


def _quantile(
    shape: tuple[int, ...], layout: str, step: int | list[int], dtype: torch.dtype, device: torch.device
) -> Arguments:
    x, *outputs = (lay_out(random(shape, dtype, device, 63 + j), layout) for j in range(3))
    return {
        "x": x,
        "outputs": outputs,
        "table": solver_table(device, slots=0),
        "step": step if isinstance(step, int) else torch.tensor(step, device=device),
        "q": 0.9,
        "weights": random((2,) if step == 1 else (1, shape[0], 2), torch.float64, device, 66),
    }


SOLVE = [
    solver_case("one_element", (1,), slots=0, outputs=1),
    solver_case("primes", (3, 7), step=1),
    solver_case("without_noise", (2, 3, 5), noise=False),
    solver_case("row_a_sample", (3, 5, 7), step=[2, 0, 1]),
    solver_case("image", (2, 3, 64, 64), step=2),
    solver_case("odd_image", (2, 5, 61, 53), outputs=3),
    solver_case("channels_last", (2, 3, 16, 12), layout="channels_last"),
    solver_case("strided", (3, 21, 4), layout="strided"),
    solver_case("unaligned", (2, 129), layout="offset"),
    solver_case("empty_batch", (0, 3, 4)),
    Case("output_products", "primes", partial(_products, (3, 7))),
    Case("output_products", "image", partial(_products, (2, 3, 3, 5))),
    Case("output_products", "empty_batch", partial(_products, (0, 3))),
    Case("denoised_quantile", "primes", partial(_quantile, (3, 7), "contiguous", 1)),
    Case("denoised_quantile", "image", partial(_quantile, (2, 3, 64, 64), "channels_last", 2)),
    Case("denoised_quantile", "row_a_frame", partial(_quantile, (2, 3, 5, 7), "strided", [[0, 1, 2], [2, 2, 0]])),
    Case("denoised_quantile", "empty_batch", partial(_quantile, (0, 3), "contiguous", 1)),
]
