"""What an evaluation of the Trainer adds up: one confusion matrix and one mean loss for the data set."""

from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import recursively_apply
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


class RunningLoss:
    """
    The mean task loss of a data set, every label that counts once, however it is split into batches and processes.

    The Trainer of transformers takes the mean of the batches' means, in which the labels of a batch with few of them
    weigh more. Sums stay on the device, in float64.

    Args:
        accelerator (`Accelerator`): of the Trainer; knows the processes, and which batch is the last.
    """

    def __init__(self, accelerator: Accelerator):
        self._accelerator = accelerator
        self._sums = torch.zeros(2, dtype=torch.float64, device=accelerator.device)
        self._penalty: torch.Tensor | None = None
        self._counts = True

    def begin_batch(self, rows: int) -> int:
        """
        How many samples of this process's next batch count, its first ones; of a batch without any, one is looked at
        all the same, since sharded models need all processes in each forward pass, and counts as nothing.

        To give the processes equal shares, accelerate fills the last batch up with samples that it has handed out
        before. They are at the end of the batch of all processes, where `gather_for_metrics` drops them.
        """
        state = self._accelerator.gradient_state
        counted = rows
        if state.end_of_dataloader and state.remainder > 0:
            counted = min(max(state.remainder - self._accelerator.process_index * rows, 0), rows)
        self._counts = counted > 0
        return max(counted, 1)

    def add(self, task_loss: torch.Tensor, weight: torch.Tensor, penalty: torch.Tensor) -> None:
        """
        Add a batch.

        Args:
            task_loss (`torch.Tensor`): the mean over what counts in the batch.
            weight (`torch.Tensor`): by what that mean was divided.
            penalty (`torch.Tensor`): weighted; the same for every batch.
        """
        if self._counts:
            weight = weight.to(self._sums)
            # Stock models have no loss where no label is valid.
            total = torch.where(weight > 0, task_loss.detach().to(self._sums) * weight, 0)
            self._sums += torch.stack([total, weight])
        self._penalty = penalty.detach()

    def parts(self) -> tuple[float, float]:
        """Task loss (0 where no label counts) and weighted penalty, the same on every process; one reduction."""
        total, weight = self._accelerator.reduce(self._sums, reduction="sum").tolist()
        return total / weight if weight else 0.0, 0.0 if self._penalty is None else self._penalty.item()


def padded_rows(outputs: Any, rows: int) -> Any:
    """Tensors of any nesting with their last sample repeated up to `rows` samples, which gathering needs."""

    def pad(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.ndim or len(tensor) >= rows:
            return tensor
        return torch.cat([tensor, tensor[-1:].expand(rows - len(tensor), *tensor.shape[1:])])

    return recursively_apply(pad, outputs)
