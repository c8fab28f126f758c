"""How files of any depth, with any bands and pages, become 8-bit RGB: one way for a whole data set."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from lrsegformer.data.arguments import show_range
from lrsegformer.errors import InputError

# Pillow keeps the high byte of 16-bit colours alone. It keeps the low one where it is told the other order of bytes.
_OTHER_BYTE = {"B": "L", "L": "B", "N": "B"}
COLOUR_MODES = ("RGB", "RGBA")
_SUBFILE_TYPE, _BITS_PER_SAMPLE, _SAMPLES_PER_PIXEL = 254, 258, 277  # TIFF tags
_TWICE = 2  # Pillow warns at its limit and refuses at twice as much
_FULL_16_BIT = (0.0, 65535.0)


@dataclass(frozen=True)
class ImageReading:
    """
    How the image files of a data set are read.

    Attributes:
        value_range (`tuple[float, float]`, *optional*):
            The values that become 0 and 255, of images with more than 8 bits a channel; values outside are clipped.
            Default: 0 and 65535 for 16 bits; other depths have none.
        bands (`tuple[int, ...]`, *optional*): the one or three bands to use, counted from 1. Default: all, where there
            are one or three, and an alpha channel that is opaque.
        page (`int`, *optional*): the page to use of files that hold several, counted from 1.
        max_pixels (`int`, *optional*): the largest image that is opened. Default: Pillow's limit, 178956970.
    """

    value_range: tuple[float, float] | None = None
    bands: tuple[int, ...] | None = None
    page: int | None = None
    max_pixels: int | None = None

    @classmethod
    def of_processor(cls, processor: Any) -> ImageReading:
        """The reading that a model was trained with, as its saved image processor holds it."""
        value_range, bands = getattr(processor, "image_range", None), getattr(processor, "image_bands", None)
        return cls(
            None if value_range is None else (float(value_range[0]), float(value_range[1])),
            None if bands is None else tuple(bands),
            getattr(processor, "image_page", None),
        )

    def keep_in(self, processor: Any) -> None:
        """Saves what was chosen with an image processor: transformers keeps attributes that it does not know."""
        if self.value_range is not None:
            processor.image_range = list(self.value_range)
        if self.bands is not None:
            processor.image_bands = list(self.bands)
        if self.page is not None:
            processor.image_page = self.page

    def __str__(self) -> str:
        parts = []
        if self.value_range is not None:
            parts.append(f"values {show_range(self.value_range).replace(',', ' to ')} scaled to 0 to 255")
        if self.bands is not None:
            parts.append(f"bands {', '.join(str(band) for band in self.bands)}")
        if self.page is not None:
            parts.append(f"page {self.page}")
        return "; ".join(parts)


@contextmanager
def explained(name: str) -> Iterator[None]:
    """What Pillow raises for a file that it cannot read, as one line that names the file."""
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{name}: no such file; check the path") from error
    except InputError:
        raise
    # Pillow's plug-ins report broken content with all of these; SyntaxError is what its PNG and TIFF readers raise.
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        reason = "not an image that Pillow can read" if isinstance(error, UnidentifiedImageError) else str(error)
        raise InputError(f"{name}: cannot be read ({reason}); replace or remove the file") from error


def read_pixels(file: str | Path | bytes, name: str, reading: ImageReading) -> Image.Image | np.ndarray:
    """
    The upright image of a file: 8 bits a channel as a Pillow image, more as an array of `(height, width)` or `(height,
    width, bands)` with the values of the file.

    Raises:
        InputError: the file has too many pixels, several pages or a band too many.
        OSError, SyntaxError, ValueError, EOFError: Pillow cannot read it.
    """
    image, raw_mode = _upright(file, name, reading)
    if _is_deep_mode(image.mode):
        return np.asarray(image)
    if raw_mode is None:
        return image
    other, _ = _upright(file, name, reading, raw_mode[:-1] + _OTHER_BYTE[raw_mode[-1]])
    return np.asarray(image).astype(np.int32) << 8 | np.asarray(other)


def is_deep(file: str | Path | bytes, name: str, reading: ImageReading) -> bool:
    """Whether an image has more than 8 bits a channel, by the header of its file."""
    with explained(name), open_checked(file, name, reading) as image:
        return _is_deep_mode(image.mode) or _deep_raw_mode(image) is not None


def holds_colours(file: str | Path | bytes, name: str, reading: ImageReading) -> bool:
    """Whether a mask is an image of colours, by the header of its file."""
    with explained(name), open_checked(file, name, reading) as mask:
        return mask.mode in COLOUR_MODES


def to_rgb(pixels: Image.Image | np.ndarray, name: str, reading: ImageReading) -> Image.Image:
    """
    8-bit RGB of what [`read_pixels`] gave: the chosen bands, on the scale of the data set.

    Raises:
        InputError: bands were not chosen where they have to be, values have no range, or are not finite.
    """
    if not isinstance(pixels, Image.Image):
        pixels = Image.fromarray(scaled_to_8_bits(pixels, name, reading.value_range))
    return _chosen_bands(pixels, name, reading.bands).convert("RGB")


def scaled_to_8_bits(values: np.ndarray, name: str, value_range: tuple[float, float] | None) -> np.ndarray:
    """Values of a deep image as uint8: the range becomes 0 to 255, and what lies outside is clipped."""
    check_finite(values, name)
    if value_range is None:
        if values.dtype.kind == "f" or values.dtype.itemsize > 2 and values.ndim == 2:
            raise InputError(
                f"{name}: {values.dtype} pixels have no defined range; say by --image_range which values are black "
                "and white, such as --image_range 0,1"
            )
        value_range = _FULL_16_BIT
    low, high = value_range
    scaled = (values.astype(np.float64) - low) * 255 / (high - low)
    return (scaled + 0.5).clip(0, 255).astype(np.uint8)


def check_finite(values: np.ndarray, name: str) -> None:
    """Refuses floating point pixels that are infinite or no numbers."""
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise InputError(f"{name}: holds pixels that are not finite; replace them or remove the file")


def check_size(image: Image.Image, name: str, max_pixels: int | None) -> None:
    """Refuses an image of more pixels than the option, or Pillow's limit, allows."""
    limit = max_pixels
    if limit is None and Image.MAX_IMAGE_PIXELS is not None:
        limit = _TWICE * Image.MAX_IMAGE_PIXELS
    pixels = image.width * image.height
    if limit is not None and pixels > limit:
        raise InputError(
            f"{name}: {image.width}x{image.height} are {pixels} pixels, and the limit is {limit}; if you trust the "
            f"file, give --max_image_pixels {pixels}"
        )


