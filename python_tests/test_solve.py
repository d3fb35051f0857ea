"""The family `solve`: any row of any table, in place or not, is the definition's sums and nothing else."""

from __future__ import annotations

import math
import random as dice

import pytest
import torch
from cases import random
from torch import Tensor

from visgen_fast import ops, reference

SHAPES = [(1, 1), (3, 7), (2, 3, 5, 5), (5, 3, 16, 16), (2, 2, 3, 4, 5), (1, 4, 64, 64), (2, 70001)]
ROWS = 5
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12, torch.bfloat16: 2e-2, torch.float16: 2e-3}


def table(slots: int, key: int, *, noisy: bool = True) -> Tensor:
    """A table of random rows that use `slots` slots; a third of its numbers are 0."""
    roll = dice.Random(key)
    generator = torch.Generator().manual_seed(key)
    numbers = torch.randn(ROWS, 32, generator=generator, dtype=torch.float64)
    numbers[torch.rand(ROWS, 32, generator=generator) < 1 / 3] = 0
    numbers[:, 3] = torch.tensor([0.0, 0.5, 0.0, 1.0, 0.0])
    numbers[:, 4:6] *= 0.3
    for first in (8, 16, 24):
        numbers[:, first + 3 + slots : first + 7] = 0
        numbers[:, first + 7] *= noisy
    for row in numbers:
        written = roll.sample(range(slots), min(slots, roll.randrange(3)))
        row[6:8] = torch.tensor([*written, -1, -1][:2])
    return numbers


def call(key: int, dtype: torch.dtype, device: torch.device) -> tuple[list, dict]:
    """Arguments of one call, with everything that is optional there or not."""
    roll = dice.Random(key)
    shape = roll.choice(SHAPES)
    batch, outputs, slots = shape[0], roll.randrange(1, 4), roll.randrange(5)

    def signal(place: int, other: torch.dtype | None = None) -> Tensor:
        return random(shape, other if other and roll.random() < 0.3 else dtype, device, 100 * key + place)

    step = {
        "int": roll.randrange(ROWS),
        "all": torch.tensor(roll.randrange(ROWS), device=device),
        "sample": torch.tensor([roll.randrange(ROWS) for _ in range(batch)], device=device),
        "frame": torch.tensor([[roll.randrange(ROWS) for _ in range(shape[1])] for _ in range(batch)], device=device),
    }
    weights = {
        "none": None,
        "all": random((outputs,), torch.float64, device, 1),
        "sample": random((1, batch, outputs), torch.float64, device, 2),
        "row": random((ROWS, 1, outputs), torch.float32, device, 3),
        "both": random((ROWS, batch, outputs), torch.float64, device, 4),
    }
    layout = torch.channels_last if len(shape) == 4 and roll.random() < 0.3 else torch.contiguous_format
    x = signal(0).to(memory_format=layout)
    arguments = [x, [signal(1 + j, torch.float32) for j in range(outputs)], table(slots, key).to(device)]
    arguments.append(step[roll.choice(list(step))])
    options = {"slots": tuple(signal(5 + k, torch.float32) for k in range(slots)), "stream": 7}
    options["weights"] = weights[roll.choice(list(weights))]
    if roll.random() < 0.3:
        options["noise"] = signal(10)
    else:
        options["seeds"] = torch.arange(batch, device=device) * 7919 - 3
    if roll.random() < 0.3:
        options["variance"] = signal(11).clamp(-2, 2)
    if roll.random() < 0.2:
        real = torch.float64 if dtype == torch.float64 else torch.float32
        options["limit"] = random((batch,), real, device, 12).abs() + 0.2
    return arguments, options


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_every_row_is_the_definition_s_in_place_and_not(dtype, backend, device) -> None:
    for key in range(30):
        (x, *others), options = call(key, dtype, device)
        before = [tensor.clone() for tensor in (x, *options["slots"])]
        found, slots = ops.solver_step(x, *others, **options)
        assert all(torch.equal(a, b) for a, b in zip(before, (x, *options["slots"]), strict=True)), key
        exact = [t.double() if t.is_floating_point() else t for t in (x, *others[0])]
        options_64 = {
            k: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in options.items()
        }
        options_64["slots"] = tuple(slot.double() for slot in options["slots"])
        expected, expected_slots = reference.solver_step(exact[0], exact[1:], *others[1:], **options_64)
        for a, b in zip((found, *slots), (expected, *expected_slots), strict=True):
            tolerance, scale = max(TOLERANCE[dtype], TOLERANCE[a.dtype]), 1 + b.abs().nan_to_num().max()
            torch.testing.assert_close(a.double(), b, rtol=tolerance, atol=tolerance * scale, equal_nan=True)
        assert found.dtype == x.dtype and found.stride() == x.stride()
        kept = tuple(slot.clone() for slot in options["slots"])
        overwritten = x.clone(memory_format=torch.preserve_format)
        assert ops.solver_step_(overwritten, *others, **{**options, "slots": kept}) is overwritten
        assert all(torch.equal(a, b) for a, b in zip((overwritten, *kept), (found, *slots), strict=True)), key


