"""`TrainingArguments` with SegFormer's recipe as defaults and the weight of the penalty."""

import os
from dataclasses import dataclass
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.utils import logging

from lrsegformer.errors import InputError
from lrsegformer.ranges import COUNT, NOT_NEGATIVE, PART, POSITIVE, SEED, SHARE_BELOW_ONE, Range, check_ranges
from lrsegformer.training.adversarial.perturbation import check_adversarial
from lrsegformer.training.arguments import TrainingDefaults
from lrsegformer.training.batch_size import split_total_batch_size

logger = logging.get_logger(__name__)

RECIPE_STEPS = 160_000
MOST_WORKERS = 4
# More processes than any machine feeds, and fewer than bring it down.
_WORKERS = Range("a whole number from 0 to 256", high=256)

# The numbers that can ruin a run in silence, those of transformers among them. Batch sizes, which have to divide, and
# adversarial training say more themselves.
_RANGES: dict[str, Range] = {
    "lambda_lip": NOT_NEGATIVE,
    "certified_radius": NOT_NEGATIVE,
    "jacobian_share": PART,
    "trades_beta": NOT_NEGATIVE,
    "learning_rate": NOT_NEGATIVE,
    "head_learning_rate_multiplier": NOT_NEGATIVE,
    "constants_learning_rate": NOT_NEGATIVE,
    "weight_decay": NOT_NEGATIVE,
    "adam_beta1": SHARE_BELOW_ONE,
    "adam_beta2": SHARE_BELOW_ONE,
    "adam_epsilon": POSITIVE,
    "max_grad_norm": NOT_NEGATIVE,
    "average_weights": SHARE_BELOW_ONE,
    "label_smoothing_factor": SHARE_BELOW_ONE,
    "neftune_noise_alpha": NOT_NEGATIVE,
    "warmup_steps": NOT_NEGATIVE,
    "num_train_epochs": POSITIVE,
    "logging_steps": POSITIVE,
    "eval_steps": POSITIVE,
    "save_steps": POSITIVE,
    "eval_delay": NOT_NEGATIVE,
    "per_device_eval_batch_size": COUNT,
    "eval_accumulation_steps": COUNT,
    "torch_empty_cache_steps": COUNT,
    "save_total_limit": COUNT,
    "seed": SEED,
    "data_seed": SEED,
    "dataloader_num_workers": _WORKERS,
    "dataloader_prefetch_factor": COUNT,
    "ddp_bucket_cap_mb": COUNT,
    "ddp_timeout": COUNT,
}


@dataclass
class LRSegformerTrainingArguments(TrainingDefaults, TrainingArguments):
    """
    [`~transformers.TrainingArguments`] for [`LRSegformerTrainer`].

    The defaults are the published SegFormer recipe for ADE20K: AdamW at 6e-5 with the head at 10 times that, weight
    decay 0.01, 160k steps of 16 samples, linear warmup over 1500 of them, then linear decay to 0 (NVlabs/SegFormer,
    `local_configs/segformer`). What is added: `lambda_lip`, `head_learning_rate_multiplier`,
    `constants_learning_rate`, `average_weights`, `total_batch_size`, `jacobian_share`, and for adversarial training
    `adversarial_steps`, `adversarial_eps`, `adversarial_loss` and `trades_beta`.

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
        check_ranges(self, _RANGES)
        self._check_length()
        check_adversarial(self.adversarial_steps, self.adversarial_eps, self.adversarial_loss, self.trades_beta)
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
        if self.dataloader_prefetch_factor is not None and self.dataloader_num_workers == 0:
            raise InputError(
                f"--dataloader_prefetch_factor {self.dataloader_prefetch_factor} is for worker processes, and "
                "--dataloader_num_workers is 0: leave one of them out."
            )
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

    def _check_length(self) -> None:
        """-1 is what transformers writes for steps that follow from the epochs."""
        steps = self.max_steps
        if steps is None or steps >= 1 or (steps == -1 and self.num_train_epochs is not None):
            return
        raise InputError(f"--max_steps is {steps}: give a whole number of at least 1, or --num_train_epochs instead.")

    def _prefers_bf16(self) -> bool:
        chosen_elsewhere = self.fp16 or os.environ.get("ACCELERATE_MIXED_PRECISION", "no") != "no"
        if self.use_cpu or chosen_elsewhere or not torch.cuda.is_available():
            return False
        return torch.cuda.is_bf16_supported()
