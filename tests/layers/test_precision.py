"""The bound of the matrix that `forward` really multiplies by, in every precision."""

import itertools
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from torch import nn

from lrsegformer.layers import STRATEGIES, LipschitzLinear

HALVES = [torch.bfloat16, torch.float16]
SHAPES = [(1, 1), (1, 24), (24, 1), (16, 16), (9, 40), (40, 9)]


def multiplied_matrix(layer: nn.Module, dtype: torch.dtype) -> torch.Tensor:
    """
    What the unit vectors become. Each output is one entry of the matrix times 1 plus zeros: exact, and in whatever
    precision the product was taken.
    """
    assert layer.bias is None
    units = torch.eye(layer.weight.shape[1], dtype=dtype)
    if isinstance(layer, nn.Conv2d):
        units = units[:, :, None, None]
    return layer(units).flatten(1).T.detach()


def make_active(layer: nn.Module) -> nn.Module:
    """Raw weights above the constant, and a constant that is no round number."""
    with torch.no_grad():
        layer.weight.mul_(3)
        if layer.learns_constant:
            layer.c.sub_(0.3)
    return layer


def autocast(dtype: torch.dtype, enabled: bool) -> AbstractContextManager:
    return torch.autocast("cpu", dtype=dtype) if enabled else nullcontext()


@pytest.fixture(params=["linear", "conv1x1"])
def build(request, variant):
    return variant.build if request.param == "linear" else variant.build_conv


@pytest.mark.one_in(3)
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_bound_after_a_cast_of_the_layer(build, reference_norm, dtype):
    for shape, seed in itertools.product(SHAPES, range(3)):
        layer = make_active(build(*shape, seed=seed, bias=False)).to(dtype)
        matrix = multiplied_matrix(layer, dtype)
        assert matrix.dtype == dtype
        assert layer.effective_weight().dtype == torch.float32
        assert reference_norm(matrix, layer.norm) <= layer.lipschitz_bound().item(), shape


@pytest.mark.one_in(3)
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_bound_under_autocast(build, reference_norm, dtype):
    for shape, seed in itertools.product(SHAPES, range(3)):
        layer = make_active(build(*shape, seed=seed, bias=False))
        outside = layer.effective_weight()
        with torch.autocast("cpu", dtype=dtype):
            assert torch.equal(layer.effective_weight(), outside)
            matrix = multiplied_matrix(layer, torch.float32)
            bound = layer.lipschitz_bound()
        assert matrix.dtype == dtype, "the product was taken in lower precision"
        assert reference_norm(matrix, layer.norm) <= bound.item(), shape
        assert torch.equal(bound, layer.lipschitz_bound(dtype=dtype))


@pytest.mark.parametrize("inputs_dtype", HALVES, ids=str)
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_bound_under_autocast_of_half_precision_inputs(variant, reference_norm, dtype, inputs_dtype):
    """The matrix is rounded to autocast's precision, whatever that of the inputs: rounding twice may go further."""
    for seed in range(5):
        layer = make_active(variant.build(16, 16, seed=seed, bias=False))
        with torch.autocast("cpu", dtype=dtype):
            matrix = multiplied_matrix(layer, inputs_dtype)
            assert matrix.dtype == dtype
            assert reference_norm(matrix, layer.norm) <= layer.lipschitz_bound().item()


@pytest.mark.parametrize("stored", [torch.float32, torch.float64, *HALVES], ids=str)
@pytest.mark.parametrize("multiplied", [torch.float32, torch.float64, *HALVES], ids=str)
def test_bound_in_the_precision_that_the_inputs_ask_for(build, reference_norm, stored, multiplied):
    """A weight is cast to the precision of its inputs; the argument `dtype` says which that is."""
    layer = make_active(build(16, 16, bias=False)).to(stored)
    matrix = multiplied_matrix(layer, multiplied)
    bound = layer.lipschitz_bound(dtype=multiplied)
    assert matrix.dtype == multiplied
    assert bound.dtype in (torch.float32, torch.float64) and bound.shape == ()
    assert reference_norm(matrix, layer.norm) <= bound.item()


