"""One labelled image, the interface of the places it comes from, and careful opening of image and mask files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from PIL import Image, ImageOps

from lrsegformer.data.files.pixels import COLOUR_MODES, ImageReading, explained, open_checked, read_pixels, to_rgb
from lrsegformer.errors import InputError

if TYPE_CHECKING:
    from lrsegformer.data.labels import LabelSpace

# Pillow stretches the values of 2- and 4-bit grey PNGs to 0..255: right for pictures, wrong for class indices.
_STRETCHED_GREY = {"L;2": 85, "L;4": 17}
_INTEGER_MASK_MODES = ("L", "P", "1", "I", "I;16", "I;16L", "I;16B")


@dataclass(frozen=True)
class Example:
    """
    One labelled image as its source holds it.

    Attributes:
        image (`PIL.Image.Image`): RGB, 8 bits a channel, upright (EXIF orientation applied).
        target (`numpy.ndarray` or `int`): the mask's raw integers, shape `(height, width)`, or the class index.
        name (`str`): the file, or data set and row, for messages.
    """

    image: Image.Image
    target: np.ndarray | int
    name: str


class ExampleSource(Protocol):
    """A sequence of examples: `len(source)` and `source[index]`. Sources are picklable and hold no open files."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


@dataclass(frozen=True)
class DataSource:
    """Both splits of a data set, with the label space they share and the name to print on a model card."""

    train: ExampleSource
    validation: ExampleSource
    label_space: LabelSpace
    dataset_name: str
    hub_id: str | None = None


def open_image(file: str | Path | bytes, name: str | None = None, reading: ImageReading | None = None) -> Image.Image:
    """
    Reads a picture of any mode and depth as upright 8-bit RGB.

    Args:
        file (`str`, `Path` or `bytes`): the file, or its encoded content.
        name (`str`, *optional*): what to call it in an error message; needed for bytes.
        reading ([`~lrsegformer.data.files.pixels.ImageReading`], *optional*):
            Scale of deep images, bands, page, and the limit of pixels.

    Raises:
        InputError: the file is missing, truncated or not an image, or holds something that would be dropped and was
            not chosen: bands beyond three, an alpha channel that is not opaque, further pages, values without a range.
    """
    name, reading = name or str(file), reading or ImageReading()
    with explained(name):
        return to_rgb(read_pixels(file, name, reading), name, reading)


def open_mask(
    file: str | Path | bytes, name: str | None = None, colours: bool = False, reading: ImageReading | None = None
) -> np.ndarray:
    """
    Reads the raw values of a mask: palette indices, 1- to 16-bit grey values or 32-bit integers, as they are stored.

    Args:
        file (`str`, `Path` or `bytes`): the file, or its encoded content.
        name (`str`, *optional*): what to call it in an error message; needed for bytes.
        colours (`bool`, defaults to `False`): read colours `0xRRGGBB`, those of the palette where there is one.
        reading ([`~lrsegformer.data.files.pixels.ImageReading`], *optional*): page and limit of pixels.

    Returns:
        `numpy.ndarray` of shape `(height, width)`, uint8 or int32.

    Raises:
        InputError: as for [`open_image`]; also for JPEG files, whose compression changes labels, for colours that were
            not asked for, and for transparent ones.
    """
    name = name or str(file)
    with explained(name):
        values = np.asarray(_read_mask(file, name, colours, reading or ImageReading()))
    if colours:
        red, green, blue = (values[..., channel].astype(np.int32) for channel in range(3))
        return red << 16 | green << 8 | blue
    return values.astype(np.uint8) if values.dtype == bool else values


def check_sizes(image: Image.Image, mask: np.ndarray, image_name: str, mask_name: str) -> None:
    """Raises `InputError` with both sizes when an image and its mask differ in size."""
    height, width = mask.shape
    if image.size != (width, height):
        raise InputError(
            f"{mask_name}: the mask is {width}x{height} but its image {image_name} is {image.width}x{image.height} "
            "(upright); save the mask at the image's size and orientation"
        )


def _read_mask(file: str | Path | bytes, name: str, colours: bool, reading: ImageReading) -> Image.Image:
    with open_checked(file, name, reading) as mask:
        _check_mask(mask, name, colours)
        stretch = _grey_stretch(mask)
        mask.load()
        ImageOps.exif_transpose(mask, in_place=True)
    if colours:
        return _without_alpha(mask, name).convert("RGB")
    if stretch > 1:
        return mask.point(lambda value: value // stretch)
    return mask.convert("I") if mask.mode.startswith("I;16") else mask


def _check_mask(mask: Image.Image, name: str, colours: bool) -> None:
    if mask.format == "JPEG":
        raise InputError(f"{name}: a JPEG mask does not keep its labels exactly; save it as PNG")
    if colours and mask.mode not in ("L", "P", "1", *COLOUR_MODES):
        raise InputError(f"{name}: the mask has mode {mask.mode}, but --mask_values gives colours; give its values")
    if not colours and mask.mode not in (*_INTEGER_MASK_MODES, *COLOUR_MODES):
        raise InputError(f"{name}: the mask has mode {mask.mode}; save it as an 8-bit PNG of class indices")
    if not colours and mask.mode in COLOUR_MODES:
        raise InputError(
            f"{name}: the mask has mode {mask.mode}, but colours are no class indices; say by --mask_values which "
            "colour is which class, such as --mask_values '#000000,#ffffff', or save an 8-bit PNG of class indices"
        )


def _without_alpha(mask: Image.Image, name: str) -> Image.Image:
    if mask.has_transparency_data and mask.convert("RGBA").getchannel("A").getextrema()[0] < 255:
        raise InputError(f"{name}: the mask is transparent in places; save it without an alpha channel")
    return mask


def _grey_stretch(mask: Image.Image) -> int:
    """Returns the factor by which Pillow multiplies the grey values of this PNG (1 for 8 bits and more)."""
    raw_mode = mask.tile[0][3] if mask.tile else None
    return _STRETCHED_GREY.get(raw_mode, 1) if isinstance(raw_mode, str) else 1
