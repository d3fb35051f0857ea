"""Fixtures that all tests share."""

from __future__ import annotations

import gc

import pytest
import torch
from backends import BACKENDS, CPU_BACKENDS, OTHER_BACKENDS, device_of, running_on
from hypothesis import settings

# Timing says nothing on a shared machine; what a failing example was, is printed.
settings.register_profile("visgen_fast", deadline=None, print_blob=True, derandomize=True)
settings.load_profile("visgen_fast")


@pytest.fixture(params=BACKENDS)
def backend(request):
    """Each implementation of the operations in turn; the test's operations run on it."""
    with running_on(request.param):
        yield request.param


@pytest.fixture(params=[CPU_BACKENDS[-1], *OTHER_BACKENDS])
def library(request):
    """Each compiled library in turn, the CPU's with one instruction set: for what loops of kernels cannot change."""
    with running_on(request.param):
        yield request.param


@pytest.fixture
def device(request) -> torch.device:
    """The device that the backend's tensors are on."""
    name = "backend" if "backend" in request.fixturenames else "library"
    return device_of(request.getfixturevalue(name))


def _keep_what_is_there() -> None:
    """What lives until now will live as long as the run: collecting garbage need not look at it each time."""
    gc.collect()
    gc.freeze()


def pytest_collection_finish() -> None:
    """Thousands of cases, and every imported module."""
    gc.set_threshold(10_000)  # tracing a graph makes that many objects at once, and little garbage
    _keep_what_is_there()


@pytest.fixture(autouse=True, scope="module")
def garbage_is_looked_for_among_what_is_new():
    """Compilers leave a million objects behind, which every search after theirs would look through again."""
    yield
    _keep_what_is_there()


@pytest.fixture(autouse=True, scope="session")
def memory_goes_back():
    """A command keeps what its process frees; a process of all tests would end with gigabytes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("visgen_fast.cli.keep_freed_memory", lambda: False)
        yield
