"""Running scores for the Trainer: per-sample counts on the device, one confusion matrix for the data set."""

from typing import Any

import torch
from transformers import EvalPrediction

from lrsegformer.evaluation.prediction import largest_class, predict_classes
from lrsegformer.evaluation.scores import confusion_counts, scores_from_counts
from lrsegformer.models.task import task_of


class RunningScores:
    """
    A `compute_metrics` for `batch_eval_metrics=True` that adds up one confusion matrix.

    Segmentation is scored at the size of the labels: logits are brought to that size, then the class with the largest
    one is taken. Per image a `num_labels x num_labels` table leaves the device. In classification the predicted class
    does.

    Args:
        num_labels (`int`): number of classes.
        task (`str`): `"segmentation"` or `"classification"`.
        ignore_index (`int`, *optional*): label of the pixels that do not count; `None` in classification.
    """

    def __init__(self, num_labels: int, task: str, ignore_index: int | None):
        self.num_labels = num_labels
        self.task = task
        self.ignore_index = ignore_index
        self.reset()

    @classmethod
    def for_model(cls, model: Any) -> "RunningScores":
        task = task_of(model)
        ignore_index = model.config.semantic_loss_ignore_index if task == "segmentation" else None
        return cls(model.config.num_labels, task, ignore_index)

    def reset(self) -> None:
        """Forget what was counted."""
        self.table = torch.zeros(self.num_labels, self.num_labels, dtype=torch.int64)

    def of_batch(self, logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the Trainer gathers, one row a sample: tables (or predicted classes), and indices (or labels)."""
        if self.task == "classification":
            return largest_class(logits), labels
        predictions = predict_classes(logits, labels.shape[-2:])
        tables = [
            confusion_counts(prediction, label, self.num_labels, self.ignore_index)
            for prediction, label in zip(predictions, labels, strict=True)
        ]
        return torch.stack(tables), torch.arange(len(tables), device=labels.device)

    def __call__(self, prediction: EvalPrediction, compute_result: bool = True) -> dict[str, Any]:
        """Add a gathered batch; the scores of everything since [`reset`] once `compute_result` is true."""
        predictions, labels = torch.as_tensor(prediction.predictions), torch.as_tensor(prediction.label_ids)
        if predictions.is_floating_point():  # [`~transformers.Trainer.predict`] hands the logits on, as its user asks.
            predictions, labels = self.of_batch(predictions, labels)
        if self.task == "classification":
            self.table += confusion_counts(predictions, labels, self.num_labels, self.ignore_index).cpu()
        else:
            self.table += predictions.sum(dim=0).cpu()
        return scores_from_counts(self.table, task=self.task) if compute_result else {}
