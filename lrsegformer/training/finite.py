"""Loss, penalty, gradients and logits that are not finite stop a run, before anything of it is saved."""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from lrsegformer.errors import NotFiniteError

# In the order of the computation: of one step the first is the cause of the others.
PARTS = ("logits", "task loss", "Lipschitz penalty", "gradient")
NEVER = torch.iinfo(torch.int64).max
# Gradients that overflow float16 below this scale of the loss would do so without one.
LEAST_LOSS_SCALE = 1.0
# Of the penalty, above which it may be what makes a gradient too large.
LARGE_WEIGHT = 1e3


class FiniteChecks:
    """
    Watches the numbers of each step, and stops the run at the first that is nan or infinite.

    At once where looking at a number costs nothing, as on a CPU: the step is not taken. Elsewhere the verdicts stay on
    the device, and [`check`] reads them where the Trainer waits for the device anyway: at log lines, after an
    evaluation, and before anything is saved. By then the model may be lost; what was saved before it is not.

    Args:
        arguments ([`~transformers.TrainingArguments`]): what the remedies name.
        at_once (`bool`): whether to stop at once, or in [`check`].
    """

    def __init__(self, arguments: TrainingArguments, at_once: bool):
        self._arguments = arguments
        self._at_once = at_once
        # By part, and whether in training: the first step that was wrong, on the device.
        self._first_steps: dict[tuple[str, bool], torch.Tensor] = {}
        self._gradient_names: list[str] = []
        self._gradient_norms: torch.Tensor | None = None

    def see_losses(
        self, step: int, training: bool, logits: torch.Tensor, task_loss: torch.Tensor, penalty: torch.Tensor
    ) -> None:
        """What a forward pass gave: of optimizer step `step`, or of an evaluation after it."""
        loss_is_finite = task_loss.isfinite()
        # The logits are the cause to name where the loss is wrong, and all that an evaluation goes by.
        if not (self._at_once and training and loss_is_finite):
            self.see_logits(step, training, logits)
        self._see("task loss", step, training, loss_is_finite)
        self._see("Lipschitz penalty", step, training, penalty.isfinite())

    def see_logits(self, step: int, training: bool, logits: torch.Tensor) -> None:
        """The logits of a forward pass."""
        self._see("logits", step, training, logits.isfinite().all())

    @torch.no_grad()
    def see_gradients(self, step: int, model: torch.nn.Module) -> None:
        """The gradients that optimizer step `step` is about to take: one pass over them, for the norm of each."""
        gradients = {name: _local(value.grad) for name, value in model.named_parameters() if value.grad is not None}
        if not gradients:
            return
        norms = torch.stack([norm.float() for norm in torch._foreach_norm(list(gradients.values()))])
        # Their sum of squares can overflow where none of them does, and the optimizer squares them as well.
        is_finite = torch.linalg.vector_norm(norms).isfinite()
        names = list(gradients)
        if ("gradient", True) in self._first_steps and names == self._gradient_names:
            # Those of the first step that was wrong stay.
            norms = torch.where(self._first_steps["gradient", True] < NEVER, self._gradient_norms, norms)
        self._gradient_names, self._gradient_norms = names, norms
        self._see("gradient", step, True, is_finite)

    def check_loss_scale(self, step: int, scale: float) -> None:
        """
        Stop a run in float16 whose gradients are never finite.

        Steps whose gradients are not are left out and halve the scale of the loss: a few are the rule, above all at
        the start.
        """
        if scale < LEAST_LOSS_SCALE:
            raise self._error(f"step {step}: the gradients are not finite at any scale of the loss (now {scale:g})")

    def check(self) -> None:
        """
        Wait for the device, and stop the run where a number was not finite.

        Raises:
            [`~lrsegformer.errors.NotFiniteError`]: with the first step, and what came first in it.
        """
        found = []
        for (part, training), first in self._first_steps.items():
            if (step := int(first)) < NEVER:
                found.append((step, not training, PARTS.index(part)))
        self._first_steps.clear()
        if found:
            step, in_evaluation, place = min(found)
            raise self._error_of(PARTS[place], step, not in_evaluation)

    def check_weights(self, step: int, model: torch.nn.Module) -> None:
        """
        Refuse to save a model with tensors that are not finite; of a sharded one the shards of this process.

        Raises:
            [`~lrsegformer.errors.NotFiniteError`]: naming the first of them, or what [`check`] has to say.
        """
        self.check()
        wrong = [
            name
            for name, tensor in (*model.named_parameters(), *model.named_buffers())
            if tensor.is_floating_point() and not _local(tensor.detach()).isfinite().all()
        ]
        if wrong:
            raise self._error(f"step {step}: {_listed(wrong)} of the model is not finite, so it is not saved")

    def _see(self, part: str, step: int, training: bool, is_finite: torch.Tensor) -> None:
        if not self._at_once:
            first = self._first_steps.get((part, training))
            now = torch.where(is_finite, NEVER, step)
            self._first_steps[part, training] = now if first is None else torch.minimum(first, now)
        elif not is_finite:
            raise self._error_of(part, step, training)

    def _error_of(self, part: str, step: int, training: bool) -> NotFiniteError:
        where = f"step {step}" if training else f"evaluation after step {step}"
        if part == "gradient":
            part += f" of {_listed(self._largest_gradients())}"
        verb = "are" if part == "logits" else "is"
        lambda_lip = self._arguments.lambda_lip
        of_penalty = part == "Lipschitz penalty" or (part.startswith("gradient") and lambda_lip > LARGE_WEIGHT)
        remedies = [f"lower --lambda_lip ({lambda_lip:g})"] if of_penalty else []
        return self._error(f"{where}: the {part} {verb} not finite", remedies)

    def _error(self, found: str, remedies: Sequence[str] = ()) -> NotFiniteError:
        """The line for what was found, with the options that help and the checkpoint that is left."""
        arguments = self._arguments
        remedies = [*remedies, f"lower --learning_rate ({arguments.learning_rate:g})"]
        if not arguments.max_grad_norm:
            remedies.append("clip gradients by --max_grad_norm 1")
        if arguments.bf16 or arguments.fp16:
            remedies.append("compute in float32 by " + ("--bf16 False" if arguments.bf16 else "--fp16 False"))
        folder = Path(arguments.output_dir)
        checkpoint = get_last_checkpoint(str(folder)) if folder.is_dir() else None
        kept = f" The last checkpoint is kept: {checkpoint}." if checkpoint else ""
        return NotFiniteError(f"{found}: {', or '.join(remedies)}.{kept}")

    def _largest_gradients(self) -> list[str]:
        """The parameters whose gradients are not finite; where only their sum is not, the one with the largest."""
        names, is_finite = self._gradient_names, self._gradient_norms.isfinite().tolist()
        wrong = [name for name, finite in zip(names, is_finite, strict=True) if not finite]
        return wrong or [names[int(self._gradient_norms.argmax())]]


def _local(tensor: torch.Tensor) -> torch.Tensor:
    """This process's shard of a tensor that is divided over processes; any other tensor as it is."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} (and of {len(names) - 1} more)"
