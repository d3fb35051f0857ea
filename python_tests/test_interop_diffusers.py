"""diffusers' schedulers step as diffusers' own do, whatever their settings and whatever is done to their state."""

from __future__ import annotations

import copy
import importlib.util
import inspect
import itertools
import pickle
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

diffusers = pytest.importorskip("diffusers")  # needs Python 3.11

from visgen_fast.interop import diffusers as ours  # noqa: E402
from visgen_fast.interop._own_code import said  # noqa: E402
from visgen_fast.interop.diffusers import NAMES, stepping  # noqa: E402

_spec = importlib.util.spec_from_file_location(
    "compare_diffusers", Path(__file__).resolve().parents[1] / "tools" / "compare_diffusers.py"
)
tool = importlib.util.module_from_spec(_spec)
sys.modules["compare_diffusers"] = tool
_spec.loader.exec_module(tool)

pytestmark = pytest.mark.filterwarnings("ignore:.*algorithm_type:FutureWarning")
SPARSE = 16  # of the tool's trajectories, every so many
MULTISTEP = ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler")


@pytest.fixture(autouse=True)
def says_it_again():
    said.clear()


def made(name, package=ours, steps=6, **config):
    scheduler = getattr(package, name)(**config)
    scheduler.set_timesteps(steps)
    return scheduler


def network(x, time):
    """A network that reads nothing back from the device."""
    return torch.tanh(0.7 * x) + 0.1 * torch.sin(2 * x + time / 500)


