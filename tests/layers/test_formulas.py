"""Each strategy's formula and options, against independent computations, and the registry."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from lrsegformer.errors import InputError
from lrsegformer.layers import (
    STRATEGIES,
    GeometricMeanLipschitzLinear,
    JacobianNormLipschitzLinear,
    OrthogonalLipschitzLinear,
    SpectralNormalizedLinear,
    StableSoftplusLipschitzLinear,
    build_lipschitz_conv1x1,
    build_lipschitz_linear,
)

SHAPES = [(6, 4), (4, 6), (5, 5)]


@pytest.fixture
def weight() -> np.ndarray:
    weight = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    weight[:, 0] *= 0.1
    weight[0] *= 0.1
    return weight


def layer_with(layer_class: type, weight: np.ndarray, c: float | None = None, **options) -> nn.Module:
    layer = layer_class(weight.shape[1], weight.shape[0], **options)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
        if c is not None:
            layer.c.fill_(c)
    return layer


def effective(layer: nn.Module) -> np.ndarray:
    return layer.effective_weight().detach().double().numpy()


@pytest.mark.parametrize(("norm", "axis"), [("linf", 1), ("l1", 0)])
def test_stable_softplus_rescales_rows_or_columns_above_k(weight, norm, axis):
    constant = np.log1p(np.exp(1.2))
    layer = layer_with(StableSoftplusLipschitzLinear, weight, c=1.2, norm=norm)
    sums = np.abs(weight).sum(axis=axis, keepdims=True)
    np.testing.assert_allclose(effective(layer), weight * np.minimum(1, constant / sums), rtol=1e-6)
    above = (sums > constant).squeeze()
    assert above.any() and not above.all(), "the case tests both branches"
    untouched = np.moveaxis(effective(layer), axis, 1)[~above]
    assert np.array_equal(untouched, np.moveaxis(weight, axis, 1)[~above].astype(np.float64))
    assert layer.norm == norm
    assert layer.lipschitz_bound().item() == pytest.approx(constant * (1 + 1e-5), rel=1e-6)


def test_stable_softplus_constant_has_a_floor(weight):
    assert layer_with(StableSoftplusLipschitzLinear, weight, c=-100.0).constant().item() == pytest.approx(1e-6)


def test_geometric_mean_rescales_the_whole_matrix(weight):
    mean = np.sqrt(np.abs(weight).sum(axis=0).max() * np.abs(weight).sum(axis=1).max())
    shrunk = layer_with(GeometricMeanLipschitzLinear, weight, c=0.5)
    np.testing.assert_allclose(effective(shrunk), weight * np.exp(0.5) / mean, rtol=1e-6)
    loose = layer_with(GeometricMeanLipschitzLinear, weight, c=float(np.log(2 * mean)))
    assert np.array_equal(effective(loose), weight.astype(np.float64))


@pytest.mark.parametrize(
    ("layer_class", "norm"), [(StableSoftplusLipschitzLinear, np.log(2)), (GeometricMeanLipschitzLinear, 1.0)]
)
def test_start_near_c_zero_takes_few_steps(monkeypatch, layer_class, norm):
    """At `c` = 0 neighbouring floats are 1e-45 apart, and K differs only at 1e-7: stepping by them would not end."""
    counted = []
    plain_step = torch.nextafter

    def counting_step(*arguments):
        counted.append(1)
        assert len(counted) < 10, "too many steps"
        return plain_step(*arguments)

    monkeypatch.setattr(torch, "nextafter", counting_step)
    for offset in (*np.logspace(-12, -4, 60), 0, *-np.logspace(-12, -4, 60)):
        linear = nn.Linear(1, 1).double()
        nn.init.constant_(linear.weight, norm + offset)
        counted.clear()
        layer = layer_class.from_linear(linear)
        assert torch.equal(layer.effective_weight(), linear.weight)
        assert layer.constant().item() == pytest.approx(norm + offset, rel=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("constant", [1.0, 0.25, 7])
def test_spectral_norm_is_exactly_k(shape, constant):
    layer = build_lipschitz_linear("spectral_norm", shape[1], shape[0], constant=constant)
    singular_values = np.linalg.svd(effective(layer), compute_uv=False)
    assert singular_values[0] == pytest.approx(constant, rel=1e-6)
    raw = np.linalg.svd(layer.weight.detach().numpy().astype(np.float64), compute_uv=False)
    np.testing.assert_allclose(singular_values, raw * constant / raw[0], rtol=1e-5)


def test_spectral_norm_can_keep_the_initial_norm():
    linear = nn.Linear(4, 6)
    layer = SpectralNormalizedLinear.from_linear(linear, constant="initial")
    torch.testing.assert_close(layer.effective_weight(), linear.weight, rtol=1e-6, atol=0)
    with torch.no_grad():
        layer.weight.mul_(10)
    torch.testing.assert_close(layer.effective_weight(), linear.weight, rtol=1e-5, atol=0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("constant", [1.0, 0.25, 7])
def test_every_singular_value_of_orthogonal_is_k(shape, constant):
    layer = build_lipschitz_linear("orthogonal", shape[1], shape[0], constant=constant)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(shape))
    np.testing.assert_allclose(np.linalg.svd(effective(layer), compute_uv=False), constant, rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_orthogonal_starts_from_the_polar_factor(shape):
    linear = nn.Linear(shape[1], shape[0])
    left, _, right = np.linalg.svd(linear.weight.detach().double().numpy(), full_matrices=False)
    layer = OrthogonalLipschitzLinear.from_linear(linear)
    np.testing.assert_allclose(effective(layer), left @ right, atol=1e-6)
    again = OrthogonalLipschitzLinear.from_linear(layer.to_linear())
    np.testing.assert_allclose(effective(again), effective(layer), atol=1e-6)


def test_orthogonal_is_indifferent_to_decay():
    layer = OrthogonalLipschitzLinear(4, 6)
    before = layer.effective_weight().detach().clone()
    with torch.no_grad():
        layer.weight.mul_(1e-4)
    torch.testing.assert_close(layer.effective_weight(), before, rtol=1e-5, atol=1e-6)


def test_gradient_of_orthogonal_is_limited_where_the_weight_loses_rank():
    """Without the guard it is above 1e10 here, for every seed tried."""
    layer = OrthogonalLipschitzLinear(4, 6)
    with torch.no_grad():
        layer.weight.copy_(torch.outer(torch.arange(1.0, 7), torch.arange(1.0, 5)))
    (layer.effective_weight() * torch.randn(6, 4)).sum().backward()
    assert 0 < layer.weight.grad.abs().max() < 1e5


def test_jacobian_norm_limits_nothing(weight):
    layer = layer_with(JacobianNormLipschitzLinear, 100 * weight)
    assert not layer.limits_norm and not layer.learns_constant and layer.penalized_jacobian == "head"
    assert np.array_equal(effective(layer), (100 * weight).astype(np.float64))
    assert layer.lipschitz_bound().item() == pytest.approx(np.linalg.norm(100.0 * weight, 2), rel=2e-5)


@pytest.mark.parametrize(
    ("strategy", "options"),
    [
        ("stable_softplus", {"norm": "l2"}),
        ("stable_softplus", {"norm": None}),
        *[("spectral_norm", {"constant": value}) for value in (0, -1.0, "start", None, float("nan"), float("inf"))],
        *[("spectral_norm", {"sigma": value}) for value in ("exact", None, True, "Eigenvalues")],
        *[("jacobian_norm", {"jacobian": value}) for value in ("features", None, "")],
        *[("orthogonal", {"constant": value}) for value in (0, -1.0, "initial", None, float("nan"), float("inf"))],
    ],
)
def test_bad_option_gets_one_line_that_names_it(strategy, options):
    for build in (build_lipschitz_linear, build_lipschitz_conv1x1):
        with pytest.raises(InputError) as caught:
            build(strategy, 3, 2, **options)
        (name,) = options
        message = str(caught.value)
        assert strategy in message and name in message and repr(options[name]) in message and "\n" not in message


def test_registry_is_a_read_only_mapping_of_the_named_strategies():
    promised = ["stable_softplus", "geometric_mean", "spectral_norm", "orthogonal", "jacobian_norm"]
    assert list(STRATEGIES)[:5] == promised and len(STRATEGIES) == len(list(STRATEGIES))
    assert "orthogonal" in STRATEGIES and "sgd" not in STRATEGIES
    assert STRATEGIES["orthogonal"] is OrthogonalLipschitzLinear
    assert not hasattr(STRATEGIES, "__setitem__")
    with pytest.raises(KeyError, match="'sgd'.*stable_softplus"):
        build_lipschitz_linear("sgd", 3, 2)


def test_registry_lists_strategies_without_importing_torch():
    code = "import sys; from lrsegformer.layers import STRATEGIES as s; print(*s, 'torch' in sys.modules)"
    environment = {**os.environ, "LRSEGFORMER_PARSE_ONLY": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split() == [*STRATEGIES, "False"]
