"""
Augmentation, by SegFormer's published recipe with Pillow's resampling, and evaluation by the saved image processor.

Every transform is called as `transform(image, target, rng)` with an upright RGB image, an encoded mask
(`(height, width)`, uint8 or int16) or a class index, and a `numpy.random.Generator`. It returns a dict with
`pixel_values` (float32, `(3, height, width)`, normalised) and `labels`. All randomness comes from `rng`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from lrsegformer.data.arguments import SMALLEST_INPUT
from lrsegformer.data.colours import colour_jitter, colour_planes, photometric_distortion
from lrsegformer.data.processor import LONG_SIDE_LIMIT
from lrsegformer.errors import InputError

_BILINEAR = Image.Resampling.BILINEAR
_CROP_TRIES = 10
_LARGEST_CLASS_SHARE = 0.75


class SegmentationTrainTransform:
    """
    Random scale, crop, flip and photometric distortion; image and mask in step.

    The image is fitted to a short side of `base_size` (long side at most four times that) times a random scale. A crop
    in which one class holds 75 % or more of the valid pixels is drawn again, up to ten times. Images smaller than the
    crop are padded at the right and bottom: the image with the mean colour, the mask with `ignore_index`.

    Args:
        image_size (`int`): side of the crop in pixels.
        mean, std (`Sequence[float]`): of the channels, on a scale of 0 to 1.
        scale_range (`tuple[float, float]`, defaults to `(0.5, 2.0)`): of the random scale.
        base_size (`int`, *optional*): short side at scale 1. Default: `image_size`.
        flip_probability (`float`, defaults to 0.5): 0 where left and right matter.
        ignore_index (`int`, defaults to 255): label of pixels that never count.
        whole_images (`bool`, defaults to `False`): no crop and no padding; `image_size` is then not looked at.
        colour_distortion (`float`, defaults to 1.0): share of the images that get the photometric distortion.
    """

    def __init__(
        self,
        image_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        scale_range: tuple[float, float] = (0.5, 2.0),
        base_size: int | None = None,
        flip_probability: float = 0.5,
        ignore_index: int = 255,
        whole_images: bool = False,
        colour_distortion: float = 1.0,
    ):
        self.image_size = image_size
        self.whole_images = whole_images
        self.colour_distortion = colour_distortion
        self.normalise = Normalise(mean, std)
        self.scale_range = scale_range
        self.base_size = base_size or image_size
        self.flip_probability = flip_probability
        self.ignore_index = ignore_index

    def __call__(self, image: Image.Image, target: np.ndarray, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        width, height = fitted_size(image.size, self.base_size * rng.uniform(*self.scale_range))
        longest = max(width, height) if self.whole_images else self.image_size
        crop_width, crop_height = min(width, longest), min(height, longest)
        for _ in range(1 + _CROP_TRIES):
            left, top = rng.integers(width - crop_width + 1), rng.integers(height - crop_height + 1)
            labels = nearest_crop(target, (width, height), (left, top, crop_width, crop_height))
            if self.whole_images or self._is_varied(labels):
                break
        # Only the crop is resampled: the box is the crop's outline in the coordinates of the original image.
        across, down = image.width / width, image.height / height
        box = (left * across, top * down, (left + crop_width) * across, (top + crop_height) * down)
        image = image.resize((crop_width, crop_height), _BILINEAR, box=box)
        if rng.random() < self.flip_probability:
            image, labels = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), labels[:, ::-1]
        planes = colour_planes(image)
        # At a share of 1 no number is drawn.
        if self.colour_distortion == 1 or rng.random() < self.colour_distortion:
            planes = photometric_distortion(planes, rng)
        return self._padded(planes, labels)

    def _is_varied(self, labels: np.ndarray) -> bool:
        valid = labels if labels.dtype == np.uint8 else labels[labels != self.ignore_index]
        # torch counts uint8 as it is, where numpy widens every pixel to 64 bits first.
        counts = torch.bincount(torch.from_numpy(valid).flatten(), minlength=256).numpy()
        if labels.dtype == np.uint8:
            counts[self.ignore_index] = 0
        return bool(counts.max() < _LARGEST_CLASS_SHARE * counts.sum())

    def _padded(self, planes: np.ndarray, labels: np.ndarray) -> dict[str, torch.Tensor]:
        height, width = labels.shape
        if self.whole_images or (height, width) == (self.image_size, self.image_size):
            pixels, labels = self.normalise.planes(planes), np.ascontiguousarray(labels)
        else:
            # 0 is the mean colour after normalising.
            pixels = np.zeros((3, self.image_size, self.image_size), dtype=np.float32)
            self.normalise.planes(planes, out=pixels[:, :height, :width])
            padded = np.full((self.image_size, self.image_size), self.ignore_index, dtype=labels.dtype)
            padded[:height, :width] = labels
            labels = padded
        return {"pixel_values": torch.from_numpy(pixels), "labels": torch.from_numpy(labels)}


class ClassificationTrainTransform:
    """
    A crop of random area and aspect ratio (3:4 to 4:3) resized to a square, flip, and light jitter of brightness,
    contrast and saturation (up to 20 % each).

    Args:
        image_size (`int`): side of the input in pixels.
        mean, std (`Sequence[float]`): of the channels, on a scale of 0 to 1.
        crop_area_min (`float`, defaults to 0.08): smallest share of the image's area that a crop keeps.
        flip_probability (`float`, defaults to 0.5): 0 where left and right matter.
    """

    def __init__(
        self,
        image_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        crop_area_min: float = 0.08,
        flip_probability: float = 0.5,
    ):
        self.image_size = image_size
        self.normalise = Normalise(mean, std)
        self.crop_area_min = crop_area_min
        self.flip_probability = flip_probability

    def __call__(self, image: Image.Image, target: int, rng: np.random.Generator) -> dict[str, torch.Tensor | int]:
        image = image.resize((self.image_size, self.image_size), _BILINEAR, box=self._box(image.size, rng))
        if rng.random() < self.flip_probability:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return {"pixel_values": torch.from_numpy(self.normalise(colour_jitter(image, rng))), "labels": int(target)}

    def _box(self, size: tuple[int, int], rng: np.random.Generator) -> tuple[float, float, float, float]:
        width, height = size
        for _ in range(_CROP_TRIES):
            area = width * height * rng.uniform(self.crop_area_min, 1.0)
            ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
            crop_width, crop_height = np.sqrt(area * ratio), np.sqrt(area / ratio)
            if crop_width <= width and crop_height <= height:
                break
        else:  # an extremely long image: the largest crop in its middle with a permitted ratio
            crop_width, crop_height = min(width, height * 4 / 3), min(height, width * 4 / 3)
            left, top = (width - crop_width) / 2, (height - crop_height) / 2
            return (left, top, left + crop_width, top + crop_height)
        left, top = rng.uniform(0, width - crop_width), rng.uniform(0, height - crop_height)
        # Rounding may carry the far edge past the image by an ulp, which Pillow refuses.
        return (left, top, min(width, left + crop_width), min(height, top + crop_height))


class EvaluationTransform:
    """
    The input that the saved image processor makes of an image, and its label, for either task.

    Masks keep the annotation's size, or with `resize_labels` take that of the input.

    Args:
        processor (image processor): of the model that is scored; see [`lrsegformer.data.processor`].
        resize_labels (`bool`, defaults to `False`): for segmentation.

    Raises:
        [`~lrsegformer.errors.InputError`]: on a call, for an image so long that SegFormer cannot take what the
            processor leaves of it.
    """

    def __init__(self, processor: Any, resize_labels: bool = False):
        self.processor = processor
        self.resize_labels = resize_labels

    def __call__(
        self, image: Image.Image, target: np.ndarray | int, rng: np.random.Generator
    ) -> dict[str, torch.Tensor | int]:
        pixels = input_pixels(self.processor, image)
        height, width = pixels.shape[-2:]
        if not isinstance(target, np.ndarray):
            return {"pixel_values": pixels, "labels": int(target)}
        if self.resize_labels:
            target = nearest_crop(target, (width, height), (0, 0, width, height))
        return {"pixel_values": pixels, "labels": torch.from_numpy(np.array(target))}


def input_pixels(processor: Any, image: Image.Image, size: tuple[int, int] | None = None) -> torch.Tensor:
    """
    The input `(3, height, width)` that a saved image processor makes of an upright RGB image.

    Args:
        processor (image processor): of the model; see [`lrsegformer.data.processor`].
        size (`tuple[int, int]`, *optional*): height and width in place of the processor's, of one that does not cut.

    Raises:
        [`~lrsegformer.errors.InputError`]: for an image so long that SegFormer cannot take what is left of it.
    """
    resized = {} if size is None else {"do_resize": True, "size": {"height": size[0], "width": size[1]}}
    try:
        pixels = processor(images=image, return_tensors="pt", **resized)["pixel_values"][0]
    except ValueError as error:
        raise InputError(
            f"an image of {image.width}x{image.height} cannot be made an input ({error}): cut it, or leave it out"
        ) from error
    height, width = pixels.shape[-2:]
    if min(height, width) < SMALLEST_INPUT:
        raise InputError(
            f"an image of {image.width}x{image.height} makes an input of {width}x{height}, and SegFormer takes no "
            f"side below {SMALLEST_INPUT} pixels: cut the image, leave it out, or give a larger --eval_size"
        )
    return pixels


class Normalise:
    """Turns an RGB image into float32 `(3, height, width)`, `(value / 255 - mean) / std` for each channel."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        self.factor = (1 / (255 * np.asarray(std, dtype=np.float64))).astype(np.float32)[:, None, None]
        self.shift = (np.asarray(mean) / np.asarray(std)).astype(np.float32)[:, None, None]

    def __call__(self, image: Image.Image) -> np.ndarray:
        return self.planes(colour_planes(image))

    def planes(self, planes: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """The same for an image that is uint8 `(3, height, width)` already; written to `out` where it is given."""
        pixels = np.multiply(planes, self.factor, out=out)
        pixels -= self.shift
        return pixels


def fitted_size(size: tuple[int, int], short_side: float) -> tuple[int, int]:
    """Returns (width, height) scaled to this short side, or less where the long side would pass four times it."""
    factor = min(short_side / min(size), LONG_SIDE_LIMIT * short_side / max(size))
    return max(1, int(size[0] * factor + 0.5)), max(1, int(size[1] * factor + 0.5))


def nearest_crop(labels: np.ndarray, size: tuple[int, int], crop: tuple[int, int, int, int]) -> np.ndarray:
    """
    Returns the crop `(left, top, width, height)` of the labels resized to `size` (width, height), without resizing the
    rest. Each pixel takes the label under its centre.
    """
    left, top, crop_width, crop_height = crop
    # (index + 1/2) * old / new, rounded down, in integers: no doubt about centres that fall between two labels.
    rows = (2 * np.arange(top, top + crop_height) + 1) * labels.shape[0] // (2 * size[1])
    columns = (2 * np.arange(left, left + crop_width) + 1) * labels.shape[1] // (2 * size[0])
    return labels.take(rows, axis=0).take(columns, axis=1)