def choose_page(image: Image.Image, name: str, page: int | None) -> None:
    """
    Goes to the page of a file that holds several; reduced copies of a page (thumbnails, pyramids) are none, nor are
    the further pictures of a phone's JPEG.
    """
    count = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if count == 1:
        return
    pages = [number for number in range(count) if not _is_reduced(image, number)] or [0]
    if page is None and len(pages) > 1:
        raise InputError(
            f"{name}: holds {len(pages)} pages or frames; say by --image_page which one to use, 1 or more"
        )
    if page is not None and page > len(pages):
        raise InputError(f"{name}: holds {len(pages)} pages or frames, and --image_page is {page}; give one of them")
    image.seek(pages[0 if page is None else page - 1])


def _is_reduced(image: Image.Image, number: int) -> bool:
    if image.format != "TIFF":
        return False
    image.seek(number)
    return bool(image.tag_v2.get(_SUBFILE_TYPE, 0) & 1)  # type: ignore[attr-defined]


def open_checked(file: str | Path | bytes, name: str, reading: ImageReading) -> Image.Image:
    """Opens a file, which the caller closes, at its page and below the limit of pixels; nothing is decoded yet."""
    limit = Image.MAX_IMAGE_PIXELS
    try:
        Image.MAX_IMAGE_PIXELS = None  # the check is ours, whose message names the option
        image = Image.open(io.BytesIO(file) if isinstance(file, bytes) else file)
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    check_size(image, name, reading.max_pixels)
    choose_page(image, name, reading.page)
    return image


