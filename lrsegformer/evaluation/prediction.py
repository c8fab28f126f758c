"""From logits to classes: of images, and at full resolution of pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from lrsegformer.errors import InputError, NotFiniteError
from lrsegformer.kernels.bilinear import BandedUpsampling, full_precision_products


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
    dtype = torch.uint8 if num_labels <= 256 else torch.int16
    classes = torch.empty(batch, *size, dtype=dtype, device=logits.device)
    upsampling = BandedUpsampling(num_labels, source_size, size, torch.float32, logits.device, with_gradient=False)
    # The largest product of "is the maximum" and this is at the lowest class: two passes that argmax needs longer for.
    places = torch.arange(num_labels, 0, -1, dtype=torch.float32, device=logits.device)[:, None]
    with full_precision_products():
        for image in range(batch):
            for rows, upsampled in upsampling.bands_of(logits[image]):
                largest = upsampled.amax(dim=1, keepdim=True)
                highest_place = upsampled.ge_(largest).mul_(places).amax(dim=1)
                classes[image, rows] = num_labels - highest_place
    return classes


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
