"""How long a run is and what it trains, in words."""

import math
from typing import Any

from transformers.utils import logging

from lrsegformer.choices import NO_STRATEGY
from lrsegformer.data import DataSplits
from lrsegformer.models.encoder.adapters import trained_share
from lrsegformer.recipes import recipe_in_words
from lrsegformer.training.arguments import ModelArguments
from lrsegformer.training.averaging import average_in_words
from lrsegformer.training.trainer import LRSegformerTrainer

logger = logging.get_logger(__name__)


def say_plan(trainer: LRSegformerTrainer, splits: DataSplits, model_arguments: ModelArguments) -> None:
    arguments = trainer.args
    steps, steps_an_epoch = _planned_steps(trainer)
    head_rate = arguments.learning_rate * arguments.head_learning_rate_multiplier
    logger.info(
        f"{splits.dataset_name}: {len(splits.train)} training and {len(splits.validation)} validation images, "
        f"{splits.label_space.num_labels} classes."
    )
    logger.info(
        f"{variant(model_arguments)}, lambda_lip {arguments.lambda_lip:g}: {steps} steps of "
        f"{arguments.total_batch_size} images ({arguments.per_device_train_batch_size} a device x "
        f"{arguments.gradient_accumulation_steps} accumulation x {arguments.world_size} processes), "
        f"{steps / steps_an_epoch:.1f} epochs."
    )
    if model_arguments.lora_r is not None:
        trained, of = trained_share(trainer.model)
        logger.info(f"{adapter_in_words(model_arguments)}: {trained:,} of {of:,} parameters are trained.")
    if arguments.average_weights is not None:
        logger.info(f"Evaluated and saved weights: {average_in_words(arguments.average_weights)}.")
    logger.info(f"Learning rate {arguments.learning_rate:g} for the encoder, {head_rate:g} for the head.")


def recipe_of_run(task: str, *arguments: Any) -> str:
    """
    The recipe of a run and what it set, in words.

    Args:
        arguments: the model's, which name the recipe, and the others.
    """
    values = {name: value for group in arguments for name, value in vars(group).items()}
    return recipe_in_words(task, values["recipe"], values)


def log_short_runs(trainer: LRSegformerTrainer) -> None:
    """A run too short for the default interval would leave no line of log and an empty picture of curves."""
    default = type(trainer.args).__dataclass_fields__["logging_steps"].default
    if trainer.args.logging_steps == default:
        trainer.args.logging_steps = min(default, max(1, _planned_steps(trainer)[0] // 10))


def _planned_steps(trainer: LRSegformerTrainer) -> tuple[int, int]:
    """Optimizer steps of the run, and of an epoch."""
    arguments = trainer.args
    an_epoch = math.ceil(len(trainer.get_train_dataloader()) / arguments.gradient_accumulation_steps)
    of_run = arguments.max_steps if arguments.max_steps > 0 else math.ceil(arguments.num_train_epochs * an_epoch)
    return of_run, an_epoch


def variant(arguments: ModelArguments) -> str:
    return "baseline" if arguments.strategy == NO_STRATEGY else arguments.strategy


def adapter_in_words(arguments: ModelArguments) -> str | None:
    if arguments.lora_r is None:
        return None
    alpha, targets = arguments.lora_alpha or 2 * arguments.lora_r, ", ".join(arguments.lora_target_modules)
    return f"LoRA of rank {arguments.lora_r}, alpha {alpha}, dropout {arguments.lora_dropout:g}, on {targets}"
