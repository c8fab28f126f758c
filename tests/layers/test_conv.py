"""
Convolutions against explicit matrices: every unit image is convolved in float64, and numpy takes the norms of the
result. What a layer bounds has to hold for that matrix at any geometry, and to be it where it is said to be exact.
"""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lrsegformer.errors import InputError
from lrsegformer.layers import STRATEGIES, LipschitzConv2d, build_lipschitz_conv2d
from lrsegformer.layers.conv_norms import WIDEST_SYMBOL, column_sums, convolution_l2_norm, group_gains, overlap

# (out, in, kernel, stride, padding, groups): those of a Mix Transformer, and such as no network has.
GEOMETRIES = {
    "first patch embedding": (6, 3, (7, 7), (4, 4), (3, 3), 1),
    "later patch embedding": (7, 5, (3, 3), (2, 2), (1, 1), 1),
    "sequence reduction": (5, 5, (2, 2), (2, 2), (0, 0), 1),
    "depthwise": (6, 6, (3, 3), (1, 1), (1, 1), 6),
    "depthwise, strided": (4, 4, (3, 3), (2, 2), (1, 1), 4),
    "two outputs a channel": (8, 4, (3, 3), (1, 1), (1, 1), 4),
    "two groups": (6, 4, (3, 3), (2, 2), (1, 1), 2),
    "two groups, no overlap": (6, 4, (2, 2), (2, 2), (0, 0), 2),
    "dense": (4, 3, (3, 3), (1, 1), (1, 1), 1),
    "not square": (4, 3, (1, 5), (3, 2), (0, 4), 1),
    "gaps": (3, 4, (2, 1), (3, 2), (0, 0), 1),
}


def dense_matrix(kernel: torch.Tensor, stride, padding, groups: int, size: tuple[int, int]) -> np.ndarray:
    channels = kernel.shape[1] * groups
    images = torch.eye(channels * math.prod(size), dtype=torch.float64).view(-1, channels, *size)
    outputs = nn.functional.conv2d(images, kernel.detach().double(), stride=stride, padding=padding, groups=groups)
    return outputs.flatten(1).T.numpy()


def reached_on_a_large_image(kernel: torch.Tensor, stride, padding, groups: int) -> float:
    """A norm that the convolution attains there, by power iteration: never above the true one."""
    kernel, geometry = kernel.double(), {"stride": stride, "padding": padding, "groups": groups}
    image = torch.randn(1, kernel.shape[1] * groups, 61, 61, dtype=torch.float64)
    for _ in range(300):
        image = image / image.norm()
        outputs = nn.functional.conv2d(image, kernel, **geometry)
        gained = outputs.norm()
        image = torch.nn.grad.conv2d_input(image.shape, kernel, outputs, **geometry)
    return gained.item()


def norm_of(matrix: np.ndarray, norm: str) -> float:
    if norm == "l2":
        return float(np.linalg.svd(matrix, compute_uv=False)[0])
    return float(np.abs(matrix).sum(axis=1 if norm == "linf" else 0).max())


def true_norm(layer: LipschitzConv2d, weight: torch.Tensor, norm: str, size: tuple[int, int] = (11, 10)) -> float:
    return norm_of(dense_matrix(layer.kernel(weight), layer.stride, layer.padding, layer.groups, size), norm)


def build(variant, geometry, seed: int = 0, **arguments) -> LipschitzConv2d:
    outputs, inputs, kernel, stride, padding, groups = geometry
    placed = {"kernel_size": kernel, "stride": stride, "padding": padding, "groups": groups}
    return variant.build_conv2d(outputs, inputs, seed, **placed, **arguments)


