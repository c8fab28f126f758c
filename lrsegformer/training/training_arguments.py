"""`TrainingArguments` with SegFormer's recipe as defaults and the weight of the penalty."""

import math
import os
from dataclasses import dataclass
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.utils import logging

from lrsegformer.errors import InputError
from lrsegformer.training.adversarial import check_adversarial
from lrsegformer.training.arguments import TrainingDefaults
from lrsegformer.training.batch_size import split_total_batch_size

logger = logging.get_logger(__name__)

RECIPE_STEPS = 160_000
MOST_WORKERS = 4
NOT_NEGATIVE = (
    *(
        "lambda_lip",
        "learning_rate",
        "head_learning_rate_multiplier",
        "constants_learning_rate",
        "weight_decay",
        "max_grad_norm",
    ),
    *("warmup_steps", "label_smoothing_factor", "adam_epsilon", "num_train_epochs"),
    *("logging_steps", "eval_steps", "save_steps"),
)


@dataclass
class LRSegformerTrainingArguments(TrainingDefaults, TrainingArguments):
    """
    [`~transformers.TrainingArguments`] for [`LRSegformerTrainer`].

    The defaults are the published SegFormer recipe for ADE20K: AdamW at 6e-5 with the head at 10 times that, weight
    decay 0.01, 160k steps of 16 samples, linear warmup over 1500 of them, then linear decay to 0 (NVlabs/SegFormer,
    `local_configs/segformer`). What is added: `lambda_lip`, `head_learning_rate_multiplier`,
    `constants_learning_rate`, `total_batch_size`, and for adversarial training `adversarial_steps` and
    `adversarial_eps`.

    A `per_device_train_batch_size` without `total_batch_size` is accumulated no more than
    `gradient_accumulation_steps` says; the command lines give a total, that of the recipe, and accumulate to reach it.
    After construction `total_batch_size`, `per_device_train_batch_size` and `gradient_accumulation_steps` agree;
    `bf16` is set where the GPU supports it and nothing else was asked for; `max_steps` is -1 where `num_train_epochs`
    was given alone.

    Raises:
        [`~lrsegformer.errors.InputError`]: batch sizes that do not divide, rates and weights that are negative or not
            finite, or options of adversarial training that contradict each other.
    """

    def __post_init__(self):
        for name in NOT_NEGATIVE:
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise InputError(f"--{name} is {value}: give 0 or a positive number.")
        if self.certified_radius is not None and not 0 <= self.certified_radius < math.inf:
            raise InputError(f"--certified_radius is {self.certified_radius}: give 0 or a positive number.")
        for name in ("adam_beta1", "adam_beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"--{name} is {getattr(self, name)}: give a number of at least 0 and below 1.")
        check_adversarial(self.adversarial_steps, self.adversarial_eps)
        schedule = type(self).__dataclass_fields__["lr_scheduler_kwargs"].default
        if self.lr_scheduler_type != "polynomial" and self.lr_scheduler_kwargs == schedule:
            self.lr_scheduler_kwargs = None  # They are the recipe's schedule's, and no other takes them.
        world_size = int(os.environ.get("WORLD_SIZE", "1"))
        sizes = split_total_batch_size(
            self.total_batch_size, self.per_device_train_batch_size, self.gradient_accumulation_steps, world_size
        )
        self.total_batch_size, self.per_device_train_batch_size, self.gradient_accumulation_steps = sizes
        if self.max_steps is None:
            self.max_steps = RECIPE_STEPS if self.num_train_epochs is None else -1
        if self.num_train_epochs is None:
            self.num_train_epochs = 1.0
        if self.bf16 is None:
            self.bf16 = self._prefers_bf16()
        if self.dataloader_num_workers is None:
            local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
            self.dataloader_num_workers = min(MOST_WORKERS, max(1, (os.cpu_count() or 1) // local_processes))
        # Without an accelerator pinned memory serves nothing, and torch warns of it.
        self.dataloader_pin_memory = self.dataloader_pin_memory and torch.accelerator.is_available()
        self.dataloader_persistent_workers = self.dataloader_num_workers > 0
        super().__post_init__()
        if self.n_gpu > 1:
            logger.warning(
                f"{self.n_gpu} GPUs are visible, but this is one process: it uses the first. Start with "
                "`accelerate launch --config_file accelerate_configs/ddp.yaml` to use all of them."
            )
            self._n_gpu = 1

    def __getstate__(self) -> dict[str, Any]:
        """What `training_args.bin` holds, which goes wherever a checkpoint goes: everything but the tokens."""
        return {name: None if name.endswith("_token") else value for name, value in vars(self).items()}

    def evaluates_by_recipe(self) -> bool:
        """Whether evaluation during training is what the defaults say, and nobody's wish."""
        fields = type(self).__dataclass_fields__
        untouched = all(getattr(self, name) == fields[name].default for name in ("eval_strategy", "eval_steps"))
        return untouched and not self.load_best_model_at_end

    def get_warmup_steps(self, num_training_steps: int) -> int:
        """Steps of warmup; at least one step is left after it, which the schedule divides by."""
        return min(super().get_warmup_steps(num_training_steps), max(num_training_steps - 1, 0))

    def _prefers_bf16(self) -> bool:
        chosen_elsewhere = self.fp16 or os.environ.get("ACCELERATE_MIXED_PRECISION", "no") != "no"
        if self.use_cpu or chosen_elsewhere or not torch.cuda.is_available():
            return False
        return torch.cuda.is_bf16_supported()
