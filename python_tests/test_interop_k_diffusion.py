"""k-diffusion's samplers with our step give k-diffusion's results, whatever their options.

They are held to the package itself where its sampling.py and scipy are installed, and everywhere to the formulas of
`k_diffusion_formulas`, for the samplers written there.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType, SimpleNamespace

import k_diffusion_formulas as formulas
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from visgen_fast.interop import apply_visgen_to_k_diffusion, k_diffusion
from visgen_fast.interop._own_code import said

_spec = importlib.util.spec_from_file_location(
    "compare_k_diffusion", Path(__file__).resolve().parents[1] / "tools" / "compare_k_diffusion.py"
)
tool = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tool)


def peers():
    """Modules with k-diffusion's samplers."""
    found, text = [("formulas", formulas)], tool.source(None)
    if not isinstance(text, str):
        package = tool.loaded(text[0])
        package.trange, package.tqdm = formulas.trange, formulas.tqdm
        package.BrownianTreeNoiseSampler = formulas.BrownianTreeNoiseSampler  # without torchsde
        found.append(("k-diffusion", package))
    return found


PEERS = peers()
CHURN = {"s_churn": 4.0, "s_tmin": 0.1, "s_tmax": 5.0, "s_noise": 1.003}
ETAS = [{}, {"eta": 0.4}, {"eta": 0.0}, {"eta": 2.5}, {"s_noise": 0.9}]
OPTIONS = {
    "sample_euler": [{}, CHURN, {"s_churn": 30.0}],
    "sample_heun": [{}, CHURN, {"s_churn": 30.0}],
    "sample_dpm_2": [{}, CHURN, {"s_churn": 30.0}],
    "sample_euler_ancestral": ETAS,
    "sample_dpm_2_ancestral": ETAS,
    "sample_lms": [{}, *({"order": order} for order in (1, 2, 3))],
    "sample_dpmpp_2s_ancestral": ETAS,
    "sample_dpmpp_sde": [*ETAS, {"r": 0.3}],
    "sample_dpmpp_2m": [{}],
    "sample_dpmpp_2m_sde": [*ETAS, {"solver_type": "heun"}],
    "sample_dpmpp_3m_sde": ETAS,
}
FAST = [{}, {"eta": 1.0}, {"eta": 0.5, "s_noise": 0.8}, {"eta": 3.0}]
SAMPLERS = [(peer, name) for _, peer in PEERS for name in OPTIONS if hasattr(peer, name)]
EACH = [pytest.param(peer, id=name) for name, peer in PEERS]
NAMED = [pytest.param(peer, name, id=f"{name}-{peer.__name__}") for peer, name in SAMPLERS]


@pytest.fixture(autouse=True)
def says_it_again():
    said.clear()


def levels(steps=8, zero=True, dtype=torch.float64):
    falling = torch.linspace(20 ** (1 / 7), 0.05 ** (1 / 7), steps, dtype=dtype) ** 7
    return torch.cat([falling, falling.new_zeros(1)]) if zero else falling


def pictures(dtype=torch.float64, shape=(2, 3, 4, 4)):
    return 20 * torch.randn(shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64).to(dtype)


def record(peer, name, x, sigmas, model=tool.network, **options):
    """(the states, what the callback was given, the levels that the network read) of a run."""
    seen, told = [], []

    def watched(x, sigma, **extra):
        told.append(sigma)
        return model(x, sigma, **extra)

    torch.manual_seed(3)
    end = getattr(peer, name)(watched, x, sigmas, callback=seen.append, disable=True, **options)
    return torch.stack([at["x"] for at in seen] + [end]), seen, torch.stack(told)


def both(peer, *arguments, **options):
    """What the peer makes of the same arguments, and what ours does in its place."""
    theirs = record(peer, *arguments, **options)
    with apply_visgen_to_k_diffusion(peer):
        return theirs, record(peer, *arguments, **options)


def distance(found, expected):
    """The largest of two states, over the size of the one expected."""
    found, expected = found.double(), expected.double()
    gaps, sizes = (some.square().flatten(1).mean(1).sqrt() for some in (found - expected, expected))
    return (gaps / sizes).max().item()


