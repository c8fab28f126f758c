"""One fine-tuning run, from arguments to a folder with everything in it."""

import difflib
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import set_seed
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import logging

from lrsegformer.choices import NO_STRATEGY
from lrsegformer.data import DataArguments, DataSplits, load_data
from lrsegformer.data.arguments import show_range
from lrsegformer.data.dataset import collate
from lrsegformer.data.files.pixels import ImageReading
from lrsegformer.data.processor import channel_statistics
from lrsegformer.errors import InputError
from lrsegformer.evaluation.scores import scores_from_counts
from lrsegformer.hub.pushing import explained, upload_later
from lrsegformer.models.encoder.adapters import ADAPTER_FOLDER, add_adapters, merged, save_adapters, trained_share
from lrsegformer.models.loading import LipschitzModel, build_model, load_model, parse_grid, parse_options
from lrsegformer.training.arguments import ModelArguments
from lrsegformer.training.class_weights import class_weights
from lrsegformer.training.outputs import print_summary, write_run_outputs
from lrsegformer.training.progress import TimeEstimate
from lrsegformer.training.run_config import RUN_CONFIG_FILE, last_whole_checkpoint, write_run_config
from lrsegformer.training.trainer import LRSegformerTrainer
from lrsegformer.training.training_arguments import LRSegformerTrainingArguments

logger = logging.get_logger(__name__)


