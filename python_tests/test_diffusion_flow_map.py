"""Flow maps: their step, their derivative, and how the tables that sample draw with them."""

from __future__ import annotations

import pytest
import torch
from exact_maps import PATHS, exact_map, exact_network, known_end
from torch import Tensor, nn

from visgen_fast import ops
from visgen_fast.diffusion import CosineVP, FlowMap, KarrasVE, RectifiedFlow, edm, plan, sample
from visgen_fast.diffusion.flow_map import along
from visgen_fast.models import DiT

SIZES = {"image_size": 4, "channels": 1, "patch_size": 2, "width": 16, "depth": 2, "heads": 2, "classes": 3}


def tiny(**changes: object) -> DiT:
    """A DiT of which every part shows in the output."""
    torch.manual_seed(0)
    model = DiT(**{**SIZES, "destination": True, "time_scale": 1.0, **changes})
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def inputs(dtype: torch.dtype = torch.float64, batch: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, 1, 4, 4, generator=generator, dtype=dtype)
    times = torch.rand(2, batch, generator=generator, dtype=dtype) * 0.8 + 0.1
    return x, times.amax(0), times.amin(0), torch.arange(batch) % 3


@pytest.mark.parametrize("path", PATHS)
def test_the_exact_prediction_makes_a_step_of_any_length_exact(path: str) -> None:
    x, t, s, labels = inputs()
    assert (exact_map(path)(x, t, s, labels) - known_end(path, x, t, s)).abs().max() < 1e-12


