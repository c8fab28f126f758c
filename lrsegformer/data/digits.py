"""
Built-in data that needs no network: the handwritten digits and the two photographs that scikit-learn ships.

Images are made on the fly and depend only on (seed, split, index). Training and validation use different digits (every
fifth one is kept for validation) and different halves of the photographs.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image

from lrsegformer.data.examples import DataSource, Example
from lrsegformer.data.labels import LabelSpace

SEGMENTATION_NAMES = ("background", *(f"digit {digit}" for digit in range(10)))
CLASSIFICATION_NAMES = tuple(f"digit {digit}" for digit in range(10))
_SPLITS = ("train", "validation")
_LARGEST, _SMALLEST = 0.6, 0.2  # height of a digit as a share of the image's side
_OVERLAP = 0.1  # largest share of a new digit's box that may lie on earlier ones
_ATTEMPTS = 40


class _DigitsSource:
    def __init__(self, split: str, count: int, side: int, seed: int):
        self.split, self.count, self.side, self.seed = split, count, side, seed

    def __len__(self) -> int:
        return self.count

    def _start(self, index: int) -> tuple[np.random.Generator, np.ndarray, np.ndarray]:
        """Returns the item's generator, a float32 canvas (side, side, 3) cut from a photo, and the digit labels."""
        if not 0 <= index < self.count:
            raise IndexError(f"index {index} is out of range for {self.count} images")
        rng = np.random.default_rng((self.seed, _SPLITS.index(self.split), index))
        _, labels, photographs = _material(self.split)
        return rng, _photograph_crop(photographs[rng.integers(len(photographs))], self.side, rng), labels

    def _name(self, index: int) -> str:
        return f"digits {self.split} image {index}"


class DigitsSegmentation(_DigitsSource):
    """
    Two to five handwritten digits on a crop of a photograph, with their exact mask.

    A mask holds 0 for the background and 1 + d for the digit d; there is no void. A digit is 20 to 60 % of the side
    high, and at most a tenth of its box covers earlier digits.

    Args:
        split (`str`): `"train"` or `"validation"`.
        count (`int`): number of images.
        side (`int`): height and width in pixels.
        seed (`int`): not negative.
    """

    def __getitem__(self, index: int) -> Example:
        rng, canvas, labels = self._start(index)
        inks = _material(self.split)[0]
        mask = np.zeros((self.side, self.side), dtype=np.uint8)
        occupied = np.zeros((self.side, self.side), dtype=bool)
        for _ in range(rng.integers(2, 6)):
            chosen = rng.integers(len(inks))
            place = _free_place(inks[chosen], occupied, rng)
            if place is None:
                continue
            coverage = _draw(canvas[place], inks[chosen], rng)
            mask[place][coverage >= 0.5] = 1 + labels[chosen]
            strokes = np.argwhere(coverage > 0)
            (top, left), (bottom, right) = strokes.min(axis=0), strokes.max(axis=0)
            occupied[place][top : bottom + 1, left : right + 1] = True
        return Example(_to_image(canvas), mask, self._name(index))

    def mask(self, index: int) -> np.ndarray:
        """The mask alone; digits that cover each other are drawn for it all the same."""
        return self[index].target

    def mask_name(self, index: int) -> str:
        """The item, for messages."""
        return self._name(index)


class DigitsClassification(_DigitsSource):
    """One handwritten digit, 60 to 90 % of the side high, on a crop of a photograph. Classes take turns."""

    def __getitem__(self, index: int) -> Example:
        rng, canvas, labels = self._start(index)
        digit = index % 10
        ink = _material(self.split)[0][rng.choice(np.flatnonzero(labels == digit))]
        height, width = _box(ink, rng.uniform(0.6, 0.9) * self.side, self.side)
        top, left = rng.integers(self.side - height + 1), rng.integers(self.side - width + 1)
        _draw(canvas[top : top + height, left : left + width], ink, rng)
        return Example(_to_image(canvas), digit, self._name(index))

    def class_indices(self) -> np.ndarray:
        """The class of every image, without drawing one."""
        return np.arange(self.count) % 10