def finetune(
    task: str,
    model_arguments: ModelArguments,
    data_arguments: DataArguments,
    training_arguments: LRSegformerTrainingArguments,
    command: str | None = None,
) -> dict[str, Any]:
    """
    Fine-tune a model, score it, and write the run's folder.

    Args:
        task (`str`): `"segmentation"` or `"classification"`.
        command (`str`, *optional*): the command line, for the model card.

    Returns:
        `dict`: the scores of the validation split, under the Trainer's `eval_` keys.

    Raises:
        [`~lrsegformer.errors.InputError`]: for anything that the user has to mend, before anything is written over.
    """
    arguments = training_arguments
    arguments.output_dir = arguments.output_dir or f"runs/{task}-{_variant(model_arguments)}"
    check_best_metric(arguments, task)
    checkpoint = checkpoint_to_resume(arguments.output_dir, arguments.resume_from_checkpoint)
    _show_progress(arguments)
    set_seed(arguments.seed)
    base_model = None if model_arguments.architecture else model_arguments.model_name_or_path
    image_mean, image_std = channel_statistics(base_model, model_arguments.model_revision)
    with arguments.main_process_first(desc="opening the data set"):
        splits = load_data(data_arguments, task, arguments.seed, image_mean, image_std)
    value_range = ImageReading.of_processor(splits.processor).value_range
    if value_range is not None:  # found in the images; a run that continues takes it from run.yaml
        data_arguments = replace(data_arguments, image_range=show_range(value_range))
    model = start_model(task, model_arguments, splits)
    _warn_of_idle_penalty(model, model_arguments, arguments)
    with explained("nothing was trained."):  # it makes the repository of --push_to_hub
        trainer = LRSegformerTrainer(
            model=model,
            args=arguments,
            train_dataset=splits.train,
            eval_dataset=splits.validation,
            data_collator=collate,
            processing_class=splits.processor,
            callbacks=[TimeEstimate()],
        )
    if model_arguments.lora_r is not None and (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
        raise InputError("--lora_r needs a whole model on each device: leave out FSDP and DeepSpeed.")
    if trainer.is_world_process_zero():
        if checkpoint is None:
            write_run_config(arguments.output_dir, model_arguments, data_arguments, arguments)
        _say_plan(trainer, splits, model_arguments)
    _log_short_runs(trainer)
    trainer.train(resume_from_checkpoint=checkpoint)
    if model_arguments.lora_r is not None:
        _merge_adapters(trainer, base_model)
    scores = trainer.evaluate_as_saved()
    trainer.save_model(_internal_call=True)  # it goes to the Hub at the end, with its card
    trainer.save_state()
    if trainer.is_world_process_zero():
        card = {
            "base_model": base_model,
            "command": command,
            "score_at": data_arguments.score_at,
            "adapter": _adapter_in_words(model_arguments),
        }
        results = write_run_outputs(trainer.model, arguments, trainer.state, task, splits, scores, card)
        print_summary(arguments.output_dir, task, results)
    if arguments.push_to_hub:
        later = upload_later(trainer.hub_model_id, arguments.output_dir)
        with explained(f"the run is whole in its folder, and `{later}` sends it."):
            trainer.push_to_hub()
    return scores


def start_model(task: str, arguments: ModelArguments, splits: DataSplits) -> Any:
    """The model that training starts from, with the data set's classes; where adapters are trained, peft's wrapper."""
    space = splits.label_space
    options = {
        **constraint_options(arguments),
        "id2label": space.id2label,
        "label2id": space.label2id,
        "semantic_loss_ignore_index": space.ignore_index,
        "semantic_loss_class_weights": None
        if arguments.class_weights is None
        else class_weights(arguments.class_weights, splits.train, space, task),
    }
    if arguments.scope == "certified":
        options["certified_image_std"] = list(splits.processor.image_std)
    if arguments.architecture:
        return build_model(task, arguments.architecture, **options)
    model = load_model(task, arguments.model_name_or_path, arguments.model_revision, **options)
    if arguments.lora_r is None:
        return model
    targets = arguments.lora_target_modules
    return add_adapters(model, task, arguments.lora_r, arguments.lora_alpha, arguments.lora_dropout, targets)


def constraint_options(arguments: ModelArguments) -> dict[str, Any]:
    """
    The constraint as fields of the model's configuration, and under scope certified what the network is made of; the
    images' deviations, which such a network has to know, are for the caller to add.

    Raises:
        [`~lrsegformer.errors.InputError`]: options that are not written as they should be, or of another scope.
    """
    options = {
        "lipschitz_strategy": None if arguments.strategy == NO_STRATEGY else arguments.strategy,
        "lipschitz_scope": arguments.scope,
        "penalty_of": arguments.penalty_of,
        "penalty_reduction": arguments.penalty_reduction,
        "lipschitz_options": parse_options(arguments.lipschitz_options),
    }
    grid, stride = arguments.position_grid, arguments.patch_stride
    if arguments.scope != "certified":
        if grid is not None or stride is not None:
            raise InputError("--position_grid and --patch_stride belong to --scope certified: give that, or neither.")
        return options
    options["certified_attention"] = arguments.certified_attention
    if grid is not None:
        options["certified_position_grid"] = parse_grid(grid)
    if stride is not None:
        options["strides"] = (stride, 2, 2, 2)
    return options


def check_best_metric(arguments: LRSegformerTrainingArguments, task: str) -> None:
    """
    Refuse a `metric_for_best_model` that no evaluation of the task gives, before hours are trained towards it.

    Raises:
        [`~lrsegformer.errors.InputError`]: an unknown score, naming the nearest known one.
    """
    if arguments.metric_for_best_model is None:
        return
    name = arguments.metric_for_best_model.removeprefix("eval_")
    scores = scores_from_counts(np.ones((2, 2), dtype=np.int64), task)
    known = ["loss", "loss_task", *(key for key, value in scores.items() if isinstance(value, float))]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"the scores are {', '.join(known)}."
        raise InputError(f"--metric_for_best_model {arguments.metric_for_best_model} is no score of {task}: {hint}")


def checkpoint_to_resume(output_dir: str, requested: str | None) -> str | None:
    """
    The checkpoint to continue from, or `None` for a new run.

    Raises:
        [`~lrsegformer.errors.InputError`]: where the folder holds another run and no continuation was asked for, or a
        continuation was and there is nothing to continue.
    """
    folder = Path(output_dir)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--output_dir {output_dir} is a file: give a folder.")
    if requested is None or requested.lower() == "false":
        marks = [folder / RUN_CONFIG_FILE, folder / "config.json", *folder.glob("checkpoint-*")]
        if any(mark.exists() for mark in marks):
            raise InputError(
                f"--output_dir {output_dir} holds another run: give another folder, or continue that run with "
                "--resume_from_checkpoint."
            )
        return None
    if requested.lower() != "true":
        if not Path(requested).is_dir():
            raise InputError(f"--resume_from_checkpoint {requested}: no such folder.")
        return requested
    last = last_whole_checkpoint(folder)
    _warn_of_unfinished_checkpoint(folder, last)
    if last is None and (folder / RUN_CONFIG_FILE).is_file() and not (folder / "config.json").is_file():
        logger.warning(f"{output_dir} holds a run that ended before its first checkpoint: starting it anew.")
        return None
    if last is None:
        raise InputError(
            f"--resume_from_checkpoint: {output_dir} holds no checkpoint; leave the option out to start anew."
        )
    return str(last)


def _warn_of_unfinished_checkpoint(folder: Path, last: Path | None) -> None:
    newest = get_last_checkpoint(str(folder)) if folder.is_dir() else None
    if newest is not None and (last is None or Path(newest) != last):
        logger.warning(f"{newest} was not written to its end, and is passed over.")


def _merge_adapters(trainer: LRSegformerTrainer, base_model: str) -> None:
    """
    Save the adapters by themselves, and go on with the model in which they are merged: the one that is scored, saved
    and loaded by every command.
    """
    adapted = trainer.accelerator.unwrap_model(trainer.model)
    if trainer.is_world_process_zero():
        save_adapters(adapted, Path(trainer.args.output_dir) / ADAPTER_FOLDER, base_model)
    trainer.model = merged(adapted)


def _adapter_in_words(arguments: ModelArguments) -> str | None:
    if arguments.lora_r is None:
        return None
    alpha, targets = arguments.lora_alpha or 2 * arguments.lora_r, ", ".join(arguments.lora_target_modules)
    return f"LoRA of rank {arguments.lora_r}, alpha {alpha}, dropout {arguments.lora_dropout:g}, on {targets}"


def _variant(arguments: ModelArguments) -> str:
    return "baseline" if arguments.strategy == NO_STRATEGY else arguments.strategy


def _show_progress(arguments: LRSegformerTrainingArguments) -> None:
    """Messages of this package on the main process, at the level that the user chose or else at info."""
    if arguments.should_log and arguments.log_level == "passive":
        import logging as standard_logging

        standard_logging.basicConfig(format="%(message)s")
        standard_logging.getLogger("lrsegformer").setLevel(standard_logging.INFO)


def _warn_of_idle_penalty(
    model: LipschitzModel, model_arguments: ModelArguments, arguments: LRSegformerTrainingArguments
) -> None:
    default = type(arguments).__dataclass_fields__["lambda_lip"].default
    if arguments.lambda_lip in (0, default):
        return
    if not has_penalty(model):
        logger.warning(
            f"--lambda_lip {arguments.lambda_lip} has no effect: strategy {model_arguments.strategy} learns no "
            "constants."
        )


def has_penalty(model: LipschitzModel) -> bool:
    """Whether there is anything in the model that `lambda_lip` weighs."""
    if model.config.penalty_of != "layers" and model.config.lipschitz_strategy:
        return True
    return any(layer.learns_constant or layer.penalized_jacobian for layer in model.constrained_layers().values())


def _planned_steps(trainer: LRSegformerTrainer) -> tuple[int, int]:
    """Optimizer steps of the run, and of an epoch."""
    arguments = trainer.args
    an_epoch = math.ceil(len(trainer.get_train_dataloader()) / arguments.gradient_accumulation_steps)
    of_run = arguments.max_steps if arguments.max_steps > 0 else math.ceil(arguments.num_train_epochs * an_epoch)
    return of_run, an_epoch


def _log_short_runs(trainer: LRSegformerTrainer) -> None:
    """A run too short for the default interval would leave no line of log and an empty picture of curves."""
    default = type(trainer.args).__dataclass_fields__["logging_steps"].default
    if trainer.args.logging_steps == default:
        trainer.args.logging_steps = min(default, max(1, _planned_steps(trainer)[0] // 10))


def _say_plan(trainer: LRSegformerTrainer, splits: DataSplits, model_arguments: ModelArguments) -> None:
    arguments = trainer.args
    steps, steps_an_epoch = _planned_steps(trainer)
    head_rate = arguments.learning_rate * arguments.head_learning_rate_multiplier
    logger.info(
        f"{splits.dataset_name}: {len(splits.train)} training and {len(splits.validation)} validation images, "
        f"{splits.label_space.num_labels} classes."
    )
    logger.info(
        f"{_variant(model_arguments)}, lambda_lip {arguments.lambda_lip:g}: {steps} steps of "
        f"{arguments.total_batch_size} images ({arguments.per_device_train_batch_size} a device x "
        f"{arguments.gradient_accumulation_steps} accumulation x {arguments.world_size} processes), "
        f"{steps / steps_an_epoch:.1f} epochs."
    )
    if model_arguments.lora_r is not None:
        trained, of = trained_share(trainer.model)
        logger.info(f"{_adapter_in_words(model_arguments)}: {trained:,} of {of:,} parameters are trained.")
    logger.info(f"Learning rate {arguments.learning_rate:g} for the encoder, {head_rate:g} for the head.")
