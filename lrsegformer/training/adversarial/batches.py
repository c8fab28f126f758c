"""What adversarial training adds to the Trainer: the perturbed batch, and the losses on it."""

from collections.abc import Callable
from typing import Any

import torch

from lrsegformer.errors import InputError
from lrsegformer.losses import consistency_loss
from lrsegformer.training.adversarial.perturbation import AdversarialTraining, pixel_statistics
from lrsegformer.training.finite import overflow_finder


class AdversarialBatchesMixin:
    """
    Perturbs training batches where the arguments ask for it, for [`~lrsegformer.training.LRSegformerTrainer`].

    With the loss `"cross_entropy"` the perturbed batch takes the place of the clean one (Madry et al. 2018). With
    `"trades"` the model is trained on the clean one, and a second pass over the perturbed one gives the divergence of
    the predictions, which the attack has raised (Zhang et al. 2019, arXiv 1901.08573).
    """

    def adversarial_outputs(
        self, model: torch.nn.Module, inputs: dict[str, Any]
    ) -> tuple[dict[str, Any], Any, torch.Tensor | None]:
        """The batch that the model is trained on, its outputs, and the divergence, where the loss has one."""
        if self._adversary is None or not model.training:
            return inputs, self._outputs(model, inputs), None
        attacked = self.adversarial_inputs(model, inputs)
        if not self._adversary.is_consistency:
            return attacked, self._outputs(model, attacked), None
        draws = RandomDraws(inputs["pixel_values"].device)
        outputs = self._outputs(model, inputs)
        # The same dropout in both passes: images that are equal are apart by nothing.
        draws.repeat()
        # Not through the wrapper of several processes: it would write over statistics that the first pass has read.
        # Its gradients come with those of the first, as the parameters are the same.
        perturbed = self._logits(self.accelerator.unwrap_model(model), attacked)
        return inputs, outputs, self._divergence(outputs["logits"], perturbed, inputs["labels"])

    def adversarial_inputs(self, model: torch.nn.Module, inputs: dict[str, Any]) -> dict[str, Any]:
        """A training batch with its images perturbed, where the arguments ask for adversarial training."""
        # Not through the wrapper of several processes, which waits for a backward pass to the parameters.
        model, scaler = self.accelerator.unwrap_model(model), self.accelerator.scaler
        objective = self._divergence_under_attack if self._adversary.is_consistency else self._loss_under_attack
        images = self._adversary.perturb(
            model,
            inputs["pixel_values"],
            objective(model, inputs),
            self.state.global_step,
            1.0 if scaler is None else scaler.get_scale(),
        )
        return {**inputs, "pixel_values": images}

    def _loss_under_attack(
        self, model: torch.nn.Module, inputs: dict[str, Any]
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        def loss(images: torch.Tensor) -> torch.Tensor:
            attacked = {**inputs, "pixel_values": images}
            outputs = self._outputs(model, attacked)
            self._see_logits(model, attacked, outputs["logits"])
            return self.task_loss(outputs, attacked)

        return loss

    def _divergence_under_attack(
        self, model: torch.nn.Module, inputs: dict[str, Any]
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        clean: list[torch.Tensor] = []

        def divergence(images: torch.Tensor) -> torch.Tensor:
            if not clean:  # Here, where the model is in eval mode, and the time counts as the attack's.
                clean.append(self._logits(model, inputs).detach())
            return self._divergence(
                clean[0], self._logits(model, {**inputs, "pixel_values": images}), inputs["labels"]
            )

        return divergence

    def _logits(self, model: torch.nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
        inputs = {name: value for name, value in inputs.items() if name != "labels"}
        if "jacobian_weights" in inputs:  # The penalty is of the clean images.
            inputs["jacobian_weights"] = torch.zeros_like(inputs["jacobian_weights"])
        logits = self._outputs(model, inputs)["logits"]
        self._see_logits(model, inputs, logits)
        return logits

    def _see_logits(self, model: torch.nn.Module, inputs: dict[str, Any], logits: torch.Tensor) -> None:
        find = overflow_finder(self.accelerator, model, inputs)
        self._finite.see_logits(self.state.global_step + 1, True, logits.detach(), find)

    def _divergence(self, clean: torch.Tensor, perturbed: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return consistency_loss(clean, perturbed, labels, self._ignore_index, self._class_weights())

    def _adversarial_training(self) -> AdversarialTraining | None:
        steps, eps, loss = self.args.adversarial_steps, self.args.adversarial_eps, self.args.adversarial_loss
        if steps == 0:
            return None
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise InputError("--adversarial_steps needs a whole model on each device: leave out FSDP and DeepSpeed.")
        config = self.model.config
        by_class = config.problem_type in (None, "single_label_classification")
        if loss == "trades" and not self._segments and not (by_class and config.num_labels > 1):
            raise InputError(
                "--adversarial_loss trades compares probabilities of classes, and this model predicts "
                f"{'numbers' if by_class else config.problem_type}: use --adversarial_loss cross_entropy."
            )
        return AdversarialTraining(steps, eps, *pixel_statistics(self.processing_class, self.train_dataset), loss)


class RandomDraws:
    """torch's random state on the CPU and on a device, for the same draws once more."""

    def __init__(self, device: torch.device):
        self._device = None if device.type == "cpu" else device
        self._cpu_state = torch.get_rng_state()
        self._device_state = None if self._device is None else self._module().get_rng_state(device)

    def repeat(self) -> None:
        """Go back to the state as it was."""
        torch.set_rng_state(self._cpu_state)
        if self._device is not None:
            self._module().set_rng_state(self._device_state, self._device)

    def _module(self) -> Any:
        return torch.get_device_module(self._device)