def load_digit_images(task: str, train_count: int, validation_count: int, side: int, seed: int) -> DataSource:
    """Opens the built-in data for `"segmentation"` (11 classes) or `"classification"` (10 classes)."""
    kind = DigitsSegmentation if task == "segmentation" else DigitsClassification
    names = SEGMENTATION_NAMES if task == "segmentation" else CLASSIFICATION_NAMES
    return DataSource(
        kind("train", train_count, side, seed),
        kind("validation", validation_count, side, seed),
        LabelSpace(names),
        "digits",
    )


@lru_cache(maxsize=2)
def _material(split: str) -> tuple[list[Image.Image], np.ndarray, list[Image.Image]]:
    """Returns the split's digits (8-bit ink images cut to their strokes), their labels, and its photograph halves."""
    from sklearn.datasets import load_digits, load_sample_images

    digits = load_digits()
    every_fifth = np.arange(len(digits.images)) % 5 == 0
    chosen = every_fifth if split == "validation" else ~every_fifth
    inks = [_cut_to_strokes(image) for image in digits.images[chosen]]
    halves = []
    for photograph in load_sample_images().images:
        middle = photograph.shape[1] // 2
        half = photograph[:, middle:] if split == "validation" else photograph[:, :middle]
        halves.append(Image.fromarray(half))
    return inks, digits.target[chosen], halves


def _cut_to_strokes(image: np.ndarray) -> Image.Image:
    rows, columns = np.flatnonzero(image.max(axis=1)), np.flatnonzero(image.max(axis=0))
    strokes = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    # A rim of no ink lets the enlarged strokes fade out instead of ending at the edge of the box.
    return Image.fromarray(np.pad(strokes * (255 / 16), 1).astype(np.uint8))


def _photograph_crop(photograph: Image.Image, side: int, rng: np.random.Generator) -> np.ndarray:
    size = rng.uniform(0.25, 1.0) * min(photograph.size)
    left, top = rng.uniform(0, photograph.width - size), rng.uniform(0, photograph.height - size)
    crop = photograph.resize((side, side), Image.Resampling.BILINEAR, box=(left, top, left + size, top + size))
    return np.array(crop, dtype=np.float32)


def _box(ink: Image.Image, height: float, side: int) -> tuple[int, int]:
    """Returns (height, width) in pixels of an ink image drawn at this height, at least 1 and at most the side."""
    width = height * ink.width / ink.height
    return min(side, max(1, round(height))), min(side, max(1, round(width)))


def _free_place(ink: Image.Image, occupied: np.ndarray, rng: np.random.Generator) -> tuple[slice, slice] | None:
    side = len(occupied)
    for attempt in range(_ATTEMPTS):
        # Later attempts try smaller digits, so that a crowded image still finds room.
        largest = _LARGEST - (_LARGEST - _SMALLEST) * attempt / _ATTEMPTS
        # The rim is part of the ink image but not of the digit's height.
        height, width = _box(ink, rng.uniform(_SMALLEST, largest) * side * ink.height / (ink.height - 2), side)
        top, left = rng.integers(side - height + 1), rng.integers(side - width + 1)
        place = slice(top, top + height), slice(left, left + width)
        if occupied[place].mean() <= _OVERLAP:
            return place
    return None


def _draw(patch: np.ndarray, ink: Image.Image, rng: np.random.Generator) -> np.ndarray:
    """Blends the ink onto the patch (in place) in a random colour that stands out; returns the coverage in 0..1."""
    height, width = patch.shape[:2]
    strength = np.asarray(ink.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32) / 255
    coverage = ((strength - 0.25) / 0.3).clip(0, 1)
    colour = rng.uniform(0, 255, size=3)
    darkest, brightest = np.quantile(patch[::4, ::4].mean(axis=-1), (0.1, 0.9))
    if darkest - 50 < colour.mean() < brightest + 50:
        colour = 0.2 * colour if darkest > 255 - brightest else 255 - 0.2 * (255 - colour)
    patch += coverage[..., None] * (colour.astype(np.float32) - patch)
    return coverage


def _to_image(canvas: np.ndarray) -> Image.Image:
    return Image.fromarray((canvas + 0.5).astype(np.uint8))
