"""What a pixel adds to an attack objective: its value, and the weight of its gradient `softmax - onehot(label)`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Pixels(NamedTuple):
    """
    What the rules know of some pixels.

    Attributes:
        log_likelihood (`torch.Tensor` of shape `(rows, columns)`): log of the label's probability.
        right (`torch.Tensor` of shape `(rows, columns)`, bool): the label is the class that is predicted.
        others (`torch.Tensor` of shape `(rows, num_labels, columns)`): softmax, with 0 in the label's place.
        class_weight (`torch.Tensor` of shape `(rows, columns)`): mean 1 over the image, the same sum in each class.
        decay (`float`): (t - 1) / (2T) of the attack's step t of T.
        targeted (`bool`): the labels are targets, and the value is to fall.
    """

    log_likelihood: Tensor
    right: Tensor
    others: Tensor
    class_weight: Tensor
    decay: float
    targeted: bool


# From pixels to their values and to the weights of their gradients, both `(rows, columns)`.
Rule = Callable[[Pixels], tuple[Tensor, Tensor]]


def _weighted(pixels: Pixels, weights: Tensor) -> tuple[Tensor, Tensor]:
    return -weights * pixels.log_likelihood, weights


def cross_entropy(pixels: Pixels) -> tuple[Tensor, Tensor]:
    """`-log q`, with q the label's probability (PGD, arXiv 1706.06083)."""
    return _weighted(pixels, torch.ones_like(pixels.log_likelihood))


def segpgd(pixels: Pixels) -> tuple[Tensor, Tensor]:
    """Cross entropy times `1 - decay` where right and `decay` where wrong (arXiv 2207.12391)."""
    late = torch.full_like(pixels.log_likelihood, pixels.decay)
    return _weighted(pixels, torch.where(pixels.right != pixels.targeted, 1 - late, late))


def cospgd(pixels: Pixels) -> tuple[Tensor, Tensor]:
    """Cross entropy times the cosine of softmax and one-hot label (arXiv 2302.02213)."""
    likelihood = pixels.log_likelihood.exp()
    cosine = likelihood / torch.hypot(likelihood, torch.linalg.vector_norm(pixels.others, dim=1))
    return _weighted(pixels, 1 - cosine if pixels.targeted else cosine)


def jensen_shannon(pixels: Pixels) -> tuple[Tensor, Tensor]:
    """Jensen-Shannon divergence of softmax and one-hot label (arXiv 2306.12941)."""
    # Against a one-hot label it is a function of the label's probability q alone, with m = (1 + q) / 2:
    # 2 JS = q log(q / m) + (1 - q) log 2 - log m. Where q is near 1 the logarithms are taken of the distance to 1.
    log_two = math.log(2)
    likelihood, rest = pixels.log_likelihood.exp(), -pixels.log_likelihood.expm1()
    log_of_sum = likelihood.log1p()
    log_ratio = torch.where(
        likelihood < 0.5, pixels.log_likelihood - log_of_sum + log_two, (-rest / (2 - rest)).log1p()
    )
    values = (likelihood * log_ratio + rest * log_two - (-rest / 2).log1p()) / 2
    return values, likelihood * (log_of_sum - pixels.log_likelihood) / 2


def masked_cross_entropy(pixels: Pixels) -> tuple[Tensor, Tensor]:
    """Cross entropy where the label is still predicted (of a target: not yet), 0 elsewhere (arXiv 2306.12941)."""
    return _weighted(pixels, (pixels.right != pixels.targeted).to(pixels.log_likelihood.dtype))


def balanced_masked_cross_entropy(pixels: Pixels) -> tuple[Tensor, Tensor]:
    """As [`masked_cross_entropy`], each class of the image weighing the same (arXiv 2306.12941)."""
    return _weighted(pixels, pixels.class_weight * (pixels.right != pixels.targeted))
