"""The operator norms that bounds and constraints are made of."""

import numpy as np
import pytest
import torch

from lrsegformer.layers.norms import NORMS, l2_norm, operator_norm


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
