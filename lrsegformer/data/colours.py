"""
Random changes of colour on 8-bit RGB images: SegFormer's photometric distortion, and a light jitter.

Saturation and hue are those of the HSV cone, computed without going through it. With V the largest channel of a
pixel, m the smallest and C = V - m, more saturation moves every channel away from V in proportion; and as a function
of the hue each channel is a trapezoid between m and V, whose slopes are C a sextant. Pillow's conversion to 8-bit HSV
and back takes ten times as long and rounds the hue to 1/255 of the circle, up to six levels of a channel.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageEnhance

_LEVELS = np.arange(256, dtype=np.float64)


def colour_planes(image: Image.Image) -> np.ndarray:
    """Returns the three channels of an RGB image as one contiguous uint8 array of shape `(3, height, width)`."""
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def photometric_distortion(planes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """
    Changes brightness (+-32 of 255), contrast (times 0.5 to 1.5), saturation (times 0.5 to 1.5) and hue (+-18 of a
    circle of 180), each with probability 1/2. Contrast comes before or after saturation and hue, at random. The ranges
    are those of SegFormer's recipe, and like there each change is rounded to 8 bits.

    Args:
        planes (`numpy.ndarray`): uint8, shape `(3, height, width)`, see [`colour_planes`].
        rng (`numpy.random.Generator`): draws the same numbers whatever the image is.

    Returns:
        `numpy.ndarray` of the same shape and type; `planes` itself when nothing was drawn, never changed in place.
    """
    levels = _LEVELS
    if rng.random() < 0.5:
        levels = _rounded(levels + rng.uniform(-32, 32))
    contrast = rng.uniform(0.5, 1.5) if rng.random() < 0.5 else None
    contrast_first = rng.random() < 0.5
    if contrast is not None and contrast_first:
        levels = _rounded(levels * contrast)
    saturation = rng.uniform(0.5, 1.5) if rng.random() < 0.5 else None
    hue = rng.uniform(-18, 18) / 180 if rng.random() < 0.5 else None
    if levels is not _LEVELS:
        planes = _looked_up(planes, levels)
    if saturation is not None:
        planes = scale_saturation(planes, saturation)
    if hue is not None:
        planes = turn_hue(planes, hue)
    if contrast is not None and not contrast_first:
        planes = _looked_up(planes, _rounded(_LEVELS * contrast))
    return planes


def colour_jitter(image: Image.Image, rng: np.random.Generator, strength: float = 0.2) -> Image.Image:
    """Multiplies brightness, contrast and saturation by random factors between `1 - strength` and `1 + strength`."""
    for enhancer in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhancer(image).enhance(rng.uniform(1 - strength, 1 + strength))
    return image


def scale_saturation(planes: np.ndarray, factor: float) -> np.ndarray:
    """
    Multiplies the saturation of HSV, at most to full saturation, and keeps hue and value.

    Args:
        planes (`numpy.ndarray`): uint8, shape `(3, height, width)`.
        factor (`float`): not negative.

    Returns:
        `numpy.ndarray`: a new array, within half a level of the exact result (and float32 rounding).
    """
    value = planes.max(axis=0)
    growth: np.ndarray | np.float32 = np.float32(factor)
    if factor > 1:
        # A pixel whose smallest channel reaches zero is fully saturated.
        chroma = np.maximum(value - planes.min(axis=0), 1)
        growth = np.minimum(growth, np.divide(value, chroma, dtype=np.float32))
    distance = np.multiply(value - planes, growth, dtype=np.float32)
    distance += 0.5
    return value - distance.astype(np.uint8)


def turn_hue(planes: np.ndarray, turn: float) -> np.ndarray:
    """
    Adds to the hue of HSV and keeps saturation and value.

    Args:
        planes (`numpy.ndarray`): uint8, shape `(3, height, width)`.
        turn (`float`): share of the circle, at most 1/6 (60 degrees) either way; positive from red towards green.

    Returns:
        `numpy.ndarray`: a new array, within half a level of the exact result (and float32 rounding).

    Raises:
        `ValueError`: the turn is larger than 1/6, where the trapezoid's next corner is met.
    """
    if not abs(turn) <= 1 / 6:
        raise ValueError(f"turn is {turn}: at most 1/6 of the circle either way.")
    value, smallest = planes.max(axis=0), planes.min(axis=0)
    step = np.multiply(value - smallest, np.float32(6 * abs(turn)), dtype=np.float32)
    step += 0.5
    step = step.astype(np.uint8)  # of the channels that are on a slope
    # A channel rises on the half circle where the one that follows it is below the one before it. There
    # `own - next + smallest + step`, elsewhere `own - next + value - step`, is right between the corners of the
    # trapezoid, and beyond them out of its range on the proper side.
    rising, falling = smallest + step, value - step
    falling_over_rising = falling - rising  # uint8, modulo 256, like the sum below: exact, as the sum is in range
    value, smallest = value.astype(np.int16), smallest.astype(np.int16)
    order = 1 if turn > 0 else -1
    turned = np.empty_like(planes)
    for channel in range(3):
        following, preceding = planes[(channel + order) % 3], planes[(channel - order) % 3]
        is_falling = (following >= preceding).view(np.uint8)
        target = np.subtract(planes[channel], following, dtype=np.int16)
        target += rising + is_falling * falling_over_rising
        np.maximum(target, smallest, out=target)
        np.minimum(target, value, out=target)
        turned[channel] = target
    return turned


def _looked_up(planes: np.ndarray, levels: np.ndarray) -> np.ndarray:
    # Faster than indexing, which widens every pixel to 64 bits first.
    changed = planes.tobytes().translate(levels.astype(np.uint8).tobytes())
    return np.frombuffer(changed, dtype=np.uint8).reshape(planes.shape)


def _rounded(levels: np.ndarray) -> np.ndarray:
    return levels.round().clip(0, 255)
