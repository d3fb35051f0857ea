"""What training scripts take from diffusers' schedulers is the same with our operations in them as by themselves."""

from __future__ import annotations

import copy
import pickle
import sys
from types import ModuleType

import pytest
import torch

diffusers = pytest.importorskip("diffusers")
from diffusers import training_utils  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from visgen_fast.interop import (  # noqa: E402
    _noising,
    apply_visgen_to_diffusers,
    apply_visgen_to_diffusers_training,
)
from visgen_fast.interop._own_code import said  # noqa: E402

SHAPE = (5, 3, 6, 4)
METHODS = ("add_noise", "get_velocity", "scale_noise")
WHOLE_NUMBERS = ("SASolverScheduler", "ScoreSdeVeScheduler")


@pytest.fixture(autouse=True)
def tries_small_images_too(monkeypatch):
    said.clear()
    monkeypatch.setattr(_noising, "SMALL", 0)


def schedulers():
    """Each class that mixes images and noise in this way, and can be made without arguments."""
    for name in dir(diffusers.schedulers):
        cls = getattr(diffusers.schedulers, name, None)
        others = ("AmusedScheduler", "BlockRefinementScheduler", "HeliosDMDScheduler", "RePaintScheduler")
        others += ("KarrasVeScheduler",)  # only there beside transformers, and its add_noise isn't written
        if isinstance(cls, type) and type(cls).__name__ != "DummyObject" and name not in others:
            yield from ((name, method) for method in METHODS if hasattr(cls, method) and "RFD4" not in name)


def made(name):
    scheduler = getattr(diffusers, name)()
    if getattr(scheduler, "timesteps", None) is None:
        scheduler.set_timesteps(20)
    if name == "ScoreSdeVeScheduler":
        scheduler.set_sigmas(20)
    return scheduler


def times_of(scheduler):
    times = scheduler.timesteps[torch.linspace(0, len(scheduler.timesteps) - 1, SHAPE[0]).long()]
    if type(scheduler).__name__ == "ScoreSdeVeScheduler":
        return torch.tensor([0, 3, 7, 11, 19])
    return times.long() if type(scheduler).__name__ in WHOLE_NUMBERS else times


def images(dtype=torch.float32, seed=0):
    return torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def call(scheduler, method, x, noise, times):
    if method != "scale_noise":
        return getattr(scheduler, method)(x, noise, times)
    if type(scheduler).__name__ == "FlowMatchHeunDiscreteScheduler":
        times = times[1]
    return scheduler.scale_noise(x, times, noise)


def mix(scheduler, method, dtype=torch.float32, noise_dtype=None):
    """The result, and the gradients of images and noise."""
    x, noise = images(dtype).requires_grad_(), images(noise_dtype or dtype, 1).requires_grad_()
    result = call(scheduler, method, x, noise, times_of(scheduler))
    (result * images(result.dtype, 2)).sum().backward()
    return result, x.grad, noise.grad


EVERY = list(schedulers())


def test_there_are_schedulers_to_try():
    assert len(EVERY) > 35 and {method for _, method in EVERY} == set(METHODS)


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize(("name", "method"), EVERY)
def test_every_scheduler_mixes_the_same_with_gradients(name, method):
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.float64, 1e-14)):
        expected = mix(made(name), method, dtype)
        with apply_visgen_to_diffusers_training():
            found = mix(made(name), method, dtype)
        scale = expected[0].abs().max().item()
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * scale)


PAIRS = [(torch.bfloat16, torch.bfloat16), (torch.float16, torch.float32), (torch.float32, torch.bfloat16)]


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize(("dtype", "noise_dtype"), PAIRS, ids=str)
@pytest.mark.parametrize(("name", "method"), EVERY)
def test_results_have_the_schedulers_own_type_and_are_rounded_once(name, method, dtype, noise_dtype):
    expected = mix(made(name), method, dtype, noise_dtype)
    scheduler = made(name)
    exact = call(scheduler, method, images(dtype).float(), images(noise_dtype, 1).float(), times_of(scheduler))
    with apply_visgen_to_diffusers_training():
        found = mix(made(name), method, dtype, noise_dtype)
    assert [one.dtype for one in found] == [one.dtype for one in expected]
    rounding = torch.finfo(found[0].dtype).eps
    torch.testing.assert_close(found[0].float(), exact, rtol=rounding, atol=1e-6 * exact.abs().max().item())