@st.composite
def drawn_geometries(draw) -> tuple:
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    sides = st.tuples(st.integers(1, 4), st.integers(1, 4))
    kernel, stride = draw(sides), draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    padding = draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    return groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 2)), kernel, stride, padding, groups


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_norms_of_a_convolution(geometry):
    """Never below the truth; l1 exact, l2 exact without overlap, else as near as it says on large images."""
    outputs, inputs, size, stride, padding, groups = geometry
    kernel = torch.randn(outputs, inputs // groups, *size)
    matrix = dense_matrix(kernel, stride, padding, groups, (9, 10))
    columns = column_sums(kernel, stride, groups)
    assert columns.shape == kernel.shape and columns.max().item() == pytest.approx(norm_of(matrix, "l1"), rel=1e-12)
    bound, true = convolution_l2_norm(kernel, stride, groups).item(), norm_of(matrix, "l2")
    assert true <= bound * (1 + 1e-12)
    if overlap(size, stride) == 1:
        assert bound == pytest.approx(true, rel=1e-12)
    else:
        # The rise between frequencies, and what the border and 300 iterations leave out.
        assert bound <= 1.06 * reached_on_a_large_image(kernel, stride, padding, groups)


@given(data=st.data())
def test_norms_of_drawn_convolutions(data):
    outputs, inputs, size, stride, padding, groups = data.draw(drawn_geometries())
    kernel = torch.randn(outputs, inputs // groups, *size, generator=torch.Generator().manual_seed(0))
    kernel *= data.draw(st.sampled_from([0.0, 1e-6, 1.0, 1e6]))
    image = data.draw(st.tuples(st.integers(size[0], 9), st.integers(size[1], 9)))
    matrix = dense_matrix(kernel, stride, padding, groups, image)
    assert norm_of(matrix, "l2") <= convolution_l2_norm(kernel, stride, groups).item() * (1 + 1e-12) + 1e-150
    assert norm_of(matrix, "l1") <= column_sums(kernel, stride, groups).max().item() * (1 + 1e-12)
    assert norm_of(matrix, "linf") <= kernel.double().abs().flatten(1).sum(1).max().item() * (1 + 1e-12)


@pytest.mark.parametrize("strategy", ["all frequencies", "one frequency"])
def test_the_bound_between_the_frequencies_of_the_grid_is_needed_and_suffices(strategy):
    """A filter whose gain peaks between grid points, against a grid far finer than the bound's."""
    places = torch.arange(3.0)
    tuned = torch.cos(2 * math.pi * (places[:, None] + places) * (0.5 / 32 if strategy == "one frequency" else 0.21))
    gain = torch.fft.fft2(tuned.double(), s=(960, 960)).abs().max().item()
    bound = group_gains(tuned[None, None], (1, 1), 1).item()
    assert gain <= bound <= 1.0098 * gain


def test_wide_symbols_are_bounded_by_the_overlap():
    width = WIDEST_SYMBOL + 4
    kernel = torch.randn(width, width, 3, 3)
    bound = convolution_l2_norm(kernel, (3, 2), 1).item()
    reshaped = np.linalg.svd(kernel.double().flatten(1).numpy(), compute_uv=False)[0]
    assert bound == pytest.approx(math.sqrt(2) * reshaped, rel=1e-12)
    true = norm_of(dense_matrix(kernel, (3, 2), (1, 1), 1, (6, 5)), "l2")
    assert reshaped < true <= bound


@pytest.mark.one_in(4)
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_bound_of_a_layer_holds_for_its_convolution(variant, geometry):
    layer = build(variant, geometry)
    for factor in (1.0, 1e-3, 30.0):
        with torch.no_grad():
            layer.weight.mul_(factor)
            if layer.learns_constant:
                layer.c.sub_(0.2)
        effective, bound = layer.effective_weight(), layer.lipschitz_bound().item()
        assert true_norm(layer, effective, layer.norm) <= bound < math.inf
    if layer.strategy == "orthogonal" and layer.overlap() == 1:
        values = np.linalg.svd(effective.detach().double().unflatten(0, (layer.groups, -1)).numpy(), compute_uv=False)
        np.testing.assert_allclose(values, layer.constant().item(), rtol=5e-5)


@given(data=st.data())
def test_bound_of_a_layer_holds_at_drawn_geometries(variant, data):
    layer = build(variant, data.draw(drawn_geometries()), seed=data.draw(st.integers(0, 99)))
    with torch.no_grad():
        layer.weight.mul_(data.draw(st.sampled_from([0.0, 1e-6, 1.0, 1e6])))
        if layer.learns_constant:
            layer.c.fill_(data.draw(st.floats(-30, 30), label="c"))
    image = data.draw(st.tuples(st.integers(layer.kernel_size[0], 8), st.integers(layer.kernel_size[1], 8)))
    effective = layer.effective_weight()
    assert torch.isfinite(effective).all()
    assert true_norm(layer, effective, layer.norm, image) <= layer.lipschitz_bound().item() < math.inf


@pytest.mark.one_in(4)
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_from_conv_is_exact_where_it_can_be_and_to_conv_gives_equal_outputs(variant, geometry):
    outputs, inputs, size, stride, padding, groups = geometry
    plain = nn.Conv2d(inputs, outputs, size, stride=stride, padding=padding, groups=groups, bias=groups == 1)
    layer = variant.layer_class.conv2d_class.from_conv(plain, **variant.options)
    assert layer.weight.shape == plain.weight.shape and (layer.bias is None) == (plain.bias is None)
    images = torch.randn(2, inputs, 11, 10)
    if layer.learns_constant or not layer.limits_norm:
        assert torch.equal(layer(images), plain(images))
    elif variant.options.get("constant") == "initial":
        torch.testing.assert_close(layer(images), plain(images), rtol=1e-5, atol=1e-5)
    assert true_norm(layer, layer.effective_weight(), layer.norm) <= layer.lipschitz_bound().item()
    back = layer.to_conv()
    assert type(back) is nn.Conv2d and back.weight.shape == plain.weight.shape
    torch.testing.assert_close(back(images), layer(images))


def test_depthwise_orthogonal_gives_every_channel_the_norm_k():
    layer = build_lipschitz_conv2d("orthogonal", 6, 6, 3, padding=1, groups=6, constant=2.0)
    gains = np.abs(np.fft.fft2(layer.kernel(layer.effective_weight()).detach().double().numpy()[:, 0], s=(64, 64)))
    assert (gains.max(axis=(1, 2)) <= 2 + 1e-6).all() and (gains.max(axis=(1, 2)) >= 2 / 1.0098).all()


@pytest.mark.one_in(3)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("geometry", list(GEOMETRIES.values())[:4], ids=list(GEOMETRIES)[:4])
def test_bound_of_a_convolution_in_half_precision(variant, geometry, dtype):
    layer = build(variant, geometry, bias=False)
    images = torch.randn(1, geometry[1], 11, 10)
    with torch.autocast("cpu", dtype=dtype):
        cast, bound = layer.effective_weight().to(dtype), layer.lipschitz_bound().item()
        outputs = layer(images)
        assert outputs.dtype == dtype
    expected = nn.functional.conv2d(
        images.to(dtype), layer.kernel(cast), stride=layer.stride, padding=layer.padding, groups=layer.groups
    )
    assert torch.equal(outputs, expected)
    assert true_norm(layer, cast, layer.norm) <= bound
    assert layer.to(dtype).effective_weight().dtype == torch.float32


@pytest.mark.parametrize("geometry", list(GEOMETRIES.values())[:5], ids=list(GEOMETRIES)[:5])
def test_gradients_of_a_convolution_are_the_derivatives(variant, geometry):
    """With the constraint active, and away from where two frequencies or two rows are equally large."""
    layer = build(variant, geometry).double()
    with torch.no_grad():
        layer.weight.mul_(3)
        if layer.learns_constant:
            layer.c.sub_(0.3)
    directions = torch.randn(3, *layer.weight.shape, dtype=torch.float64)
    weights = torch.randn(layer.weight.flatten(1).shape, dtype=torch.float64)

    def value(weight: torch.Tensor) -> torch.Tensor:
        return (layer.constrain(weight.flatten(1)) * weights).sum()

    point = layer.weight.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(point), point)
    for direction in directions:
        step = 1e-6 * direction
        difference = (value(point + step) - value(point - step)).item() / 2e-6
        # Power iteration holds its vectors fixed: its gradient is not that of the estimate.
        if getattr(layer, "sigma_is_exact", True):
            assert (gradient * direction).sum().item() == pytest.approx(difference, rel=1e-4, abs=1e-6)


def test_a_convolution_without_a_twin_is_refused():
    for plain in (nn.Conv2d(3, 3, 3, dilation=2), nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect")):
        with pytest.raises(InputError, match="no constrained twin"):
            STRATEGIES["orthogonal"].conv2d_class.from_conv(plain)


def test_a_kept_weight_serves_eval_mode_until_training(variant):
    layer = variant.build_conv2d().eval()
    images = torch.randn(1, 5, 8, 8)
    before = layer(images)
    layer.keep_maps()
    with torch.no_grad():
        layer.weight.normal_()
    assert torch.equal(layer(images), before)
    other = copy.deepcopy(layer).train().eval()
    assert torch.equal(other(images), other.to_conv()(images))
