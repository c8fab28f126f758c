"""From low-resolution logits to the classes of full-resolution pixels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lrsegformer.errors import InputError


@torch.no_grad()
def predict_classes(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Upsample logits bilinearly and take the class of the largest, without holding the upsampled logits.

    Equals `F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False).argmax(1)` bit for bit:
    each channel is upsampled by that very call, and a running maximum over the channels replaces the argmax, so that
    one plane of the full size is held in place of one per class. Ties go to the lowest class.

    Args:
        logits (`torch.Tensor`): floating point, shape `(batch, num_labels, height, width)`; half precision is
            upsampled in float32, where the winner does not hang on rounding.
        size (`tuple[int, int]`): height and width of the result in pixels.

    Returns:
        `torch.Tensor`: shape `(batch, *size)` on the device of the logits, uint8 up to 256 classes and int16 above.

    Raises:
        [`InputError`]: the logits do not have four dimensions.
    """
    if logits.ndim != 4:
        raise InputError(
            f"logits of shape {tuple(logits.shape)}: predict_classes needs (batch, num_labels, height, width)."
        )
    num_labels = logits.shape[1]
    best = _upsample_channel(logits, 0, size)
    dtype = torch.uint8 if num_labels <= 256 else torch.int16
    classes = torch.zeros(best.shape, dtype=dtype, device=logits.device)
    for channel in range(1, num_labels):
        plane = _upsample_channel(logits, channel, size)
        classes.masked_fill_(plane > best, channel)
        torch.maximum(best, plane, out=best)
    return classes


def _upsample_channel(logits: Tensor, channel: int, size: tuple[int, int]) -> Tensor:
    plane = logits[:, channel : channel + 1].float()
    return F.interpolate(plane, size=size, mode="bilinear", align_corners=False)[:, 0]