def test_little_noise_is_still_noise_in_16_bits():
    """diffusers rounds the share of the signal: of 0.9991, where t is 5, to 1."""
    scheduler, times = diffusers.DDPMScheduler(), torch.full((SHAPE[0],), 5)
    zero, noise = torch.zeros(SHAPE, dtype=torch.bfloat16), images(torch.bfloat16)
    assert not scheduler.add_noise(zero, noise, times).any()
    with apply_visgen_to_diffusers_training(scheduler):
        found = scheduler.add_noise(zero, noise, times)
    exact = (1 - scheduler.alphas_cumprod[5]).sqrt() * noise.float()
    torch.testing.assert_close(found.float(), exact, rtol=2**-8, atol=0)


class Passes(TorchDispatchMode):
    """Counts operations whose result has the size of the images."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.count += isinstance(result, torch.Tensor) and result.shape == SHAPE
        return result


@pytest.mark.parametrize(("name", "method"), [("DDPMScheduler", "add_noise"), ("DDPMScheduler", "get_velocity")])
def test_one_operation_reads_the_images(name, method):
    scheduler, x, noise = made(name), images(), images(seed=1)

    def passes():
        times = times_of(scheduler)
        with Passes() as counted:
            call(scheduler, method, x, noise, times)
        return counted.count

    assert passes() == 3
    with apply_visgen_to_diffusers_training(scheduler):
        assert passes() == 1


@pytest.mark.filterwarnings("error::UserWarning")
def test_a_time_for_each_token_and_one_time_for_all():
    flow = diffusers.FlowMapEulerDiscreteScheduler()
    x, noise = images().flatten(2), images(seed=1).flatten(2)
    tokens = torch.arange(15.0).view(5, 3) * 60
    ddpm, one = diffusers.DDPMScheduler(), torch.tensor([300])
    expected = flow.scale_noise(x, tokens, noise), ddpm.add_noise(x, noise, one)
    with apply_visgen_to_diffusers_training():
        found = flow.scale_noise(x, tokens, noise), ddpm.add_noise(x, noise, one)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.filterwarnings("error::UserWarning")
def test_the_state_of_a_loop_counts():
    """Once a loop has begun, the step's level is meant, whatever the times."""
    scheduler = diffusers.EulerDiscreteScheduler()
    scheduler.set_timesteps(10)
    scheduler.set_begin_index(4)
    expected = scheduler.add_noise(images(), images(seed=1), scheduler.timesteps[:5])
    with apply_visgen_to_diffusers_training():
        found = scheduler.add_noise(images(), images(seed=1), scheduler.timesteps[:5])
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("training_first", [True, False])
def test_it_goes_together_with_our_schedulers(training_first):
    applies = [apply_visgen_to_diffusers_training, apply_visgen_to_diffusers]
    expected = mix(diffusers.DDPMScheduler(), "get_velocity")
    first, second = (apply() for apply in (applies if training_first else reversed(applies)))
    ours, x = made("DDPMScheduler"), images()

    def passes():
        with Passes() as counted:
            ours.add_noise(x, x, torch.arange(5))
        return counted.count

    assert passes() == 1
    torch.testing.assert_close(mix(ours, "get_velocity"), expected, rtol=1e-6, atol=1e-6)
    (first if training_first else second).revert()
    assert passes() == 3
    (second if training_first else first).revert()


@pytest.mark.filterwarnings("error::UserWarning")
def test_one_scheduler_may_be_meant_and_stays_what_it_is(tmp_path):
    scheduler = diffusers.DDPMScheduler(beta_end=0.03)
    expected = mix(scheduler, "add_noise")
    with apply_visgen_to_diffusers_training(scheduler) as replacement:
        for one in (scheduler, copy.deepcopy(scheduler), pickle.loads(pickle.dumps(scheduler))):
            torch.testing.assert_close(mix(one, "add_noise"), expected, rtol=1e-6, atol=1e-6)
        assert type(scheduler) is not diffusers.DDPMScheduler and scheduler.config.beta_end == 0.03
        scheduler.save_pretrained(tmp_path)
        assert diffusers.DDPMScheduler.from_pretrained(tmp_path).config.beta_end == 0.03
        replacement.revert()
    assert type(scheduler) is diffusers.DDPMScheduler
    assert torch.equal(mix(scheduler, "add_noise")[0], expected[0])


