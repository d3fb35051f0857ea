"""vector-quantize-pytorch gives the same with our operations in it as by itself, whatever its options."""

from __future__ import annotations

import copy

import pytest
import torch
import vector_quantize_pytorch as package
from largest_result import LargestResult
from torch.utils._pytree import tree_leaves
from vector_quantize_pytorch import GroupedResidualVQ, HierarchicalVQ, RandomProjectionQuantizer, ResidualVQ
from vector_quantize_pytorch import VectorQuantize as VQ

from visgen_fast import ops
from visgen_fast.interop import apply_visgen_to_vector_quantize_pytorch

TOKENS = (2, 30, 8)
MASK = torch.arange(60).view(2, 30) % 3 > 0


def case(name, cls, shape=TOKENS, call=None, **options):
    return pytest.param(cls, options, shape, call or {}, id=name)


def residual(name, *shape, call=None, **options):
    return case(name, ResidualVQ, *shape, call=call, **{"num_quantizers": 3, "codebook_size": 16, "dim": 8} | options)


def single(name, *shape, call=None, **options):
    return case(name, VQ, *shape, call=call, **{"codebook_size": 16, "dim": 8} | options)


BY_GRADIENT = {"learnable_codebook": True, "ema_update": False}

# Options with which no matrix of vectors × codes remains.
LEAN = [
    residual("depths"),
    residual("straight through", rotation_trick=False),
    residual("shared", shared_codebook=True),
    residual("shared and frozen", shared_codebook=True, call={"freeze_codebook": True}),
    residual("shared, dead codes", shared_codebook=True, threshold_ema_dead_code=1, rotation_trick=False),
    residual("dead codes", threshold_ema_dead_code=2, decay=0.5),
    residual("dropout", quantize_dropout=True, call={"return_all_codes": True}),
    residual("dropout in pairs", quantize_dropout=True, quantize_dropout_multiple_of=2, num_quantizers=5),
    residual("dropout from the second", quantize_dropout=True, quantize_dropout_cutoff_index=1),
    residual("dropout by seed", quantize_dropout=True, call={"rand_quantize_dropout_fixed_seed": 3}),
    residual("cosine", use_cosine_sim=True),
    residual("k-means", kmeans_init=True, codebook_size=4),
    residual("k-means, cosine", kmeans_init=True, codebook_size=4, use_cosine_sim=True),
    residual("by gradient", **BY_GRADIENT),
    residual("by gradient, frozen", **BY_GRADIENT, call={"freeze_codebook": True}),
    residual("by gradient, not routed", **BY_GRADIENT, route_gradients_to_input=False),
    residual("without commitment", commitment_weight=0.0),
    residual("commitment 0.25", commitment_weight=0.25),
    residual("masked", threshold_ema_dead_code=1, call={"mask": MASK}),
    residual("masked, input kept", return_zeros_for_masked_padding=False, call={"mask": MASK}),
    residual("pictures", (2, 8, 8, 8), accept_image_fmap=True),
    residual("projected", codebook_dim=4),
    residual("one token", (60, 8)),
    residual("codebooks of two sizes", codebook_size=(8, 16, 16)),
    residual("part of the gradient", quant_grad_frac=0.1),
    residual("DiVeQ", diveq=True),
    case("groups", GroupedResidualVQ, dim=8, groups=2, num_quantizers=3, codebook_size=16, quantize_dropout=True),
    single("vectors"),
    single("vectors, straight through", rotation_trick=False),
    single("loss breakdown", call={"return_loss_breakdown": True}),
    single("vectors, k-means and dead codes", kmeans_init=True, codebook_size=8, threshold_ema_dead_code=2),
    single("k-means, masked", kmeans_init=True, codebook_size=4, call={"mask": MASK}),
    single("vectors, cosine", use_cosine_sim=True),
    single("cosine, masked", use_cosine_sim=True, call={"mask": MASK}),
    single("maps", (2, 8, 6, 5), accept_image_fmap=True),
    single("volumes", (2, 8, 3, 5, 4), accept_3d_fmap=True),
    single("channels first", (2, 8, 30), channel_last=False),
    single("one token, channels first", (60, 8), channel_last=False),
    single("vectors, projected", codebook_dim=4, layernorm_after_project_in=True),
    single("vectors, masked", threshold_ema_dead_code=1, call={"mask": MASK}),
    single("vectors, masked, input kept", return_zeros_for_masked_padding=False, call={"mask": MASK}),
    single("lengths", call={"lens": torch.tensor([7, 30])}),
    single("frozen", freeze_codebook=True),
    single("heads", heads=2, codebook_dim=4),
    single("heads with own codebooks", heads=2, codebook_dim=4, separate_codebook_per_head=True),
    single("affine", affine_param=True),
    single("synchronous update", **BY_GRADIENT, sync_update_v=0.3),
    single("directional", directional_reparam=True, threshold_ema_dead_code=2),
    single("orthogonal", orthogonal_reg_weight=10, orthogonal_reg_active_codes_only=True),
    single(
        "in-place optimizer",
        **BY_GRADIENT,
        in_place_codebook_optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    ),
    single("weighted update", call={"ema_update_weight": torch.linspace(0, 1, 16)}),
    single("weights by function", call={"ema_update_weight": lambda sums, counts: (counts > 1).float()}),
    single("accumulated update", call={"accum_ema_update": True}),
    single("no update", call={"ema_update": False}),
    single("bridge", vq_bridge=torch.nn.Linear(8, 8)),
]

