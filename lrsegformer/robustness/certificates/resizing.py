"""What the processor's resizing does to a radius: its constants as a linear map of real numbers."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from transformers.image_processing_utils import BaseImageProcessor

from lrsegformer.layers.norms import l2_norm, linf_norm
from lrsegformer.robustness.bench.runs import ScoredData

Size = tuple[int, int]


class Resizing(NamedTuple):
    """
    A resizing and its constants.

    Attributes:
        size, new_size (`tuple[int, int]`): heights and widths before and after.
        l2, per_pixel (`float`): the norms of the map of real numbers, from l2 to l2 over the image, and between the
            largest pixels. Pillow rounds what it gives to 255 levels, which no constant describes.
    """

    size: Size
    new_size: Size
    l2: float
    per_pixel: float


def resizings_of(data: ScoredData, processor: BaseImageProcessor, score_at: str) -> list[dict[str, Any]]:
    """
    How a processor resizes the images of a segmentation report, each pair of sizes once.

    Empty where it does not, and where the sizes before are not known: in classification, and where labels are resized
    with the images.
    """
    if not processor.do_resize or score_at == "resized":
        return []
    found: dict[tuple[Size, Size], Resizing] = {}
    for group in data.subset.groups:
        item = data.subset.dataset[group[0]]
        size, new_size = np.shape(item["labels"]), tuple(item["pixel_values"].shape[-2:])
        if len(size) == 2 and size != new_size:
            found[size, new_size] = resizing(size, new_size, int(processor.resample))
    return [one._asdict() for one in found.values()]


def resizing(size: Size, new_size: Size, resample: int) -> Resizing:
    """The constants of Pillow's resizing from one size to another by a filter, which is one matrix along each axis."""
    matrices = [resizing_matrix(old, new, resample) for old, new in zip(size, new_size, strict=True)]
    l2, per_pixel = (float(norm(matrices[0]) * norm(matrices[1])) for norm in (l2_norm, linf_norm))
    return Resizing(size, new_size, l2, per_pixel)


@lru_cache(maxsize=64)
def resizing_matrix(old: int, new: int, resample: int) -> torch.Tensor:
    """The float64 `(new, old)` matrix that Pillow multiplies by along an axis, from what it makes of unit vectors."""
    unit_rows = Image.fromarray(np.eye(old, dtype=np.float32), mode="F")
    return torch.from_numpy(np.asarray(unit_rows.resize((new, old), resample)).T.astype(np.float64))
