"""Threat models: which images an attack may make of a clean one."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lrsegformer.choices import NORMS
from lrsegformer.errors import InputError

# How far outside the ball or the box an attacked image may be, by rounding, before it counts as a defect.
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Threat:
    """
    The ball of a norm around each clean image, cut with the box [0, 1] of pixel values.

    The norm is taken over all channels and pixels of an image, in units of [0, 1] pixel values, whatever the model's
    normalisation.

    Args:
        norm (`str`): `"linf"` or `"l2"`.
        radius (`float`): radius of the ball in [0, 1] pixel units, finite and not negative.

    Raises:
        [`~lrsegformer.errors.InputError`]: for another norm, or a radius that is negative or not finite.
    """

    norm: Literal["linf", "l2"]
    radius: float

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise InputError(f"norm {self.norm!r} of a threat: the norms are {' and '.join(NORMS)} (--norm).")
        if not (math.isfinite(self.radius) and self.radius >= 0):
            raise InputError(f"radius {self.radius} of a threat: give a finite number that is not negative (--eps).")

    @classmethod
    def parse(cls, norm: str, eps: float) -> Threat:
        """The threat of a command line: `eps` in 1/255 for linf (4 is 4/255), and plain for l2."""
        return cls(norm, eps / 255 if norm == "linf" else eps)

    @classmethod
    def unlimited(cls, norm: str, images: Tensor) -> Threat:
        """The smallest ball that holds all images of this shape, wherever its centre: the box alone is a limit."""
        return cls(norm, 1.0 if norm == "linf" else math.sqrt(images[0].numel()))

    def project(self, images: Tensor, clean: Tensor) -> Tensor:
        """
        Bring images into the ball around the clean ones, then into the box.

        Both hold afterwards: `clean` is in the box, so clamping moves no pixel away from it.

        Args:
            images (`torch.Tensor` of shape `(batch, channels, height, width)`): any values.
            clean (`torch.Tensor` of the same shape): centres of the balls, in [0, 1].

        Returns:
            `torch.Tensor`: for l2 the point where the ray from `clean` leaves the ball, for linf the nearest point of
            the ball, clamped to [0, 1]. No pixel is farther from the clean one than that point, so rounding does not
            push an image out of the ball.
        """
        difference = images - clean
        if self.norm == "linf":
            difference = difference.clamp(-self.radius, self.radius)
        else:
            lengths = _lengths(difference)
            factors = torch.where(lengths > self.radius, self.radius / lengths, torch.ones_like(lengths))
            difference = difference * _per_image(factors.to(difference.dtype), difference)
        moved = clean + difference
        # In thousands of pixels the rounding of this sum adds up to more than a small radius allows.
        moved = torch.where((moved - clean).abs() > difference.abs(), torch.nextafter(moved, clean), moved)
        return moved.clamp(0, 1)

    def step(self, direction: Tensor) -> Tensor:
        """
        The unit vector of the norm along which a linear function of gradient `direction` rises fastest.

        Args:
            direction (`torch.Tensor` of shape `(batch, channels, height, width)`): gradients of any scale, down to the
                smallest numbers of the dtype.

        Returns:
            `torch.Tensor`: the sign for linf; for l2 the gradient divided by its length, 0 where that is 0.
        """
        if self.norm == "linf":
            return direction.sign()
        # The squares of small gradients would underflow.
        largest = direction.abs().flatten(1).amax(dim=1)
        scaled = direction / _per_image(torch.where(largest > 0, largest, torch.ones_like(largest)), direction)
        lengths = _lengths(scaled).clamp_min(1).to(direction.dtype)
        return scaled / _per_image(lengths, direction)

    def random_start(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """
        Images drawn uniformly from the ball around `clean` `(batch, channels, height, width)`, clamped to the box.

        The numbers are drawn in float32 on the generator's device, so that a generator on the CPU gives the same start
        everywhere.
        """
        drawing = {"generator": generator, "device": generator.device, "dtype": torch.float32}
        if self.norm == "linf":
            unit = torch.rand(clean.shape, **drawing) * 2 - 1
        else:
            # A normal vector has a uniform direction; the share of the ball within a length l is l^dimension.
            dimension = clean[0].numel()
            lengths = torch.rand(len(clean), **drawing) ** (1 / dimension)
            unit = torch.randn(clean.shape, **drawing)
            unit = unit * _per_image(lengths / _lengths(unit).float(), unit)
        return self.project(clean + self.radius * unit.to(clean), clean)

    def distance(self, images: Tensor, clean: Tensor) -> Tensor:
        """The norm of each image's perturbation, `(batch,)` in float64, in [0, 1] pixel units."""
        difference = images.double() - clean.double()
        return difference.abs().flatten(1).amax(dim=1) if self.norm == "linf" else _lengths(difference)

    def verify(self, images: Tensor, clean: Tensor) -> None:
        """
        Raise unless every image is inside the ball and the box, to 1e-6.

        Raises:
            `RuntimeError`: an attack broke its own rules, or the model's gradient is not a number.
        """
        inside = self.distance(images, clean) <= self.radius + TOLERANCE
        box = ((images >= -TOLERANCE) & (images <= 1 + TOLERANCE)).flatten(1).all(dim=1)
        outside = (~(inside & box)).nonzero().flatten().tolist()
        if outside:
            raise RuntimeError(
                f"attacked images {outside} of the batch are outside the {self.norm} ball of radius {self.radius} or "
                "outside [0, 1], or hold NaN: the model's gradients may not be finite."
            )


def image_generator(seed: int, image_id: Hashable, restart: int = 0) -> torch.Generator:
    """
    A generator on the CPU for one image, so that what is drawn for it does not depend on the rest of the batch.

    Args:
        seed (`int`): the seed of the run.
        image_id (`int` or `str`): what names the image in its data set.
        restart (`int`): number of the restart.
    """
    digest = hashlib.blake2b(repr((seed, image_id, restart)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big"))


def _lengths(vectors: Tensor) -> Tensor:
    # float32 sums over a million pixels would cost the digits that the guarantee needs.
    return torch.linalg.vector_norm(vectors.flatten(1), dim=1, dtype=torch.float64)


def _per_image(factors: Tensor, like: Tensor) -> Tensor:
    return factors.view(-1, *(1,) * (like.ndim - 1))
