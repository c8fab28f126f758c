"""A model that takes pixels in [0, 1]: the normalisation is part of what is attacked."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lrsegformer.data.processor import normalisation
from lrsegformer.errors import InputError
from lrsegformer.evaluation.prediction import largest_class, predict_classes
from lrsegformer.models.task import task_of


class PixelModel(nn.Module):
    """
    A SegFormer, ours or stock, of either task, as a function of images in [0, 1].

    The model is made ready for attacks: set to eval mode, merged where it has `merge()` (the constrained head is
    multiplied out once, not in every pass), and its parameters no longer require gradients.

    Args:
        model (`torch.nn.Module`): `(LR)SegformerForSemanticSegmentation` or `(LR)SegformerForImageClassification`.
        processor (image processor): gives `image_mean` and `image_std`, and `do_normalize`.

    Attributes:
        task (`str`): `"segmentation"` or `"classification"`.
        num_labels (`int`): number of classes.

    Raises:
        [`~lrsegformer.errors.InputError`]: the processor does not scale pixels to [0, 1], or the model is another one.
    """

    def __init__(self, model: nn.Module, processor: Any):
        super().__init__()
        if not processor.do_rescale or abs(processor.rescale_factor * 255 - 1) > 1e-6:
            raise InputError(
                f"the processor has do_rescale={processor.do_rescale} and rescale_factor={processor.rescale_factor}: "
                "attacks need pixels in [0, 1], so set do_rescale to true and rescale_factor to 1/255."
            )
        self.model = model.eval().requires_grad_(False)
        if hasattr(model, "merge"):
            model.merge()
        self.task = task_of(model)
        self.num_labels = int(model.config.num_labels)
        mean, std = normalisation(processor)
        place = {"dtype": torch.float32, "device": next(model.parameters()).device}
        self.register_buffer("mean", torch.tensor(mean, **place)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std, **place)[:, None, None], persistent=False)

    def _apply(self, *args: Any, **kwargs: Any) -> PixelModel:
        super()._apply(*args, **kwargs)
        # A cast or a move to a device ends what merge began.
        if hasattr(self.model, "merge"):
            self.model.merge()
        return self

    def normalise(self, images: Tensor) -> Tensor:
        """What the processor does after scaling to [0, 1]: `(images - mean) / std`, channel by channel."""
        return (images - self.mean) / self.std

    def features_logits(self, images: Tensor) -> Tensor:
        """
        Logits at the resolution of the finest features, differentiable in the images.

        Args:
            images (`torch.Tensor` of shape `(batch, 3, height, width)`): float32 in [0, 1].

        Returns:
            `torch.Tensor`: `(batch, num_labels)` for classification, `(batch, num_labels, height / 4, width / 4)` for
            segmentation.
        """
        return self.model(pixel_values=self.normalise(images)).logits

    def forward(self, images: Tensor) -> Tensor:
        """See [`features_logits`]."""
        return self.features_logits(images)

    @torch.no_grad()
    def predict(self, images: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """
        The classes of images `(batch, 3, height, width)` in [0, 1].

        Args:
            images (`torch.Tensor`): as for [`features_logits`].
            size (`tuple[int, int]`, *optional*): height and width of the labels, for segmentation; by default those of
                the images.

        Returns:
            `torch.Tensor`: `(batch,)` for classification, `(batch, *size)` for segmentation, any integer dtype.

        Raises:
            [`~lrsegformer.errors.NotFiniteError`]: the logits hold nan or infinity.
        """
        logits = self.features_logits(images)
        if self.task == "classification":
            return largest_class(logits)
        return predict_classes(logits, tuple(images.shape[-2:]) if size is None else size)

    def train(self, mode: bool = True) -> PixelModel:
        """Attacks see the model in eval mode, and merged: training mode is refused."""
        if mode:
            raise InputError("a PixelModel is for attacks and stays in eval mode; train the model that it wraps.")
        return super().train(mode)
