"""`python -m benchmarks.sanitized_cases`: the tests' cases, forward and backward, for compute-sanitizer to watch."""

from __future__ import annotations

import torch
from torch import Tensor

from python_tests.cases import CASES, Case
from visgen_fast import ops


def main(device: str = "cuda") -> None:
    """Runs every case in two dtypes; the checker that watches judges, not this program."""
    for case in CASES:
        for dtype in (torch.float32, torch.bfloat16):
            run(case, dtype, torch.device(device))


def run(case: Case, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    """Calls the operation and returns the gradients of all arguments that have one."""
    arguments = case.arguments(dtype, device)
    wanted = [arguments[name].requires_grad_() for name in case.differentiable]
    outputs = getattr(ops, case.operation)(**arguments)
    if wanted:
        outputs = [outputs] if isinstance(outputs, Tensor) else outputs
        total = sum(output.float().square().sum() for output in outputs if output.is_floating_point())
        wanted = list(torch.autograd.grad(total, wanted))
    if device.type == "cuda":
        torch.cuda.synchronize()
    return wanted


if __name__ == "__main__":
    main()