@pytest.mark.parametrize("sigmas", [levels(), levels(zero=False), levels(2), levels(dtype=torch.float32)])
@pytest.mark.parametrize("peer, name", NAMED)
def test_states_callbacks_and_noise_are_theirs(peer, name, sigmas):
    exact = sigmas.dtype == torch.float64
    for options in OPTIONS[name]:
        (states, seen, told), (ours, mine, read) = both(peer, name, pictures(), sigmas, **options)
        assert distance(ours, states) < (tool.TOLERANCE if exact else 1e-4), options
        torch.testing.assert_close(read, told, rtol=1e-6, atol=0)
        for at, expected in zip(mine, seen, strict=True):
            assert set(at) == set(expected) and at["i"] == expected["i"] and at["sigma"] == expected["sigma"]
            torch.testing.assert_close(at["sigma_hat"], expected["sigma_hat"])
            torch.testing.assert_close(at["denoised"], expected["denoised"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("peer, name", NAMED)
def test_rounded_states_stay_near_the_formulas_in_float64(peer, name, dtype, monkeypatch):
    """Within 1e-5, or twice k-diffusion's own distance."""
    drawn = [torch.randn(pictures().shape, generator=torch.Generator().manual_seed(k)) for k in range(40)]
    sigmas = levels(dtype=torch.float32)
    for options in OPTIONS[name]:

        def given(dtype, options=options):
            noise = iter([one.to(dtype) for one in drawn])
            draw = lambda *_: next(noise)  # noqa: E731
            monkeypatch.setattr(peer, "torch", SimpleNamespace(**{**vars(torch), "randn_like": draw}))
            taken = inspect.signature(getattr(peer, name)).parameters
            return {**options, **({"noise_sampler": draw} if "noise_sampler" in taken else {})}

        exact = record(peer, name, pictures(dtype).double(), sigmas.double(), **given(torch.float64))[0]
        theirs = record(peer, name, pictures(dtype), sigmas, **given(dtype))[0]
        with apply_visgen_to_k_diffusion(peer):
            ours = record(peer, name, pictures(dtype), sigmas, **given(dtype))[0]
        assert ours.dtype == theirs.dtype
        assert distance(ours, exact) <= max(1e-5, 2 * distance(theirs, exact)), options


@pytest.mark.parametrize("peer, name", NAMED)
def test_a_noise_sampler_is_asked_for_the_same_levels(peer, name):
    if "noise_sampler" not in inspect.signature(getattr(peer, name)).parameters:
        return
    asked = []

    def noise(sigma, sigma_next):
        asked.append((sigma.item(), sigma_next.item()))
        return torch.full(
            (1, 3, 1, 1), sigma.item() % 1 - sigma_next.item(), dtype=torch.float64
        )  # the same for all samples

    theirs, ours = both(peer, name, pictures(), levels(), noise_sampler=noise)
    assert distance(ours[0], theirs[0]) < tool.TOLERANCE
    half = len(asked) // 2
    assert half and asked[:half] == asked[half:]


@pytest.mark.parametrize("peer, name", NAMED)
def test_a_run_without_noise_draws_none(peer, name):
    taken = inspect.signature(getattr(peer, name)).parameters
    quiet = [{"s_noise": 0.0, "s_churn": 4.0}] if "s_churn" in taken else [{"s_noise": 0.0}, {"eta": 0.0}]
    for options in [{}, *quiet] if "s_churn" in taken else quiet if "eta" in taken else [{}]:
        before = torch.manual_seed(1).get_state()
        with apply_visgen_to_k_diffusion(peer):
            getattr(peer, name)(tool.network, pictures(), levels(), disable=True, **options)
        assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("peer, name", NAMED)
def test_a_run_with_noise_leaves_the_generator_where_theirs_does(peer, name):
    taken = inspect.signature(getattr(peer, name)).parameters
    for options in OPTIONS[name]:
        if options.get("eta") == 0.0 or ("s_churn" not in options and "eta" not in taken):
            continue
        after = []
        for once in (contextlib.nullcontext, apply_visgen_to_k_diffusion):
            with once(peer):
                record(peer, name, pictures(), levels(), **options)
            after.append(torch.get_rng_state())
        assert torch.equal(*after), options


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_levels_reach_the_network_to_the_last_bit(dtype):
    sigmas = (
        torch.rand(300, generator=torch.Generator().manual_seed(0), dtype=dtype).sort(descending=True).values * 14.6
    )
    with apply_visgen_to_k_diffusion(formulas):
        told = record(formulas, "sample_euler", pictures(dtype), sigmas)[2]
    assert torch.equal(told, sigmas[:-1, None].expand(-1, 2))


class NoReads(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        assert function.overloadpacket not in (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero), function
        return function(*arguments, **(options or {}))


@pytest.mark.parametrize("peer, name", NAMED)
def test_no_number_is_read_from_a_tensor_inside_the_loop(peer, name):
    taken = inspect.signature(getattr(peer, name)).parameters
    reads, first = NoReads(), []
    every = {"s_churn": 9.0, "noise_sampler": lambda *_: torch.ones(2, 3, 4, 4)}
    options = {key: value for key, value in every.items() if key in taken}

    def model(x, sigma):
        if not first:
            first.append(reads.__enter__())
        return tool.network(x, sigma)

    try:
        with apply_visgen_to_k_diffusion(peer):
            getattr(peer, name)(model, pictures(), levels(), callback=lambda at: None, disable=True, **options)
    finally:
        reads.__exit__(None, None, None)


@pytest.mark.parametrize("peer, name", NAMED)
def test_what_was_seen_stays_and_arguments_pass(peer, name):
    x = pictures().to(memory_format=torch.channels_last)
    kept, begun = [], x.clone()

    def model(x, sigma, scale):
        denoised = scale * tool.network(x, sigma)
        kept.extend([(x, x.clone()), (denoised, denoised.clone())])
        return denoised

    def watch(at):
        kept.extend((at[key], at[key].clone()) for key in ("x", "denoised", "sigma", "sigma_hat"))

    with apply_visgen_to_k_diffusion(peer):
        getattr(peer, name)(model, x, levels(), {"scale": 0.9}, watch, True)
    assert torch.equal(x, begun) and all(torch.equal(one, before) for one, before in kept)


@pytest.mark.parametrize("x_type", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("peer, name", NAMED)
def test_states_denoised_images_and_noise_may_differ_in_type(peer, name, x_type):
    def network(x, sigma):
        return tool.network(x, sigma).to(torch.float32 if x_type == torch.float64 else x.dtype)

    taken = "noise_sampler" in inspect.signature(getattr(peer, name)).parameters
    sigmas = levels(zero=name not in ("sample_dpmpp_2m_sde", "sample_dpmpp_3m_sde"), dtype=torch.float32)
    for options in ({}, {"noise_sampler": lambda *_: torch.full((2, 3, 4, 4), 0.3)})[: 1 + taken]:
        theirs, ours = both(peer, name, pictures(x_type), sigmas, network, **options)
        assert [at["x"].dtype for at in ours[1]] == [at["x"].dtype for at in theirs[1]]
        assert ours[0].dtype == theirs[0].dtype and distance(ours[0], theirs[0]) < 0.05


@pytest.mark.parametrize("peer, name", NAMED)
def test_bounds_of_churn_are_compared_in_the_type_of_the_levels(peer, name):
    if "s_churn" not in inspect.signature(getattr(peer, name)).parameters:
        return
    sigmas = torch.tensor([14.6146, 2.7, 0.1, 0.0])
    assert sigmas[0].item() > 14.6146
    options = {"s_churn": 2.0, "s_tmin": 0.1, "s_tmax": 14.6146}
    theirs, ours = both(peer, name, pictures(), sigmas, **options)
    torch.testing.assert_close(ours[2], theirs[2], rtol=1e-6, atol=0)
    assert ours[2][0, 0] > 15


@pytest.mark.parametrize("peer", EACH)
def test_one_step_of_a_stochastic_multistep_sampler_gives_the_denoised_image(peer):
    sigmas = torch.tensor([5.0, 0.0])
    with apply_visgen_to_k_diffusion(peer):
        for name in ("sample_dpmpp_2m_sde", "sample_dpmpp_3m_sde"):
            if hasattr(peer, name):
                found = getattr(peer, name)(tool.network, pictures(), sigmas, disable=True)
                assert torch.equal(found, tool.network(pictures(), sigmas[:1].double().expand(2)))


@pytest.mark.parametrize("peer", EACH)
def test_dpm_fast_is_theirs(peer):
    rounded = [fast(peer, 7, options)[0] for options in FAST]
    with apply_visgen_to_k_diffusion(peer):
        ours_rounded = [fast(peer, 7, options)[0] for options in FAST]
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # theirs computes its levels in it
    try:
        for theirs, ours, options in zip(rounded, ours_rounded, FAST, strict=True):
            exact = fast(peer, 7, options)[0]
            assert distance(ours, exact) <= max(1e-5, 2 * distance(theirs, exact)), options
        for calls in range(1, 12):
            for options in FAST:
                theirs = fast(peer, calls, options)
                with apply_visgen_to_k_diffusion(peer):
                    ours = fast(peer, calls, options)
                assert distance(ours[0], theirs[0]) < tool.TOLERANCE, (calls, options)
                assert ours[2:] == theirs[2:] and ours[2] == calls
                for at, expected in zip(ours[1], theirs[1], strict=True):
                    assert set(at) == set(expected) and at["i"] == expected["i"]
                    for key in ("t", "t_up", "sigma", "sigma_hat", "denoised"):
                        torch.testing.assert_close(at[key], expected[key])
    finally:
        torch.set_default_dtype(before)
    with apply_visgen_to_k_diffusion(peer), pytest.warns(UserWarning, match="n is not a positive int: 0"):
        with contextlib.suppress(IndexError):  # k-diffusion's own
            fast(peer, 0, {})


def fast(peer, calls, options):
    """(states, what the callback was given, calls that the bar counted, the next random number)."""
    counted, seen = [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(peer, "tqdm", lambda total, disable: Bar(counted))
        torch.manual_seed(3)
        end = peer.sample_dpm_fast(tool.network, pictures(), 0.05, 20.0, calls, callback=seen.append, **options)
    drawn = torch.rand(()).item() if options and calls > 2 else 0.0
    return torch.stack([at["x"] for at in seen] + [end]), seen, len(counted), drawn


class Bar(list):
    def __init__(self, counted):
        self.update = lambda: counted.append(1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


@pytest.mark.parametrize("peer, name", NAMED)
def test_what_no_table_stands_for_runs_their_code_and_says_so_once(peer, name):
    rising = levels(zero=False).flip(0)
    expected = record(peer, name, pictures(), rising)[0]
    with apply_visgen_to_k_diffusion(peer):
        with pytest.warns(UserWarning, match=f"{name} runs k-diffusion's own code: its sigmas are not") as said:
            found = [record(peer, name, pictures(), rising)[0] for _ in range(2)]
    assert len(said) == 1
    for one in found:
        torch.testing.assert_close(one, expected, rtol=0, atol=0, equal_nan=True)


def test_unusual_options_run_their_code():
    with apply_visgen_to_k_diffusion(formulas):
        for options, words in (({"eta": -1.0}, "eta must be at least 0"), ({"x": pictures()[0, 0, 0, 0]}, "x is not")):
            arguments = {"model": tool.network, "x": pictures(), "sigmas": levels(), "disable": True, **options}
            with pytest.warns(UserWarning, match=words):
                try:
                    formulas.sample_euler_ancestral(**arguments)
                except TypeError:  # their own, of a state without samples
                    assert "x" in options


@pytest.mark.parametrize("peer", EACH)
def test_the_module_gets_its_own_functions_back(peer):
    names = [name for name in k_diffusion.NAMES if hasattr(peer, name)]
    before = {name: getattr(peer, name) for name in names}
    first, second = apply_visgen_to_k_diffusion(peer), apply_visgen_to_k_diffusion(peer)
    for name, theirs in before.items():
        ours = getattr(peer, name)
        assert ours is not theirs and ours.__doc__ == theirs.__doc__ and ours.__name__ == name
        assert inspect.signature(ours) == inspect.signature(theirs)
    second.revert()
    assert all(getattr(peer, name) is not before[name] for name in names)
    first.revert()
    first.revert()
    assert all(getattr(peer, name) is before[name] for name in names)


@pytest.mark.parametrize("peer", EACH)
def test_every_sampler_of_fixed_steps_is_replaced(peer):
    there = {name for name in vars(peer) if name.startswith("sample_")}
    with apply_visgen_to_k_diffusion(peer):
        left = {name for name in there if not hasattr(getattr(peer, name), "replaced_by")}
    assert left <= {"sample_dpm_adaptive"} and there - left
    assert set(k_diffusion.NAMES) == {*OPTIONS, "sample_dpm_fast"}


def test_a_function_with_other_parameters_is_left():
    other = ModuleType("other")
    other.sample_euler = lambda model, x, sigmas, cfg_pp=False: x
    with pytest.raises(ValueError, match="other must have one of the samplers that are replaced: sample_euler, "):
        apply_visgen_to_k_diffusion(other)
    other.sample_heun, left = formulas.sample_heun, other.sample_euler
    with apply_visgen_to_k_diffusion(other):
        assert other.sample_euler is left and other.sample_heun is not formulas.sample_heun


def test_the_package_is_found_by_its_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "k_diffusion", ModuleType("k_diffusion"))
    monkeypatch.setitem(sys.modules, "k_diffusion.sampling", formulas)
    before = formulas.sample_euler
    with apply_visgen_to_k_diffusion():
        assert formulas.sample_euler is not before
    assert formulas.sample_euler is before


def test_threads_share_a_sampler():
    def one(seed):
        x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
        return formulas.sample_dpmpp_2m(tool.network, x, levels(), disable=True)

    with apply_visgen_to_k_diffusion(formulas), ThreadPoolExecutor(4) as pool:
        alone = [one(seed) for seed in range(8)]
        assert all(torch.equal(a, b) for a, b in zip(pool.map(one, range(8)), alone, strict=True))