def test_what_has_the_coefficient_0_is_not_read(backend, device) -> None:
    x, output, nan = torch.ones(2, 9, device=device), torch.ones(2, 9, device=device), torch.full((2, 9), math.nan)
    nan = nan.to(device)
    row = torch.zeros(1, 32, dtype=torch.float64, device=device)
    row[0, 6:8] = torch.tensor([1.0, -1.0])
    row[0, 8], row[0, 16 + 2] = 2.0, 3.0  # next = 2x, slot 1 = 3·output
    found, slots = ops.solver_step(x, output, row, 0, slots=(nan, nan), weights=None, noise=nan)
    assert torch.equal(found, 2 * x) and torch.equal(slots[1], 3 * output) and slots[0].isnan().all()
    row[0, 8:10] = torch.tensor([0.0, 1.0])
    row[0, 1:3] = torch.tensor([0.0, 5.0])  # next = x̂ = 5·output: neither x nor the second output
    weights = torch.tensor([1.0, 0.0], dtype=torch.float64, device=device)
    found, _ = ops.solver_step(nan, [output, nan], row, 0, slots=(nan, nan), weights=weights)
    assert torch.equal(found, 5 * output)


def test_a_row_for_each_sample_gives_what_each_alone_gives(backend, device) -> None:
    numbers = table(2, 3).to(device)
    x, output = (random((ROWS, 3, 8, 8), torch.float32, device, key) for key in (1, 2))
    slots = tuple(random((ROWS, 3, 8, 8), torch.float32, device, key) for key in (3, 4))
    seeds, steps = torch.arange(ROWS, device=device), torch.arange(ROWS, device=device)
    together, after = ops.solver_step(x, output, numbers, steps, slots=slots, seeds=seeds, stream=4)
    for row in range(ROWS):
        one = slice(row, row + 1)
        alone, kept = ops.solver_step(
            x[one], output[one], numbers, row, slots=[slot[one] for slot in slots], seeds=seeds[one], stream=4
        )
        assert torch.equal(together[one], alone)
        assert all(torch.equal(a[one], b) for a, b in zip(after, kept, strict=True))


def test_the_noise_of_a_row_is_that_of_its_stream(backend, device) -> None:
    row = torch.zeros(3, 32, dtype=torch.float64, device=device)
    row[:, 6:8], row[:, 15] = -1, 1.0
    x, seeds = torch.zeros(2, 50, device=device), torch.tensor([5, -9], device=device)
    for step in range(3):
        found, _ = ops.solver_step(x, x, row, step, seeds=seeds, stream=(1 << 40) + 2)
        expected = ops.gaussian(seeds, (50,), stream=(1 << 40) + 2 + step)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_clamped_and_limited_images_keep_nan(backend, device) -> None:
    row = torch.zeros(1, 32, dtype=torch.float64, device=device)
    row[0, 2], row[0, 3], row[0, 6:8], row[0, 9] = 1.0, 1.5, torch.tensor([-1.0, -1.0]), 1.0
    output = torch.tensor([[-9.0, 0.5, math.nan, math.inf]], device=device)
    clamped, _ = ops.solver_step(output, output, row, 0)
    expected = torch.tensor([[-1.5, 0.5, math.nan, 1.5]], device=device)
    torch.testing.assert_close(clamped, expected, equal_nan=True)
    limited, _ = ops.solver_step(output, output, row, 0, limit=torch.tensor([2.0], device=device))
    torch.testing.assert_close(limited, torch.tensor([[-1.0, 0.25, math.nan, 1.0]], device=device), equal_nan=True)


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (2, 3, 33, 31), (2, 70001)])
def test_products_are_the_same_bits_every_time_and_the_definition_s(shape, backend, device) -> None:
    x, *outputs = (random(shape, torch.float32, device, key) for key in range(4))
    for given, signal in ((outputs, x), (outputs[:1], None), (outputs[:2], None)):
        found = ops.output_products(given, signal)
        torch.testing.assert_close(found, reference.output_products(given, signal), rtol=1e-12, atol=1e-9)
        assert torch.equal(found, ops.output_products(given, signal))
        assert torch.equal(found, found.transpose(1, 2))


