"""
Scores that no perturbation of a given size can push a data set below, from tables of certified pixels.

A pixel is *certified* at a radius where its prediction is proven not to change. All others count as the worst that an
adversary could make of them, each independently of the rest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lrsegformer.errors import InputError

# Steps of the search for the multiplier of the dual; each halves the interval.
_BISECTIONS = 200
# Far more than what the rounding of a near-best value adds to it: its terms sum to less than twice the classes.
_ROUNDING = 1e-9


def certified_counts(
    classes: Tensor, radii: Tensor, labels: Tensor, num_labels: int, eps: Sequence[float], ignore_index: int | None
) -> Tensor:
    """
    For each of `eps` the table of the pixels (or images) that are certified there.

    Args:
        classes, radii, labels (`torch.Tensor`): of one shape: predictions, certified radii, and truth, in which
            `ignore_index` and negative values do not count.
        num_labels (`int`): number of classes.
        eps (`Sequence[float]`): radii in rising order; a pixel is certified at `eps` where its radius is above it.
        ignore_index (`int`, *optional*): a label that does not count.

    Returns:
        `torch.Tensor` of shape `(1 + len(eps), num_labels, num_labels)`, int64, on the CPU: rows are the truth,
        columns the predictions; the first table has all pixels that count.

    Raises:
        [`~lrsegformer.errors.InputError`]: shapes differ, radii do not rise, or a label is no class.
    """
    if not classes.shape == radii.shape == labels.shape:
        raise InputError(
            f"predictions {tuple(classes.shape)}, radii {tuple(radii.shape)} and labels {tuple(labels.shape)}: a "
            "certified table needs them at one size."
        )
    if any(smaller >= larger for smaller, larger in zip(eps, eps[1:], strict=False)):
        raise InputError(f"radii {list(eps)}: give each once, in rising order.")
    counted = labels >= 0 if ignore_index is None else (labels >= 0) & (labels != ignore_index)
    truth, predicted = labels[counted].long(), classes[counted].long()
    if truth.numel() and int(truth.max()) >= num_labels:
        raise InputError(f"the labels hold {int(truth.max())}, and there are {num_labels} classes: check the labels.")
    # How many of the radii lie below the pixel's own: those at which it is certified.
    edges = torch.tensor(list(eps), dtype=torch.float64, device=radii.device)
    levels = torch.bucketize(radii[counted].double(), edges, right=False)
    cells = (levels * num_labels + truth) * num_labels + predicted
    size = (len(eps) + 1) * num_labels**2
    exact = torch.bincount(cells, minlength=size).view(len(eps) + 1, num_labels, num_labels)
    # Certified at one radius is certified at every smaller one.
    return exact.flip(0).cumsum(0).flip(0).cpu()


def guaranteed_accuracy(certified: np.ndarray, all_pixels: np.ndarray) -> float:
    """
    The share of pixels that are right and certified: at least so many stay right.

    Args:
        certified, all_pixels (`numpy.ndarray` of shape `(num_labels, num_labels)`): tables of [`certified_counts`],
            summed over the data set.

    Returns:
        `float`: nan where no pixel counts.
    """
    total = int(all_pixels.sum())
    return int(certified.diagonal().sum()) / total if total else math.nan


def guaranteed_mean_iou(certified: np.ndarray, all_pixels: np.ndarray) -> float:
    """
    A lower bound of the data set's mIoU under any perturbation of each image within the radius of `certified`.

    Let `I_c` be the pixels of class `c` that are certified and right, `n_c` its pixels, `F_c` the certified pixels of
    other classes predicted as `c`, and `N` the pixels that are not certified, `N_c` of them of class `c`. Under a
    perturbation let `f_c` of the pixels that are not certified and not of class `c` be predicted as `c`. Then

    1. the intersection of `c` is at least `I_c`, and its union is `n_c + F_c + f_c`: true pixels of a class are in its
       union whatever is predicted there. So its IoU is at least `I_c / (n_c + F_c + f_c)`;
    2. `f_c <= N - N_c`, and the `f_c` sum to at most `N`, because a pixel has one prediction;
    3. the mean is over the classes that occur in truth or prediction: the classes `T` of the truth, and at most `E`
       others: those with `F_c > 0`, and at most `N` of those without. They add IoU of 0, so the mIoU is at least the
       sum over `T` of the quotients in 1, divided by `|T| + E`.

    The smallest sum of quotients under 2 is a convex problem with one constraint that couples the classes. For any
    `m >= 0` its value is at least `sum_c min over f_c of [I_c / (n_c + F_c + f_c) + m f_c] - m N` (weak duality), each
    minimum in closed form. The number returned is that of the best `m` that a bisection found, so it is a bound
    however well the bisection went.

    Args:
        certified, all_pixels (`numpy.ndarray` of shape `(num_labels, num_labels)`, int64): as for
            [`guaranteed_accuracy`].

    Returns:
        `float`: nan where no pixel counts.
    """
    of_class = all_pixels.sum(axis=1).astype(np.float64)
    in_truth = of_class > 0
    if not in_truth.any():
        return math.nan
    right = certified.diagonal().astype(np.float64)
    false_positives = certified.sum(axis=0) - right
    uncertified = of_class - certified.sum(axis=1)
    num_uncertified = uncertified.sum()
    predicted = false_positives[~in_truth] > 0
    extra = predicted.sum() + min((~predicted).sum(), num_uncertified)
    unions = (of_class + false_positives)[in_truth]
    limits = (num_uncertified - uncertified)[in_truth]
    quotients = _smallest_sum(right[in_truth], unions, limits, num_uncertified)
    return max(0.0, quotients - _ROUNDING) / (int(in_truth.sum()) + int(extra))


def _smallest_sum(right: np.ndarray, unions: np.ndarray, limits: np.ndarray, total: float) -> float:
    """A lower bound of `sum right / (unions + f)` over `0 <= f <= limits` with `sum f <= total`, by weak duality."""

    def spread(multiplier: float) -> np.ndarray:
        return np.clip(np.sqrt(right / multiplier) - unions, 0.0, limits)

    def value(multiplier: float, moved: np.ndarray) -> float:
        return float((right / (unions + moved) + multiplier * moved).sum() - multiplier * total)

    # Without a price on pixels every class takes all that it may; the sum is the smallest without the coupling.
    best = value(0.0, limits)
    low, high = 0.0, float((right / unions**2).max())
    for _ in range(_BISECTIONS if high > 0 else 0):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        moved = spread(middle)
        best = max(best, value(middle, moved))
        low, high = (middle, high) if moved.sum() > total else (low, middle)
    return best


def collectively_flipped(distances: Tensor, budgets: Sequence[float]) -> list[int]:
    """
    How many of an image's pixels a perturbation can flip at most, where all of them together bound how far it reaches.

    To flip pixel `p`, its features have to move by at least its certified distance `d_p`. The squares of all pixels'
    moves sum to at most `(K eps)^2`, `K` the constant from the norm of the image to the l2 norm of the features at the
    pixels that are judged. So the squares of `d_p` of pixels that flip together sum to at most that, and no such set
    is larger than the one of the smallest distances.

    Args:
        distances (`torch.Tensor`): of the pixels in question, any shape, as
            [`~lrsegformer.certification.margins.certified_pixels`] gives them.
        budgets (`Sequence[float]`): `K eps` for each radius; infinite where `K` is.

    Returns:
        `list[int]`: for each budget the number of pixels that can flip, rounded up.
    """
    squares = distances.double().flatten().square().sort().values.cumsum(dim=0)
    # A sum of n float64 numbers is off by less than n * 2^-53 of itself.
    allowed = torch.tensor(list(budgets), dtype=torch.float64, device=squares.device).square() * (1 + 1e-9)
    return torch.searchsorted(squares, allowed, right=True).tolist()
