"""Confusion counts of class maps, and every score that follows from such a table."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrsegformer.choices import TASKS
from lrsegformer.errors import InputError


def check_label_space(num_labels: int, ignore_index: int | None) -> None:
    """Refuse an ignore label that is a class: those pixels would vanish from the scores without a word."""
    if num_labels < 1:
        raise InputError(f"num_labels is {num_labels}: a confusion matrix needs at least one class.")
    if ignore_index is not None and 0 <= ignore_index < num_labels:
        raise InputError(
            f"ignore_index {ignore_index} is one of the {num_labels} classes, which would never be scored: pass the "
            "value of void pixels, or ignore_index=None where there is none (negative labels are always ignored)."
        )


def confusion_counts(
    predictions: Tensor, references: Tensor, num_labels: int, ignore_index: int | None = 255
) -> Tensor:
    """Count how often each class was predicted for each reference class.

    Args:
        predictions (`torch.Tensor`): predicted classes, any integer dtype and any shape.
        references (`torch.Tensor`): true classes, same shape and device, any integer dtype.
        num_labels (`int`): number of classes.
        ignore_index (`int`, *optional*, defaults to 255):
            Reference value that does not count. Negative references (such as the -100 of padding) never count. What
            was predicted where the reference is ignored makes no difference.

    Returns:
        `torch.Tensor`: int64 counts of shape `(num_labels, num_labels)` on the device of the inputs; row = reference,
        column = prediction.

    Raises:
        [`InputError`]: shapes differ, values are not integers, `ignore_index` is a class, or a value that counts lies
        outside the classes.
    """
    check_label_space(num_labels, ignore_index)
    if predictions.shape != references.shape:
        raise InputError(
            f"predictions of shape {tuple(predictions.shape)} and references of shape {tuple(references.shape)} do "
            "not match: bring the predictions to the size of the references (predict_classes does)."
        )
    predictions, references = _as_integers(predictions, "predictions"), _as_integers(references, "references")

    from_bytes = predictions.dtype == references.dtype == torch.uint8 and num_labels <= 256
    if from_bytes:
        # All 256 x 256 pairs of byte values are counted as they are; ignored and wrong values are then found in the
        # small table, so that no pass over the pixels is spent on them.
        side = 256
        rows, columns = references.flatten().to(torch.int32), predictions.flatten()
    else:
        # One row more for what is ignored, one row and one column more for what is wrong.
        side = num_labels + 2
        rows, columns = references.flatten().long(), predictions.flatten().long()
        ignored = rows < 0 if ignore_index is None else (rows < 0) | (rows == ignore_index)
        rows = torch.where(rows >= num_labels, num_labels + 1, rows).masked_fill(ignored, num_labels)
        columns = torch.where((columns < 0) | (columns >= num_labels), num_labels, columns)
    table = torch.bincount(rows * side + columns, minlength=side * side).view(side, side)

    counts = table[:num_labels, :num_labels]
    num_counted = counts.sum()
    if not from_bytes:
        num_counted += table[num_labels].sum()
    elif ignore_index is not None and 0 <= ignore_index < side:
        num_counted += table[ignore_index].sum()
    if num_counted != references.numel():
        _raise_outside(predictions, references, num_labels, ignore_index)
    return counts.clone()


def _as_integers(values: Tensor, name: str) -> Tensor:
    if values.dtype == torch.bool:
        return values.to(torch.uint8)
    if values.is_floating_point() or values.is_complex():
        raise InputError(f"{name} are {values.dtype}, not class numbers: take the argmax over the classes first.")
    # Torch knows the wider unsigned types by name only: comparisons are missing.
    return values.long() if values.dtype in (torch.uint16, torch.uint32, torch.uint64) else values


def _raise_outside(predictions: Tensor, references: Tensor, num_labels: int, ignore_index: int | None) -> None:
    predictions, references = predictions.long(), references.long()
    counted = references >= 0
    if ignore_index is not None:
        counted &= references != ignore_index
    for name, values in (("references", references[counted]), ("predictions", predictions[counted])):
        outside = values[(values < 0) | (values >= num_labels)]
        if len(outside):
            raise InputError(
                f"{name} hold the value {int(outside[0])}, outside the {num_labels} classes 0..{num_labels - 1} "
                f"(ignored: {ignore_index} and negative references): check num_labels and the zero-label reduction."
            )


def scores_from_counts(counts: Tensor | np.ndarray, task: str = "segmentation") -> dict[str, Any]:
    """Compute every score of a task from one confusion matrix, in float64.

    A class is *present* if it occurs in the references or in the predictions; absent classes do not count in any mean.

    - `per_category_iou`, `per_category_accuracy`: lists in class order, nan where undefined (class absent; for the
      accuracy: class without reference). `mean_iou`, `mean_accuracy`: their means over the classes where they are
      defined. `overall_accuracy`: share of valid pixels that are right. The same numbers as `evaluate`'s mean_iou.
    - `accuracy`: equals `overall_accuracy`. `precision`, `recall`, `f1`: unweighted means over the present classes; a
      present class that is never predicted has precision 0, one that is never the reference has recall 0. The same
      numbers as scikit-learn's `average="macro", zero_division=0`.
    - `matthews_correlation`: the multi-class coefficient; 0 where it is undefined because everything was predicted as
      one class or belongs to one class, except that a perfect prediction scores 1 there as well.

    A perfect prediction scores exactly 1.0 in each of them. Without a single valid pixel or image all are nan.

    Args:
        counts (`torch.Tensor` or `np.ndarray`): integers of shape `(num_labels, num_labels)`, row = reference.
        task (`str`, *optional*, defaults to `"segmentation"`):
            `"segmentation"` for all of the above, `"classification"` for the last two groups.

    Returns:
        `dict`: Python floats, and two lists of floats for segmentation.

    Raises:
        [`InputError`]: `task` is neither of the two.
    """
    if task not in TASKS:
        raise InputError(f"task is {task!r}: choose one of {', '.join(TASKS)}.")
    table = np.asarray(counts.cpu() if isinstance(counts, Tensor) else counts).astype(np.int64)
    correct, of_reference, of_prediction = table.diagonal(), table.sum(axis=1), table.sum(axis=0)
    union = of_reference + of_prediction - correct
    present = union > 0

    overall_accuracy = float(correct.sum() / of_reference.sum()) if present.any() else math.nan
    scores = {
        "accuracy": overall_accuracy,
        "precision": _mean(_ratio(correct, of_prediction, empty=0.0)[present]),
        "recall": _mean(_ratio(correct, of_reference, empty=0.0)[present]),
        "f1": _mean(_ratio(2 * correct, of_reference + of_prediction, empty=0.0)[present]),
        "matthews_correlation": _matthews_correlation(correct, of_reference, of_prediction),
    }
    if task == "classification":
        return scores
    iou = _ratio(correct, union, empty=math.nan)
    class_accuracy = _ratio(correct, of_reference, empty=math.nan)
    return {
        "mean_iou": _mean(iou[present]),
        "mean_accuracy": _mean(class_accuracy[of_reference > 0]),
        "overall_accuracy": overall_accuracy,
        "per_category_iou": iou.tolist(),
        "per_category_accuracy": class_accuracy.tolist(),
        **scores,
    }


def _ratio(numerator: np.ndarray, denominator: np.ndarray, empty: float) -> np.ndarray:
    result = np.full(len(numerator), empty, dtype=np.float64)
    return np.divide(numerator, denominator, out=result, where=denominator > 0)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else math.nan


def _matthews_correlation(correct: np.ndarray, of_reference: np.ndarray, of_prediction: np.ndarray) -> float:
    # Python's integers: products of pixel counts pass 2**63 on a data set of a few thousand images.
    true_counts, predicted_counts = of_reference.tolist(), of_prediction.tolist()
    total, num_correct = sum(true_counts), sum(correct.tolist())
    if total == 0:
        return math.nan
    if num_correct == total:
        return 1.0
    covariance = num_correct * total - sum(t * p for t, p in zip(true_counts, predicted_counts, strict=True))
    true_variance = total**2 - sum(t * t for t in true_counts)
    predicted_variance = total**2 - sum(p * p for p in predicted_counts)
    if true_variance == 0 or predicted_variance == 0:
        return 0.0
    return covariance / (math.sqrt(true_variance) * math.sqrt(predicted_variance))


def without_nan(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become null, as the scores of absent classes do."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return value
