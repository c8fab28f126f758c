"""Random changes of colour on 8-bit RGB images: SegFormer's photometric distortion, and a light jitter."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageEnhance

_LEVELS = np.arange(256, dtype=np.float64)
_KEEP = list(range(256))


def photometric_distortion(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """
    Changes brightness (+-32 of 255), contrast (times 0.5 to 1.5), saturation (times 0.5 to 1.5) and hue (+-18 of a
    circle of 180), each with probability 1/2. Contrast comes before or after saturation and hue, at random. The ranges
    are those of SegFormer's recipe.
    """
    levels = _LEVELS
    if rng.random() < 0.5:
        levels = _rounded(levels + rng.uniform(-32, 32))
    contrast = rng.uniform(0.5, 1.5) if rng.random() < 0.5 else None
    contrast_first = rng.random() < 0.5
    if contrast is not None and contrast_first:
        levels = _rounded(levels * contrast)
    if levels is not _LEVELS:
        image = image.point(levels.astype(int).tolist() * 3)
    saturation = rng.uniform(0.5, 1.5) if rng.random() < 0.5 else None
    hue = rng.uniform(-18, 18) / 180 if rng.random() < 0.5 else None
    image = _change_saturation_and_hue(image, saturation, hue)
    if contrast is not None and not contrast_first:
        image = image.point(_rounded(_LEVELS * contrast).astype(int).tolist() * 3)
    return image


def colour_jitter(image: Image.Image, rng: np.random.Generator, strength: float = 0.2) -> Image.Image:
    """Multiplies brightness, contrast and saturation by random factors between `1 - strength` and `1 + strength`."""
    for enhancer in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhancer(image).enhance(rng.uniform(1 - strength, 1 + strength))
    return image


def _change_saturation_and_hue(image: Image.Image, saturation: float | None, hue: float | None) -> Image.Image:
    if saturation is None and hue is None:
        return image
    hues = _KEEP if hue is None else ((_LEVELS + round(256 * hue)) % 256).astype(int).tolist()
    saturations = _KEEP if saturation is None else _rounded(_LEVELS * saturation).astype(int).tolist()
    return image.convert("HSV").point(hues + saturations + _KEEP).convert("RGB")


def _rounded(levels: np.ndarray) -> np.ndarray:
    return levels.round().clip(0, 255)