@pytest.mark.parametrize(
    ("x", "noise", "reason"),
    [
        (images(torch.float32), images(torch.float64), "images and noise differ in precision or device"),
        (images(), images()[:1], "images and noise must be floating-point, and of one shape"),
        (images()[:, 0, 0, 0], images()[:, 0, 0, 0], "images must have 2 to 9 dimensions"),
    ],
)
def test_what_is_not_served_runs_diffusers_own_and_says_so_once(x, noise, reason, recwarn):
    scheduler = diffusers.DDPMScheduler()
    times = torch.arange(len(x))
    expected = scheduler.add_noise(x, noise, times)
    with apply_visgen_to_diffusers_training(scheduler):
        assert torch.equal(scheduler.add_noise(x, noise, times), expected)
        assert torch.equal(scheduler.add_noise(x, noise, timesteps=times), expected)
    assert [str(w.message) for w in recwarn] == [f"DDPMScheduler.add_noise runs diffusers' own code: {reason}"]


def test_more_times_than_images_and_times_for_columns_run_diffusers_own(recwarn):
    ddpm, flow = diffusers.DDPMScheduler(), diffusers.FlowMapEulerDiscreteScheduler()
    pair, columns = images()[..., :2], torch.rand(5, 3, 6, 2) * 1000
    expected = ddpm.add_noise(images()[:1], images()[:1], torch.arange(5)), flow.scale_noise(pair, columns, pair)
    with apply_visgen_to_diffusers_training():
        found = ddpm.add_noise(images()[:1], images()[:1], torch.arange(5)), flow.scale_noise(pair, columns, pair)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert len(recwarn) == 2


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # torch's own
def test_compiled_without_graph_breaks_and_batched_by_vmap_it_is_diffusers_own():
    scheduler, times = diffusers.DDPMScheduler(), torch.arange(0, 1000, 200)

    def noised(x, noise):
        return scheduler.add_noise(x, noise, times)

    x, noise = images(), images(seed=1)
    expected, batched = noised(x, noise), torch.stack([noised(x, noise), noised(noise, x)])
    with apply_visgen_to_diffusers_training(scheduler):
        torch.testing.assert_close(torch.compile(noised, fullgraph=True)(x, noise), expected)
        both = torch.stack([x, noise])
        with pytest.warns(UserWarning, match="own code: it is transformed or compiled"):
            torch.testing.assert_close(torch.func.vmap(noised)(both, both.flip(0)), batched)


def test_errors_stay_diffusers_own():
    euler = diffusers.EulerDiscreteScheduler()
    with apply_visgen_to_diffusers_training(), pytest.raises(ValueError, match="Passing integer indices"):
        euler.get_velocity(images(), images(), torch.arange(5))
    with apply_visgen_to_diffusers_training(), pytest.raises(IndexError):
        diffusers.DDPMScheduler().add_noise(images(), images(), torch.tensor([1, 2, 3, 4, 1000]))


def test_the_ratio_is_the_same_where_it_was_imported_and_is_put_back():
    stock, script = training_utils.compute_snr, ModuleType("a_training_script")
    script.compute_snr = stock
    sys.modules[script.__name__] = script
    scheduler, times = diffusers.DDPMScheduler(), torch.randint(1000, (4, 3))
    expected = stock(scheduler, times)
    with apply_visgen_to_diffusers_training():
        assert script.compute_snr is training_utils.compute_snr is not stock
        found = script.compute_snr(scheduler, times)
        other = apply_visgen_to_diffusers_training()
    other.revert()
    del sys.modules[script.__name__]
    assert script.compute_snr is training_utils.compute_snr is stock
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def test_no_signal_has_the_ratio_0():
    scheduler = diffusers.DDPMScheduler(rescale_betas_zero_snr=True)
    with apply_visgen_to_diffusers_training():
        assert training_utils.compute_snr(scheduler, torch.tensor([999])).item() == pytest.approx(0, abs=1e-7)


def test_what_mixes_nothing_is_refused():
    with pytest.raises(
        ValueError, match="scheduler must have one of add_noise, get_velocity, scale_noise, got Repaint"
    ):
        apply_visgen_to_diffusers_training(type("Repaint", (), {})())
