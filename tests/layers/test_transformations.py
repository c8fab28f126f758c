"""What users do to modules: compile, export, checkpoint, call functionally, build on the meta device."""

import copy
import os
import shutil

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from tests.layers.conftest import VARIANTS

KINDS = ["linear", "conv1x1", "conv2d"]
# Tracing is slow, and the twin of a 1x1 convolution traces what the linear layer does: `make test-all`.
TRACED_KINDS = ["linear", pytest.param("conv1x1", marks=pytest.mark.slow), "conv2d"]


@pytest.fixture(params=KINDS)
def build(request, variant):
    return {"linear": variant.build, "conv1x1": variant.build_conv, "conv2d": variant.build_conv2d}[request.param]


@pytest.fixture
def active(build) -> nn.Module:
    """A layer whose constraint changes its raw weight."""
    layer = build()
    with torch.no_grad():
        layer.weight.mul_(3)
        if layer.learns_constant:
            layer.c.sub_(0.3)
    return layer


def inputs_of(layer: nn.Module) -> torch.Tensor:
    return torch.randn(3, 5, 2, 4) if isinstance(layer, nn.Conv2d) else torch.randn(3, 5)


def outputs_and_gradients(function, layer: nn.Module, inputs: torch.Tensor) -> tuple[torch.Tensor, dict]:
    """What `function` yields, and the gradients of a sum that weighs every output differently."""
    layer.zero_grad()
    inputs = inputs.clone().requires_grad_()
    outputs = function(inputs)
    (outputs * torch.arange(outputs.numel()).view_as(outputs).cos()).sum().backward()
    gradients = {name: parameter.grad.clone() for name, parameter in layer.named_parameters()}
    return outputs.detach(), gradients | {"inputs": inputs.grad}


def assert_compiled_equals_eager(layer: nn.Module, backend: str) -> None:
    torch.compiler.reset()
    inputs = inputs_of(layer)
    expected = outputs_and_gradients(layer, layer, inputs)
    compiled = outputs_and_gradients(torch.compile(layer, fullgraph=True, backend=backend), layer, inputs)
    torch.testing.assert_close(compiled, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.one_in(3)
@pytest.mark.each_value
@pytest.mark.parametrize("build", TRACED_KINDS, indirect=True)
def test_compiled_without_a_graph_break(active):
    assert_compiled_equals_eager(active, "aot_eager")


@pytest.mark.slow
def test_compiled_by_inductor(active):
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        pytest.skip("inductor needs a C++ compiler: set CXX or install g++")
    assert_compiled_equals_eager(active, "inductor")


# Its options change numbers of a strategy's bound, not what is traced, but for how sigma is found.
BOUNDS = [
    pytest.param(each, id=name, marks=[pytest.mark.slow] * bool(each.options)) for name, each in VARIANTS.items()
]


@pytest.mark.one_in(3)
@pytest.mark.parametrize("variant", BOUNDS, indirect=True)
def test_compiled_bound_equals_eager(variant):
    layer = variant.build()
    torch.compiler.reset()

    def bounds() -> tuple[torch.Tensor, torch.Tensor]:
        return layer.lipschitz_bound(), layer.lipschitz_bound(dtype=torch.bfloat16)

    torch.testing.assert_close(torch.compile(bounds, fullgraph=True, backend="aot_eager")(), bounds())


@pytest.mark.each_value
@pytest.mark.parametrize("build", TRACED_KINDS, indirect=True)
def test_exported(active):
    inputs = inputs_of(active)
    program = torch.export.export(active, (inputs,))
    assert torch.equal(program.module()(inputs), active(inputs))
    # The constraint is in the program, not a weight that was computed beforehand.
    assert set(program.state_dict) == set(active.state_dict())


def test_checkpointed_activations(active):
    inputs = inputs_of(active)
    expected = outputs_and_gradients(active, active, inputs)
    recomputed = outputs_and_gradients(lambda x: checkpoint(active, x, use_reentrant=False), active, inputs)
    torch.testing.assert_close(recomputed, expected, rtol=0, atol=0)


def test_functional_call_uses_the_tensors_it_is_given(active):
    other = copy.deepcopy(active)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.1)
    inputs = inputs_of(active)
    state = {name: tensor.detach().clone().requires_grad_() for name, tensor in other.named_parameters()}
    outputs = torch.func.functional_call(active, state, (inputs,))
    assert torch.equal(outputs, other(inputs)) and not torch.equal(outputs, active(inputs))
    outputs.square().sum().backward()
    other(inputs).square().sum().backward()
    for name, parameter in other.named_parameters():
        assert torch.equal(state[name].grad, parameter.grad), name
    assert all(parameter.grad is None for parameter in active.parameters())


def test_built_on_the_meta_device_and_loaded(build, active, assert_bounded):
    with torch.device("meta"):
        empty = build()
    assert all(tensor.is_meta for tensor in (*empty.parameters(), *empty.buffers()))
    for loaded in (empty.to_empty(device="cpu"), build(seed=3)):
        loaded.load_state_dict(active.state_dict(), strict=True)
        assert torch.equal(loaded.effective_weight(), active.effective_weight())
        assert_bounded(loaded)


def test_tensors_assigned_to_a_layer_on_the_meta_device(build, active):
    with torch.device("meta"):
        empty = build()
    empty.load_state_dict(active.state_dict(), strict=True, assign=True)
    inputs = inputs_of(active)
    assert torch.equal(empty(inputs), active(inputs))


def test_built_in_any_dtype(build, assert_bounded):
    layer = build(dtype=torch.bfloat16)
    assert layer.weight.dtype == torch.bfloat16
    assert_bounded(layer)


def test_to_linear_gives_equal_outputs(variant):
    layer = variant.build()
    with torch.no_grad():
        layer.weight.mul_(5)
    plain, inputs = layer.to_linear(), torch.randn(7, 5)
    assert type(plain) is nn.Linear
    assert torch.equal(plain.weight, layer.effective_weight()) and torch.equal(plain.bias, layer.bias)
    torch.testing.assert_close(plain(inputs), layer(inputs), rtol=1e-6, atol=1e-6)
    assert variant.build(bias=False).to_linear().bias is None
