"""One scale for the images of a data set that have more than 8 bits a channel."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np

from lrsegformer.data.arguments import DataArguments, parse_bands, parse_range, show_range
from lrsegformer.data.files.pixels import ImageReading, check_finite, explained, is_deep, read_pixels, scaled_to_8_bits

logger = logging.getLogger(__name__)

SAMPLE = 64  # images that are looked at
_FEW_LEVELS = 64
_KEPT = 65536  # values an image


class ImageSource(Protocol):
    """A source of image files; `reading` says how they are read."""

    reading: ImageReading

    def __len__(self) -> int: ...

    def image_content(self, index: int) -> str | Path | bytes: ...

    def image_name(self, index: int) -> str: ...


def reading_of(arguments: DataArguments) -> ImageReading:
    """How the options say that image files are read."""
    return ImageReading(
        parse_range(arguments.image_range),
        parse_bands(arguments.image_bands),
        arguments.image_page,
        arguments.max_image_pixels,
    )


def settle_scale(sources: Sequence[ImageSource], indices: Sequence[int] | np.ndarray | None, where: str) -> None:
    """
    Gives all sources of a data set one scale for deep images, and says which.

    Without `--image_range` it is found in a sample of the training images (of the others where none of those is deep):
    whole numbers go from 0 to the largest number of as many bits (at least 8) as the largest value needs, and floating
    point from 0 to 1, or where that does not hold from the smallest value to the largest.

    Args:
        sources (`Sequence[ImageSource]`): of all splits; training first.
        indices (`Sequence[int]`, *optional*): the images of the first source that are used.
        where (`str`): the data set, for messages.
    """
    deep: list[np.ndarray] = []
    for source in sources:
        places = np.arange(len(source)) if indices is None or source is not sources[0] else np.asarray(indices)
        chosen = places[np.unique(np.arange(SAMPLE) * len(places) // SAMPLE)] if len(places) else places
        deep = [values for index in chosen.tolist() if (values := _deep_values(source, index)) is not None]
        if deep:
            break
    else:
        return
    given = sources[0].reading.value_range
    smallest, largest = float(min(values.min() for values in deep)), float(max(values.max() for values in deep))
    value_range = given or _range_of(smallest, largest, all(values.dtype.kind != "f" for values in deep))
    for each in sources:
        each.reading = replace(each.reading, value_range=value_range)
    if given is None:
        logger.warning(
            "%s: %d of %d sampled images have more than 8 bits, with values from %g to %g: all are scaled by "
            "--image_range %s, which is saved with the model",
            where,
            len(deep),
            len(chosen),
            smallest,
            largest,
            show_range(value_range),
        )
    used = np.zeros(256, dtype=bool)
    for values in deep:
        used[np.unique(scaled_to_8_bits(values, where, value_range))] = True
    if used.sum() < _FEW_LEVELS:
        logger.warning(
            "%s: the images use %d of 256 levels; where the values from %g to %g are the whole range, give "
            "--image_range %g,%g",
            where,
            used.sum(),
            smallest,
            largest,
            smallest,
            largest,
        )


def _deep_values(source: ImageSource, index: int) -> np.ndarray | None:
    """About `_KEPT` values of an image, its smallest and largest among them; `None` of an image that is not deep."""
    content, name = source.image_content(index), source.image_name(index)
    if not is_deep(content, name, source.reading):
        return None
    with explained(name):
        pixels = read_pixels(content, name, source.reading)
    if not isinstance(pixels, np.ndarray):
        return None
    check_finite(pixels, name)
    values = pixels.ravel()
    return np.concatenate([values[:: max(1, len(values) // _KEPT)], [values.min(), values.max()]]).astype(pixels.dtype)


def _range_of(smallest: float, largest: float, is_whole: bool) -> tuple[float, float]:
    if is_whole:
        return min(0.0, smallest), float(2 ** max(8, int(largest).bit_length()) - 1)
    if 0 <= smallest and largest <= 1:
        return 0.0, 1.0
    return smallest, largest if largest > smallest else smallest + 1