def pictures(seed=0, shape=(2, 3, 4, 4)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def loop(scheduler, x, times=None, **options):
    """The state after each of the times."""
    states = []
    for time in scheduler.timesteps if times is None else times:
        read = scheduler.scale_model_input(x, time) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(network(read, time), time, x, return_dict=False, **options)[0]
        states.append(x)
    return torch.stack(states)


def both(name, act, steps=6, **config):
    """What `act` makes of our scheduler and of diffusers'."""
    return tuple(act(made(name, package, steps, **config)) for package in (ours, diffusers))


def drawing(name, seed=0):
    drawn = "generator" in inspect.signature(getattr(ours, name).step).parameters
    return {"generator": torch.Generator().manual_seed(seed)} if drawn else {}


@pytest.mark.parametrize("name", NAMES)
def test_states_stay_within_a_hundred_thousandth_of_float64(name):
    cases = [case for case in tool.trajectories() if case.scheduler == name and case.steps < 200]
    for case in cases[:: SPARSE if len(cases) > 2 * SPARSE else 3]:
        assert tool.compare(case).words == "", case.name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_16_bit_states_are_no_farther_from_float64_than_diffusers(name, dtype):
    case = next(case for case in tool.trajectories() if case.scheduler == name)
    assert tool.compare(case, dtype).words == ""


@pytest.mark.parametrize("name", NAMES)
def test_signatures_are_diffusers(name):
    for method in ("__init__", "step", "set_timesteps", "add_noise"):
        if hasattr(getattr(diffusers, name), method):
            theirs, mine = (inspect.signature(getattr(getattr(one, name), method)) for one in (diffusers, ours))
            assert list(mine.parameters) == list(theirs.parameters)
            assert [p.default for p in mine.parameters.values()] == [p.default for p in theirs.parameters.values()]


@pytest.mark.parametrize("name", NAMES)
def test_results_and_dtypes_are_diffusers(name):
    floats = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
    for sample_type, output_type in itertools.product(floats, floats):
        for prediction in ("epsilon", "sample"):
            if (name, prediction) == ("EulerAncestralDiscreteScheduler", "sample"):
                continue

            def act(scheduler, sample_type=sample_type, output_type=output_type):
                time, x, output = scheduler.timesteps[0], pictures().to(sample_type), pictures(1).to(output_type)
                scheduler.is_scale_input_called = True
                found = scheduler.step(output, time, x, return_dict=False)
                scheduler.set_timesteps(6)
                return [one.dtype for one in found], type(scheduler.step(output, time, x))

            config = {} if "Flow" in name else {"prediction_type": prediction}
            mine, theirs = both(name, act, **config)
            assert mine == theirs, (sample_type, output_type, prediction)


@pytest.mark.parametrize("name", NAMES)
def test_a_step_leaves_its_arguments_and_draws_as_diffusers_does(name):
    def act(scheduler):
        options, x, kept = drawing(name), pictures(), []
        for time in scheduler.timesteps:
            read = scheduler.scale_model_input(x, time) if hasattr(scheduler, "scale_model_input") else x
            output = network(read, time)
            kept += [(one, one.clone()) for one in (x, output)]
            x = scheduler.step(output, time, x, **options)[0]
            kept.append((x, x.clone()))
        assert all(torch.equal(one, before) for one, before in kept)
        return options["generator"].get_state() if options else torch.zeros(1)

    mine, theirs = both(name, act, **({"algorithm_type": "sde-dpmsolver++"} if name == MULTISTEP[0] else {}))
    assert torch.equal(mine, theirs)


@pytest.mark.parametrize("name", NAMES)
def test_after_each_step_every_attribute_is_diffusers(name):
    states = [pictures(), pictures()]

    def same(mine, theirs):
        if isinstance(theirs, torch.Tensor):
            return torch.allclose(mine, theirs, rtol=1e-4, atol=1e-4) and mine.dtype == theirs.dtype
        if isinstance(theirs, list):
            return len(mine) == len(theirs) and all(map(same, mine, theirs))
        return mine == theirs

    mine, theirs = made(name), made(name, diffusers)
    for time in theirs.timesteps:
        for k, scheduler in enumerate((mine, theirs)):
            read = scheduler.scale_model_input(states[k], time) if hasattr(theirs, "scale_model_input") else states[k]
            states[k] = scheduler.step(network(read, time), time, states[k], **drawing(name)).prev_sample
        found = {key: value for key, value in vars(mine).items() if key not in stepping._CACHES}
        assert found.keys() == vars(theirs).keys()
        assert [key for key, value in vars(theirs).items() if not same(found[key], value)] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_list_of_generators_draws_each_sample_as_alone(name):
    if not drawing(name):
        return
    generators = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
    x = pictures()
    together = loop(made(name), x, generator=generators)
    for sample, seed in enumerate((5, 6)):
        alone = loop(made(name), x[sample : sample + 1], generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(together[:, sample : sample + 1], alone)


class NoReads(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        assert function.overloadpacket not in (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero), function
        return function(*arguments, **(options or {}))


@pytest.mark.parametrize("start", [0, 2])
@pytest.mark.parametrize("name", NAMES)
def test_no_number_is_read_from_a_tensor_inside_the_loop(name, start):
    scheduler = made(name)
    x = pictures()
    if hasattr(scheduler, "add_noise"):
        x = scheduler.add_noise(x, pictures(1), scheduler.timesteps[start : start + 1])
    with NoReads():
        loop(scheduler, x, scheduler.timesteps[start:], **drawing(name))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda scheduler: pickle.loads(pickle.dumps(scheduler))])
@pytest.mark.parametrize("name", NAMES)
def test_a_copy_in_the_middle_goes_on_as_the_original(name, copied):
    scheduler = made(name)
    half = loop(scheduler, pictures(), scheduler.timesteps[:3])[-1]
    other = copied(scheduler)
    assert type(other) is type(scheduler)
    rest = scheduler.timesteps[3:]
    expected = loop(scheduler, half, rest, **drawing(name))
    assert torch.equal(loop(other, half, rest.clone(), **drawing(name)), expected)


@pytest.mark.parametrize("name", MULTISTEP)
def test_pipelines_may_rewrite_the_state_in_the_middle(name):
    def cropped(scheduler):  # a video loses frames: ChronoEdit
        x = loop(scheduler, pictures(), scheduler.timesteps[:3])[-1][:1]
        scheduler.model_outputs = [None if one is None else one[:1] for one in scheduler.model_outputs]
        if getattr(scheduler, "last_sample", None) is not None:
            scheduler.last_sample = scheduler.last_sample[:1]
        return loop(scheduler, x, scheduler.timesteps[3:])

    def stepped_back(scheduler):  # Cosmos
        x = loop(scheduler, pictures(), scheduler.timesteps[:3])[-1]
        scheduler._step_index -= 1
        return loop(scheduler, x, scheduler.timesteps[2:])

    def shifted(scheduler):  # other levels for the rest
        x = loop(scheduler, pictures(), scheduler.timesteps[:3])[-1]
        scheduler.sigmas = scheduler.sigmas * 0.9
        x = loop(scheduler, x, scheduler.timesteps[3:4])[-1]
        scheduler.sigmas[5] *= 0.9
        return loop(scheduler, x, scheduler.timesteps[4:])

    def in_views(scheduler):  # states of two crops, in and out of the scheduler's dictionary: Panorama
        crops, states = [pictures(), pictures(1)], [copy.deepcopy(vars(scheduler)) for _ in range(2)]
        for time in scheduler.timesteps:
            for k in range(2):
                scheduler.__dict__.update(states[k])
                crops[k] = loop(scheduler, crops[k], [time])[0]
                states[k] = dict(vars(scheduler))
                states[k]["model_outputs"] = list(scheduler.model_outputs)
        return torch.stack(crops)

    for act in (cropped, stepped_back, shifted, in_views):
        torch.testing.assert_close(*both(name, act), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_setting_changed_after_construction_counts_from_the_next_step(name):
    if "Flow" in name:
        return

    def act(scheduler):
        x = loop(scheduler, pictures(), scheduler.timesteps[:2], **drawing(name))[-1]
        scheduler.config.prediction_type = "v_prediction"
        return loop(scheduler, x, scheduler.timesteps[2:], **drawing(name, 1))

    torch.testing.assert_close(*both(name, act), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_said_means_a_table_was_used(name):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*diffusers' own code")
        loop(made(name), pictures(), **drawing(name))


@pytest.mark.parametrize("name", NAMES)
def test_a_gradient_runs_diffusers_own_step_and_says_so_once(name):
    scheduler, x = made(name), pictures().requires_grad_()
    with pytest.warns(UserWarning, match="a gradient is asked for") as said:
        loop(scheduler, x, **drawing(name))[-1].sum().backward()
    assert x.grad.isfinite().all() and x.grad.abs().sum() > 0
    assert sum("own code" in str(one.message) for one in said) == 1


def test_what_no_table_stands_for_runs_diffusers_own_step():
    x, output = pictures(), pictures(1)

    def stepped(name, package, step=None, **config):
        scheduler = made(name, package, **config)
        scheduler.is_scale_input_called = True
        return scheduler.step(output, scheduler.timesteps[0], x, **(step or {}))[0]

    cases = [
        ("FlowMatchEulerDiscreteScheduler", {}, {"per_token_timesteps": torch.full((2, 3), 500.0)}),
        ("UniPCMultistepScheduler", {"solver_p": diffusers.DDIMScheduler()}, {}),
        ("DPMSolverMultistepScheduler", {"solver_order": 4}, {}),
    ]
    for name, config, step in cases:
        if "per_token_timesteps" in step:
            x, output = x.flatten(2).transpose(1, 2)[:, :3], output.flatten(2).transpose(1, 2)[:, :3]
        with pytest.warns(UserWarning, match=f"{name}.step runs diffusers' own code"):
            mine = stepped(name, ours, step, **config)
        assert torch.equal(mine, stepped(name, diffusers, step, **config))


def test_a_step_beyond_the_last_raises_as_diffusers_does():
    scheduler = made("DPMSolverMultistepScheduler")
    loop(scheduler, pictures())
    with pytest.warns(UserWarning, match="the steps are over"), pytest.raises(IndexError):
        scheduler.step(pictures(), scheduler.timesteps[-1], pictures())
