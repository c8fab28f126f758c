"""A streaming confusion matrix behind the interface of `evaluate`'s metrics."""

from __future__ import annotations

import os
from typing import Any

import datasets
import evaluate
import numpy as np
import torch
from torch import Tensor

from lrsegformer.choices import TASKS
from lrsegformer.errors import InputError
from lrsegformer.evaluation.scores import check_label_space, confusion_counts, scores_from_counts

__all__ = ["ConfusionMatrix", "confusion_counts", "scores_from_counts"]

_USAGE = """
Args:
    predictions: predicted class numbers: an array, a tensor, or a list of numbers or of maps of any sizes.
    references: true class numbers, of the same shapes. The ignore index and negative values do not count.
"""


class ConfusionMatrix(evaluate.Metric):
    """Every score of a data set from one table of counts, for semantic segmentation and image classification.

    An `evaluate` metric: `add`, `add_batch`, `compute`, `evaluate.combine` and evaluators take it. Unlike others it is
    neither downloaded nor cached on disk: it keeps `num_labels**2` integers however many images pass. Scores are those
    of the whole data set and do not depend on how it is split into batches; [`scores_from_counts`] defines them.

    References are taken as they are: reducing zero labels is the work of the data set, done once, and there is no
    option to do it here a second time.

    Args:
        num_labels (`int`): number of classes.
        ignore_index (`int`, *optional*, defaults to 255):
            Reference value that does not count; `None` if there is none. It must not be a class: ImageNet, whose class
            255 is a dog, needs `None`. Negative references never count.
        task (`str`, *optional*, defaults to `"segmentation"`): `"segmentation"` or `"classification"`, which scores.

    Attributes:
        counts (`torch.Tensor`): int64 counts on the CPU, row = reference, column = prediction.

    Example:

    ```py
    >>> metric = ConfusionMatrix(num_labels=3)
    >>> metric.add_batch(predictions=[[0, 1], [2, 2]], references=[[0, 1], [255, 2]])
    >>> metric.compute()["mean_iou"]
    1.0
    ```
    """

    def __init__(self, num_labels: int, ignore_index: int | None = 255, task: str = "segmentation"):
        check_label_space(num_labels, ignore_index)
        if task not in TASKS:
            raise InputError(f"task is {task!r}: choose one of {', '.join(TASKS)}.")
        self.num_labels, self.ignore_index, self.task = num_labels, ignore_index, task
        self.reset()
        super().__init__()

    def _info(self) -> evaluate.MetricInfo:
        number = datasets.Value("int64")
        map_of_numbers = datasets.Sequence(datasets.Sequence(number))
        return evaluate.MetricInfo(
            description="Scores of semantic segmentation and image classification from one confusion matrix.",
            citation="",
            inputs_description=_USAGE,
            features=[
                datasets.Features({"predictions": feature, "references": feature})
                for feature in (number, map_of_numbers)
            ],
        )

    def _build_data_dir(self) -> str:
        # The base class creates this folder in its constructor; nothing of ours is ever written to it.
        return os.path.join(self._data_dir_root, self.name)

    def reset(self) -> None:
        """Forget everything that was added."""
        self.counts = torch.zeros((self.num_labels, self.num_labels), dtype=torch.int64)

    def add_counts(self, table: Tensor | np.ndarray) -> None:
        """Add counts that were made elsewhere, as by [`confusion_counts`] or by another process.

        Args:
            table (`torch.Tensor` or `np.ndarray`): integers of shape `(num_labels, num_labels)`, row = reference.

        Raises:
            [`InputError`]: another shape, or not integers.
        """
        table = torch.as_tensor(table)
        if table.shape != self.counts.shape or table.is_floating_point():
            raise InputError(
                f"counts of shape {tuple(table.shape)} and type {table.dtype}: this confusion matrix needs integers "
                f"of shape {tuple(self.counts.shape)}."
            )
        self.counts += table.to(device="cpu", dtype=torch.int64)

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
        """Count a batch.

        All of it is counted or, if any of it is wrong, nothing.
        """
        _refuse_unknown(kwargs)
        if predictions is None or references is None:
            raise InputError("add_batch needs both predictions and references.")
        if isinstance(predictions, Tensor | np.ndarray) != isinstance(references, Tensor | np.ndarray):
            # An array of stacked maps on one side, a list of maps on the other.
            predictions, references = list(predictions), list(references)
        predictions, references = _as_tensors(predictions), _as_tensors(references)
        if len(predictions) != len(references):
            raise InputError(f"{len(predictions)} predictions and {len(references)} references do not match.")
        batch_counts = torch.zeros_like(self.counts)
        for prediction, reference in zip(predictions, references, strict=True):
            prediction, reference = _as_bytes(prediction), _as_bytes(reference.to(prediction.device))
            batch_counts += confusion_counts(prediction, reference, self.num_labels, self.ignore_index).cpu()
        self.counts += batch_counts

    def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
        """Count one example: a class number or a map of them.

        `evaluate.combine` passes the two by their plural names, which are understood as well.
        """
        prediction = kwargs.pop("predictions", None) if prediction is None else prediction
        reference = kwargs.pop("references", None) if reference is None else reference
        _refuse_unknown(kwargs)
        if prediction is None or reference is None:
            raise InputError("add needs both prediction and reference.")
        self.add_batch(predictions=[prediction], references=[reference])

    def compute(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> dict[str, Any]:
        """Score everything added since the last `compute`, and what is given here, then start anew.

        Of the options of `evaluate`'s mean_iou, those that repeat what this metric does anyway are accepted
        (`num_labels` and `ignore_index` of the same value, `reduce_labels=False`).

        Returns:
            `dict`: see [`scores_from_counts`].

        Raises:
            [`InputError`]: an option that would change the scores, such as `reduce_labels=True`.
        """
        self._check_options(kwargs)
        if predictions is not None or references is not None:
            self.add_batch(predictions=predictions, references=references)
        scores = scores_from_counts(self.counts, self.task)
        self.reset()
        return scores

    def _check_options(self, options: dict[str, Any]) -> None:
        expected = {
            "num_labels": self.num_labels,
            "ignore_index": self.ignore_index,
            "reduce_labels": False,
            "nan_to_num": None,
        }
        _refuse_unknown({name: value for name, value in options.items() if name not in expected})
        for name, value in options.items():
            if value != expected[name]:
                raise InputError(
                    f"{name}={value!r} differs from this confusion matrix's {expected[name]!r}: labels are reduced "
                    "once, by the data set, and the label space is fixed when the metric is made."
                )


def _refuse_unknown(options: dict[str, Any]) -> None:
    if options:
        raise InputError(f"ConfusionMatrix does not know {', '.join(options)}: give predictions and references only.")


def _as_tensors(values: Any) -> list[Tensor]:
    """One tensor for an array or a list of numbers, one for each map in a list of maps."""
    if isinstance(values, Tensor | np.ndarray):
        return [_as_tensor(values)]
    values = list(values)
    if not values:
        return []
    if all(np.ndim(value) == 0 for value in values):
        return [_as_tensor([value.item() if isinstance(value, Tensor) else value for value in values])]
    return [_as_tensor(value) for value in values]


def _as_bytes(values: Tensor) -> Tensor:
    """The same values as uint8 where all fit: [`confusion_counts`] counts bytes several times as fast."""
    if values.dtype not in (torch.int16, torch.int32, torch.int64) or not values.numel():
        return values
    smallest, largest = values.aminmax()
    return values.to(torch.uint8) if smallest >= 0 and largest <= 255 else values


def _as_tensor(values: Any) -> Tensor:
    if isinstance(values, Tensor):
        return values
    array = np.asarray(values)
    if array.dtype.kind not in "biu":
        raise InputError(f"class numbers of type {array.dtype}: predictions and references must be integers.")
    if array.dtype.kind == "u" and array.itemsize > 1:
        array = array.astype(np.int64)
    return torch.from_numpy(np.ascontiguousarray(array) if array.flags.writeable else array.copy())
