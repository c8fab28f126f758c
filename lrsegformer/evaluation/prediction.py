"""From logits to classes: of images, and at full resolution of pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lrsegformer.errors import InputError, NotFiniteError
from lrsegformer.kernels.bilinear import BandedUpsampling, full_precision_products


class PixelPredictions(NamedTuple):
    """
    What several maps of logits say together.

    Attributes:
        classes (`torch.Tensor`): `(batch, height, width)`; uint8 up to 256 classes and int16 above.
        confidence (`torch.Tensor`): float32 of that shape: the probability that the model gives its class, an estimate
            that nothing calibrates.
    """

    classes: Tensor
    confidence: Tensor


@torch.no_grad()
def predict_classes(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Upsample logits bilinearly and take the class of the largest, without holding the upsampled logits.

    What `F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False).argmax(1)` gives, band by band
    of rows. The upsampled logits agree to rounding, so another class can win only where two are equal to rounding;
    exact ties go to the lowest class.

    Args:
        logits (`torch.Tensor`): floating point, shape `(batch, num_labels, height, width)`; half precision is
            upsampled in float32, where the winner does not hang on rounding.
        size (`tuple[int, int]`): height and width of the result in pixels.

    Returns:
        `torch.Tensor`: shape `(batch, *size)` on the device of the logits, uint8 up to 256 classes and int16 above.

    Raises:
        [`~lrsegformer.errors.InputError`]: the logits do not have four dimensions.
        [`~lrsegformer.errors.NotFiniteError`]: they hold nan or infinity, which name no class.
    """
    if logits.ndim != 4:
        raise InputError(
            f"logits of shape {tuple(logits.shape)}: predict_classes needs (batch, num_labels, height, width)."
        )
    check_logits(logits)
    batch, num_labels, *source_size = logits.shape
    classes = torch.empty(batch, *size, dtype=_class_dtype(num_labels), device=logits.device)
    upsampling = BandedUpsampling(num_labels, source_size, size, torch.float32, logits.device, with_gradient=False)
    places = _places(num_labels, logits.device)
    with full_precision_products():
        for image in range(batch):
            for rows, upsampled in upsampling.bands_of(logits[image]):
                classes[image, rows] = _lowest_of_largest(upsampled, upsampled.amax(dim=1, keepdim=True), places)
    return classes


@torch.no_grad()
def predict_pixels(maps: Sequence[Tensor], size: tuple[int, int]) -> PixelPredictions:
    """Classes and confidence from one or several maps of logits, each upsampled bilinearly to `size`.

    The probabilities of several maps are averaged: the softmax of each, at the full size. The classes of a single map
    are those of [`predict_classes`]. Band by band of rows, so that no upsampled logits are held.

    Args:
        maps (sequence of `torch.Tensor`): floating point, each `(batch, num_labels, height, width)`, of any sizes.
        size (`tuple[int, int]`): height and width of the result in pixels.

    Raises:
        [`~lrsegformer.errors.NotFiniteError`]: the logits hold nan or infinity.
    """
    for logits in maps:
        check_logits(logits)
    batch, num_labels = maps[0].shape[:2]
    device = maps[0].device
    classes = torch.empty(batch, *size, dtype=_class_dtype(num_labels), device=device)
    confidence = torch.empty(batch, *size, dtype=torch.float32, device=device)
    how = {"dtype": torch.float32, "device": device, "with_gradient": False}
    upsamplings = [BandedUpsampling(num_labels, one.shape[2:], size, **how) for one in maps]
    places = _places(num_labels, device)
    with full_precision_products():
        for image in range(batch):
            # Bands are cut by the new size alone, so those of all maps have the same rows.
            bands = [one.bands_of(logits[image]) for one, logits in zip(upsamplings, maps, strict=True)]
            for parts in zip(*bands, strict=True):
                rows, band = parts[0]
                if len(parts) > 1:
                    band = torch.stack([part.softmax(dim=1) for _, part in parts]).mean(dim=0)
                largest = band.amax(dim=1, keepdim=True)
                single = len(parts) == 1
                # The softmax at its largest entry is 1 over the sum of the exponentials of the differences to it.
                shown = (band - largest).exp_().sum(dim=1).reciprocal_() if single else largest[:, 0]
                confidence[image, rows] = shown
                classes[image, rows] = _lowest_of_largest(band, largest, places)
    return PixelPredictions(classes, confidence)


def _class_dtype(num_labels: int) -> torch.dtype:
    return torch.uint8 if num_labels <= 256 else torch.int16


def _places(num_labels: int, device: torch.device) -> Tensor:
    """For [`_lowest_of_largest`]: falling numbers `(num_labels, 1)`, the last one 1."""
    return torch.arange(num_labels, 0, -1, dtype=torch.float32, device=device)[:, None]


def _lowest_of_largest(band: Tensor, largest: Tensor, places: Tensor) -> Tensor:
    """
    The lowest class `(rows, width)` among the largest entries of a band `(rows, num_labels, width)`, which is written
    over: the largest product of "is the maximum" and a place, two passes that argmax needs longer for.
    """
    return len(places) - band.ge_(largest).mul_(places).amax(dim=1)


@torch.no_grad()
def largest_class(logits: Tensor) -> Tensor:
    """
    The class of the largest of an image's logits.

    Args:
        logits (`torch.Tensor` of shape `(batch, num_labels)`): floating point.

    Returns:
        `torch.Tensor` of shape `(batch,)`: int64; of equal logits any.

    Raises:
        [`~lrsegformer.errors.NotFiniteError`]: the logits hold nan or infinity; torch takes nan for the largest.
    """
    check_logits(logits)
    return logits.argmax(dim=-1)


def check_logits(logits: Tensor) -> None:
    """
    Refuse logits `(batch, num_labels, ...)` that hold nan or infinity.

    Waits for the device once, for one truth value; memory of a byte a logit.
    """
    if logits.isfinite().all():
        return
    image = (~logits.isfinite()).flatten(1).any(dim=1).nonzero()[0].item()
    raise NotFiniteError(
        f"the logits of image {image} of the batch are not finite and name no class: check the model's weights, and "
        "compute in float32 where the precision was lower."
    )
