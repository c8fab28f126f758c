"""A saved model as a function of images."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from lrsegformer.attacks.pixel_model import PixelModel
from lrsegformer.certification.margins import CertifiedPixels, certified_pixels, certified_radii
from lrsegformer.data.examples import open_image
from lrsegformer.data.files.pixels import ImageReading
from lrsegformer.errors import InputError
from lrsegformer.evaluation.prediction import largest_class, predict_pixels
from lrsegformer.inference.prediction import ClassPrediction, MapPrediction
from lrsegformer.inference.protocol import Protocol, classes_of, warn_of_places
from lrsegformer.models.task import task_of
from lrsegformer.robustness.bench.checkpoints import find_checkpoints, load_checkpoint, scoring_processor
from lrsegformer.robustness.certificates.proven import NETWORK, Proof, proof_of

# What messages call the model of a command line.
OPTION = "MODEL"


class Predictor:
    """
    A SegFormer with a head, ours or stock, of either task, as a function of images.

    An image becomes an input by the image processor that is saved with the model, and predictions of segmentation come
    at the image's own size, as the scores of a run are made.

    Args:
        model (`torch.nn.Module`): is set to eval mode and, where it is ours, merged; its parameters no longer require
            gradients.
        processor (image processor): of the model.
        protocol (`str`, *optional*, defaults to `"whole"`): `"whole"`, `"slide"` or `"multi_scale_flip"`; see
            [`lrsegformer.evaluation.protocols`]. Of classification `"whole"` alone.
        window, stride (`int`, *optional*): of `"slide"`, in pixels of the input. Default: 512, and two thirds of it.
        confidence (`bool`, *optional*, defaults to `False`): also maps of the probability of the predicted class.
        certified_radius (`bool`, *optional*, defaults to `False`): also how far each prediction is certified.
        reading ([`~lrsegformer.data.ImageReading`], *optional*): of image files, where the processor leaves it open.

    Raises:
        [`~lrsegformer.errors.InputError`]: no SegFormer with a head; a protocol, or maps of confidence, of
            classification; a certified radius of a model that has no certificate from the pixels on.

    Example:

    ```py
    >>> predictor = Predictor.from_pretrained("runs/quickstart")
    >>> prediction = predictor("photo.jpg")
    >>> prediction.overlay().save("prediction.png")
    ```
    """

    def __init__(
        self,
        model: torch.nn.Module,
        processor: Any,
        protocol: str = "whole",
        window: int | None = None,
        stride: int | None = None,
        confidence: bool = False,
        certified_radius: bool = False,
        reading: ImageReading | None = None,
    ):
        self.task = task_of(model)
        self.protocol = Protocol.of(protocol, window, stride)
        if self.task == "classification" and (protocol != "whole" or confidence):
            option = f"--protocol {protocol}" if protocol != "whole" else "--confidence"
            raise InputError(
                f"{option} is for segmentation, and the model classifies images (its probabilities are always given): "
                "leave it out"
            )
        warn_of_places(model, self.protocol)
        self.model = model.eval().requires_grad_(False)
        if hasattr(model, "merge"):
            model.merge()
        self.processor, self.confidence = processor, confidence
        self.class_names = tuple(model.config.id2label[index] for index in range(model.config.num_labels))
        saved, own = ImageReading.of_processor(processor), reading or ImageReading()
        # What the model was trained with wins: other values would be other images.
        self.reading = ImageReading(
            *(said if said is not None else given for said, given in zip(_fields(saved), _fields(own), strict=True))
        )
        self.proof = self._certificate() if certified_radius else None

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | os.PathLike, device: torch.device | str | None = None, **options: Any
    ) -> Predictor:
        """
        Load a checkpoint: a folder or a Hub id, ours or stock SegFormer.

        Args:
            name_or_path (`str` or `os.PathLike`): with `config.json`, weights and `preprocessor_config.json`.
            device (`torch.device` or `str`, *optional*): Default: the GPU where there is one.
            options: see the class.

        Raises:
            [`~lrsegformer.errors.InputError`]: it cannot be reached or read, or lacks a part.
        """
        (checkpoint,) = find_checkpoints([os.fspath(name_or_path)], OPTION)
        processor = scoring_processor(checkpoint, None)
        if device is None:
            device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
        return cls(load_checkpoint(checkpoint).to(device), processor, **options)

    def __call__(
        self, images: str | Path | Image.Image | Iterable[str | Path | Image.Image]
    ) -> MapPrediction | ClassPrediction | list[MapPrediction | ClassPrediction]:
        """
        Predict one image, or several, one after the other.

        Args:
            images (`str`, `Path` or `PIL.Image.Image`, or several of them): files are read as training reads them,
                upright; images are taken as they are, in RGB.

        Returns:
            [`MapPrediction`] or [`ClassPrediction`]; a list of them for several images.

        Raises:
            [`~lrsegformer.errors.InputError`]: a file cannot be read.
            [`~lrsegformer.errors.NotFiniteError`]: the logits hold nan or infinity.
        """
        if isinstance(images, str | Path | Image.Image):
            image = self.open(images)
            return self.predict([image], [one[None] for one in self.protocol.inputs(self.processor, image)])[0]
        return [self(image) for image in images]

    def open(self, image: str | Path | Image.Image) -> Image.Image:
        """The upright RGB image of a file; an image in RGB."""
        return image.convert("RGB") if isinstance(image, Image.Image) else open_image(image, reading=self.reading)

    def logits_of(self, pixels: Tensor) -> Tensor:
        """One pass: logits of inputs `(batch, 3, height, width)`, which may lie on another device."""
        return self.model(pixel_values=pixels.to(device=self.model.device, dtype=self.model.dtype)).logits

    @torch.no_grad()
    def predict(
        self, images: Sequence[Image.Image], inputs: Sequence[Tensor]
    ) -> list[MapPrediction] | list[ClassPrediction]:
        """
        The predictions of a batch.

        Args:
            images (sequence of `PIL.Image.Image`): upright, in RGB.
            inputs (sequence of `torch.Tensor`): what the model is given of them, `(batch, 3, height, width)` for each
                size of the protocol.
        """
        maps = self.protocol.logits(self.logits_of, inputs)
        input_size = tuple(inputs[0].shape[-2:])
        found = []
        for row, image in enumerate(images):
            own = [one[row : row + 1] for one in maps]
            found.append((self._map if self.task == "segmentation" else self._class)(image, own, input_size))
        return found

    def _map(self, image: Image.Image, maps: Sequence[Tensor], input_size: tuple[int, int]) -> MapPrediction:
        size = image.size[::-1]
        confidence = radius = None
        if self.confidence:
            classes, confidence = predict_pixels(maps, size)
            confidence = confidence[0].cpu().numpy()
        else:
            classes = classes_of(maps, size)
        if self.proof is not None:
            found = self._certified(maps[0], input_size, size)
            classes, radius = found.classes, found.distances[0].cpu().numpy()
        return MapPrediction(image, self.class_names, classes[0].cpu().numpy(), confidence, radius)

    def _class(self, image: Image.Image, maps: Sequence[Tensor], input_size: tuple[int, int]) -> ClassPrediction:
        logits, radius = maps[0].float(), None
        index = int(largest_class(logits))
        if self.proof is not None:
            found = self._certified(logits, input_size, None)
            index, radius = int(found.classes), float(found.distances)
        probabilities = logits.softmax(dim=1)[0].cpu().numpy()
        return ClassPrediction(image, self.class_names, probabilities, index, radius)

    def _certified(self, logits: Tensor, input_size: tuple[int, int], size: tuple[int, int] | None) -> CertifiedPixels:
        """Classes, and in place of distances the radii in l2 of the input, rounded down."""
        found = certified_pixels(logits, self._inverse, size)
        logits_size = tuple(logits.shape[2:]) or None
        constants = self.proof.constants("l2", input_size, logits_size, size)
        return found._replace(distances=certified_radii(found.distances, constants.per_pixel))

    @cached_property
    def _inverse(self) -> Tensor:
        return self.proof.inverse.to(self.model.device)

    def _certificate(self) -> Proof:
        """What radii stand on; raises `InputError` where there is nothing."""
        if self.protocol.name != "whole":
            raise InputError(
                f"--certified_radius with --protocol {self.protocol.name}: the certificate is of one pass over the "
                "whole image; leave one of them out"
            )
        proof, note = proof_of(PixelModel(self.model, self.processor))
        if proof is None or proof.reach != NETWORK:
            raise InputError(
                f"--certified_radius: {note.rstrip('.')}. Leave the option out, or train with --scope certified"
            )
        return proof


def _fields(reading: ImageReading) -> tuple:
    return reading.value_range, reading.bands, reading.page, reading.max_pixels
