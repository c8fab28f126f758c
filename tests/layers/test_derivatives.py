"""Derivatives by weights and inputs, of first and second order, under autograd and under `torch.func`."""

import pytest
import torch
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vjp, vmap

from lrsegformer.layers.norms import l2_norm

SHAPES = [(6, 5), (4, 7)]


@pytest.fixture(params=SHAPES, ids=str)
def layer(request, variant):
    """A layer in float64 whose constraint changes its raw weight, tall and wide."""
    layer = variant.build(*request.param, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.mul_(3)
        if layer.learns_constant:
            layer.c.sub_(0.3)
    return layer


def effective(layer):
    """The effective weight as a function of the raw one."""
    return lambda weight: layer.constrain(weight)


def curve(layer):
    """A scalar function of the raw weight that no linear map of it is."""
    return lambda weight: (layer.constrain(weight) ** 3).sum()


def of_weight(layer) -> torch.Tensor:
    return layer.weight.detach()


def by_differences(function, point: torch.Tensor, step: float = 1e-6) -> torch.Tensor:
    """Central differences, one entry of `point` after the other, along the last dimensions of the result."""
    columns = []
    for index in range(point.numel()):
        shift = torch.zeros_like(point).view(-1)
        shift[index] = step
        shift = shift.view_as(point)
        columns.append((function(point + shift) - function(point - shift)) / (2 * step))
    return torch.stack(columns, dim=-1).view(*columns[0].shape, *point.shape)


def estimated(layer) -> bool:
    """Power iteration's gradient holds its vectors fixed: it is an estimate's, by definition not its derivative."""
    return not getattr(layer, "sigma_is_exact", True)


def test_jacobians_agree_in_all_modes(layer):
    weight = of_weight(layer)
    reverse = torch.autograd.functional.jacobian(effective(layer), weight)
    for found in (jacrev(effective(layer))(weight), jacfwd(effective(layer))(weight)):
        torch.testing.assert_close(found, reverse, rtol=1e-7, atol=1e-7)
    if not estimated(layer):
        torch.testing.assert_close(reverse, by_differences(effective(layer), weight), rtol=1e-6, atol=1e-6)


def test_products_with_the_jacobian_are_each_others_transpose(layer):
    """What a power iteration on J^T J takes."""
    weight = of_weight(layer)
    direction, cotangent = torch.randn_like(weight), torch.randn_like(weight)
    value, along = jvp(effective(layer), (weight,), (direction,))
    assert torch.equal(value, layer.effective_weight())
    (back,) = vjp(effective(layer), weight)[1](cotangent)
    assert (along * cotangent).sum().item() == pytest.approx((back * direction).sum().item(), rel=1e-6)


def test_second_derivatives_agree_in_all_modes(layer):
    if estimated(layer):
        pytest.skip("the gradient of an estimate by power iteration is not the derivative of its value")
    weight = of_weight(layer)
    expected = by_differences(lambda point: torch.autograd.functional.jacobian(curve(layer), point), weight)
    twice = {
        "autograd": lambda function: lambda point: torch.autograd.functional.hessian(function, point),
        "reverse over reverse": lambda function: jacrev(jacrev(function)),
        "forward over reverse": hessian,
        "reverse over forward": lambda function: jacrev(jacfwd(function)),
        "forward over forward": lambda function: jacfwd(jacfwd(function)),
    }
    for mode, of_function in twice.items():
        found = of_function(curve(layer))(weight)
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max(), mode


def test_vmap_over_weights_gives_each_weight_its_own(layer):
    weights = torch.randn(3, *layer.weight.shape, dtype=torch.float64)
    torch.testing.assert_close(vmap(effective(layer))(weights), torch.stack([*map(layer.constrain, weights)]))
    single = [torch.autograd.functional.jacobian(curve(layer), weight) for weight in weights]
    torch.testing.assert_close(vmap(grad(curve(layer)))(weights), torch.stack(single), rtol=1e-7, atol=1e-7)


def test_gradients_of_each_sample(variant):
    """The usual recipe for gradients a sample: vmap over inputs of the gradient by all parameters."""
    layer, inputs = variant.build(), torch.randn(4, 5)
    parameters = dict(layer.named_parameters())

    def loss(parameters, sample):
        return functional_call(layer, parameters, (sample[None],)).square().sum()

    found = vmap(grad(loss), in_dims=(None, 0))(parameters, inputs)
    for index, sample in enumerate(inputs):
        expected = torch.autograd.grad(layer(sample[None]).square().sum(), parameters.values())
        for name, one in zip(parameters, expected, strict=True):
            torch.testing.assert_close(found[name][index], one, rtol=1e-4, atol=1e-5)


def test_an_ensemble_is_a_vmap_over_layers(variant):
    layers, inputs = [variant.build(seed=seed) for seed in range(3)], torch.randn(4, 5)
    parameters, buffers = stack_module_state(layers)

    def call(parameters, buffers):
        return functional_call(layers[0], (parameters, buffers), (inputs,))

    expected = torch.stack([layer(inputs) for layer in layers])
    torch.testing.assert_close(vmap(call)(parameters, buffers), expected, rtol=1e-5, atol=1e-5)


def test_jacobian_by_the_inputs_is_the_effective_weight(layer):
    inputs = torch.randn(layer.in_features, dtype=torch.float64)
    for transform in (jacrev, jacfwd):
        torch.testing.assert_close(transform(layer)(inputs), layer.effective_weight())


@pytest.mark.parametrize("repeated", ["identity", "zero", "rank one"])
def test_derivatives_of_the_l2_norm_are_finite_where_singular_values_repeat(repeated):
    matrix = {"identity": torch.eye(4), "zero": torch.zeros(4, 3), "rank one": torch.ones(4, 3)}[repeated].double()
    assert torch.isfinite(jacrev(l2_norm)(matrix)).all()
    assert torch.isfinite(hessian(l2_norm)(matrix)).all()
