"""Certified checkpoints and their images, for the benchmarks that put certificates to the test."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from certificate_judge import constant_of
from torch import Tensor

from lrsegformer.attacks.pixel_model import PixelModel
from lrsegformer.errors import InputError
from lrsegformer.robustness.bench.arguments import BenchDataArguments, RobustnessArguments
from lrsegformer.robustness.bench.checkpoints import find_checkpoints, load_checkpoint
from lrsegformer.robustness.bench.planning import prepare
from lrsegformer.robustness.certificates.proven import normalisation_factor
from lrsegformer.robustness.subset import Batch, Subset

IMAGES = 4


@dataclass(frozen=True)
class CertifiedRun:
    """
    A certified model with what its certificates rest on, and the images that it is tried on.

    Attributes:
        label (`str`): what tables call it.
        pixels ([`PixelModel`]): the model of images in [0, 1].
        rows (`torch.Tensor` of shape `(num_labels, width)`): of its classifier.
        images ([`Subset`]): prepared by the model's own processor.
    """

    label: str
    pixels: PixelModel
    rows: Tensor
    images: Subset

    def constant(self, norm: str, image: Tensor) -> float:
        """Of the features, for a perturbation of length 1 of an image of this size."""
        return normalisation_factor(self.pixels) * _constant(self.pixels.model, norm, *image.shape[-3:])

    def singly(self) -> Iterator[Batch]:
        """The images, one at a time, on the model's device."""
        for batch in self.images.batches(1):
            yield batch.to(self.rows.device)


def certified_runs(models: list[str], data_arguments: BenchDataArguments, seed: int) -> Iterator[CertifiedRun]:
    """
    Load checkpoints of scope `certified` one after the other.

    Raises:
        [`~lrsegformer.errors.InputError`]: one has no constant from the pixels on, or cannot be read or scored on the
            data.
    """
    if data_arguments.max_eval_samples is None:
        data_arguments.max_eval_samples = IMAGES
    checkpoints = find_checkpoints(models)
    prepared = prepare(checkpoints, RobustnessArguments(models, seed=seed), data_arguments)
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    for checkpoint in checkpoints:
        model: Any = load_checkpoint(checkpoint).to(device)
        if not hasattr(model, "network_constants"):
            raise InputError(f"--models {checkpoint.name} is a stock model: give one of --scope certified")
        rows = model.classifier_rows().detach()
        ((_, data), *_) = prepared.tasks_of(checkpoint)
        pixels = PixelModel(model, prepared.processors[checkpoint.label])
        yield CertifiedRun(checkpoint.label, pixels, rows, data.subset)


@lru_cache(maxsize=64)
@torch.no_grad()
def _constant(model: Any, norm: str, channels: int, height: int, width: int) -> float:
    return constant_of(model.network_constants(height, width), norm, channels)
