"""How far a confident prediction may be trusted: calibration, and the gap between training and validation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lrsegformer.errors import InputError
from lrsegformer.evaluation.scores import check_label_space
from lrsegformer.kernels.bilinear import BandedUpsampling, full_precision_products


class CalibrationBins:
    """
    The expected calibration error of a data set from three sums a bin: no pixel is kept, however many pass.

    A prediction's confidence is its softmax probability, and bin m of M holds the confidences in `((m - 1)/M, m/M]`
    (Guo et al. 2017, arXiv 1706.04599, equations 2 to 5). For segmentation every valid pixel is one prediction, from
    the bilinearly upsampled logits, which are made a band of rows at a time.

    Args:
        ignore_index (`int`, *optional*): label that does not count; `None` if there is none. Negative ones never do.
        num_bins (`int`, *optional*, defaults to 15): number of bins.

    Attributes:
        sums (`torch.Tensor` of shape `(3, num_bins)`):
            Float64 on the CPU: predictions, sum of their confidences, and how many of them are right.
    """

    def __init__(self, ignore_index: int | None = None, num_bins: int = 15):
        if num_bins < 1:
            raise InputError(f"num_bins is {num_bins}: give at least one bin")
        self.ignore_index, self.num_bins = ignore_index, num_bins
        self.sums = torch.zeros(3, num_bins, dtype=torch.float64)

    @torch.no_grad()
    def add_batch(self, logits: Tensor, labels: Tensor) -> None:
        """
        Count a batch.

        Args:
            logits (`torch.Tensor`):
                `(batch, num_labels)`, or `(batch, num_labels, height, width)` of any resolution.
            labels (`torch.Tensor`): `(batch,)`, or `(batch, label_height, label_width)`; integers on the same device.

        Raises:
            [`~lrsegformer.errors.InputError`]: the shapes do not fit, or a logit is not finite.
        """
        if logits.ndim not in (2, 4) or labels.ndim != logits.ndim - 1 or len(labels) != len(logits):
            raise InputError(
                f"logits of shape {tuple(logits.shape)} and labels of shape {tuple(labels.shape)} do not fit: give "
                "(batch, classes) with (batch,), or (batch, classes, height, width) with (batch, height, width)"
            )
        check_label_space(logits.shape[1], self.ignore_index)
        if logits.ndim == 2:
            return self._count(logits.float(), labels)
        device = logits.device
        sizes = logits.shape[1], logits.shape[2:], labels.shape[1:]
        upsampling = BandedUpsampling(*sizes, torch.float32, device, with_gradient=False)
        with full_precision_products():
            for image, image_labels in zip(logits, labels, strict=True):
                for rows, upsampled in upsampling.bands_of(image):
                    self._count(upsampled, image_labels[rows])

    def add_sums(self, sums: Tensor) -> None:
        """Add the [`sums`] of another process, float64 `(3, num_bins)`."""
        if sums.shape != self.sums.shape:
            raise InputError(f"sums of shape {tuple(sums.shape)}: these bins need {tuple(self.sums.shape)}")
        self.sums += sums.to(self.sums)

    def compute(self) -> dict[str, Any]:
        """
        The scores of all that was counted, as Python numbers; nan without a single prediction.

        Returns:
            `dict`: `expected_calibration_error` (mean over the predictions of |accuracy - confidence| of their bin),
            `overconfidence` (mean confidence minus accuracy), `mean_confidence`, `accuracy`, `num_predictions`, and
            in the order of the bins `bin_counts`, `bin_confidences` and `bin_accuracies` (nan for an empty bin).
        """
        counts, confidences, right = self.sums
        total = float(counts.sum())
        if total == 0:
            scores = dict.fromkeys(
                ("expected_calibration_error", "overconfidence", "mean_confidence", "accuracy"), math.nan
            )
        else:
            mean_confidence, accuracy = float(confidences.sum()) / total, float(right.sum()) / total
            scores = {
                "expected_calibration_error": float((confidences - right).abs().sum()) / total,
                "overconfidence": mean_confidence - accuracy,
                "mean_confidence": mean_confidence,
                "accuracy": accuracy,
            }
        return {
            **scores,
            "num_predictions": int(total),
            "bin_counts": counts.long().tolist(),
            "bin_confidences": (confidences / counts).tolist(),
            "bin_accuracies": (right / counts).tolist(),
        }

    def _count(self, logits: Tensor, labels: Tensor) -> None:
        """Counts logits with the classes along dimension 1."""
        largest, predicted = logits.max(dim=1)
        confidence = (logits - largest.unsqueeze(1)).exp_().sum(dim=1).reciprocal_()
        valid = labels >= 0
        if self.ignore_index is not None:
            valid &= labels != self.ignore_index
        right, confidence = (predicted == labels)[valid], confidence[valid].double()
        if not torch.isfinite(confidence).all():
            raise InputError("the model's logits are not finite, so they have no confidence: check the checkpoint")
        bins = (confidence * self.num_bins).ceil().long().sub_(1).clamp_(0, self.num_bins - 1)
        counted = [torch.bincount(bins, weights, self.num_bins) for weights in (None, confidence, right.double())]
        self.sums += torch.stack([sums.double() for sums in counted]).cpu()


def train_validation_gap(train: Mapping[str, Any], validation: Mapping[str, Any]) -> dict[str, float]:
    """
    The generalisation gap: training score minus validation score, for every number that both have.

    Args:
        train, validation (`Mapping[str, Any]`):
            Scores as [`~lrsegformer.evaluation.scores_from_counts`] gives them, of images that were made ready in the
            same way (no augmentation). Lists and scores that only one has are passed over.
    """
    return {
        name: float(value) - float(validation[name])
        for name, value in train.items()
        if isinstance(value, int | float) and isinstance(validation.get(name), int | float)
    }