# Options that need all distances: the package's own code runs.
OWN = [
    residual("beam", beam_size=2),
    residual("sampled", stochastic_sample_codes=True),
    residual("neural codebook", implicit_neural_codebook=True),
    single("Gumbel", straight_through=True, rotation_trick=False, stochastic_sample_codes=True),
    single("diversity", codebook_diversity_loss_weight=1.0),
    single("cross entropy", commitment_use_cross_entropy_loss=True),
    single("best three", call={"topk": 3}),
]


def train(cls, options, shape, call, *, how):
    """Everything that three steps give, the last in evaluation mode; `how` is the package's own code or ours."""
    torch.manual_seed(0)
    quantizer, found = cls(**copy.deepcopy(options)), []
    replacement = {"own": None, "classes": lambda: None, "model": lambda: quantizer}[how]
    replacement = replacement and apply_visgen_to_vector_quantize_pytorch(replacement())
    try:
        for step in range(3):
            torch.manual_seed(10 + step)
            quantizer.train(step < 2)
            x, upstream = torch.randn(shape, requires_grad=True), torch.randn(shape)
            results = quantizer(x, **call)
            quantizer.zero_grad()
            differentiable = [result for result in tree_leaves(results) if result.requires_grad]
            sums = [(result * upstream).sum() if result.shape == shape else result.sum() for result in differentiable]
            if differentiable:
                sum(sums).backward()
            gradients = [x.grad, *(parameter.grad for parameter in quantizer.parameters())]
            state = [value.clone() for value in quantizer.state_dict().values()]
            found.append([*tree_leaves(results), *gradients, *state, torch.get_rng_state()])
    finally:
        if replacement:
            replacement.revert()
    return found


def assert_same(ours, theirs):
    for step, (some, others) in enumerate(zip(ours, theirs, strict=True)):
        for number, (got, expected) in enumerate(zip(some, others, strict=True)):
            where = f"step {step}, tensor {number}"
            assert (got is None) == (expected is None), where
            if got is None:
                continue
            assert got.dtype == expected.dtype and got.requires_grad == expected.requires_grad, where
            atol = 1e-5 * (float(expected.detach().double().abs().max()) if expected.numel() else 0.0)
            torch.testing.assert_close(
                got, expected, rtol=0, atol=atol, msg=lambda text, where=where: f"{where}: {text}"
            )


@pytest.mark.parametrize("how", ["classes", "model"])
@pytest.mark.parametrize(("cls", "options", "shape", "call"), LEAN + OWN)
def test_values_codes_losses_gradients_and_state_are_the_packages(cls, options, shape, call, how):
    assert_same(train(cls, options, shape, call, how=how), train(cls, options, shape, call, how="own"))


def largest_result(quantizer, x, **call):
    with LargestResult() as largest:
        quantizer(x, **call)[0].sum().backward()
    return largest.numbers