@pytest.mark.parametrize("inputs_dtype", [torch.float32, torch.float64], ids=str)
def test_bound_of_a_float64_layer_under_autocast(variant, reference_norm, inputs_dtype):
    """Autocast leaves float64 products alone, but not those of a float64 layer with float32 inputs."""
    for seed in range(5):
        layer = make_active(variant.build(16, 16, seed=seed, bias=False)).double()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            matrix = multiplied_matrix(layer, inputs_dtype)
            assert reference_norm(matrix, layer.norm) <= layer.lipschitz_bound().item()


@pytest.mark.parametrize("under_autocast", [False, True])
@pytest.mark.parametrize("strategy", ["stable_softplus", "orthogonal"])
def test_the_bound_in_float32_would_not_do(reference_norm, strategy, under_autocast):
    """Rounding to bfloat16 carries matrices beyond it: the tests above can fail."""
    violated = 0
    for seed in range(20):
        torch.manual_seed(seed)
        layer = make_active(STRATEGIES[strategy](16, 16, bias=False))
        layer = layer if under_autocast else layer.bfloat16()
        with autocast(torch.bfloat16, under_autocast):
            matrix = multiplied_matrix(layer, torch.float32 if under_autocast else torch.bfloat16)
            bound = layer.lipschitz_bound().item()
        norm = reference_norm(matrix, layer.norm)
        assert norm <= bound <= 1.05 * norm
        violated += norm > layer.lipschitz_bound(dtype=torch.float32).item()
    assert violated >= 3


def with_large_entries(variant, norm: float) -> LipschitzLinear:
    """A layer whose effective weight has entries beyond float16's 65504."""
    layer = variant.build(bias=False)
    with torch.no_grad():
        layer.weight.mul_(norm)
        if layer.learns_constant or variant.options.get("constant") == "initial":
            layer.start_from_weight()
        elif hasattr(layer, "c"):
            layer.c.mul_(norm)
    return layer


def test_overflow_has_an_infinite_bound(variant):
    layer = with_large_entries(variant, 1e7)
    assert layer.effective_weight().abs().max() > 65504
    assert torch.isfinite(layer.lipschitz_bound()) and torch.isfinite(layer.lipschitz_bound(dtype=torch.bfloat16))
    assert layer.lipschitz_bound(dtype=torch.float16).item() == float("inf")
    with torch.autocast("cpu", dtype=torch.float16):
        assert layer.lipschitz_bound().item() == float("inf")


@pytest.mark.parametrize(("strategy", "c"), [("stable_softplus", 1e6), ("geometric_mean", 12.0)])
def test_a_constant_too_large_for_float16_spoils_no_weight_that_fits(strategy, c):
    """Where the layer is cast, its constant is too: one that overflows must not turn a small weight into NaN."""
    layer = STRATEGIES[strategy](5, 6)
    with torch.no_grad():
        layer.c.fill_(c)
    layer.half()
    assert torch.isfinite(layer.effective_weight()).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_outputs_have_the_dtype_of_the_inputs(variant, dtype):
    assert variant.build()(torch.randn(3, 5, dtype=dtype)).dtype == dtype


def test_outputs_under_autocast_are_close_to_those_outside(variant):
    layer, inputs = variant.build(), torch.randn(3, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = layer(inputs)
    assert outputs.dtype == torch.bfloat16
    torch.testing.assert_close(outputs.float(), layer(inputs), rtol=0.03, atol=0.03)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_bound_in_lower_precision_has_finite_gradients(variant, dtype):
    layer = make_active(variant.build())
    layer.lipschitz_bound(dtype=dtype).backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all(), name
    assert layer.c.grad > 0 if layer.learns_constant else True