def _upright(
    file: str | Path | bytes, name: str, reading: ImageReading, as_raw_mode: str | None = None
) -> tuple[Image.Image, str | None]:
    """The decoded image, and the raw mode of 16-bit colours, which `as_raw_mode` replaces."""
    with open_checked(file, name, reading) as image:
        raw_mode = _deep_raw_mode(image)
        _check_hidden_bands(image, name, reading.bands)
        loses_bits = image.format == "TIFF" and max(image.tag_v2.get(_BITS_PER_SAMPLE, (8,))) > 8  # type: ignore
        if raw_mode is None and loses_bits and not _is_deep_mode(image.mode):
            raise InputError(f"{name}: Pillow keeps 8 of its 16 bits a channel; save it as a 16-bit PNG")
        if raw_mode is not None and raw_mode.startswith("LA"):
            raise InputError(f"{name}: Pillow keeps 8 of 16 bits beside an alpha channel; save the file without it")
        if as_raw_mode is not None:
            image.tile = [_with_raw_mode(tile, as_raw_mode) for tile in image.tile]
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        return image, raw_mode


def _is_deep_mode(mode: str) -> bool:
    return mode == "F" or mode.startswith("I")


def _deep_raw_mode(image: Image.Image) -> str | None:
    """The raw mode of an image whose colours have 16 bits, of which Pillow keeps 8."""
    tile = image.tile[0] if getattr(image, "tile", None) else None
    arguments = tile[3] if tile else None
    raw_mode = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    is_deep = isinstance(raw_mode, str) and raw_mode[:-1] in ("RGB;16", "RGBA;16", "LA;16", "RGBX;16")
    return raw_mode if is_deep and raw_mode[-1] in _OTHER_BYTE else None


def _with_raw_mode(tile: Any, raw_mode: str) -> Any:
    arguments = tile[3]
    changed = (raw_mode, *arguments[1:]) if isinstance(arguments, tuple) else raw_mode
    return type(tile)(tile[0], tile[1], tile[2], changed)


def _check_hidden_bands(image: Image.Image, name: str, bands: tuple[int, ...] | None) -> None:
    """Refuses TIFF files with bands that Pillow drops without a word, unless the chosen ones are among the others."""
    if image.format != "TIFF":
        return
    stored, read = image.tag_v2.get(_SAMPLES_PER_PIXEL, 1), len(image.getbands())  # type: ignore[attr-defined]
    if stored > read and (bands is None or max(bands) > read):
        raise InputError(
            f"{name}: holds {stored} bands, of which Pillow reads the first {read}; choose among these by "
            "--image_bands, or write the one or three bands to use into a file of their own"
        )


def _chosen_bands(image: Image.Image, name: str, bands: tuple[int, ...] | None) -> Image.Image:
    """The bands that the option names; without it all, where an alpha channel hides nothing."""
    if bands is not None:
        image = image.convert("RGBA" if image.has_transparency_data else "RGB") if image.mode == "P" else image
        channels = image.split()
        if max(bands) > len(channels):
            raise InputError(
                f"{name}: has {len(channels)} band(s), and --image_bands names band {max(bands)}; correct the option"
            )
        chosen = [channels[band - 1].convert("L") for band in bands]
        return chosen[0] if len(chosen) == 1 else Image.merge("RGB", chosen)
    if not image.has_transparency_data:
        return image
    with_alpha = image.convert("RGBA")
    if with_alpha.getchannel("A").getextrema()[0] < 255:
        colours = "1" if image.mode == "LA" else "1,2,3"
        raise InputError(
            f"{name}: has an alpha channel that is not opaque ({image.mode}); say by --image_bands {colours} to use "
            "the colours without it, or paint the image onto a background"
        )
    return with_alpha