@pytest.mark.parametrize(
    "options",
    [{}, {"shared_codebook": True}, {"use_cosine_sim": True}, {"kmeans_init": True}, {"diveq": True}],
    ids=str,
)
def test_nothing_as_large_as_vectors_times_codes_is_made(options):
    quantizer, x = ResidualVQ(dim=4, num_quantizers=2, codebook_size=300, **options), torch.randn(1, 500, 4)
    assert largest_result(copy.deepcopy(quantizer), x.clone().requires_grad_()) >= 500 * 300
    with apply_visgen_to_vector_quantize_pytorch():
        assert largest_result(quantizer, x.requires_grad_()) <= 3 * 500 * 4


@pytest.mark.parametrize(
    "options", [{"heads": 2, "codebook_dim": 2}, {"affine_param": True}, {"threshold_ema_dead_code": 2}], ids=str
)
def test_nothing_as_large_as_vectors_times_codes_is_made_for_one_depth(options):
    quantizer, x = VQ(dim=4, codebook_size=300, **options), torch.randn(1, 500, 4)
    with apply_visgen_to_vector_quantize_pytorch():
        assert largest_result(quantizer, x.requires_grad_()) <= 3 * 500 * 4


@pytest.mark.parametrize("mask", [None, MASK], ids=["all", "masked"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"threshold_ema_dead_code": 2},
        {"use_cosine_sim": True},
        {"affine_param": True},
        {"heads": 2, "codebook_dim": 4},
        {"heads": 2, "codebook_dim": 4, "separate_codebook_per_head": True},
    ],
    ids=str,
)
def test_codebooks_learn_from_given_codes_what_the_packages_learn(options, mask):
    torch.manual_seed(0)
    quantizer, x = VQ(dim=8, codebook_size=300, **options), torch.randn(TOKENS)
    codes = torch.randint(-1, 300, (*TOKENS[:2], *([2] if "heads" in options else [])))
    quantizer(x)  # the mean and the deviation of affine parameters
    found = {}
    for how in ("update_indices", "update_ema_indices"):
        own, ours = copy.deepcopy(quantizer), copy.deepcopy(quantizer)
        for one in (own, ours):
            torch.manual_seed(1)
            with apply_visgen_to_vector_quantize_pytorch(ours), LargestResult() as largest:
                getattr(one, how)(x, codes, mask=mask)
            found[one] = largest.numbers
        for name, expected in own.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[name], expected, rtol=1e-4, atol=1e-5)
        assert not torch.equal(own._codebook.embed_avg, quantizer._codebook.embed_avg)
        assert found[own] >= 60 * 300 > found[ours]


def test_other_quantizers_of_the_package_that_search_codebooks_gain_too():
    torch.manual_seed(0)
    projected = RandomProjectionQuantizer(dim=8, codebook_size=16, codebook_dim=4, num_codebooks=2)
    hierarchy = HierarchicalVQ(
        dim=8, codebook_size=16, accept_image_fmap=True, scales=(1, 2, 4), sample_codebook_temp=0
    )
    x, picture = torch.randn(TOKENS), torch.randn(2, 8, 4, 4)
    hierarchy.eval()
    expected = projected(x), hierarchy(picture)
    with apply_visgen_to_vector_quantize_pytorch():
        got = projected(x), hierarchy(picture)
    torch.testing.assert_close(got, expected)


def test_sixteen_bit_vectors_have_the_codes_of_their_float32_values():
    quantizer, x = ResidualVQ(dim=8, num_quantizers=3, codebook_size=64), torch.randn(TOKENS).bfloat16()
    with apply_visgen_to_vector_quantize_pytorch(quantizer.eval()):
        (quantized, codes, _), (_, expected, _) = quantizer(x), quantizer(x.float())
    assert quantized.dtype == torch.bfloat16
    assert torch.equal(codes, expected)


