"""The family `optimize`: AdamW in place, its moving average, clipping, and the norm of gradients."""

from __future__ import annotations

import math
from copy import deepcopy

import pytest
import torch
from case import lay_out, random
from case_optimize import IN_PLACE
from contract import in_float64
from tolerances import assert_as_exact_as_pytorch, assert_same_bits
from torch import Tensor, nn

from visgen_fast import ops, reference

LISTS = ("parameters", "gradients", "means", "squares", "averages")
NUMBERS = {"learning_rate": 0.01, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1, "step": 1}
FLOATS = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
each_case = pytest.mark.parametrize("case", IN_PLACE, ids=str)


def lists(*shapes: tuple[int, ...], count: int = 4, dtype: torch.dtype = torch.float32) -> dict[str, list[Tensor]]:
    """The lists of a call whose first `count` are given; squares are positive."""
    given = {
        name: [random(shape, dtype, torch.device("cpu"), 10 * k + i) for i, shape in enumerate(shapes)]
        for k, name in enumerate(LISTS[:count])
    }
    return given | {"squares": [square.square() for square in given["squares"]]}


def after(module, arguments: dict) -> list[Tensor]:
    """What a step leaves in copies of its arguments, gradients too."""
    arguments = deepcopy(arguments)
    assert module.adamw_(**arguments) is None
    return [tensor for name in LISTS for tensor in arguments.get(name) or []]


def after_in_lists(module, arguments: dict) -> list[Tensor]:
    """The same with all tensors of a list as one."""
    left, count = after(module, arguments), len(arguments["parameters"])
    return [torch.cat([tensor.flatten() for tensor in left[i : i + count]]) for i in range(0, len(left), count)]


@each_case
@pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: str(d)[6:])
def test_a_step_equals_the_reference(case, dtype, backend, device) -> None:
    arguments = case.arguments(dtype, device)
    expected, truth = after_in_lists(reference, arguments), after_in_lists(reference, in_float64(arguments))
    for actual, pytorch, true in zip(after_in_lists(ops, arguments), expected, truth, strict=True):
        assert_as_exact_as_pytorch(actual, pytorch, true)


@each_case
def test_a_step_has_the_same_bits_on_any_number_of_threads(case, backend, device) -> None:
    arguments, threads = case.arguments(torch.float32, device), torch.get_num_threads()
    first = after(ops, arguments)
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        second = after(ops, arguments)
    finally:
        torch.set_num_threads(threads)
    for a, b in zip(first, second, strict=True):
        assert_same_bits(a, b)


def test_an_element_s_step_does_not_depend_on_the_tensors_beside_it(backend, device) -> None:
    case = next(case for case in IN_PLACE if case.label == "larger_than_a_unit")
    arguments = case.arguments(torch.float32, device)
    together = after(ops, arguments)
    for i in range(len(arguments["parameters"])):
        alone = after(ops, {**arguments, **{name: [arguments[name][i]] for name in LISTS}})
        for a, b in zip(alone, together[i :: len(arguments["parameters"])], strict=True):
            assert_same_bits(a, b)


