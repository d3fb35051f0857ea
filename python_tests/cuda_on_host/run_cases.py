"""Runs every case of the operations on the emulated CUDA kernels, forward and backward, under several schedules.

    cd python_tests && VISGEN_CUDA_ON_HOST=checked python -m cuda_on_host.run_cases

A process of its own, since the checked build replaces torch's allocator, and the sanitized one needs the address
sanitizer from the beginning. It ends with the first fault, or the first result that depends on the schedule.
"""

import ctypes
import os
import subprocess
import sys

import torch
from backends import running_on
from cases import CASES, Case
from torch.utils._pytree import tree_leaves

import cuda_on_host
from visgen_fast import ops

SCHEDULES = [-1, 1, 2]  # descending, and two shuffles; what they give is compared with the ascending order's
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
LARGE = 30_000  # elements of an output, from which on one data type and one schedule must do


def results_of(case: Case, dtype: torch.dtype) -> list[torch.Tensor]:
    """What the operation gives, and the gradients of the sum of those outputs that have any."""
    arguments = case.arguments(dtype, torch.device("cpu"))
    for name in case.differentiable:
        arguments[name] = arguments[name].detach().requires_grad_()
    result = getattr(ops, case.operation)(**arguments)
    outputs = tree_leaves(result)
    real = [output for output in outputs if output.requires_grad]
    if not real:
        return outputs
    inputs = [arguments[name] for name in case.differentiable]
    return [*outputs, *torch.autograd.grad(real, inputs, [torch.ones_like(output) for output in real])]


def same(results: list[torch.Tensor], expected: list[torch.Tensor]) -> bool:
    return all(torch.equal(result, other) for result, other in zip(results, expected, strict=True))


def restart_with_address_sanitizer() -> None:
    compiler = os.environ.get("CXX", "c++").split()[0]
    names = [f"-print-file-name={name}" for name in ("libasan.so", "libstdc++.so")]
    paths = [subprocess.run([compiler, name], capture_output=True, text=True, check=True).stdout for name in names]
    # Python itself leaves memory behind when it ends.
    options = {"LD_PRELOAD": " ".join(path.strip() for path in paths), "ASAN_OPTIONS": "detect_leaks=0"}
    os.execve(sys.executable, [sys.executable, "-m", "cuda_on_host.run_cases"], {**os.environ, **options})


def main() -> None:
    if os.environ.get("VISGEN_CUDA_ON_HOST") == "sanitized" and "libasan" not in os.environ.get("LD_PRELOAD", ""):
        cuda_on_host.build("cuda_on_host_sanitized")  # the compiler need not run under the sanitizer
        restart_with_address_sanitizer()
    library = ctypes.CDLL(str(cuda_on_host.load_operations()))
    runs = 0
    with running_on("cuda-on-host"):
        for case in CASES:
            for dtype in DTYPES:
                expected = results_of(case, dtype)
                # How threads share memory, no data type changes.
                one = dtype != DTYPES[0] or expected[0].numel() > LARGE
                for seed in SCHEDULES[: 1 if one else None]:
                    library.visgen_host_set_schedule(ctypes.c_int64(seed))
                    runs += 1
                    if not same(results_of(case, dtype), expected):
                        sys.exit(f"{case} in {dtype}: the result depends on the order in which threads run")
                library.visgen_host_set_schedule(ctypes.c_int64(0))
                if expected[0].numel() > LARGE:
                    break
    print(f"{runs} runs without a fault")


if __name__ == "__main__":
    main()
