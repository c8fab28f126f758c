"""
Randomised smoothing: certificates, true with a chosen probability, for a model of which nothing is known.

The smoothed model gives each pixel the class that the model gives it most often on images with Gaussian noise. Where
that class has a probability above `tau >= 1/2` under the noise, no perturbation of l2 length below
`sigma * Phi^-1(tau)` changes it (Cohen et al. 2019, arXiv 1902.02918). Probabilities are not known, so they are tested
on samples, and the correction of Holm or of Bonferroni keeps the probability that any test of an image errs below
`alpha` (SegCertify, Fischer et al. 2021, arXiv 2107.00228). Where a test does not show it, the model abstains.

The statement is about the *smoothed* model, not about the model that is smoothed, and holds with probability
`1 - alpha` over the noise that was drawn for an image.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lrsegformer.choices import SMOOTHING_CORRECTIONS
from lrsegformer.errors import InputError

# More than the relative error of scipy's incomplete beta function and of the inverse of the normal distribution.
_MARGIN = 1e-9


@dataclass(frozen=True)
class Smoothing:
    """
    How a model is smoothed and tested.

    Args:
        sigma (`float`): standard deviation of the noise, in [0, 1] pixel units, before normalisation; nothing is
            clipped.
        n0 (`int`): samples that choose a pixel's class.
        n (`int`): further samples that test it.
        tau (`float`): probability that a segmentation's pixels are tested for, at least 1/2 and below 1. In
            classification every image has the radius that its own samples show.
        alpha (`float`): probability, above 0 and below 1, that the certificate of an image is wrong.
        correction (`str`): `"holm"` or `"bonferroni"`, for the many tests of an image.

    Raises:
        [`~lrsegformer.errors.InputError`]: a number out of its range.
    """

    sigma: float
    n0: int = 10
    n: int = 100
    tau: float = 0.75
    alpha: float = 0.001
    correction: str = "holm"

    def __post_init__(self) -> None:
        checks = {
            f"sigma {self.sigma} (--sigma): give a number above 0": math.isfinite(self.sigma) and self.sigma > 0,
            f"n0 {self.n0} and n {self.n} (--n0, --n): give whole numbers of at least 1": min(self.n0, self.n) >= 1,
            f"tau {self.tau} (--tau): give a number of at least 0.5 and below 1": 0.5 <= self.tau < 1,
            f"alpha {self.alpha} (--alpha): give a number between 0 and 1": 0 < self.alpha < 1,
            f"correction {self.correction!r} (--correction): choose from {', '.join(SMOOTHING_CORRECTIONS)}": (
                self.correction in SMOOTHING_CORRECTIONS
            ),
        }
        for message, holds in checks.items():
            if not holds:
                raise InputError(f"smoothing with {message}.")

    @property
    def radius(self) -> float:
        """The certified l2 radius of every pixel that passes the test: `sigma * Phi^-1(tau)`, rounded down."""
        return float(_radius(self.sigma, np.array(self.tau)))

    def fewest_samples(self, num_pixels: int) -> int:
        """The smallest `n` at which any of so many pixels can pass the test: `tau^n <= alpha / num_pixels`."""
        return math.ceil(math.log(num_pixels / self.alpha) / -math.log(self.tau) - _MARGIN)


class SmoothedPrediction(NamedTuple):
    """
    What the smoothed model says of an image, and how far it holds.

    Attributes:
        classes (`torch.Tensor`): int64 `(height, width)`, or `()` for classification: the class of most of the first
            `n0` samples.
        radii (`torch.Tensor`): float32 of that shape: the certified l2 radius; 0 where the model abstains.
    """

    classes: Tensor
    radii: Tensor


def smoothed_prediction(
    predict: Callable[[Tensor], Tensor],
    image: Tensor,
    smoothing: Smoothing,
    generator: torch.Generator,
    num_labels: int,
    batch_size: int,
) -> SmoothedPrediction:
    """
    Smooth and certify one image.

    Args:
        predict (`Callable`): from images `(samples, channels, height, width)` to classes, integers,
            `(samples, height, width)`, or `(samples,)` for classification.
        image (`torch.Tensor` of shape `(channels, height, width)`): in [0, 1].
        smoothing ([`Smoothing`]): the noise and the tests.
        generator (`torch.Generator`): on the CPU, the image's own: noise is drawn sample by sample, so that it
            does not depend on `batch_size`.
        num_labels (`int`): number of classes.
        batch_size (`int`): samples in a forward pass.

    Returns:
        [`SmoothedPrediction`]. Memory beyond a forward pass: `n0` class maps and two maps of counts.

    Raises:
        [`~lrsegformer.errors.InputError`]: `n` is too small for any of the image's pixels to pass.
    """

    def samples(count: int) -> Tensor:
        noise = [torch.randn(image.shape, generator=generator) for _ in range(count)]
        return predict(image + smoothing.sigma * torch.stack(noise).to(image))

    def chunks(total: int) -> list[int]:
        return [min(batch_size, total - start) for start in range(0, total, batch_size)]

    chosen = most_frequent(torch.cat([samples(count) for count in chunks(smoothing.n0)]), num_labels)
    if chosen.ndim and smoothing.n < smoothing.fewest_samples(chosen.numel()):
        raise InputError(
            f"--n {smoothing.n}: at tau {smoothing.tau:g} and alpha {smoothing.alpha:g} none of {chosen.numel()} "
            f"pixels can be certified; give at least {smoothing.fewest_samples(chosen.numel())}."
        )
    hits = torch.zeros_like(chosen)
    for count in chunks(smoothing.n):
        hits += (samples(count) == chosen).sum(dim=0)
    if chosen.ndim == 0:
        return SmoothedPrediction(chosen, _image_radius(hits, smoothing))
    needed = fewest_hits(torch.bincount(hits.flatten(), minlength=smoothing.n + 1).tolist(), smoothing)
    radii = torch.full_like(hits, smoothing.radius, dtype=torch.float32)
    return SmoothedPrediction(chosen, radii.masked_fill(hits < needed, 0.0))


def most_frequent(samples: Tensor, num_labels: int) -> Tensor:
    """The commonest class of `samples` `(samples, ...)`, int64, the lowest of equally common ones."""
    most = torch.full(samples.shape[1:], -1, dtype=torch.int64, device=samples.device)
    winners = torch.zeros_like(most)
    for label in range(num_labels):
        counts = (samples == label).sum(dim=0)
        winners = torch.where(counts > most, label, winners)
        most = torch.maximum(most, counts)
    return winners


def fewest_hits(pixels_by_hits: list[int], smoothing: Smoothing) -> int:
    """
    How many of the `n` samples a pixel's class needs for the test to reject "its probability is at most `tau`".

    The p-value of `k` hits is `P(Binomial(n, tau) >= k)`: it is at most `a` exactly where the one-sided bound of
    Clopper and Pearson at confidence `1 - a` is at least `tau`. Holm (1979) goes through the pixels from the smallest
    p-value on and compares the i-th of N with `alpha / (N - i + 1)`, until one fails; Bonferroni compares all with
    `alpha / N`. Pixels with as many hits have the same p-value, and the limit rises with i, so they pass or fail
    together, and it is enough to look at the first of each number of hits.

    Args:
        pixels_by_hits (`list[int]` of length `n + 1`): how many pixels have 0, 1, ... n hits.
        smoothing ([`Smoothing`]): with `n`, `tau`, `alpha` and the correction.

    Returns:
        `int`: `n + 1` where no pixel passes.
    """
    p_values = hit_p_values(smoothing.n, smoothing.tau)
    num_pixels, passed, needed = sum(pixels_by_hits), 0, smoothing.n + 1
    for hits in range(smoothing.n, -1, -1):
        if not pixels_by_hits[hits]:
            continue
        remaining = num_pixels - passed if smoothing.correction == "holm" else num_pixels
        if p_values[hits] * (1 + _MARGIN) > smoothing.alpha / remaining:
            break
        needed = hits
        passed += pixels_by_hits[hits]
    return needed


def hit_p_values(n: int, tau: float) -> np.ndarray:
    """`P(Binomial(n, tau) >= k)` for k from 0 to n, float64: the incomplete beta function at `tau`."""
    from scipy.special import betainc

    hits = np.arange(1, n + 1)
    return np.concatenate([[1.0], betainc(hits, n - hits + 1, tau)])


def clopper_pearson_lower(hits: int, n: int, alpha: float) -> float:
    """
    The exact one-sided lower confidence bound of a probability, from `hits` of `n` samples, at confidence `1 - alpha`.

    Source: Clopper and Pearson 1934; it is the `tau` at which the p-value of [`hit_p_values`] is `alpha`.
    """
    from scipy.special import betaincinv

    return float(betaincinv(hits, n - hits + 1, alpha)) * (1 - _MARGIN) if hits else 0.0


def _image_radius(hits: Tensor, smoothing: Smoothing) -> Tensor:
    """Of an image, a single test: the radius of the probability that its samples show (Cohen et al. 2019)."""
    probability = clopper_pearson_lower(int(hits), smoothing.n, smoothing.alpha)
    return torch.tensor(float(_radius(smoothing.sigma, np.array(probability))), dtype=torch.float32)


def _radius(sigma: float, probability: np.ndarray) -> np.ndarray:
    from scipy.special import ndtri

    # Rounded down far enough for float32 as well.
    return np.maximum(0.0, sigma * ndtri(probability)) * (1 - 1e-6)