@pytest.mark.parametrize("as_tensors", [False, True], ids=["numbers", "tensors"])
def test_a_training_is_that_of_pytorch_in_float64(as_tensors, backend, device) -> None:
    """AdamW, `clip_grad_norm_` and a moving average, ten steps: the definition's own arithmetic is another's."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1)).double().to(device)
    twin, average = deepcopy(model), deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.AdamW(twin.parameters(), lr=0.01, betas=(0.9, 0.99), weight_decay=0.1)
    parameters = list(model.parameters())
    states = {name: [torch.zeros_like(p) for p in parameters] for name in ("means", "squares")}
    averages = [p.detach().clone() for p in parameters]
    x = torch.randn(16, 5, dtype=torch.float64, device=device)
    for step in range(1, 11):
        (twin(x) - 3).square().mean().backward()
        nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
        torch._foreach_lerp_(list(average.parameters()), list(twin.parameters()), 0.1)
        gradients = list(torch.autograd.grad((model(x) - 3).square().mean(), parameters))
        scale = (0.5 / (ops.gradient_norm(gradients) + 1e-6)).clamp(max=1)
        numbers = {"learning_rate": 0.01, "step": step, "average_decay": 0.9}
        if as_tensors:
            numbers = {name: torch.tensor(number, device=device) for name, number in numbers.items()}
        options = {**numbers, "betas": (0.9, 0.99), "weight_decay": 0.1, "gradient_scale": scale}
        ops.adamw_(parameters, gradients, **states, averages=averages, **options)
    tolerance = 1e-6 if as_tensors else 1e-12  # a learning rate that is a float32 tensor was rounded
    for actual, expected in zip([*parameters, *averages], [*twin.parameters(), *average.parameters()], strict=True):
        torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def test_a_hundred_steps_are_as_near_to_float64_as_pytorch_s() -> None:
    shapes = [(64, 33), (129,), (7, 3, 3, 3)]

    def train(step_of, dtype: torch.dtype) -> list[Tensor]:
        given = lists(*shapes, count=5, dtype=dtype)
        for tensor in given["means"] + given["squares"]:
            tensor.zero_()
        step_of(given, dtype)
        return given["parameters"] + given["averages"]

    def gradients(step: int, dtype: torch.dtype) -> list[Tensor]:
        return [
            random(shape, torch.float32, torch.device("cpu"), 1000 * step + i).to(dtype)
            for i, shape in enumerate(shapes)
        ]

    def ours(given, dtype) -> None:
        for step in range(1, 101):
            given["gradients"] = gradients(step, dtype)
            ops.adamw_(**given, **{**NUMBERS, "step": step}, average_decay=0.99)

    def pytorchs(given, dtype) -> None:
        parameters = [nn.Parameter(p) for p in given["parameters"]]
        optimizer = torch.optim.AdamW(parameters, lr=0.01, betas=(0.9, 0.99), weight_decay=0.1, fused=True)
        for step in range(1, 101):
            for parameter, gradient in zip(parameters, gradients(step, dtype), strict=True):
                parameter.grad = gradient
            optimizer.step()
            torch._foreach_lerp_(given["averages"], [p.detach() for p in parameters], 0.01)

    truth = train(pytorchs, torch.float64)
    errors = [
        max((a.double() - t).abs().max().item() for a, t in zip(train(step_of, torch.float32), truth, strict=True))
        for step_of in (ours, pytorchs)
    ]
    assert errors[0] <= 2 * errors[1]


@pytest.mark.parametrize("scale", [math.nan, math.inf])
def test_a_step_that_overflowed_is_left_out(scale, backend, device) -> None:
    given = {name: [t.to(device) for t in each] for name, each in lists((3, 5), count=5).items()}
    before = deepcopy(given)
    ops.adamw_(**given, **NUMBERS, average_decay=0.9, gradient_scale=torch.tensor(scale, device=device))
    for name in LISTS:
        assert torch.equal(given[name][0], before[name][0])


def test_nan_stays_where_it_is(backend, device) -> None:
    given = {name: [t.to(device) for t in each] for name, each in lists((3, 5), (4,)).items()}
    given["gradients"][0][1, 2] = math.nan
    ops.adamw_(**given, **NUMBERS)
    assert given["parameters"][0].isnan().nonzero().tolist() == [[1, 2]] and not given["parameters"][1].isnan().any()


@pytest.mark.parametrize("layout", ["strided", "transposed", "expanded"])
def test_gradients_of_another_layout_and_types_that_differ_within_a_list(layout, library, device) -> None:
    given = {name: [t.to(device) for t in each] for name, each in lists((4, 3, 5), (7,), (2, 2), count=5).items()}
    given["gradients"][0] = lay_out(given["gradients"][0], layout)
    for name in ("parameters", "gradients"):
        given[name][2] = given[name][2].bfloat16()
    arguments = {**given, **NUMBERS, "average_decay": 0.9}
    truth = after(reference, in_float64(arguments))
    for actual, expected, true in zip(after(ops, arguments), after(reference, arguments), truth, strict=True):
        assert_as_exact_as_pytorch(actual, expected, true)


def test_parameters_in_a_layout_with_gaps(library, device) -> None:
    memory = {
        name: random((6, 8), torch.float32, torch.device("cpu"), i).to(device) for i, name in enumerate(LISTS[:4])
    }
    memory["squares"].square_()
    expected = {name: tensor.clone() for name, tensor in memory.items()}
    ops.adamw_(**{name: [tensor[:, ::2]] for name, tensor in memory.items()}, **NUMBERS)
    reference.adamw_(**{name: [tensor[:, ::2]] for name, tensor in expected.items()}, **NUMBERS)
    for name, tensor in memory.items():
        torch.testing.assert_close(tensor, expected[name])


def test_the_norm_has_derivatives() -> None:
    gradients = [random((3, 4), torch.float64, torch.device("cpu"), i).requires_grad_() for i in range(2)]
    assert torch.autograd.gradcheck(lambda *g: ops.gradient_norm(g), gradients)


def test_a_step_is_one_graph(library, device) -> None:
    given = {name: [t.to(device) for t in each] for name, each in lists((3, 5), (4,), count=5).items()}
    arguments = {**given, **NUMBERS, "average_decay": 0.9}
    expected = after(ops, arguments)

    def step(given: dict[str, list[Tensor]], step: Tensor) -> Tensor:
        norm = ops.gradient_norm(given["gradients"])
        ops.adamw_(**given, **{**NUMBERS, "step": step}, average_decay=0.9)
        return norm

    torch._dynamo.reset()
    norm = torch.compile(step, fullgraph=True, backend="aot_eager")(given, torch.tensor(1.0, device=device))
    assert norm == ops.gradient_norm(given["gradients"])
    for a, b in zip([t for name in LISTS for t in given[name]], expected, strict=True):
        torch.testing.assert_close(a, b)


G = lists((3, 5), (4,), count=5)
FIRST, SECOND = G["gradients"]
EMPTY = dict.fromkeys(LISTS[:4], [])
WRONG = {
    "parameters empty": (EMPTY, "parameters must not be empty"),
    "gradients a tensor": ({"gradients": FIRST}, "gradients must be a sequence of tensors, got Tensor"),
    "fewer gradients": ({"gradients": [FIRST]}, "gradients must be as many as parameters, 2, got 1"),
    "fewer averages": ({"averages": [FIRST], "average_decay": 0.9}, "averages must be as many as parameters, 2"),
    "no decay": ({"averages": G["averages"]}, "average_decay must be given with averages"),
    "decay": ({"average_decay": 1.5}, r"average_decay must lie in \[0, 1\], got 1.5"),
    "no gradient": ({"gradients": [FIRST, None]}, r"gradients\[1\] must be a tensor, got NoneType"),
    "shape": ({"gradients": [SECOND, FIRST]}, r"gradients\[0\] must have the shape of its parameter, \[3, 5\], got"),
    "sparse": ({"gradients": [FIRST.to_sparse(), SECOND]}, r"gradients\[0\] must be dense, got torch.sparse"),
    "complex": ({"gradients": [FIRST + 0j, SECOND]}, r"gradients\[0\] must be float32, bfloat16, float16"),
    "device": ({"means": [m.to("meta") for m in G["means"]]}, r"means\[0\] must be on cpu, the device of the first"),
    "betas": ({"betas": (0.9, 1.0)}, r"betas must lie in \[0, 1\), got \(0.9, 1.0\)"),
    "betas a number": ({"betas": 0.9}, "betas must be a pair of numbers, got 0.9"),
    "step": ({"step": 0}, "step must be at least 1, got 0"),
    "rate": ({"learning_rate": torch.ones(2)}, "learning_rate must be a number or a real tensor of no dimensions"),
    "eps": ({"eps": -1.0}, "eps must be at least 0, got -1.0"),
    "scale": ({"gradient_scale": math.nan}, "gradient_scale must be finite, got nan"),
    "no rate": ({"learning_rate": None}, "learning_rate must be a number, got NoneType"),
    "no step": ({"step": None}, "step must be a number, got NoneType"),
    "step without data": ({"step": torch.ones((), device="meta")}, "step must have data, got a meta tensor"),
    "numbers": ({"parameters": [1.0, 2.0]}, r"parameters\[0\] must be a tensor, got float"),
}  # fmt: skip


@pytest.mark.parametrize("wrong, sentence", WRONG.values(), ids=WRONG)
def test_a_wrong_argument_is_named_and_nothing_is_changed(wrong, sentence) -> None:
    given = {**deepcopy({name: G[name] for name in LISTS[:4]}), **NUMBERS}
    before = deepcopy(given["parameters"])
    with pytest.raises((TypeError, ValueError), match=sentence):
        ops.adamw_(**{**given, **wrong})
    assert all(torch.equal(a, b) for a, b in zip(given["parameters"], before, strict=True))


@pytest.mark.parametrize("name", ["parameters", "means", "squares", "averages"])
def test_what_is_written_must_have_an_element_for_each_place(name) -> None:
    """Without it a step would stop in the middle of its work."""
    given = {**lists((3, 4), (3, 4), count=5), **NUMBERS, "average_decay": 0.9}
    given[name][1] = torch.ones(4).expand(3, 4)
    before = deepcopy(given)
    with pytest.raises(ValueError, match=rf"{name}\[1\] must have no elements that share memory"):
        ops.adamw_(**given)
    for each in LISTS:
        assert all(torch.equal(a, b) for a, b in zip(given[each], before[each], strict=True))


PAIRS = [(one, other) for i, one in enumerate(LISTS) for other in LISTS[: i + 1] if {one, other} != {"gradients"}]


@pytest.mark.parametrize("one, other", PAIRS)
@pytest.mark.parametrize("layout", ["same", "overlapping", "with gaps"])
def test_tensors_of_two_parameters_must_not_share_memory(one, other, layout) -> None:
    """Threads would write it at once, so that no two runs are the same."""
    given = {**lists((20,), (5,), (20,), count=5), **NUMBERS, "average_decay": 0.9}
    memory = torch.rand(50)
    view = {"same": memory[:20], "overlapping": memory[19:39], "with gaps": memory[:40:2]}[layout]
    given[one][2], given[other][0] = view, memory[:20]
    before = deepcopy(given)
    with pytest.raises(ValueError, match=r"\[[02]\] must not share memory with \w+\[[02]\]"):
        ops.adamw_(**given)
    for each in LISTS:
        assert all(torch.equal(a, b) for a, b in zip(given[each], before[each], strict=True))


def test_gradients_may_share_memory(library, device) -> None:
    given = {name: [t.to(device) for t in each] for name, each in lists((6,), (6,)).items()} | NUMBERS
    given["gradients"] = [given["gradients"][0]] * 2
    for actual, expected in zip(after(ops, given), after(reference, given), strict=True):
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("offset", [0, 7])
def test_an_average_in_the_memory_of_its_parameter_is_refused(offset) -> None:
    memory, given = torch.randn(30), lists((15,))
    given |= {"parameters": [memory[:15]], "averages": [memory[offset : offset + 15]]}
    with pytest.raises(ValueError, match=r"averages\[0\] must not share memory with parameters\[0\]"):
        ops.adamw_(**given, **NUMBERS, average_decay=0.9)


@pytest.mark.parametrize(
    "gradients, sentence",
    [
        ([], "gradients must not be empty"),
        (torch.ones(2), "gradients must be a sequence of tensors, got Tensor"),
        ([torch.ones(2), 1.0], r"gradients\[1\] must be a tensor, got float"),
        ([torch.ones(2), torch.ones(2).to_sparse()], r"gradients\[1\] must be dense"),
        ([torch.ones(2, dtype=torch.int64)], r"gradients\[0\] must be float32, bfloat16, float16 or float64"),
    ],
)
def test_the_norm_names_a_wrong_gradient(gradients, sentence) -> None:
    with pytest.raises((TypeError, ValueError), match=sentence):
        ops.gradient_norm(gradients)