def test_gradients_flow_through_a_step_and_are_right_twice() -> None:
    numbers = table(1, 8, noisy=False)
    x, output, other, slot = (random((2, 3), torch.float64, torch.device("cpu"), k).requires_grad_() for k in range(4))
    weights = torch.tensor([2.0, -1.0], dtype=torch.float64, requires_grad=True)

    def stepped(x, output, other, slot, weights):
        after, (kept,) = ops.solver_step(x, (output, other), numbers, 0, slots=(slot,), weights=weights)
        return after, kept

    inputs = x, output, other, slot, weights
    assert torch.autograd.gradcheck(stepped, inputs) and torch.autograd.gradgradcheck(stepped, inputs)


def test_a_step_compiles_into_one_graph(backend, device) -> None:
    numbers = table(1, 3).to(device)
    x, output, slot = (random((2, 3, 8), torch.float32, device, key) for key in range(3))
    seeds = torch.arange(2, device=device)

    def stepped(x, output, slot):
        slot = slot.clone()
        after = ops.solver_step_(x.clone(), output, numbers, 1, slots=(slot,), seeds=seeds)
        return after + 1, slot

    compiled = torch.compile(stepped, fullgraph=True, backend="aot_eager")
    for a, b in zip(compiled(x, output, slot), stepped(x, output, slot), strict=True):
        assert torch.equal(a, b)


