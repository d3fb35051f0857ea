"""What a planted fault is."""

from typing import NamedTuple

KERNELS = ["python_tests/test_contract.py", "-k", "cuda-on-host and (equals_the_reference or gradients_equal)"]


class Mutation(NamedTuple):
    """`old`, which occurs once in `file`, becomes `new`; `tests` are what should notice."""

    name: str
    file: str
    old: str
    new: str
    tests: list[str] = KERNELS
