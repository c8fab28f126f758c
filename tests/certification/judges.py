"""
How much a map stretches, measured without the calculus: float64 Jacobians, and ascent in each pair of norms.

A dense Jacobian `(pixels_out, channels_out, pixels_in, channels_in)` says two of the four factors exactly (singular
values of all of it, of the rows of one pixel). The other two are the largest of a convex function over a product of
balls, reached from below by alternating maximisation. Everything returned here is attained by some change.
"""

from collections.abc import Callable

import torch

from lrsegformer.certification.calculus import Constants

PAIRS = ("l2_to_l2", "l2_to_per_pixel", "per_pixel_to_per_pixel", "per_pixel_to_l2")
Map = Callable[[torch.Tensor], torch.Tensor]


def jacobian_at(function: Map, x: torch.Tensor) -> torch.Tensor:
    """
    `(pixels_out, channels_out, pixels_in, channels_in)` at one map `(1, channels, height, width)`, of a function that
    takes each map of a batch by itself: as many copies as the output has entries, each with the gradient of one.
    """
    with torch.no_grad():
        shape = function(x).shape[1:]
    copies = x.expand(shape.numel(), -1, -1, -1).clone().requires_grad_()
    entries = function(copies).flatten(1).diagonal().sum()
    (rows,) = torch.autograd.grad(entries, copies)
    return rows.flatten(2).unflatten(0, (shape[0], -1)).permute(1, 0, 3, 2)


def factors_of(jacobian: torch.Tensor, restarts: int = 8, steps: int = 30) -> dict[str, float]:
    """The four factors of a linear map, the first two exact, the others attained."""
    pixels_out, channels_out, pixels_in, channels_in = jacobian.shape
    flat = jacobian.reshape(pixels_out, channels_out, pixels_in * channels_in)
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(restarts, pixels_out, channels_out, generator=generator, dtype=torch.float64)
    one_pixel = torch.diag_embed(directions.permute(0, 2, 1)).permute(0, 2, 3, 1).reshape(-1, pixels_out, channels_out)
    values = {
        "l2_to_l2": torch.linalg.matrix_norm(flat.flatten(0, 1), ord=2),
        "l2_to_per_pixel": torch.linalg.matrix_norm(flat, ord=2).amax(),
        "per_pixel_to_per_pixel": _climb(jacobian, one_pixel, steps),
        "per_pixel_to_l2": _climb(jacobian, directions, steps),
    }
    return {name: value.item() for name, value in values.items()}


def _climb(jacobian: torch.Tensor, weights: torch.Tensor, steps: int) -> torch.Tensor:
    """
    Largest l2 norm of the output pixels that `weights` `(starts, pixels_out, channels_out)` are not zero at, over
    inputs of which each pixel has norm 1: the best input for a direction of the output, the direction of its output.
    """
    kept = (weights != 0).double()
    for _ in range(steps):
        pulled = torch.einsum("spo,poqi->sqi", weights, jacobian)
        inputs = torch.nn.functional.normalize(pulled, dim=-1, eps=1e-300)
        outputs = torch.einsum("poqi,sqi->spo", jacobian, inputs) * kept
        norms = outputs.flatten(1).norm(dim=1)
        weights = outputs / norms.clamp_min(1e-300)[:, None, None]
    return norms.amax()


def ratio_of(pair: str, change: torch.Tensor, moved: torch.Tensor) -> torch.Tensor:
    """The factor by which each change of a batch grew, in a pair of norms; maps or vectors."""
    into, out_of = pair.split("_to_")
    return _size(moved, out_of) / _size(change, into)


def _size(values: torch.Tensor, norm: str) -> torch.Tensor:
    by_pixel = values.flatten(2).norm(dim=1) if values.dim() > 2 else values.norm(dim=1, keepdim=True)
    return by_pixel.norm(dim=1) if norm == "l2" else by_pixel.amax(dim=1)


def climbed(function: Map, pair: str, x: torch.Tensor, size: float, steps: int = 60) -> tuple[float, torch.Tensor]:
    """
    The largest growth found by ascent of points and changes together, and the point where it was found.

    Args:
        x (`torch.Tensor` of shape `(batch, channels, height, width)`): where to start, float64.
        size (`float`): of the changes' entries at the start.
    """
    generator = torch.Generator().manual_seed(1)
    points = x.clone().requires_grad_()
    change = (size * torch.randn(x.shape, generator=generator, dtype=x.dtype)).requires_grad_()
    optimizer = torch.optim.Adam([points, change], lr=0.05)
    largest, where = 0.0, x[:1]
    for _ in range(steps):
        ratios = ratio_of(pair, change, function(points + change) - function(points))
        best = ratios.argmax()
        if ratios[best].item() > largest:
            largest, where = ratios[best].item(), points[best : best + 1].detach().clone()
        optimizer.zero_grad()
        (-ratios.clamp_min(1e-12).log().sum()).backward()
        optimizer.step()
    return largest, where


def assert_never_below(function: Map, bound: Constants, x: torch.Tensor, size: float = 0.3, steps: int = 60) -> dict:
    """
    Jacobians at random points, ascent from them, and Jacobians where the ascent ended: none is above the bound.

    Returns the share of each bound that was reached.
    """
    reached = dict.fromkeys(PAIRS, 0.0)
    points = [x[:1], x[1:2]]
    for pair in PAIRS:
        largest, where = climbed(function, pair, x, size, steps)
        reached[pair] = max(reached[pair], largest)
        points.append(where)
    for point in points:
        for pair, value in factors_of(jacobian_at(function, point)).items():
            reached[pair] = max(reached[pair], value)
    shares = {pair: value / getattr(bound, pair).item() for pair, value in reached.items()}
    assert all(share <= 1 + 1e-9 for share in shares.values()), shares
    return shares
