"""Modules that were built on the meta device, and states of other types: what a load leaves."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from module_cases import MODULES, assert_same_state, go_on_alike, inputs, made, results, state
from torch import nn

from visgen_fast.models.dit import DiT
from visgen_fast.models.uvit import UViT
from visgen_fast.nn import Quantizer


@pytest.fixture
def garbage():
    """Memory that nobody has written to holds NaN and the largest integers, so that reading it shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def on_meta(name: str) -> Quantizer:
    with torch.device("meta"):
        return MODULES[name]()


LOADS = {
    "to_empty": lambda name, saved: on_meta(name).to_empty(device="cpu"),
    "to_empty of a real one": lambda name, saved: made(name).to_empty(device="cpu"),
    "assigned": lambda name, saved: on_meta(name),
    "to_empty in a network": lambda name, saved: nn.Sequential(on_meta(name)).to_empty(device="cpu")[0],
}


@pytest.mark.parametrize("how", LOADS)
@pytest.mark.parametrize("name", MODULES)
def test_a_module_from_the_meta_device_is_right_after_a_strict_load(name, how, garbage):
    source = made(name)
    results(source, 0)
    saved = {key: tensor.clone() for key, tensor in source.state_dict().items()}
    loaded = LOADS[how](name, saved)
    loaded.load_state_dict(saved, assign=how == "assigned")
    source.reset_usage()
    assert_same_state(state(loaded), state(source))
    go_on_alike(source, loaded)


@pytest.mark.parametrize("name", ["lookup-free", "finite scalar", "spherical"])
def test_a_module_without_a_state_is_right_off_the_meta_device_without_a_load(name, garbage):
    go_on_alike(made(name), on_meta(name).to_empty(device="cpu"))


@pytest.mark.parametrize("name", MODULES)
def test_a_state_of_16_bits_is_widened_however_it_is_loaded(name):
    source = made(name)
    narrow = {key: t.half() if t.is_floating_point() else t for key, t in source.state_dict().items()}
    copied, assigned = made(name), made(name)
    copied.load_state_dict(narrow)
    assigned.load_state_dict(narrow, assign=True)
    assert_same_state(state(assigned), state(copied))
    go_on_alike(copied, assigned)


def test_a_state_of_float64_that_is_assigned_is_gathered_in_float64():
    name = "residual, manual"
    assigned, expected = made(name), made(name).double()
    assigned.load_state_dict(copy.deepcopy(expected.state_dict()), assign=True)
    for module in (assigned, expected):
        module(inputs(module).double())
        module.commit()
    got = {key: t.double() for key, t in state(assigned).items()}
    assert_same_state(got, {key: t.double() for key, t in state(expected).items()}, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("network", [DiT, partial(UViT, stages=(8,))], ids=["DiT", "UViT"])
def test_a_transformer_from_the_meta_device_has_its_positions(network, assign, dtype, garbage):
    sizes = {"image_size": (8, 4), "channels": 3, "patch_size": 2, "width": 16, "depth": 1, "heads": 2, "classes": 3}
    torch.manual_seed(0)
    source = network(**sizes)
    for parameter in source.parameters():
        nn.init.normal_(parameter, std=0.2)
    source.to(dtype)
    with torch.device("meta"):
        loaded = network(**sizes)
    if not assign:
        loaded.to(dtype).to_empty(device="cpu")
    loaded.load_state_dict(source.state_dict(), assign=assign)
    arguments = torch.randn(2, 3, 8, 4).to(dtype), torch.tensor([0.2, 0.7]), torch.tensor([0, 3])
    expected = source(*arguments)
    torch.testing.assert_close(loaded(*arguments), expected, rtol=0.05 if assign else 0, atol=0.05 if assign else 0)
    assert expected.dtype == dtype and expected.abs().max() > 0.1
