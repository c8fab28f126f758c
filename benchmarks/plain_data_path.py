"""SegFormer's training augmentation as example scripts write it: whole images, float arrays, int64 labels."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image

from lrsegformer.data.transforms import fitted_size, nearest_crop

VOID = 255


class PlainRecipe:
    """
    Zero-label reduction, random scale, crop (75 % rule), flip, photometric distortion, normalising and padding.

    Called with an RGB image, the raw mask and a generator, from which it draws the numbers that
    [`lrsegformer.data.transforms.SegmentationTrainTransform`] draws, in the same order.

    Args:
        side (`int`): of the crop in pixels.
        mean, std (`Sequence[float]`): of the channels, on a scale of 0 to 1.
        finish (`Callable`, *optional*): from an array of uint8 pixels `(height, width, 3)` and a mask to an item.
    """

    def __init__(self, side: int, mean: Sequence[float], std: Sequence[float], finish: Callable | None = None):
        self.side, self.mean, self.std = side, np.array(mean), np.array(std)
        self.finish = finish or self._normalised

    def __call__(self, image: Image.Image, mask: np.ndarray, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        mask = np.where(mask == 0, VOID, mask - 1)
        width, height = fitted_size(image.size, self.side * rng.uniform(0.5, 2.0))
        pixels = np.array(image.resize((width, height), Image.Resampling.BILINEAR))
        mask = nearest_crop(mask, (width, height), (0, 0, width, height))
        across, down = min(width, self.side), min(height, self.side)
        for _ in range(11):
            left, top = rng.integers(width - across + 1), rng.integers(height - down + 1)
            cut = mask[top : top + down, left : left + across]
            values, counts = np.unique(cut[cut != VOID], return_counts=True)
            if len(values) and counts.max() < 0.75 * counts.sum():
                break
        pixels = pixels[top : top + down, left : left + across]
        if rng.random() < 0.5:
            pixels, cut = pixels[:, ::-1], cut[:, ::-1]
        item = self.finish(_distorted(pixels, rng), cut)
        below, beside = self.side - down, self.side - across
        item["pixel_values"] = np.pad(item["pixel_values"], ((0, 0), (0, below), (0, beside)))
        item["labels"] = np.pad(item["labels"], ((0, below), (0, beside)), constant_values=VOID)
        return {name: torch.from_numpy(array) for name, array in item.items()}

    def _normalised(self, pixels: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
        scaled = (pixels / 255.0 - self.mean) / self.std
        return {"pixel_values": scaled.transpose(2, 0, 1).astype(np.float32), "labels": mask.astype(np.int64)}


def processor_recipe(side: int, mean: Sequence[float], std: Sequence[float]) -> PlainRecipe:
    """The same with scaling, normalising and int64 labels by transformers' image processor."""
    try:
        import torchvision  # noqa: F401
        from transformers import SegformerImageProcessor as Processor
    except ImportError:
        from transformers.models.segformer.image_processing_pil_segformer import (
            SegformerImageProcessorPil as Processor,
        )
    processor = Processor(do_resize=False, image_mean=list(mean), image_std=list(std))

    def finish(pixels: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
        features = processor(Image.fromarray(pixels), segmentation_maps=Image.fromarray(mask), return_tensors="np")
        return {"pixel_values": features["pixel_values"][0], "labels": features["labels"][0]}

    return PlainRecipe(side, mean, std, finish)


def plain_collate(items: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}


def _distorted(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """mmsegmentation's changes with Pillow's HSV, each on float pixels and rounded to 8 bits."""
    if rng.random() < 0.5:
        pixels = _rounded(pixels.astype(np.float32) + rng.uniform(-32, 32))
    contrast = rng.uniform(0.5, 1.5) if rng.random() < 0.5 else None
    contrast_first = rng.random() < 0.5
    if contrast is not None and contrast_first:
        pixels = _rounded(pixels.astype(np.float32) * contrast)
    if rng.random() < 0.5:
        hsv = np.array(Image.fromarray(pixels).convert("HSV"))
        hsv[..., 1] = _rounded(hsv[..., 1].astype(np.float32) * rng.uniform(0.5, 1.5))
        pixels = np.array(Image.fromarray(hsv, mode="HSV").convert("RGB"))
    if rng.random() < 0.5:
        hsv = np.array(Image.fromarray(pixels).convert("HSV"))
        hsv[..., 0] = (hsv[..., 0].astype(int) + round(256 * rng.uniform(-18, 18) / 180)) % 256
        pixels = np.array(Image.fromarray(hsv, mode="HSV").convert("RGB"))
    if contrast is not None and not contrast_first:
        pixels = _rounded(pixels.astype(np.float32) * contrast)
    return pixels


def _rounded(levels: np.ndarray) -> np.ndarray:
    return levels.round().clip(0, 255).astype(np.uint8)