def test_autocast_changes_neither_codes_nor_quantized_vectors():
    quantizer, x = ResidualVQ(dim=8, num_quantizers=3, codebook_size=64), torch.randn(TOKENS)
    with apply_visgen_to_vector_quantize_pytorch(quantizer.eval()):
        expected = quantizer(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = quantizer(x)
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_codes_are_nearest_where_the_packages_rounding_says_otherwise():
    codebook = torch.tensor([[1000.0, 0.0], [1000.0, 1e-3]])
    x = torch.tensor([[1000.0, 9e-4]])
    quantizer = VQ(dim=2, codebook_size=2).eval()
    quantizer.codebook = codebook
    assert quantizer(x)[1].item() == 0
    with apply_visgen_to_vector_quantize_pytorch(quantizer):
        assert quantizer(x)[1].item() == ops.nearest_code(x, codebook).item() == 1


def test_a_residual_of_length_zero_keeps_its_code():
    quantizer, x = VQ(dim=2, codebook_size=2), torch.zeros(1, 2, requires_grad=True)
    quantizer.codebook = torch.ones(2, 2)
    assert quantizer(x)[0].abs().sum() == 0
    quantizer.codebook = torch.ones(2, 2)
    with apply_visgen_to_vector_quantize_pytorch(quantizer):
        assert torch.equal(quantizer(x)[0], torch.ones(1, 2))


def test_residual_maps_may_have_any_size():
    options = {"dim": 8, "num_quantizers": 2, "codebook_size": 16}
    pictures, tokens = ResidualVQ(**options, accept_image_fmap=True), ResidualVQ(**options)
    tokens.load_state_dict(pictures.state_dict())
    x = torch.randn(2, 8, 3, 5)
    with apply_visgen_to_vector_quantize_pytorch():
        quantized, codes, losses = pictures(x)
        expected = tokens(x.flatten(2).transpose(1, 2))
    torch.testing.assert_close(quantized.flatten(2).transpose(1, 2), expected[0])
    torch.testing.assert_close(codes.flatten(1, 2), expected[1])
    torch.testing.assert_close(losses, expected[2])


def test_a_codebook_called_by_itself_still_gives_its_distances():
    quantizer, x = VQ(dim=8, codebook_size=16), torch.randn(TOKENS)
    expected = copy.deepcopy(quantizer)._codebook(x)
    with apply_visgen_to_vector_quantize_pytorch():
        got = quantizer._codebook(x)
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_given_codes_still_give_their_cross_entropy():
    quantizer, x, codes = VQ(dim=8, codebook_size=16).eval(), torch.randn(TOKENS), torch.randint(16, (2, 30))
    expected = quantizer(x, indices=codes)
    with apply_visgen_to_vector_quantize_pytorch():
        torch.testing.assert_close(quantizer(x, indices=codes), expected, rtol=0, atol=0)


def test_a_hook_on_a_layer_is_called():
    quantizer, called = ResidualVQ(dim=8, num_quantizers=3, codebook_size=16), []
    quantizer.layers[1].register_forward_hook(lambda *_: called.append(1))
    with apply_visgen_to_vector_quantize_pytorch():
        quantizer(torch.randn(TOKENS))
    assert called == [1]


METHODS = [(ResidualVQ, "forward"), (VQ, "forward")] + [
    (package.vector_quantize_pytorch.Codebook, name) for name in ("forward", "init_embed_")
]


def test_revert_puts_the_packages_methods_back():
    before = [vars(cls)[name] for cls, name in METHODS]
    replacement = apply_visgen_to_vector_quantize_pytorch()
    assert all(vars(cls)[name] is not method for (cls, name), method in zip(METHODS, before, strict=True))
    apply_visgen_to_vector_quantize_pytorch().revert()  # already applied: it has nothing to take back
    assert all(vars(cls)[name] is not method for (cls, name), method in zip(METHODS, before, strict=True))
    replacement.revert()
    replacement.revert()
    assert all(vars(cls)[name] is method for (cls, name), method in zip(METHODS, before, strict=True))


def test_with_a_model_only_its_quantizers_are_replaced():
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), VQ(dim=8, codebook_size=16))
    before, forward = [vars(cls)[name] for cls, name in METHODS], model[1].forward
    replacement = apply_visgen_to_vector_quantize_pytorch(model)
    assert all(vars(cls)[name] is method for (cls, name), method in zip(METHODS, before, strict=True))
    assert model[1].forward != forward
    replacement.revert()
    assert model[1].forward == forward and "forward" not in vars(model[1])


def test_a_copy_of_a_replaced_model_is_a_model_of_its_own():
    model = VQ(dim=8, codebook_size=16)
    apply_visgen_to_vector_quantize_pytorch(model)
    before = model.codebook.clone()
    other = copy.deepcopy(model)
    other(torch.randn(TOKENS))
    assert torch.equal(model.codebook, before) and not torch.equal(other.codebook, before)


def test_a_model_without_quantizers_is_refused():
    with pytest.raises(ValueError, match="model must have a quantizer of vector-quantize-pytorch"):
        apply_visgen_to_vector_quantize_pytorch(torch.nn.Linear(2, 2))
