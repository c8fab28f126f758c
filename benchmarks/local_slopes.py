"""
The steepest slope of a network that can be found: how near its proven constant comes to being reached.

The slope between two images is the distance of their features, at the pixel where they are farthest apart, over the
distance of the images in the norm of a threat. Every slope that is found is one of two actual images in [0, 1], so
none exceeds the Lipschitz constant of the network; how far below it the steepest is stays unknown. Certificates rest
on a proven constant instead, which no slope may exceed.

Directions come from a power iteration on the Jacobian J of one pixel's features: a unit vector u of the features gives
the image's steepest direction for `u^T J` ([`Threat.step`]: in l2 `J^T u / |J^T u|`, per pixel the same pixel by
pixel), and that direction the next u, along which the features move. In l2 it is the usual one, and it rises to the
largest singular value; in other norms it is the power method of Boyd 1974 ("The power method for l^p norms"), which
rises to a local maximum. The pixel is the one that moves most, anew each time. Then the centre is moved along and
against the direction, as long as that finds a steeper slope.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lrsegformer.attacks.threat import Threat, image_generator

# Half the distance of the two images of a slope, in [0, 1] pixel units of their norm; far above rounding in float64.
HALF_DISTANCE = 1e-3
# Singular values of the classifier below this share of the largest are rounding.
RANK_TOLERANCE = 1e-9

Features = Callable[[Tensor], Tensor]


def decided_features(model: nn.Module, rows: Tensor) -> Features:
    """
    The features of a network as far as its logits tell them apart.

    With W the classifier's rows and `W = U S V^T`, the logits `W f + b` give `V^T f` up to a constant. Its distances
    are those of the features projected to the row space of W: never larger, and all that a prediction hangs on.

    Args:
        model (`torch.nn.Module`): from images in [0, 1] to logits.
        rows (`torch.Tensor` of shape `(num_labels, width)`): of the classifier.

    Returns:
        A function from images `(batch, channels, height, width)` to `(batch, rank, rows, columns)`, with the rows and
        columns of the logits; 1 of each for logits of images.
    """
    left, singular, _ = torch.linalg.svd(rows.double(), full_matrices=False)
    kept = singular > RANK_TOLERANCE * singular[0]
    back = (left[:, kept] / singular[kept]).T

    def features(images: Tensor) -> Tensor:
        logits = model(images)
        maps = logits if logits.ndim == 4 else logits[:, :, None, None]
        return torch.einsum("kc,bchw->bkhw", back.to(maps), maps)

    return features


@dataclass(frozen=True)
class Slope:
    """
    A slope between two images: its size, the images' middle, the direction between them, and what moves most.

    Attributes:
        value (`float`): distance of the features of `pixel` over the distance of the images.
        centre, direction (`torch.Tensor` of shape `(1, channels, height, width)`).
        pixel (`int`): of the features, counted along the rows.
        cotangent (`torch.Tensor` of shape `(rank,)`): the unit vector along which that pixel's features move.
    """

    value: float
    centre: Tensor
    direction: Tensor
    pixel: int
    cotangent: Tensor


def steepest_slope(
    features: Features, image: Tensor, norm: str, starts: int = 4, iterations: int = 10, moves: int = 8, seed: int = 0
) -> Slope:
    """
    The steepest slope that is found around an image.

    Args:
        features: of [`decided_features`], in float64.
        image (`torch.Tensor` of shape `(1, channels, height, width)`): float64 in [0, 1].
        norm (`str`): of the images' distance.
        starts (`int`), iterations (`int`), moves (`int`):
            Random pixels to begin with; steps of the power iteration; how often the centre may move. One step takes
            three forward passes and a backward, and a move at most twelve of them.
        seed (`int`): of the random numbers.
    """
    threat = Threat(norm, HALF_DISTANCE)
    with torch.no_grad():
        shape = features(image).shape
    found = []
    for start in range(starts):
        generator = image_generator(seed, ("slope", start))
        pixel = int(torch.randint(shape[2] * shape[3], (), generator=generator))
        cotangent = torch.randn(shape[1], generator=generator, dtype=image.dtype).to(image.device)
        somewhere = threat.step(torch.randn(image.shape, generator=generator, dtype=image.dtype).to(image.device))
        first = Slope(0.0, image, somewhere, pixel, cotangent / cotangent.norm())
        found.append(_moved(features, threat, _climbed(features, threat, first, iterations), moves))
    return max(found, key=lambda slope: slope.value)


def _climbed(features: Features, threat: Threat, slope: Slope, iterations: int) -> Slope:
    """The steepest slope of a power iteration around the same centre."""
    best = slope
    for _ in range(iterations):
        centre = slope.centre.detach().requires_grad_()
        with torch.enable_grad():
            moving = features(centre).flatten(2)[0, :, slope.pixel] @ slope.cotangent
            (gradient,) = torch.autograd.grad(moving, centre)
        # Where nothing moves this pixel's features the direction stays what it was.
        direction = threat.step(gradient) if gradient.any() else slope.direction
        slope = _between(features, threat, slope, direction)
        best = max(best, slope, key=lambda one: one.value)
    return best


@torch.no_grad()
def _between(features: Features, threat: Threat, slope: Slope, direction: Tensor) -> Slope:
    """The slope between the images on both sides of the centre, at the pixel where it is steepest."""
    ends = (slope.centre + HALF_DISTANCE * torch.cat([direction, -direction])).clamp(0, 1)
    ahead, behind = features(ends).flatten(2)
    lengths = torch.linalg.vector_norm(ahead - behind, dim=0)
    pixel = int(lengths.argmax())
    distance = float(threat.distance(ends[:1], ends[1:]))
    if lengths[pixel] == 0 or distance == 0:
        return Slope(0.0, slope.centre, direction, slope.pixel, slope.cotangent)
    cotangent = (ahead - behind)[:, pixel] / lengths[pixel]
    return Slope(float(lengths[pixel]) / distance, slope.centre, direction, pixel, cotangent)


def _moved(features: Features, threat: Threat, slope: Slope, moves: int) -> Slope:
    """The slope after moves of the centre along and against its direction, each by less where neither was steeper."""
    # Half the way from corner to corner of the box.
    length = Threat.unlimited(threat.norm, slope.centre).radius / 2
    for _ in range(moves):
        tried = []
        for sign in (1, -1):
            centre = (slope.centre + sign * length * slope.direction).clamp(0, 1)
            start = Slope(0.0, centre, slope.direction, slope.pixel, slope.cotangent)
            tried.append(_climbed(features, threat, start, 3))
        best = max(tried, key=lambda one: one.value)
        if best.value > slope.value:
            slope = best
        else:
            length /= 2
    return slope
