"""Threat models: which images an attack may make of a clean one."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lrsegformer.choices import NORMS, NORMS_IN_255THS
from lrsegformer.errors import InputError

# How far outside the ball or the box an attacked image may be, by rounding, before it counts as a defect.
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Threat:
    """
    The ball of a norm around each clean image, cut with the box [0, 1] of pixel values.

    The norm is taken over all channels and pixels of an image, in units of [0, 1] pixel values, whatever the model's
    normalisation: in linf the largest change of a value, in l2 the length of the whole change, and in per_pixel_l2 the
    largest over pixels of the length of the change of a pixel's channels, so that every pixel has a ball of its own.
    The linf ball of radius r lies in the per-pixel ball of radius sqrt(channels) r, and that in the l2 ball of radius
    sqrt(pixels) times as much.

    Args:
        norm (`str`): `"linf"`, `"l2"` or `"per_pixel_l2"`.
        radius (`float`): radius of the ball in [0, 1] pixel units, finite and not negative.

    Raises:
        [`~lrsegformer.errors.InputError`]: for another norm, or a radius that is negative or not finite.
    """

    norm: Literal["linf", "l2", "per_pixel_l2"]
    radius: float

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise InputError(f"norm {self.norm!r} of a threat: the norms are {', '.join(NORMS)} (--norm).")
        if not (math.isfinite(self.radius) and self.radius >= 0):
            raise InputError(f"radius {self.radius} of a threat: give a finite number that is not negative (--eps).")

    @classmethod
    def parse(cls, norm: str, eps: float) -> Threat:
        """The threat of a command line: `eps` in 1/255 for linf and per_pixel_l2 (4 is 4/255), and plain for l2."""
        return cls(norm, eps / 255 if norm in NORMS_IN_255THS else eps)

    @classmethod
    def unlimited(cls, norm: str, images: Tensor) -> Threat:
        """The smallest ball that holds all images of this shape, wherever its centre: the box alone is a limit."""
        dimensions = {"linf": 1, "l2": images[0].numel(), "per_pixel_l2": images.shape[1]}
        return cls(norm, math.sqrt(dimensions[norm]))

    def project(self, images: Tensor, clean: Tensor) -> Tensor:
        """
        Bring images into the ball around the clean ones, then into the box.

        Both hold afterwards: `clean` is in the box, so clamping moves no pixel away from it.

        Args:
            images (`torch.Tensor` of shape `(batch, channels, height, width)`): any values.
            clean (`torch.Tensor` of the same shape): centres of the balls, in [0, 1].

        Returns:
            `torch.Tensor`: for l2 the point where the ray from `clean` leaves the ball, for linf the nearest point of
            the ball, clamped to [0, 1]; for per_pixel_l2 the nearest point of ball and box together. No pixel is
            farther from the clean one than that point, so rounding does not push an image out of the ball.
        """
        difference = images - clean
        if self.norm == "linf":
            difference = difference.clamp(-self.radius, self.radius)
        elif self.norm == "per_pixel_l2":
            difference = _scaled_pixels(difference, clean, self.radius)
        else:
            lengths = self._lengths(difference)
            factors = torch.where(lengths > self.radius, self.radius / lengths, torch.ones_like(lengths))
            difference = difference * factors.to(difference.dtype)
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
            `torch.Tensor`: the sign for linf; for l2 the gradient, and for per_pixel_l2 that of each pixel, divided by
            its length, 0 where that is 0.
        """
        if self.norm == "linf":
            return direction.sign()
        # The squares of small gradients would underflow.
        largest = direction.abs().amax(dim=self._ball_dimensions, keepdim=True)
        scaled = direction / torch.where(largest > 0, largest, torch.ones_like(largest))
        return scaled / self._lengths(scaled).clamp_min(1).to(direction.dtype)

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
            # A normal vector has a uniform direction; the share of a ball within a length l is l^dimension.
            balls = self._lengths(clean).shape
            lengths = torch.rand(balls, **drawing) ** (math.prod(balls) / clean.numel())
            unit = torch.randn(clean.shape, **drawing)
            unit = unit * (lengths / self._lengths(unit).float())
        return self.project(clean + self.radius * unit.to(clean), clean)

    def distance(self, images: Tensor, clean: Tensor) -> Tensor:
        """The norm of each image's perturbation, `(batch,)` in float64, in [0, 1] pixel units."""
        difference = images.double() - clean.double()
        lengths = difference.abs() if self.norm == "linf" else self._lengths(difference)
        return lengths.flatten(1).amax(dim=1)

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

    @property
    def _ball_dimensions(self) -> tuple[int, ...]:
        """The dimensions of a batch that one ball of l2 or per_pixel_l2 spans."""
        return (1,) if self.norm == "per_pixel_l2" else (1, 2, 3)

    def _lengths(self, vectors: Tensor) -> Tensor:
        """The length of each ball's vector, in float64, in a shape that multiplies the batch."""
        # float32 sums over a million pixels would cost the digits that the guarantee needs.
        return torch.linalg.vector_norm(vectors, dim=self._ball_dimensions, keepdim=True, dtype=torch.float64)


def _scaled_pixels(difference: Tensor, clean: Tensor, radius: float) -> Tensor:
    """
    The change of each pixel multiplied by the largest number up to 1 at which it is no longer than the radius, where
    channels that meet the box stay there: so the nearest point of ball and box, by the conditions of Karush, Kuhn and
    Tucker. Each round finds the channels that the box holds at the number so far; the number only grows.
    """
    wanted = difference.double()
    room = torch.where(wanted > 0, 1 - clean.double(), clean.double())
    squares = wanted.square()
    held = torch.zeros_like(wanted, dtype=torch.bool)
    factors = torch.ones_like(wanted[:, :1])
    for _ in range(clean.shape[1]):
        left = radius**2 - torch.where(held, room.square(), 0.0).sum(dim=1, keepdim=True)
        free = torch.where(held, 0.0, squares).sum(dim=1, keepdim=True)
        # Of a pixel that the box holds altogether nothing is left to scale.
        factors = torch.where(free > left, (left / free).clamp_min(0).sqrt(), torch.ones_like(free))
        held = factors * wanted.abs() >= room
    return (factors * wanted).to(difference.dtype)


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