X = torch.zeros(2, 3)
PLAIN = torch.zeros(4, 32, dtype=torch.float64)
PLAIN[:, 6:8] = -1
NOISY, WRITING = PLAIN.clone(), PLAIN.clone()
NOISY[:, 15], WRITING[:, 6] = 1.0, 2.0


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        ((X, [], PLAIN, 0), {}, "outputs must be one to 3 tensors, got 0"),
        ((X, [X] * 4, PLAIN, 0), {}, "outputs must be one to 3 tensors, got 4"),
        ((X, X.byte(), PLAIN, 0), {}, r"outputs\[0\] must be float32, bfloat16, float16 or float64, got torch.uint8"),
        ((X, X, PLAIN, 0), {"noise": X.byte()}, "noise must be float32, bfloat16, float16 or float64, got torch.uint8"),
        ((X, X[:1], PLAIN, 0), {}, r"outputs\[0\] must have the shape of the state, \[2, 3\], got \[1, 3\]"),
        ((X.long(), X, PLAIN, 0), {}, "x must be floating-point"),
        ((X, X.long(), PLAIN, 0), {}, r"outputs\[0\] must be float32"),
        ((X, X, PLAIN.float(), 0), {}, r"table must be contiguous float64 \[rows, 32\], got torch.float32"),
        ((X, X, PLAIN[:, :31], 0), {}, r"table must be contiguous float64 \[rows, 32\]"),
        ((X, X, PLAIN, 4), {}, r"step must lie in \[0, 4\), the rows of table, got 4"),
        ((X, X, PLAIN, torch.tensor([0, -1])), {}, r"step must lie in \[0, 4\), the rows of table, got -1"),
        ((X, X, PLAIN, torch.tensor([0, 1, 2])), {}, r"step must be an int, or int64 on cpu of shape \[\] or"),
        ((X, X, NOISY, 1), {}, "row 1 of table adds noise: seeds or noise must be given"),
        ((X, X, WRITING, 1), {"slots": (X, X)}, "row 1 of table uses slot 2, and 2 slots are given"),
        ((X, X, PLAIN, 0), {"slots": (X,) * 5}, "slots must be at most 4 tensors, got 5"),
        ((X, X, PLAIN, 0), {"slots": (X.t(),)}, r"slots\[0\] must have the shape of the state"),
        (
            (X, X, PLAIN, 0),
            {"weights": torch.zeros(2)},
            r"weights must be floating-point \[1\] or \[4 or 1, 2 or 1, 1\]",
        ),
        (
            (X, X, PLAIN, 0),
            {"seeds": torch.zeros(3, dtype=torch.int64)},
            "seeds must have one number for each of the 2",
        ),
        ((X, X, PLAIN, 0), {"limit": torch.zeros(3)}, r"limit must be \[2\] on cpu, got \[3\]"),
    ],
)
@pytest.mark.parametrize("operation", [ops.solver_step, ops.solver_step_])
def test_a_wrong_argument_is_answered_in_a_sentence(operation, arguments, options, said) -> None:
    with pytest.raises(ValueError, match=said):
        operation(*arguments, **options)


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        (([1], X, PLAIN, 0), {}, "x must be a tensor, got list"),
        ((X, 3, PLAIN, 0), {}, "outputs must be a tensor or a sequence of tensors, got int"),
        ((X, [None], PLAIN, 0), {}, r"outputs\[0\] must be a tensor, got NoneType"),
        ((X, X, [1], 0), {}, "table must be a tensor, got list"),
        ((X, X, PLAIN, "0"), {}, "step must be an int or an int64 tensor, got str"),
        ((X, X, PLAIN, 0), {"slots": 3}, "slots must be a tensor or a sequence of tensors, got int"),
        ((X, X, PLAIN, 0), {"weights": [1.0]}, "weights must be a tensor, got list"),
        ((X, X, PLAIN, 0), {"seeds": [1, 2]}, "seeds must be a tensor, got list"),
        ((X, X, PLAIN, 0), {"noise": [1]}, "noise must be a tensor, got list"),
        ((X, X, PLAIN, 0), {"variance": [1]}, "variance must be a tensor, got list"),
        ((X, X, PLAIN, 0), {"limit": 1.0}, "limit must be a tensor, got float"),
        ((X, X, PLAIN, 0), {"limit": torch.tensor([1.0, 0.0])}, "limit must be positive, got 0"),
        ((X, X, PLAIN, 0), {"limit": torch.tensor([-2.0, 1.0])}, "limit must be positive, got -2"),
        ((X, X, PLAIN, 0), {"stream": "a"}, "stream must be an integer, got str"),
        ((X, X, PLAIN, 0), {"stream": -1}, r"stream must lie in \[0, 2\*\*63\), got -1"),
    ],
)
@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("operation", [ops.solver_step, ops.solver_step_])
def test_an_argument_of_another_kind_is_answered_in_a_sentence(operation, gradients, arguments, options, said) -> None:
    with torch.set_grad_enabled(gradients), pytest.raises((TypeError, ValueError), match=f"^{said}$"):
        operation(*arguments, **options)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: ops.output_products(3), "outputs must be a tensor or a sequence of tensors, got int"),
        (lambda: ops.output_products(torch.tensor(1.0)), "outputs must have 1 to 9 dimensions, got 0"),
        (lambda: ops.denoised_quantile(X, X, PLAIN, 0, "a"), "q must be a number, got str"),
        (lambda: ops.denoised_quantile(X, X, PLAIN, 0, 2), r"q must lie in \[0, 1\], got 2"),
        (
            lambda: ops.denoised_quantile(X[:, :0], X[:, :0], PLAIN, 0, 0.5),
            r"x must have elements in each sample, of which there is a quantile, got \[2, 0\]",
        ),
    ],
)
def test_of_products_and_quantiles_too(call, said) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{said}$"):
        call()


def test_gradients_asked_of_the_operation_in_place_are_refused() -> None:
    with pytest.raises(ValueError, match="solver_step_ has no gradient"):
        ops.solver_step_(X.clone(), X.clone().requires_grad_(), PLAIN, 0)
    with torch.no_grad():
        ops.solver_step_(X.clone(), X.clone().requires_grad_(), PLAIN, 0)
    with pytest.raises(TypeError, match="step must be an int or an int64 tensor, got float"):
        ops.solver_step_(X.clone(), X, PLAIN, 0.5)


OWN = "x, or out, and the slots are written: each element must have memory of its own"


@pytest.mark.parametrize(
    ("x", "given", "said"),
    [
        (lambda m: m[:18].view(2, 3, 3), lambda m, x: {"outputs": x.mT}, "outputs, noise and variance must not share"),
        (
            lambda m: m[:18].view(2, 3, 3),
            lambda m, x: {"outputs": m[4:22].view(2, 3, 3)},
            "outputs, noise and variance",
        ),
        (lambda m: m[:9].view(1, 3, 3).expand(2, 3, 3), lambda m, x: {}, OWN),
        (lambda m: m[:18].view(2, 3, 3), lambda m, x: {"out": m[4:22].view(2, 3, 3)}, "outputs, noise and variance"),
        (lambda m: m[:18].view(2, 3, 3), lambda m, x: {"slots": (x,)}, OWN),
    ],
)
def test_what_would_be_read_after_it_is_written_is_refused(x, given, said) -> None:
    memory = torch.linspace(-1, 1, 60)
    state = x(memory)
    arguments = {"outputs": torch.ones(2, 3, 3), "slots": (torch.ones(2, 3, 3),), **given(memory, state)}
    with pytest.raises(ValueError, match=said):
        ops.solver_step_(state, arguments.pop("outputs"), table(1, 0, noisy=False), 0, **arguments)


