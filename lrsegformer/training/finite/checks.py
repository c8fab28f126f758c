"""Loss, penalty, gradients, weights and logits that are not finite stop a run, before anything of it is saved."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from lrsegformer.errors import NotFiniteError
from lrsegformer.models.saved.weights import first_not_finite

# In the order of the computation: of one step the first is the cause of the others.
PARTS = ("logits", "task loss", "Lipschitz penalty", "consistency loss", "gradient", "new value")
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
        # By part: the tensors' names, and of each its norm, or its largest entry, at the first step that was wrong.
        self._sizes: dict[str, tuple[list[str], torch.Tensor]] = {}

    @torch.no_grad()
    def see_losses(
        self,
        step: int,
        training: bool,
        logits: torch.Tensor,
        task_loss: torch.Tensor,
        penalty: torch.Tensor,
        consistency: torch.Tensor | None = None,
        find: Callable[[], str | None] | None = None,
    ) -> None:
        """
        What a forward pass gave: of optimizer step `step`, or of an evaluation after it.

        Args:
            find (`Callable`, *optional*): gives the layer whose outputs are not finite, where the run stops at once
                for its logits.
        """
        loss_is_finite = task_loss.isfinite()
        # The logits are the cause to name where the loss is wrong, and all that an evaluation goes by.
        if not (self._at_once and training and loss_is_finite):
            self.see_logits(step, training, logits, find)
        self._see("task loss", step, training, loss_is_finite)
        self._see("Lipschitz penalty", step, training, penalty.isfinite())
        if consistency is not None:
            self._see("consistency loss", step, training, consistency.isfinite())

    def see_logits(
        self, step: int, training: bool, logits: torch.Tensor, find: Callable[[], str | None] | None = None
    ) -> None:
        """The logits of a forward pass; `find` as [`see_losses`] has it."""
        self._see("logits", step, training, logits.isfinite().all(), find)

    @torch.no_grad()
    def see_gradients(self, step: int, model: torch.nn.Module) -> None:
        """The gradients that optimizer step `step` is about to take: one pass over them, for the norm of each."""
        gradients = {name: _local(value.grad) for name, value in model.named_parameters() if value.grad is not None}
        if not gradients:
            return
        norms = torch.stack([norm.float() for norm in torch._foreach_norm(list(gradients.values()))])
        # Their sum of squares can overflow where none of them does, and the optimizer squares them as well.
        self._see_sizes("gradient", step, list(gradients), norms, torch.linalg.vector_norm(norms).isfinite())

    @torch.no_grad()
    def see_weights(self, step: int, model: torch.nn.Module) -> None:
        """What optimizer step `step` has made of the model: one pass, for the largest entry of each tensor."""
        tensors = {name: each for name, tensor in _trained(model) if (each := _local(tensor)).numel()}
        if not tensors:
            return
        largest = torch.stack([norm.float() for norm in torch._foreach_norm(list(tensors.values()), ord=math.inf)])
        self._see_sizes("new value", step, list(tensors), largest, largest.isfinite().all())

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
        tensors = (*model.named_parameters(), *model.named_buffers())
        if wrong := first_not_finite((name, _local(tensor.detach())) for name, tensor in tensors):
            raise self._error(f"step {step}: {wrong} of the model is not finite, so it is not saved")

    def check_start(self, checkpoint: str, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """
        Refuse to go on from a checkpoint whose weights, or the averages that the optimizer keeps of their gradients,
        are not finite, whichever files they came from.

        Raises:
            [`~lrsegformer.errors.NotFiniteError`]: naming the first of them.
        """
        tensors = (*model.named_parameters(), *model.named_buffers())
        wrong = first_not_finite((name, _local(tensor.detach())) for name, tensor in tensors)
        if wrong is None:
            wrong = first_not_finite(_averages(model, optimizer))
        if wrong is not None:
            raise NotFiniteError(
                f"The checkpoint {checkpoint} holds values that are not finite (in {wrong}): go on from an earlier "
                "one."
            )

    def _see_sizes(self, part: str, step: int, names: list[str], sizes: torch.Tensor, is_finite: torch.Tensor) -> None:
        if (part, True) in self._first_steps and names == self._sizes[part][0]:
            # Those of the first step that was wrong stay.
            sizes = torch.where(self._first_steps[part, True] < NEVER, self._sizes[part][1], sizes)
        self._sizes[part] = names, sizes
        self._see(part, step, True, is_finite)

    def _see(
        self,
        part: str,
        step: int,
        training: bool,
        is_finite: torch.Tensor,
        find: Callable[[], str | None] | None = None,
    ) -> None:
        if not self._at_once:
            first = self._first_steps.get((part, training))
            now = torch.where(is_finite, NEVER, step)
            self._first_steps[part, training] = now if first is None else torch.minimum(first, now)
        elif not is_finite:
            raise self._error_of(part, step, training, find() if find else None)

    def _error_of(self, part: str, step: int, training: bool, layer: str | None = None) -> NotFiniteError:
        where = f"step {step}" if training else f"evaluation after step {step}"
        if part in self._sizes:
            part += f" of {_listed(self._largest(part))}"
        verb = "are" if part == "logits" else "is"
        first = f", first the outputs of {layer}" if layer else ""
        lambda_lip = self._arguments.lambda_lip
        of_penalty = part == "Lipschitz penalty" or (part.startswith("gradient") and lambda_lip > LARGE_WEIGHT)
        remedies = [f"lower --lambda_lip ({lambda_lip:g})"] if of_penalty else []
        if part == "consistency loss":
            remedies.append(f"lower --trades_beta ({self._arguments.trades_beta:g})")
        return self._error(f"{where}: the {part} {verb} not finite{first}", remedies)

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

    def _largest(self, part: str) -> list[str]:
        """The tensors that are not finite; where only the sum of gradients is not, the one with the largest."""
        names, sizes = self._sizes[part]
        wrong = [name for name, finite in zip(names, sizes.isfinite().tolist(), strict=True) if not finite]
        return wrong or [names[int(sizes.argmax())]]


class FiniteWeights(TrainerCallback):
    """
    Has the weights looked at where training goes on from a checkpoint, and after each step of the optimizer, which can
    ruin them by a gradient that is finite.

    Args:
        checks (`Callable`): gives the [`FiniteChecks`] of the run.
        checkpoint (`Callable`): gives the checkpoint that training goes on from, or `None`.
    """

    def __init__(self, checks: Callable[[], FiniteChecks], checkpoint: Callable[[], str | None]):
        self._checks, self._checkpoint = checks, checkpoint

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **named: Any):
        checkpoint = self._checkpoint()
        if checkpoint is not None:
            self._checks().check_start(checkpoint, named["model"], named["optimizer"])

    def on_optimizer_step(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **named: Any):
        self._checks().see_weights(state.global_step + 1, named["model"])


def _trained(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters that a step moves, and the running statistics that it has moved."""
    yield from ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)
    yield from ((name, buffer) for name, buffer in model.named_buffers() if buffer.is_floating_point())


def _averages(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, torch.Tensor]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if torch.is_tensor(value):
                yield f"the optimizer's {key} of {names.get(id(parameter), 'a parameter')}", _local(value)


def _local(tensor: torch.Tensor) -> torch.Tensor:
    """This process's shard of a tensor that is divided over processes; any other tensor as it is."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} (and of {len(names) - 1} more)"
