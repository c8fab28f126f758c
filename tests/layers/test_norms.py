"""The operator norms that bounds and constraints are made of."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lrsegformer.layers.norms import NORMS, l2_norm, operator_norm, power_iteration_estimate


@pytest.mark.parametrize("scale", [1e-20, 1e-6, 1.0, 1e6])
@pytest.mark.parametrize("shape", [(1, 1), (1, 8), (8, 1), (7, 7), (5, 40), (40, 5)])
def test_norms_equal_numpy_in_float64(shape, scale):
    matrix = np.random.default_rng(3).normal(size=shape) * scale
    for norm, order in zip(NORMS, (2, np.inf, 1), strict=True):
        value = operator_norm(torch.from_numpy(matrix), norm)
        assert value.dtype == torch.float64
        assert value.item() == pytest.approx(np.linalg.norm(matrix, order), rel=1e-12)


def test_l2_norm_where_singular_values_are_close_or_repeated():
    for values in ([2.0, 2.0, 2.0], [2.0, 2.0 - 1e-9, 1.0], [5.0, 1e-12, 0.0]):
        left, right = (torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0] for _ in range(2))
        assert l2_norm(left @ torch.diag(torch.tensor(values).double()) @ right).item() == pytest.approx(max(values))


def test_l2_norm_gradient_is_the_outer_product_of_the_top_vectors():
    matrix = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    l2_norm(matrix).backward()
    left, _, right = np.linalg.svd(matrix.detach().numpy())
    np.testing.assert_allclose(matrix.grad.numpy(), np.outer(left[:, 0], right[0]), atol=1e-10)


def test_l2_norm_of_zero_is_zero_with_zero_gradient():
    matrix = torch.zeros(3, 2, requires_grad=True)
    norm = l2_norm(matrix)
    norm.backward()
    assert norm.item() < 1e-100 and not matrix.grad.any()


def test_half_precision_input_is_measured_exactly():
    matrix = torch.randn(6, 5).bfloat16()
    assert operator_norm(matrix, "l2").item() == pytest.approx(np.linalg.norm(matrix.double().numpy(), 2), rel=1e-12)


def test_unknown_norm_names_the_known_ones():
    with pytest.raises(ValueError, match="'frobenius'.*l2, linf, l1"):
        operator_norm(torch.ones(2, 2), "frobenius")


SIZES = st.integers(1, 24)


@given(rows=SIZES, columns=SIZES, seed=st.integers(0, 2**32 - 1), exponent=st.floats(-30, 30), rank=SIZES)
def test_power_iteration_estimates_from_below(rows, columns, seed, exponent, rank):
    generator = np.random.default_rng(seed)
    matrix = generator.normal(size=(rows, rank)) @ generator.normal(size=(rank, columns)) * 10**exponent
    matrix[generator.integers(0, rows)] = 0
    matrix = torch.from_numpy(matrix.astype(np.float32))
    true = np.linalg.norm(matrix.double().numpy(), 2)
    estimate = power_iteration_estimate(matrix)
    assert estimate.dtype == torch.float32 and estimate.shape == ()
    # The longest column, where the iteration starts, is no worse an estimate than the share of one column.
    assert true * (1 - 1e-6) / np.sqrt(columns) <= estimate.item() <= true * (1 + 1e-6)


@given(rows=SIZES, columns=SIZES, seed=st.integers(0, 2**32 - 1), gap=st.floats(1.5, 1e4))
def test_power_iteration_is_close_where_the_top_singular_value_stands_apart(rows, columns, seed, gap):
    generator = np.random.default_rng(seed)
    left, values, right = np.linalg.svd(generator.normal(size=(rows, columns)), full_matrices=False)
    values[0] = gap * values[1:].max(initial=1)
    matrix = torch.from_numpy(left * values @ right)
    estimate = power_iteration_estimate(matrix)
    assert estimate.item() == pytest.approx(values[0], rel=1e-6)
    assert power_iteration_estimate(3 * matrix).item() == pytest.approx(3 * estimate.item(), rel=1e-12)


def test_power_iteration_has_the_gradient_of_the_norm_once_it_has_converged():
    matrix = torch.diag(torch.tensor([3.0, 1.0, 0.5], dtype=torch.float64)) + 0.1
    estimated, exact = matrix.clone().requires_grad_(), matrix.clone().requires_grad_()
    power_iteration_estimate(estimated).backward()
    l2_norm(exact).backward()
    torch.testing.assert_close(estimated.grad, exact.grad)


@pytest.mark.parametrize("shape", [(1, 1), (4, 3), (3, 4)])
def test_power_iteration_of_zero_is_zero_with_a_finite_gradient(shape):
    matrix = torch.zeros(shape, requires_grad=True)
    estimate = power_iteration_estimate(matrix)
    estimate.backward()
    assert estimate.item() == 0 and torch.isfinite(matrix.grad).all()


def test_more_iterations_come_closer():
    matrix = torch.randn(40, 40, dtype=torch.float64)
    true = l2_norm(matrix)
    errors = [(true - power_iteration_estimate(matrix, iterations)).item() for iterations in (1, 5, 20, 80, 320)]
    assert errors == sorted(errors, reverse=True) and errors[0] > 100 * errors[-1] >= -1e-12
