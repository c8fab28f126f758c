"""Sums of a loss's parts between two lines of the log."""

from collections.abc import Callable

import torch


class LossParts:
    """
    The parts of the training loss, summed on their device over the steps since the last line of the log.

    What a checkpoint takes along of them ([`state`]) gives the next line of a run that goes on from it.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self._task = torch.zeros((), dtype=torch.float64)
        self._penalty = torch.zeros((), dtype=torch.float64)
        self._consistency = torch.zeros((), dtype=torch.float64)
        self._void_batches = torch.zeros((), dtype=torch.int64)
        self.steps = 0

    def add(self, task_loss: torch.Tensor, penalty: torch.Tensor, consistency: torch.Tensor | None = None) -> None:
        """What a forward pass contributes to its step."""
        if consistency is not None:
            self._consistency = self._consistency.to(task_loss.device) + consistency.detach()
        self._task = self._task.to(task_loss.device) + task_loss.detach()
        self._penalty = self._penalty.to(task_loss.device) + penalty.detach()

    def see_valid(self, labels: torch.Tensor) -> None:
        """How many labels of a batch count, of which none is worth a warning."""
        self._void_batches = self._void_batches.to(labels.device) + (labels == 0)

    def means(
        self, gather: Callable[[torch.Tensor], torch.Tensor], device: torch.device
    ) -> tuple[float, float, float, bool]:
        """Of a step in the mean, over all processes: the three parts, and whether a batch had no label that counts."""
        sums = (self._task, self._penalty, self._consistency, self._void_batches.double())
        *parts, void = gather(torch.stack([each.to(device) for each in sums])[None]).mean(dim=0).tolist()
        task, penalty, consistency = (part / max(self.steps, 1) for part in parts)
        return task, penalty, consistency, void > 0

    def state(self) -> dict[str, float]:
        """The sums of this process, as numbers that JSON keeps to the last bit."""
        return {
            "task": self._task.item(),
            "penalty": self._penalty.item(),
            "consistency": self._consistency.item(),
            "void_batches": self._void_batches.item(),
            "steps": self.steps,
        }

    def load(self, state: dict[str, float]) -> None:
        """Go on from a [`state`]."""
        self._task, self._penalty = (torch.tensor(state[name], dtype=torch.float64) for name in ("task", "penalty"))
        # Checkpoints from before have no consistency.
        self._consistency = torch.tensor(state.get("consistency", 0.0), dtype=torch.float64)
        self._void_batches = torch.tensor(state["void_batches"])
        self.steps = state["steps"]
