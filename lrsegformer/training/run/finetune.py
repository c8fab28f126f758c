"""One fine-tuning run, from arguments to a folder with everything in it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import set_seed
from transformers.utils import logging

from lrsegformer.data import DataArguments, load_data
from lrsegformer.data.arguments import show_range
from lrsegformer.data.dataset import collate
from lrsegformer.data.files.pixels import ImageReading
from lrsegformer.data.processor import channel_statistics
from lrsegformer.errors import InputError
from lrsegformer.hub.pushing import explained, upload_later
from lrsegformer.models.encoder.adapters import ADAPTER_FOLDER, merged, save_adapters
from lrsegformer.models.saved.folder import refuse_broken_folder
from lrsegformer.output_folder import check_place
from lrsegformer.training.arguments import ModelArguments
from lrsegformer.training.averaging import check_averaging
from lrsegformer.training.progress import TimeEstimate
from lrsegformer.training.run.bfloat16 import refuse_wrong_bfloat16
from lrsegformer.training.run.checkpoints import check_same_model, check_same_recipe, checkpoint_to_resume
from lrsegformer.training.run.outputs import print_summary, write_run_outputs
from lrsegformer.training.run.plan import adapter_in_words, log_short_runs, recipe_of_run, say_plan, variant
from lrsegformer.training.run.run_config import COMMANDS, RUN_CONFIG_FILE, claim_run, write_run_config
from lrsegformer.training.run.starting import check_best_metric, start_model, warn_of_penalty
from lrsegformer.training.run.stopping import train_until_stopped
from lrsegformer.training.trainer import LRSegformerTrainer
from lrsegformer.training.training_arguments import LRSegformerTrainingArguments
from lrsegformer.visible import log_plainly
from lrsegformer.writing import writing_to

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
    arguments.output_dir = arguments.output_dir or f"runs/{task}-{variant(model_arguments)}"
    check_best_metric(arguments, task)
    check_place(arguments.output_dir)
    checkpoint = checkpoint_to_resume(arguments.output_dir, arguments.resume_from_checkpoint, arguments.world_size)
    claim_run(arguments.output_dir, task, checkpoint)
    if checkpoint is not None:
        check_same_recipe(checkpoint, model_arguments.recipe)
    _show_progress(arguments)
    recipe = recipe_of_run(task, model_arguments, data_arguments, arguments)
    logger.info(f"Recipe {recipe}.")
    set_seed(arguments.seed)
    base_model = None if model_arguments.architecture else model_arguments.model_name_or_path
    if base_model is not None:  # before the data, which take minutes, and the processor's numbers are looked at
        refuse_broken_folder(base_model, f"The checkpoint {base_model}")
    image_mean, image_std = channel_statistics(base_model, model_arguments.model_revision)
    with arguments.main_process_first(desc="opening the data set"):
        splits = load_data(data_arguments, task, arguments.seed, image_mean, image_std)
    value_range = ImageReading.of_processor(splits.processor).value_range
    if value_range is not None:  # found in the images; a run that continues takes it from run.yaml
        data_arguments = replace(data_arguments, image_range=show_range(value_range))
    model = start_model(task, model_arguments, splits)
    if checkpoint is not None:
        check_same_model(checkpoint, task, model.config, adapters=model_arguments.lora_r is not None)
        check_averaging(checkpoint, arguments.average_weights)
    warn_of_penalty(model, model_arguments, arguments)
    # It makes the folder, and the repository of --push_to_hub.
    with writing_to(arguments.output_dir), explained("nothing was trained."):
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
    if trainer.accelerator.mixed_precision == "bf16" and trainer.args.device.type == "cpu":
        refuse_wrong_bfloat16(model)
    if trainer.is_world_process_zero():
        if checkpoint is None or not (Path(arguments.output_dir) / RUN_CONFIG_FILE).is_file():
            write_run_config(arguments.output_dir, COMMANDS[task], model_arguments, data_arguments, arguments)
        say_plan(trainer, splits, model_arguments)
    log_short_runs(trainer)
    train_until_stopped(trainer, checkpoint)
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
            "adapter": adapter_in_words(model_arguments),
            "recipe": recipe,
        }
        results = write_run_outputs(trainer.model, arguments, trainer.state, task, splits, scores, card)
        print_summary(arguments.output_dir, task, results)
    if arguments.push_to_hub:
        later = upload_later(trainer.hub_model_id, arguments.output_dir)
        with explained(f"the run is whole in its folder, and `{later}` sends it."):
            trainer.push_to_hub()
    return scores


def _merge_adapters(trainer: LRSegformerTrainer, base_model: str) -> None:
    """
    Save the adapters by themselves, and go on with the model in which they are merged: the one that is scored, saved
    and loaded by every command.
    """
    adapted = trainer.accelerator.unwrap_model(trainer.model)
    if trainer.is_world_process_zero():
        save_adapters(adapted, Path(trainer.args.output_dir) / ADAPTER_FOLDER, base_model)
    trainer.model = merged(adapted)


def _show_progress(arguments: LRSegformerTrainingArguments) -> None:
    """Messages of this package on the main process, at the level that the user chose or else at info."""
    if arguments.should_log and arguments.log_level == "passive":
        import logging as standard_logging

        log_plainly()
        standard_logging.getLogger("lrsegformer").setLevel(standard_logging.INFO)
