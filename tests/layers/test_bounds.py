"""The bound of every layer against numpy's float64 norms, for weights and constants drawn to break it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hypothesis_numpy

from lrsegformer.layers import SpectralNormalizedLinear

# (out, in): the projections, the fuse convolution and the classifier of B0's decode head.
DECODER_SHAPES = [(256, 32), (256, 64), (256, 160), (256, 256), (256, 1024), (150, 256)]
# What rounding may do to a singular value of an orthonormal factor, per entry of its longer side: LAPACK judges its
# own QR by |Q^T Q - I| in the same unit and allows ten times as much.
ROUNDING_OF_ORTHONORMAL_FACTORS = 3 * 2**-24
# And whatever the size, where the matrix has full rank.
ROUNDING_AT_FULL_RANK = 5e-5
CASES_OF_A_LARGE_SHAPE = settings.default.max_examples // 30

EDITS = {
    "scaled": lambda matrix, generator, factor: matrix * factor,
    "rows of all sizes": lambda matrix, generator, _: matrix * 10 ** generator.uniform(-6, 6, (len(matrix), 1)),
    "zero rows": lambda matrix, generator, _: matrix * generator.integers(0, 2, (len(matrix), 1)),
    "zero columns": lambda matrix, generator, _: matrix * generator.integers(0, 2, matrix.shape[1]),
    "duplicated rows": lambda matrix, generator, _: matrix[generator.integers(0, len(matrix), len(matrix))],
    "rank one": lambda matrix, generator, _: np.outer(matrix[:, 0], generator.normal(size=matrix.shape[1])),
    "equal entries": lambda matrix, generator, factor: np.full_like(matrix, factor),
    "one large, many tiny": lambda matrix, generator, _: np.where(matrix == matrix.max(), 1, 5.9e-8),
}


@st.composite
def edited_weights(draw, shape: tuple[int, int] | None = None) -> torch.Tensor:
    """A float32 matrix of normal numbers after up to three adversarial edits."""
    shape = draw(st.tuples(st.integers(1, 64), st.integers(1, 64))) if shape is None else shape
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    matrix = generator.normal(size=shape)
    for edit in draw(st.lists(st.sampled_from(list(EDITS)), max_size=3, unique=True)):
        matrix = EDITS[edit](matrix, generator, 10 ** draw(st.floats(-6, 6)))
    return torch.from_numpy(matrix.astype(np.float32))


def overwrite(layer: torch.nn.Module, matrix: torch.Tensor, data: st.DataObject) -> None:
    """Any raw weight, and any constant that training or an option can give."""
    with torch.no_grad():
        layer.weight.copy_(matrix)
        if layer.learns_constant:
            layer.c.fill_(data.draw(st.one_of(st.floats(-30, 30), st.floats(-1e4, 1e4)), label="c"))
        elif hasattr(layer, "c"):
            layer.c.fill_(data.draw(st.floats(1e-4, 1e4), label="K"))


def assert_bounded_and_tight(layer: torch.nn.Module, matrix: torch.Tensor, reference_norm) -> None:
    effective, bound = layer.effective_weight(), layer.lipschitz_bound().item()
    assert torch.isfinite(effective).all()
    true = reference_norm(effective, layer.norm)
    assert true <= bound < float("inf")
    if layer.strategy == "orthogonal":
        singular_values = np.linalg.svd(effective.detach().double(), compute_uv=False)
        rounding = ROUNDING_OF_ORTHONORMAL_FACTORS * max(matrix.shape)
        if np.linalg.matrix_rank(matrix.detach()) == min(matrix.shape):
            rounding = min(rounding, ROUNDING_AT_FULL_RANK)
        np.testing.assert_allclose(singular_values, layer.constant().item(), rtol=rounding)
        assert bound <= 1.001 * true
    elif layer.strategy == "spectral_norm" and reference_norm(matrix, "l2") > 1e-11:
        assert bound <= 1.001 * true
    elif layer.strategy == "jacobian_norm":
        assert bound <= 1.001 * true + 1e-100


@given(data=st.data())
def test_bound_holds_for_edited_weights_and_any_constant(variant, reference_norm, data):
    matrix = data.draw(edited_weights())
    layer = variant.build(*matrix.shape)
    overwrite(layer, matrix, data)
    assert_bounded_and_tight(layer, matrix, reference_norm)


@given(data=st.data())
def test_bound_holds_from_a_plain_layer_on(variant, reference_norm, plain_linear, data):
    """From the start, and after the weight has moved on from there."""
    matrix = data.draw(edited_weights())
    layer = variant.from_linear(plain_linear(matrix))
    assert_bounded_and_tight(layer, layer.weight, reference_norm)
    with torch.no_grad():
        layer.weight.add_(data.draw(st.sampled_from([0.01, 1.0, 100.0])) * torch.randn(matrix.shape))
    assert_bounded_and_tight(layer, layer.weight, reference_norm)


@given(data=st.data())
def test_bound_holds_for_drawn_entries(variant, reference_norm, data):
    """Entry by entry, subnormal numbers among them."""
    shape = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    entries = st.floats(-1e4, 1e4, width=32)
    matrix = torch.from_numpy(data.draw(hypothesis_numpy.arrays(np.float32, shape, elements=entries)))
    layer = variant.build(*shape)
    overwrite(layer, matrix, data)
    assert_bounded_and_tight(layer, matrix, reference_norm)


@pytest.mark.parametrize("shape", DECODER_SHAPES, ids=str)
@settings(max_examples=CASES_OF_A_LARGE_SHAPE)
@given(data=st.data())
def test_bound_holds_at_the_shapes_of_a_real_decode_head(variant, reference_norm, shape, data):
    matrix = data.draw(edited_weights(shape))
    layer = variant.build(1, 1).to("meta")
    layer.weight = torch.nn.Parameter(torch.empty(shape, device="meta"))
    layer = layer.to_empty(device="cpu")
    overwrite(layer, matrix, data)
    assert_bounded_and_tight(layer, matrix, reference_norm)


@pytest.mark.parametrize("columns", [1024, pytest.param(3072, marks=pytest.mark.slow)])
def test_bound_holds_where_equal_columns_make_the_rounding_of_a_decomposition_pile_up(
    variant, reference_norm, columns
):
    """Sums of equal numbers are rounded the same way at each step; orthogonal exceeds its margin of 1e-5 here."""
    matrix = torch.full((columns // 4, columns), 5.9e-8)
    layer = variant.build(*matrix.shape)
    with torch.no_grad():
        layer.weight.copy_(matrix)
    assert_bounded_and_tight(layer, matrix, reference_norm)


@pytest.mark.slow
def test_bound_holds_at_the_largest_shape_of_b5(variant, reference_norm, raw_matrix, plain_linear):
    layer = variant.from_linear(plain_linear(raw_matrix("normal", (768, 3072))))
    with torch.no_grad():
        layer.weight.mul_(1.7)
    assert_bounded_and_tight(layer, layer.weight, reference_norm)


def test_bound_depends_on_the_constant_alone_where_the_norm_is_limited(variant, raw_matrix, kind):
    layer = variant.build()
    before = layer.lipschitz_bound().item()
    with torch.no_grad():
        layer.weight.copy_(raw_matrix(kind, (6, 5)))
    if layer.limits_norm and variant.options.get("sigma") != "power_iteration":
        assert layer.lipschitz_bound().item() == before
    else:
        # The norm of the matrix at hand: a weight that is 1e6 times as large is noticed where nothing limits it.
        assert kind != "times 1e6" or layer.limits_norm or layer.lipschitz_bound() > 1e5 * before


def test_power_iteration_may_exceed_its_constant_and_its_bound_says_so(reference_norm):
    """Two singular values so close that 20 iterations cannot tell them apart, the start between them."""
    layer = SpectralNormalizedLinear(2, 2, sigma="power_iteration")
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 1.0], [-1.02, 1.02]]))
    norm = reference_norm(layer.effective_weight(), "l2")
    assert norm > 1.001 * layer.constant().item()
    assert norm <= layer.lipschitz_bound().item() <= 1.001 * norm


@settings(max_examples=settings.default.max_examples // 2)
@given(data=st.data())
def test_outputs_differ_by_no_more_than_the_bound_allows(variant, data):
    layer = variant.build(seed=data.draw(st.integers(0, 99)))
    order = {"l2": 2, "linf": float("inf"), "l1": 1}[layer.norm]
    entries = st.floats(-10, 10, width=32)
    first, second = torch.from_numpy(data.draw(hypothesis_numpy.arrays(np.float32, (2, 5), elements=entries))).double()
    layer.double()
    moved = torch.linalg.vector_norm(layer(first) - layer(second), ord=order)
    assert moved <= layer.lipschitz_bound() * torch.linalg.vector_norm(first - second, ord=order) + 1e-12
