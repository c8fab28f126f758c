"""The check that what a benchmark compares computes the same."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch

OURS, STOCK = "ours", "stock"
TOLERANCE = 1e-4
# Rounding opens a few ReLUs in ten million in one head and not in the other: with s of them, gradients differ by about
# sqrt(s). In float64, where none does, they agree to 1e-14; the tests hold them to that.
GRADIENT_TOLERANCE = 2e-3


class Outcome(NamedTuple):
    """What an action computed, for the check; no graph hangs on it."""

    outputs: list[torch.Tensor]
    gradients: list[torch.Tensor]


Action = Callable[[], Outcome]


def both(make: Callable[[str], Action]) -> dict[str, Action]:
    """The action of ours and of stock."""
    return {OURS: make(OURS), STOCK: make(STOCK)}


def check_equal(what: str, actions: Mapping[str, Action]) -> None:
    """
    Hold ours to stock: each output, and all gradients as one vector, by the norm of the difference over stock's norm;
    of classes, by the share of pixels that differ.

    Raises:
        `AssertionError`: naming what differs, by how much.
    """
    # TensorFloat-32 products on a GPU would not be equal to 1e-4.
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        ours, stock = actions[OURS](), actions[STOCK]()
    pairs = [(*pair, TOLERANCE) for pair in zip(ours.outputs, stock.outputs, strict=True)]
    if stock.gradients:
        pairs.append((_vector(ours.gradients), _vector(stock.gradients), GRADIENT_TOLERANCE))
    for mine, theirs, tolerance in pairs:
        if theirs.is_floating_point():
            difference = float((mine - theirs).norm() / theirs.norm())
        else:
            difference = float((mine != theirs).double().mean())
        if not difference <= tolerance:  # NaN is no equality, either.
            raise AssertionError(f"{what}: ours differs from stock by {difference:.1e}, allowed are {tolerance:.0e}.")


def _vector(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])
