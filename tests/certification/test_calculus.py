"""The calculus of constants against dense matrices: how parts compose, in all four pairs of norms."""

import math

import pytest
import torch
from torch import nn

from lrsegformer.certification.calculus import (
    Constants,
    concatenation,
    constants,
    convex_residual,
    fused_scales,
    identity,
    residual,
    sequence,
    smallest,
    weighted_sum,
)
from lrsegformer.certification.primitives import pointwise, upsampling
from tests.certification.judges import PAIRS, factors_of, jacobian_at

SIDE = 4
CHANNELS = 3


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dense_map(seed: int, out_side: int = SIDE, side: int = SIDE, channels: int = CHANNELS) -> torch.Tensor:
    """A linear map from pixels to pixels, as a Jacobian is."""
    return random(out_side**2, CHANNELS, side**2, channels, seed=seed) / 10


def known(jacobian: torch.Tensor) -> Constants:
    """
    What may be said of a dense map: the exact two factors, and a sum of norms over pixels for the next.
    """
    flat = jacobian.flatten(0, 1).flatten(1)
    l2 = torch.linalg.matrix_norm(flat, ord=2)
    window = torch.linalg.matrix_norm(jacobian.flatten(2), ord=2).amax()
    per_pixel = torch.linalg.matrix_norm(jacobian.permute(0, 2, 1, 3), ord=2).sum(dim=1).amax()
    return constants(l2, per_pixel, jacobian.shape[2], jacobian.shape[0], l2_to_per_pixel=window)


def product(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    return torch.einsum("poqi,qirj->porj", second, first)


def shares(jacobian: torch.Tensor, bound: Constants) -> dict[str, float]:
    """What is reached of each bound; none is exceeded."""
    found = {pair: value / getattr(bound, pair).item() for pair, value in factors_of(jacobian).items()}
    assert all(share <= 1 + 1e-12 for share in found.values()), found
    return found


@pytest.mark.parametrize("seed", range(3))
def test_what_is_known_of_a_map_bounds_it_in_all_pairs(seed):
    found = shares(dense_map(seed, out_side=2), known(dense_map(seed, out_side=2)))
    assert found["l2_to_l2"] == pytest.approx(1) and found["l2_to_per_pixel"] == pytest.approx(1)
    assert min(found.values()) > 0.5


def test_a_sequence_takes_the_cheapest_norm_in_between():
    first, second = dense_map(0, out_side=2), dense_map(1, side=2)
    bound = known(first).then(known(second))
    shares(product(first, second), bound)
    # From many pixels to one and back: through the norm per pixel there is nothing to pay for the many.
    spread = constants(6.0, 1.0, 36, 36).then(constants(6.0, 1.0, 36, 36))
    assert spread.per_pixel_to_per_pixel == 1 and spread.l2_to_per_pixel == 1
    assert spread.l2_to_l2 == 6 and spread.per_pixel_to_l2 == 6


def test_composition_is_associative_and_keeps_the_identity():
    parts = [known(dense_map(seed)) for seed in range(3)]
    left, right = parts[0].then(parts[1]).then(parts[2]), parts[0].then(parts[1].then(parts[2]))
    alone = sequence([identity(SIDE**2), parts[0], identity(SIDE**2)])
    for pair in PAIRS:
        assert getattr(left, pair).item() == pytest.approx(getattr(right, pair).item(), rel=1e-12)
        assert getattr(alone, pair).item() == getattr(parts[0], pair).item()
    assert getattr(sequence(parts), pair) == getattr(left, pair)


def test_sums_residuals_and_concatenations_bound_their_matrices():
    branches = [dense_map(seed) for seed in range(3)]
    parts = [known(branch) for branch in branches]
    weights = torch.tensor([0.5, -2.0, 0.3])
    eye = torch.eye(SIDE**2 * CHANNELS, dtype=torch.float64).view(SIDE**2, CHANNELS, SIDE**2, CHANNELS)
    pixels = SIDE**2
    shares(sum(branches), weighted_sum(parts))
    shares(sum(w.double() * branch for w, branch in zip(weights, branches, strict=True)), weighted_sum(parts, weights))
    shares(eye + branches[0], residual(parts[0], pixels))
    shares(0.75 * eye + 0.25 * branches[0], convex_residual(parts[0], 0.25, pixels))
    scaled = [w.double() * branch for w, branch in zip(weights, branches, strict=True)]
    assert min(shares(torch.cat(scaled, dim=1), concatenation(parts, weights)).values()) > 0.4


def test_normalised_branches_cost_nothing():
    branch = known(dense_map(0))
    normalised = branch.scaled(1 / branch.l2_to_l2)
    assert convex_residual(normalised, 0.7).l2_to_l2.item() == pytest.approx(1, rel=1e-15)
    angle = torch.tensor(0.3)
    assert concatenation([normalised, normalised], [angle.cos(), angle.sin()]).l2_to_l2.item() == pytest.approx(1)


def test_branches_that_agree_attain_the_sum_and_the_root_of_squares():
    branch = dense_map(5)
    exact = known(branch).l2_to_l2.item()
    assert weighted_sum([known(branch)] * 2, [2.0, 3.0]).l2_to_l2.item() == pytest.approx(5 * exact)
    joined = torch.cat([3 * branch, 4 * branch], dim=1)
    concatenated = concatenation([known(branch)] * 2, [3.0, 4.0]).l2_to_l2.item()
    assert factors_of(joined)["l2_to_l2"] == pytest.approx(5 * exact) == concatenated


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.6, 0.64, 0.48)])
def test_fused_scales_bound_the_map_of_all_scales(weights):
    """One input, three scales of different sizes, each upsampled and fused: the dense map of it all."""
    sides = (4, 3, 2)
    matrices = [random(5, CHANNELS, seed=10 + side) for side in sides]
    branches = [dense_map(20 + side, out_side=side) for side in sides]

    def fuse(x: torch.Tensor) -> torch.Tensor:
        fused = 0.0
        for side, branch, matrix, weight in zip(sides, branches, matrices, weights, strict=True):
            scale = torch.einsum("poqi,biq->bop", branch, x.flatten(2)).unflatten(2, (side, side))
            scale = torch.einsum("oi,bihw->bohw", weight * matrix, scale)
            fused = fused + nn.functional.interpolate(scale, size=(4, 4), mode="bilinear")
        return fused

    scales = [
        known(branch).then(upsampling((side, side), (4, 4))) for side, branch in zip(sides, branches, strict=True)
    ]
    bound = fused_scales(scales, matrices, weights)
    found = shares(jacobian_at(fuse, torch.zeros(1, CHANNELS, SIDE, SIDE, dtype=torch.float64)), bound)
    assert min(found.values()) > 0.3
    joined = torch.linalg.matrix_norm(torch.cat(matrices, dim=1), ord=2).item()
    size = math.sqrt(sum((a * k.l2_to_per_pixel.item()) ** 2 for a, k in zip(weights, scales, strict=True)))
    assert bound.l2_to_per_pixel.item() <= joined * size * (1 + 1e-12)


