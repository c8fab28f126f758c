"""What adversarial training adds to the Trainer: the perturbed batch."""

from typing import Any

import torch

from lrsegformer.errors import InputError
from lrsegformer.training.adversarial.perturbation import AdversarialTraining, pixel_statistics


class AdversarialBatchesMixin:
    """Perturbs training batches where the arguments ask for it, for [`~lrsegformer.training.LRSegformerTrainer`]."""

    def adversarial_inputs(self, model: torch.nn.Module, inputs: dict[str, Any]) -> dict[str, Any]:
        """A training batch with its images perturbed, where the arguments ask for adversarial training."""
        # Not through the wrapper of several processes, which waits for a backward pass to the parameters.
        model, scaler = self.accelerator.unwrap_model(model), self.accelerator.scaler
        images = self._adversary.perturb(
            model,
            inputs["pixel_values"],
            lambda images: self._loss_under_attack(model, {**inputs, "pixel_values": images}),
            self.state.global_step,
            1.0 if scaler is None else scaler.get_scale(),
        )
        return {**inputs, "pixel_values": images}

    def _loss_under_attack(self, model: torch.nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
        outputs = self._outputs(model, inputs)
        self._finite.see_logits(self.state.global_step + 1, True, outputs["logits"].detach())
        return self.task_loss(outputs, inputs)

    def _adversarial_training(self) -> AdversarialTraining | None:
        steps, eps = self.args.adversarial_steps, self.args.adversarial_eps
        if steps == 0:
            return None
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise InputError("--adversarial_steps needs a whole model on each device: leave out FSDP and DeepSpeed.")
        return AdversarialTraining(steps, eps, *pixel_statistics(self.processing_class, self.train_dataset))