def test_the_operation_itself_refuses_shared_memory(library, device) -> None:
    memory, rows = torch.linspace(-1, 1, 60, device=device), table(1, 0, noisy=False).to(device)
    x, shifted, apart = memory[:18].view(2, 9), memory[4:22].view(2, 9), memory[40:58].view(2, 9)
    step = torch.ops.visgen_fast.solver_step_.default

    def call(output, slot, out=None):
        step(x, output, None, None, rows, None, 0, slot, *[None] * 6, 0, None, None, out)

    before = memory.clone()
    with pytest.raises(RuntimeError, match=OWN):
        call(apart, x)
    for output, out in ((shifted, None), (apart, shifted)):
        with pytest.raises(RuntimeError, match="outputs, noise and variance must not share memory"):
            call(output, torch.ones(2, 9, device=device), out)
    assert torch.equal(memory, before)
    call(x, apart)  # each element of the output is read before it is overwritten
    assert not torch.equal(memory, before)


def test_the_layout_changes_no_bit(backend, device) -> None:
    """61 · 5 elements of a sample: whole blocks and a rest, in memory as the loop wants it or gathered."""
    types = torch.float32, torch.bfloat16, torch.float16, torch.float64
    for key, other in enumerate(types):
        tensors = [random((3, 61, 5), dtype, device, j) for j, dtype in enumerate((types[0], other, other, types[0]))]
        noise = random((3, 61, 5), other, device, 9)
        results = []
        for layout in (lambda t: t.clone(), lambda t: t.mT.contiguous().mT, lambda t: t.repeat(1, 1, 2)[..., :5]):
            x, *outputs, slot = (layout(tensor) for tensor in tensors)
            weights = torch.tensor([3.0, -2.0], device=device)
            options = {"slots": (slot,), "weights": weights, "noise": layout(noise)}
            results.append([ops.solver_step_(x, outputs, table(1, key).to(device), row, **options) for row in (1, 2)])
            results[-1].append(slot)
        for found in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(found, results[0], strict=True)), other


def test_memory_may_be_shared_where_nothing_is_read_after_it_is_written() -> None:
    memory, rows = torch.linspace(-1, 1, 72).view(4, 2, 3, 3), table(1, 0, noisy=False)
    expected, (kept,) = ops.solver_step(memory[0], memory[0], rows, 0, slots=(memory[1],))
    step = ops.solver_step_(memory[0], memory[0], rows, 0, slots=(memory[1],), out=memory[3])
    assert torch.equal(step, expected) and torch.equal(memory[1], kept)
    halves = torch.linspace(-1, 1, 36).view(2, 6, 3)
    expected, _ = ops.solver_step(halves[:, :3], halves[:, 3:], rows, 0, slots=(kept,))
    assert torch.equal(ops.solver_step_(halves[:, :3], halves[:, 3:], rows, 0, slots=(kept,)), expected)


def test_weights_may_lie_in_any_layout(backend, device) -> None:
    x, outputs = torch.randn(3, 5, device=device), (torch.randn(3, 5, device=device), torch.randn(3, 5, device=device))
    table = torch.zeros(2, 32, dtype=torch.float64, device=device)
    table[:, [2, 9]], table[:, 6:8] = 1, -1  # the next state is the sum of the outputs
    weights = torch.randn(2, 6, 4, dtype=torch.float64, device=device)[:, ::2, 1::2]
    found, _ = ops.solver_step(x, outputs, table, 1, weights=weights)
    torch.testing.assert_close(found, ops.solver_step(x, outputs, table, 1, weights=weights.contiguous())[0])


def test_a_sample_may_be_one_number(backend, device) -> None:
    """The shape [B], in the kernel and in the definition, which serves gradients."""
    x = torch.tensor([1.0, -2.0, 3.0], device=device)
    for signal in (x, x.clone().requires_grad_()):
        products = ops.output_products(signal)
        torch.testing.assert_close(products[:, 1, 1], x.double() ** 2)
