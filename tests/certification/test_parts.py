"""The calculus of constants, each against dense matrices in float64 whose norms are taken independently."""

import pytest
import torch
from torch import nn

from lrsegformer.certification.parts import (
    MAP_NORMS,
    RELU,
    VECTOR_NORMS,
    Chain,
    Constrained,
    Linear,
    Norm,
    SideBySide,
    UpsampledSum,
    Upsampling,
)
from lrsegformer.layers.registry import build_lipschitz_linear

ORDERS = {"l2": 2, "linf": float("inf"), "l1": 1}
WIDTH = 3
# Channels, pixels of a side and factor of each scale; all are upsampled to 4 x 4.
SCALES = ((2, 4, 1), (5, 2, 2), (4, 1, 4))


def of(matrix: torch.Tensor, norm: Norm) -> float:
    return torch.linalg.matrix_norm(matrix, ord=ORDERS[norm.channels]).item()


def matrices() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(WIDTH, channels, generator=generator, dtype=torch.float64) for channels, _, _ in SCALES]


def upsampled(features: list[torch.Tensor]) -> list[torch.Tensor]:
    """Each scale's map times its matrix, at the size of the finest."""
    products = [torch.einsum("oc,bchw->bohw", matrix, x) for matrix, x in zip(matrices(), features, strict=True)]
    return [nn.functional.interpolate(product, size=(4, 4), mode="bilinear") for product in products]


def pairs() -> list[tuple[Linear, Upsampling]]:
    return [(Linear("map", matrix), Upsampling(scale[2])) for matrix, scale in zip(matrices(), SCALES, strict=True)]


def per_pixel(maps: torch.Tensor, norm: Norm) -> torch.Tensor:
    return torch.linalg.vector_norm(maps, ord=ORDERS[norm.channels], dim=1).flatten(1).amax(1)


@pytest.mark.parametrize("norm", [*MAP_NORMS, *VECTOR_NORMS], ids=lambda norm: norm.name)
def test_a_linear_part_has_the_norm_of_its_matrix(norm):
    for matrix in matrices():
        assert Linear("map", matrix).constant(norm).item() == pytest.approx(of(matrix, norm), rel=1e-12)


def test_an_upsampled_sum_over_all_pixels_bounds_the_dense_map_and_is_met_by_even_features():
    """Every unit vector of the features of all scales through the sum: the columns of its dense matrix."""
    lengths = [channels * side * side for channels, side, _ in SCALES]
    units = torch.eye(sum(lengths), dtype=torch.float64).split(lengths, dim=1)
    features = [unit.view(-1, channels, side, side) for unit, (channels, side, _) in zip(units, SCALES, strict=True)]
    dense = sum(upsampled(features)).flatten(1).T
    exact = torch.linalg.matrix_norm(dense, ord=2).item()
    assert UpsampledSum("sum", pairs()).constant(MAP_NORMS[-1]).item() == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("norm", MAP_NORMS[:-1], ids=lambda norm: norm.name)
def test_an_upsampled_sum_per_pixel_has_the_norm_of_the_joined_matrix(norm):
    constant = UpsampledSum("sum", pairs()).constant(norm).item()
    joined = torch.cat(matrices(), dim=1)
    assert constant == pytest.approx(of(joined, norm), rel=1e-12)
    generator = torch.Generator().manual_seed(4)
    shapes = [(200, channels, side, side) for channels, side, _ in SCALES]
    features = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    sizes = torch.stack([per_pixel(feature, norm) for feature in features])
    size = {"l2": sizes.square().sum(0).sqrt(), "linf": sizes.amax(0), "l1": sizes.sum(0)}[norm.channels]
    grown = per_pixel(sum(upsampled(features)), norm) / size
    assert 0.2 * constant < grown.max().item() <= constant


@pytest.mark.parametrize("norm", MAP_NORMS, ids=lambda norm: norm.name)
def test_branches_side_by_side_have_the_norm_of_the_block_diagonal(norm):
    blocks = [(scale[2] if norm.sums_pixels else 1) * matrix for matrix, scale in zip(matrices(), SCALES, strict=True)]
    branches = SideBySide("branches", [Chain("branch", pair) for pair in pairs()])
    assert branches.constant(norm).item() == pytest.approx(of(torch.block_diag(*blocks), norm), rel=1e-12)


@pytest.mark.parametrize("norm", VECTOR_NORMS, ids=lambda norm: norm.name)
def test_a_chain_is_no_smaller_than_its_maps_multiplied_out(norm):
    first, second = (matrix @ matrix.T + matrix[:, :1] for matrix in matrices()[1:])
    constant = Chain("chain", [Linear("first", first), RELU, Linear("second", second)]).constant(norm).item()
    assert constant == pytest.approx(of(first, norm) * of(second, norm), rel=1e-12)
    assert of(second @ first, norm) <= constant


def test_a_constrained_part_is_bounded_in_its_own_norm_alone():
    layer = build_lipschitz_linear("stable_softplus", 4, WIDTH)
    row_scale = torch.tensor([0.5, 2.0, 3.0])
    linf = next(norm for norm in MAP_NORMS if norm.name == "linf")
    assert Constrained("layer", layer, row_scale).constant(linf) == layer.lipschitz_bound(row_scale).double()
    with pytest.raises(ValueError, match="layer is bounded in linf, and l2 was asked for"):
        Constrained("layer", layer).constant(MAP_NORMS[0])
    # A layer in lower precision is bounded by its float32 weight, as rounding of the cast is the head's matter.
    layer.bfloat16()
    assert Constrained("layer", layer).constant(linf) == layer.lipschitz_bound(dtype=torch.float32).double()


def test_constants_are_differentiable():
    matrix, factor = matrices()[1].requires_grad_(), 2
    left, _, right = torch.linalg.svd(matrix.detach())
    Chain("chain", [Linear("map", matrix), Upsampling(factor)]).constant(MAP_NORMS[-1]).backward()
    torch.testing.assert_close(matrix.grad, factor * torch.outer(left[:, 0], right[0]))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_has_an_infinite_constant(value):
    matrix = torch.eye(WIDTH, dtype=torch.float64)
    matrix[0, 1] = value
    for norm in MAP_NORMS:
        sound, broken = (Linear("map", torch.eye(WIDTH, dtype=torch.float64)), Linear("map", matrix))
        assert SideBySide("branches", [sound, broken]).constant(norm) == float("inf")
        assert UpsampledSum("sum", [(sound, Upsampling(2)), (broken, Upsampling(1))]).constant(norm) == float("inf")
        assert Chain("chain", [broken, RELU, sound]).constant(norm) == float("inf")