def test_fused_scales_take_the_smaller_of_two_bounds():
    """Matrices side by side that look at the same or at different channels of the output."""
    scale, same = identity(), torch.eye(2, dtype=torch.float64)
    assert fused_scales([scale, scale.scaled(3.0)], [same, same]).l2_to_per_pixel.item() == pytest.approx(4)
    first, second = same[:, :1], same[:, 1:]
    assert fused_scales([scale, scale], [first, second]).l2_to_per_pixel.item() == pytest.approx(2**0.5)


def test_a_window_limits_what_all_pixels_together_can_do():
    step = constants(1.0, 19.0).within_window(25)
    assert step.per_pixel_to_per_pixel == 5 and step.l2_to_l2 == 1
    assert constants(1.0, 3.0).within_window(25).per_pixel_to_per_pixel == 3
    # Attained: a mean of the pixels of a window that has been made as long as l2 allows.
    window = constants(1.0, math.inf, 25, 1).within_window(25)
    mean = torch.full((1, 1, 25, 1), 0.2, dtype=torch.float64)
    assert factors_of(mean)["per_pixel_to_per_pixel"] == pytest.approx(window.per_pixel_to_per_pixel.item())


def test_unknown_constants_stay_unknown_and_a_constant_map_forgets_them():
    unknown, zero = constants(), pointwise(0.0)
    known_l2 = constants(2.0, math.inf)
    assert known_l2.l2_to_per_pixel == 2 and known_l2.per_pixel_to_l2 == math.inf
    assert unknown.then(known_l2).l2_to_l2 == math.inf
    assert unknown.then(zero).l2_to_per_pixel == 0 and zero.then(unknown).l2_to_l2 == 0
    assert unknown.scaled(0.0).l2_to_l2 == 0 and unknown.scaled(2.0).l2_to_l2 == math.inf
    assert pointwise(torch.tensor(math.nan)).l2_to_l2 == math.inf, "a diverged weight bounds nothing"


def test_widened_covers_each_constant_by_its_share():
    widened = constants(1.0, 2.0, 4, 4).widened(1e-9)
    assert widened.l2_to_l2.item() == 1 + 1e-9 and widened.per_pixel_to_per_pixel.item() == 2 * (1 + 1e-9)


def test_constants_are_scalars_in_float64_whatever_they_are_made_of():
    for part in (pointwise(torch.tensor(0.1)), constants(0.1, 1), identity().scaled(torch.tensor(3))):
        assert all(getattr(part, pair).dtype == torch.float64 and getattr(part, pair).dim() == 0 for pair in PAIRS)
    assert constants(0.1).l2_to_l2.item() == 0.1


def test_gradients_are_those_of_finite_differences_and_pass_by_what_is_unknown():
    def bound(values: torch.Tensor) -> torch.Tensor:
        first, second, share, weight = values.unbind()
        step = constants(first, math.inf)
        branch = convex_residual(sequence([step, pointwise(second)]), share)
        whole = concatenation([branch, constants(1.3, math.inf)], [weight, 0.5]).scaled(second)
        matrices = [first * torch.eye(2, dtype=torch.float64), torch.ones(2, 1, dtype=torch.float64)]
        return fused_scales([smallest(whole, constants(9.0)), identity(9)], matrices, [1.0, weight]).l2_to_per_pixel

    values = torch.tensor([1.2, 0.7, 0.3, 0.8], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(bound, values)
    zero = torch.zeros((), dtype=torch.float64, requires_grad=True)
    concatenation([pointwise(zero).then(constants(1.0))] * 2).l2_to_l2.backward()
    assert torch.isfinite(zero.grad)