@pytest.mark.parametrize(
    ("schedule", "prediction"),
    [
        (RectifiedFlow(), "velocity"),
        (RectifiedFlow(), "x"),
        (CosineVP(), "v"),
        (CosineVP(), "epsilon"),
        (KarrasVE(), edm()),
    ],
)
def test_a_step_to_the_same_time_goes_nowhere_and_another_is_euler_s(schedule, prediction) -> None:
    def model(x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        return torch.sin(3 * x) + t.view(-1, 1, 1, 1)

    x, t, _, labels = inputs()
    flow_map = FlowMap.of_diffusion(model, schedule, prediction)
    assert (flow_map(x, t, t, labels) - x).abs().max() < 1e-12
    way = plan("euler", schedule, prediction, times=[0.9, 0.35])
    seeds = torch.arange(3)
    # A plan's state is what the network reads.
    scale = way.initial[1] / way.ends[0].sigma
    drawn = sample(model, way, x.shape[1:], labels, seeds, noise=x, dtype=torch.float64)
    start = x * (way.initial[1] / scale)
    ends = (torch.full((3,), time, dtype=torch.float64) for time in (0.9, 0.35))
    torch.testing.assert_close(flow_map(start, *ends, labels), drawn, atol=1e-9, rtol=1e-9)


def test_a_student_with_a_teacher_s_weights_begins_as_its_euler_step_bit_for_bit() -> None:
    teacher = tiny(destination=False).float()
    student = DiT(**SIZES, destination=True, time_scale=1.0, told_guidance=True)
    missing = student.load_state_dict(teacher.state_dict(), strict=False).missing_keys
    assert {name.partition(".")[0] for name in missing} == {"embed_destination", "embed_guidance"}
    x, t, s, labels = inputs(torch.float32)
    way = RectifiedFlow(), "velocity"
    one, other = FlowMap(student, *way), FlowMap.of_diffusion(teacher, *way)
    assert torch.equal(one(x, t, s, labels), other(x, t, s, labels))
    assert torch.equal(student(x, t, labels, s, 3 * t), teacher(x, t, labels))
    for told in (student.embed_destination, student.embed_guidance):
        nn.init.normal_(told.output.weight)
    assert not torch.equal(student(x, t, labels, s), student(x, t, labels))
    assert not torch.equal(student(x, t, labels, s, 3 * t), student(x, t, labels, s))
    assert torch.equal(student(x, t, labels, t, torch.ones_like(t)), student(x, t, labels))


def test_derivatives_are_central_differences() -> None:
    flow_map = FlowMap(tiny().double(), RectifiedFlow(), "velocity")
    x, t, s, labels = inputs()
    tangents = torch.cos(5 * x), torch.tensor([1.0, -0.5, 2.0]).double(), torch.tensor([0.3, 1.0, 0.0]).double()
    output, rate = flow_map.derivative(x, t, s, labels, tangents=tangents)
    step = 1e-5
    moved = [
        flow_map.predict(*(value + sign * step * way for value, way in zip((x, t, s), tangents, strict=True)), labels)
        for sign in (1, -1)
    ]
    central = (moved[0] - moved[1]) / (2 * step)
    assert rate.abs().max() > 0.1 and (rate - central).abs().max() < 1e-5 * rate.abs().max()
    torch.testing.assert_close(output, flow_map.predict(x, t, s, labels))
    assert output.requires_grad and not rate.requires_grad


def test_prediction_and_derivative_come_of_one_dropout_mask() -> None:
    model = tiny(dropout=0.5).double()
    flow_map = FlowMap(model, RectifiedFlow(), "velocity")
    x, t, s, labels = inputs()
    tangents = torch.ones_like(x), torch.ones_like(t), torch.zeros_like(s)
    torch.manual_seed(3)
    output, rate = flow_map.derivative(x, t, s, labels, tangents=tangents)
    torch.manual_seed(3)
    with torch.no_grad():
        again, same_rate = flow_map.derivative(x, t, s, labels, tangents=tangents)
    torch.testing.assert_close(output, again)
    assert torch.equal(rate, same_rate)
    model.eval()
    assert (flow_map.derivative(x, t, s, labels, tangents=tangents)[0] - output).abs().max() > 1e-3


def test_weights_learn_after_a_derivative_under_autocast() -> None:
    model = tiny()
    flow_map = FlowMap(model, RectifiedFlow(), "velocity")
    x, t, s, labels = inputs(torch.float32)
    tangents = torch.ones_like(x), torch.ones_like(t), torch.zeros_like(s)
    with torch.autocast("cpu", torch.bfloat16):
        output, _ = flow_map.derivative(x, t, s, labels, tangents=tangents)
    output.float().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_wrappers_give_the_same_derivative() -> None:
    model = tiny()
    x, t, s, labels = inputs(torch.float32)
    tangents = torch.ones_like(x), torch.ones_like(t), torch.zeros_like(s)
    plain = FlowMap(model, RectifiedFlow(), "velocity").derivative(x, t, s, labels, tangents=tangents)
    wrapped = FlowMap(torch.compile(model, backend="eager"), RectifiedFlow(), "velocity")
    for one, other in zip(plain, wrapped.derivative(x, t, s, labels, tangents=tangents), strict=True):
        torch.testing.assert_close(one, other)


def test_tables_draw_with_few_step_models() -> None:
    labels, seeds = torch.zeros(4, dtype=torch.int64), torch.arange(4)
    noise = ops.gaussian(seeds, (1, 4, 4), dtype=torch.float64)
    start, end = torch.ones(4).double(), torch.zeros(4).double()
    wanted = known_end("straight", noise, start, end)
    for steps in (1, 2, 4):
        way = plan("euler", RectifiedFlow(), "velocity", steps=steps)
        network = along(exact_network("straight"), way)
        drawn = sample(network, way, (1, 4, 4), labels, seeds, noise=noise, dtype=torch.float64)
        assert (drawn - wanted).abs().max() < 1e-12
    way = plan("consistency", RectifiedFlow(), "velocity", steps=3)
    asked: list[Tensor] = []

    def watched(x: Tensor, t: Tensor, labels: Tensor, destination: Tensor) -> Tensor:
        asked.append(destination)
        return exact_network("straight")(x, t, labels, destination)

    sample(along(watched, way), way, (1, 4, 4), labels, seeds)
    assert len(asked) == 3 and not torch.stack(asked).any()


def test_a_wrong_argument_is_one_sentence() -> None:
    way = RectifiedFlow(), "velocity"
    with pytest.raises(ValueError, match="told where a step leads: a DiT with destination=True"):
        FlowMap(tiny(destination=False), *way)
    with pytest.raises(ValueError, match="destination must be left out"):
        x, t, s, labels = inputs(torch.float32)
        tiny(destination=False)(x, t, labels, s)
    with pytest.raises(ValueError, match="prediction must be 'x', 'v' or 'velocity'.*got 'epsilon'"):
        FlowMap(exact_network("straight"), RectifiedFlow(), "epsilon")
    tangents = torch.ones_like(x), torch.ones_like(t), torch.zeros_like(s)
    with pytest.raises(ValueError, match=r"time_scale must be at most 10 .* got 1000: train with --time-scale 1"):
        FlowMap(tiny(time_scale=1000.0), *way).derivative(x, t, s, labels, tangents=tangents)
    with pytest.raises(ValueError, match="float32 or bfloat16, got float16"):
        FlowMap(tiny().half(), *way).derivative(x.half(), t, s, labels, tangents=tangents)
    with pytest.raises(ValueError, match="euler, ddim or consistency, got heun"):
        along(exact_network("straight"), plan("heun", *way, steps=2))
    with pytest.raises(ValueError, match="time_scale must be positive and finite, got 0"):
        tiny(time_scale=0)
