"""The options of prediction. Light on purpose: `--help` imports this file, so no torch, no transformers."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from lrsegformer.choices import PROTOCOLS
from lrsegformer.data.arguments import SMALLEST_INPUT, DataArguments, parse_bands, parse_range
from lrsegformer.errors import InputError
from lrsegformer.ranges import COUNT, FROM_ZERO, check_ranges

DEFAULT_WINDOW = 512
_RANGES = {"batch_size": COUNT, "dataloader_num_workers": FROM_ZERO, "image_page": COUNT, "max_image_pixels": COUNT}


def as_in(kind: type, name: str) -> Any:
    """A field of other options, with its default and help."""
    known = kind.__dataclass_fields__[name]
    return dataclasses.field(default=known.default, metadata=known.metadata)


@dataclass
class PredictArguments:
    """
    How a model is applied to image files, and what is written.

    Raises:
        InputError: a number is out of its range, or two options contradict each other.
    """

    output_dir: str = field(metadata={"help": "Folder of the predictions. What it holds already is not made again."})
    protocol: str = field(
        default="whole",
        metadata={
            "help": "How a segmentation model sees an image: whole; by windows whose logits are averaged (slide); or "
            "at six sizes from 0.5 to 1.75, each also mirrored, whose probabilities are averaged (multi_scale_flip).",
            "choices": PROTOCOLS,
        },
    )
    window: int | None = field(
        default=None,
        metadata={"help": f"Side of the windows of slide, in pixels of the input. Default: {DEFAULT_WINDOW}."},
    )
    stride: int | None = field(
        default=None, metadata={"help": "Distance of the windows of slide. Default: two thirds of the window."}
    )
    confidence: bool = field(
        default=False,
        metadata={"help": "Also write maps of the probability that the model gives its class (an estimate)."},
    )
    certified_radius: bool = field(
        default=False,
        metadata={
            "help": "Also write how far each prediction is certified: in l2 over the image that the model receives. "
            "For models of --scope certified, and --protocol whole."
        },
    )
    batch_size: int = field(default=8, metadata={"help": "Images a forward pass, of those that share a size."})
    dataloader_num_workers: int = field(
        default=0, metadata={"help": "Processes that read and resize images beside the one that predicts."}
    )
    image_range: str | None = as_in(DataArguments, "image_range")
    image_bands: str | None = as_in(DataArguments, "image_bands")
    image_page: int | None = as_in(DataArguments, "image_page")
    max_image_pixels: int | None = as_in(DataArguments, "max_image_pixels")

    def __post_init__(self):
        check_protocol(self.protocol, self.window, self.stride)
        check_ranges(self, _RANGES)
        parse_range(self.image_range)
        parse_bands(self.image_bands)
        if self.certified_radius and self.protocol != "whole":
            raise InputError(
                f"--certified_radius with --protocol {self.protocol}: the certificate is of one pass over the whole "
                "image; leave one of them out"
            )


def check_protocol(protocols: str | list[str], window: int | None, stride: int | None) -> None:
    """Raises `InputError` for an unknown protocol, and for windows that none of them uses or that leave pixels out."""
    named = [protocols] if isinstance(protocols, str) else protocols
    for name in named:
        if name not in PROTOCOLS:
            raise InputError(f"protocol {name!r} is unknown: choose from {', '.join(PROTOCOLS)}")
    for option, value, least in (("window", window, SMALLEST_INPUT), ("stride", stride, 1)):
        if value is not None and value < least:
            raise InputError(f"--{option} is {value}; give a whole number of at least {least}")
        if value is not None and "slide" not in named:
            raise InputError(f"--{option} {value} is of the protocol slide: choose that, or leave the option out")
    side, step = window_and_stride(window, stride)
    if step > side:
        raise InputError(f"--stride {step} is longer than the window of {side}, which leaves pixels out: give less")


def window_and_stride(window: int | None, stride: int | None) -> tuple[int, int]:
    """With the defaults where they are left open: windows of 512 that overlap by a third."""
    side = DEFAULT_WINDOW if window is None else window
    return side, max(1, 2 * side // 3) if stride is None else stride
