"""A protocol with its settings: what it gives the model of an image, and what it makes of the logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from transformers.utils import logging

from lrsegformer.data.transforms import input_pixels
from lrsegformer.evaluation.prediction import predict_classes, predict_pixels
from lrsegformer.evaluation.protocols import SCALES, multi_scale_flip, slide, whole
from lrsegformer.inference.arguments import check_protocol, window_and_stride

logger = logging.get_logger(__name__)


class Protocol(NamedTuple):
    """
    How a model sees an image; see [`lrsegformer.evaluation.protocols`].

    Attributes:
        name (`str`): of `choices.PROTOCOLS`.
        window, stride (`int`): of `slide`, in pixels of the input.
    """

    name: str = "whole"
    window: int = 0
    stride: int = 0

    @classmethod
    def of(cls, name: str, window: int | None = None, stride: int | None = None) -> Protocol:
        """The protocol of that name, with its defaults; raises `InputError` for what makes none."""
        check_protocol(name, window, stride)
        return cls(name, *window_and_stride(window, stride)) if name == "slide" else cls(name)

    def inputs(self, processor: Any, image: Image.Image) -> list[Tensor]:
        """What the model is given of an image: `(3, height, width)` each, of several sizes under multi_scale_flip."""
        pixels = input_pixels(processor, image)
        if self.name != "multi_scale_flip":
            return [pixels]
        sizes = [tuple(round(scale * side) for side in pixels.shape[-2:]) for scale in SCALES]
        return [
            pixels if scale == 1 else input_pixels(processor, image, size)
            for scale, size in zip(SCALES, sizes, strict=True)
        ]

    def logits(self, logits_of: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Maps of logits of a batch of such inputs."""
        if self.name == "multi_scale_flip":
            return multi_scale_flip(logits_of, inputs)
        if self.name == "slide":
            return slide(logits_of, inputs[0], self.window, self.stride)
        return whole(logits_of, inputs[0])


def classes_of(maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Classes `(batch, *size)` of a protocol's maps."""
    return predict_classes(maps[0], size) if len(maps) == 1 else predict_pixels(maps, size).classes


def warn_of_places(model: torch.nn.Module, protocol: Protocol) -> None:
    """A line where windows are taken for whole images by a model that has learned where things are in these."""
    if protocol.name == "slide" and getattr(model.config, "certified_position_grid", None):
        logger.warning(
            "--protocol slide: the model has learned vectors for places of the whole image (position grid), and each "
            "window is taken for a whole image; expect wrong classes."
        )
