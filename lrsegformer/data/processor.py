"""
How an image becomes an input: the image processor that is saved with a model is the one definition of it.

Training's evaluation, the robustness bench and whoever loads the model call the same processor, so that a score can be
made again from the saved files. Its classes are stock ones, which plain transformers loads without this package.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any

from PIL import Image
from transformers import AutoImageProcessor, BitImageProcessorPil, SegformerImageProcessorPil
from transformers.image_processing_utils import BaseImageProcessor
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling

from lrsegformer.errors import InputError, reason_of

# A classification image is resized to 256 for a centre crop of 224, and in that proportion at other sizes.
RESIZE_OVER_CROP = 256 / 224
# ADE20K's recipe fits images into 2048 x 512.
LONG_SIDE_LIMIT = 4
_LONG_SIDE = 2048
_NO_MATTER_OF_SIZE = ("image_mean", "image_std", "do_normalize", "do_reduce_labels", "_processor_class")


def build_processor(
    task: str,
    eval_size: int,
    image_mean: Sequence[float],
    image_std: Sequence[float],
    reduce_zero_label: bool = False,
) -> BaseImageProcessor:
    """
    The processor of a fine-tuned model.

    For segmentation it brings the short side to `eval_size` and keeps the proportions; where the long side would pass
    2048 pixels and four times `eval_size`, the larger of these is made the long side instead. Sides are not rounded to
    multiples of 32: SegFormer takes any size from 29 pixels on.
    For classification the short side is brought to 256/224 of `eval_size`, and the centre square of `eval_size` is
    cut, so that images of any shape share a batch.

    Args:
        task (`str`): `"segmentation"` or `"classification"`.
        eval_size (`int`): in pixels.
        image_mean, image_std (`Sequence[float]`): of the channels, on a scale of 0 to 1.
        reduce_zero_label (`bool`, defaults to `False`): whether the data set's masks need `do_reduce_labels`.
    """
    shared: dict[str, Any] = {
        "image_mean": list(image_mean),
        "image_std": list(image_std),
        "resample": PILImageResampling.BILINEAR,
        "do_convert_rgb": True,
    }
    if task == "segmentation":
        return SegformerImageProcessorPil(
            size={"shortest_edge": eval_size, "longest_edge": max(LONG_SIDE_LIMIT * eval_size, _LONG_SIDE)},
            do_reduce_labels=reduce_zero_label,
            **shared,
        )
    # SegFormer's own class never crops, whatever `do_center_crop` says in its file.
    return BitImageProcessorPil(
        size={"shortest_edge": round(eval_size * RESIZE_OVER_CROP)},
        crop_size={"height": eval_size, "width": eval_size},
        **shared,
    )


def load_processor(name_or_path: str, revision: str | None = None) -> BaseImageProcessor:
    """
    The processor saved with a model, of whichever class, on Pillow.

    Where torchvision is installed, transformers would take its resizing, which differs from Pillow's by rounding.

    Raises:
        `OSError`: there is none, or it cannot be reached.
        `ValueError`: its class is unknown.
    """
    return AutoImageProcessor.from_pretrained(name_or_path, revision=revision or "main", backend="pil")


def channel_statistics(name_or_path: str | None, revision: str | None) -> tuple[list[float], list[float]]:
    """
    Mean and deviation of the channels that the checkpoint was trained with; ImageNet's where it has none.

    Raises:
        [`~lrsegformer.errors.InputError`]: its processor cannot be read, or normalises other than three channels.
    """
    imagenet = list(IMAGENET_DEFAULT_MEAN), list(IMAGENET_DEFAULT_STD)
    if name_or_path is None:
        return imagenet
    try:
        processor = SegformerImageProcessorPil.from_pretrained(name_or_path, revision=revision or "main")
        # What its file says of normalising is checked by using it on a blank image; its size is not taken.
        processor(images=Image.new("RGB", (48, 40)), do_resize=False, return_tensors="pt")
        return normalisation(processor)
    except OSError:  # No processor file. A checkpoint that cannot be reached fails when the model is loaded.
        return imagenet
    except Exception as error:
        raise InputError(
            f"The checkpoint {name_or_path} has a preprocessor_config.json that no image passes ({reason_of(error)}): "
            "give the folder of a finished run, or save the model again."
        ) from None


def normalisation(processor: BaseImageProcessor) -> tuple[list[float], list[float]]:
    """Mean and deviation of each channel that a processor normalises with; 0 and 1 where it does not."""
    if not processor.do_normalize:
        return [0.0] * 3, [1.0] * 3
    return list(processor.image_mean), list(processor.image_std)


def without_normalising(processor: BaseImageProcessor) -> BaseImageProcessor:
    """The same processor giving pixels from 0 to 1."""
    plain = copy.deepcopy(processor)
    plain.do_normalize = False
    return plain


def input_definition(processor: BaseImageProcessor) -> str:
    """JSON of all that decides the pixels from 0 to 1: equal for processors that prepare images alike."""
    values = {name: value for name, value in processor.to_dict().items() if name not in _NO_MATTER_OF_SIZE}
    return json.dumps(values, sort_keys=True, default=str)


def input_size(processor: BaseImageProcessor) -> str:
    """The size of the input for people, such as `short side 512 (long side at most 2048)` or `centre 224x224`."""
    resized = _size_text(processor.size) if processor.do_resize else "the image's own size"
    if not getattr(processor, "do_center_crop", None) or isinstance(processor, SegformerImageProcessorPil):
        return resized
    return f"{_size_text(processor.crop_size)} in the middle of {resized}"


def _size_text(size: Any) -> str:
    sides = {name: value for name, value in dict(size).items() if value is not None}
    if "shortest_edge" in sides:
        longest = sides.get("longest_edge")
        return f"short side {sides['shortest_edge']}" + (f" (long side at most {longest})" if longest else "")
    if "height" in sides:
        return f"{sides['width']}x{sides['height']}"
    return ", ".join(f"{name} {value}" for name, value in sides.items())
