"""The checkpoints in a run's folder: which of them are whole, and which one a run goes on from."""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import TrainerState
from transformers.utils import logging

from lrsegformer._compat_trainer import sums_file
from lrsegformer.choices import Task
from lrsegformer.errors import InputError, reason_of
from lrsegformer.models.configuration_lrsegformer import LRSegformerConfig
from lrsegformer.models.saved.weights import fault_of_safetensors, fault_of_weights
from lrsegformer.models.task import task_of_config
from lrsegformer.recipes import DEFAULT_RECIPE
from lrsegformer.text_files import read_mapping
from lrsegformer.training.averaging import RAW_WEIGHTS_FILE
from lrsegformer.training.run.run_config import RUN_CONFIG_FILE, holds_run

logger = logging.get_logger(__name__)

STATE_FILE = "trainer_state.json"
# What torch.save wrote of a run on whole models; FSDP and DeepSpeed have folders of their own instead of the first.
_OPTIMIZER_FILE, _SCHEDULER_FILE = "optimizer.pt", "scheduler.pt"
# What accelerate's names of FSDP's weights and optimizer states begin with: files, or folders of a file a process.
_SHARDED = ("pytorch_model_fsdp", "optimizer")
# What of a model decides whether tensors and constants saved by one run mean the same to another.
_COMPARED = {
    "lipschitz_strategy": "the strategy",
    "lipschitz_scope": "the scope",
    "lipschitz_options": "the strategy's options",
    "certified_attention": "the attention",
    "certified_position_grid": "the grid of positions",
    "depths": "the depths",
    "hidden_sizes": "the widths",
    "decoder_hidden_size": "the head's width",
    "strides": "the strides",
}


def checkpoint_to_resume(output_dir: str, requested: str | None, world_size: int = 1) -> str | None:
    """
    The checkpoint to continue from, or `None` for a new run.

    Args:
        requested (`str`, *optional*): a folder, or `"true"` for the newest whole checkpoint of the run.
        world_size (`int`, *optional*, defaults to 1): processes of this run.

    Raises:
        [`~lrsegformer.errors.InputError`]: where the folder holds another run and no continuation was asked for, or a
        continuation was and there is nothing whole to continue.
    """
    folder = Path(output_dir)
    if requested is None or requested.lower() == "false":
        if holds_run(folder):
            raise InputError(
                f"--output_dir {output_dir} holds another run: give another folder, or continue that run with "
                "--resume_from_checkpoint."
            )
        return None
    if requested.lower() != "true":
        named = Path(requested)
        if not named.is_dir():
            raise InputError(f"--resume_from_checkpoint {requested}: no such folder.")
        if fault := fault_of_checkpoint(named):
            raise InputError(
                f"--resume_from_checkpoint {requested} {fault}: give another checkpoint, or no folder for the newest "
                "whole one of --output_dir."
            )
        _warn_of_other_processes(named, world_size)
        return requested
    last = last_whole_checkpoint(folder, say=True)
    if last is not None:
        _warn_of_other_processes(last, world_size)
        return str(last)
    if (folder / RUN_CONFIG_FILE).is_file() and not (folder / "config.json").is_file():
        logger.warning(f"{output_dir} holds a run that ended before its first checkpoint: starting it anew.")
        return None
    raise InputError(
        f"--resume_from_checkpoint: {output_dir} holds no checkpoint that is whole; leave the option out to start "
        "anew, in another folder."
    )


def last_whole_checkpoint(folder: str | Path, say: bool = False) -> Path | None:
    """
    The last checkpoint of a run that was written to its end and is undamaged; `None` where there is none.

    Args:
        say (`bool`, *optional*, defaults to `False`): whether to log a line on each later one that is passed over.
    """
    for checkpoint in _newest_first(Path(folder)):
        fault = fault_of_checkpoint(checkpoint)
        if fault is None:
            return checkpoint
        if say:
            logger.warning(f"{checkpoint} {fault}, and is passed over.")
    return None


def fault_of_checkpoint(folder: Path) -> str | None:
    """
    What keeps a run from going on exactly from a checkpoint, as a clause that goes on from its name, or `None`.

    Whole are the weights, the states of optimizer, scheduler and Trainer, and the random states of all processes that
    saved it. Weights are read, and have to be finite; the other files are judged by their tables of contents and
    lengths: damage inside of one shows when it is loaded.
    """
    try:
        state = TrainerState.load_from_json(str(folder / STATE_FILE))
        step, world_size = state.global_step, _world_size(folder)
    except FileNotFoundError:
        return f"has no {STATE_FILE} (a save that was not finished)"
    except (OSError, ValueError, TypeError, KeyError):
        return f"has a {STATE_FILE} that cannot be read"
    if not isinstance(step, int):
        return f"has a {STATE_FILE} that cannot be read"
    if not (folder / "latest").is_file():  # DeepSpeed's mark; its own files are its own to judge.
        sharded = any(path.name != _OPTIMIZER_FILE for stem in _SHARDED for path in folder.glob(f"{stem}*"))
        faults = [_fault_of_sharded(folder, stem) for stem in _SHARDED] if sharded else []
        faults += [] if sharded else [fault_of_weights(folder), _fault_of_archive(folder / _OPTIMIZER_FILE)]
        faults += [_fault_of_archive(folder / _SCHEDULER_FILE)]
        if fault := next(filter(None, faults), None):
            return fault
    if (folder / RAW_WEIGHTS_FILE).exists() and (fault := fault_of_safetensors(folder / RAW_WEIGHTS_FILE)):
        return fault
    names = ["rng_state.pth"] if world_size == 1 else [f"rng_state_{rank}.pth" for rank in range(world_size)]
    return next((fault for name in names if (fault := _fault_of_archive(folder / name))), None)


def check_same_model(checkpoint: str, task: Task, config: LRSegformerConfig, adapters: bool) -> None:
    """
    Refuse to go on from a checkpoint of another model than the options ask for.

    Args:
        task (`str`), config ([`LRSegformerConfig`]): of the model that the options ask for.
        adapters (`bool`): whether adapters are trained, which are saved by themselves.

    Raises:
        [`~lrsegformer.errors.InputError`]: naming what differs, with both values.
    """
    folder, remedy = Path(checkpoint), "give the options that it was trained with (the run.yaml of its run has them)."
    if (folder / "adapter_config.json").exists() != adapters:
        there, here = ("a whole model", "adapters (--lora_r)") if adapters else ("adapters", "a whole model")
        raise InputError(f"the checkpoint {checkpoint} is of {there}, and this run trains {here}: {remedy}")
    if not (folder / "config.json").exists():  # Adapters and shards of FSDP lie beside no configuration.
        return
    saved = _saved_config(checkpoint)
    pairs = [("the task", task_of_config(saved), task)]
    pairs.append(("the number of classes", saved.num_labels, config.num_labels))
    pairs += [
        (words, _plain(getattr(saved, name)), _plain(getattr(config, name))) for name, words in _COMPARED.items()
    ]
    pairs += [("the list of classes", *_first_difference(saved.id2label, config.id2label))]
    for words, there, here in pairs:
        if there != here:
            raise InputError(f"the checkpoint {checkpoint} differs in {words}: {there}, this run {here}; {remedy}")


def check_same_recipe(checkpoint: str, recipe: str) -> None:
    """
    Refuse to go on from a checkpoint of a run that was begun with another recipe, by the `run.yaml` of its folder.

    Raises:
        [`~lrsegformer.errors.InputError`]: naming both.
    """
    file = Path(checkpoint).parent / RUN_CONFIG_FILE
    if not file.is_file():  # A checkpoint by itself.
        return
    try:
        before = read_mapping(file).get("recipe", DEFAULT_RECIPE)
    except ValueError as error:
        raise InputError(f"{file} {error}: mend it, or remove it; the checkpoint does not need it.") from None
    if before != recipe:
        raise InputError(
            f"--recipe {recipe}: the run of the checkpoint {checkpoint} was begun with --recipe {before}; give that, "
            "or begin another run."
        )


def _saved_config(checkpoint: str) -> LRSegformerConfig:
    try:
        return LRSegformerConfig.from_pretrained(checkpoint, local_files_only=True)
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        reason = reason_of(error)
        raise InputError(f"{checkpoint}/config.json cannot be read ({reason}): give another checkpoint.") from None


def _first_difference(there: dict[int, str], here: dict[int, str]) -> tuple[str | None, str | None]:
    """Of two numberings of classes the first entries that differ; twice `None` where none does."""
    for index, name in there.items():
        if name != here.get(index):
            return f"class {index} is {name!r}", f"class {index} is {here.get(index)!r}"
    return None, None


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _newest_first(folder: Path) -> Iterator[Path]:
    by_step = {path.name.rpartition("-")[2]: path for path in folder.glob("checkpoint-*")}
    yield from (by_step[step] for step in sorted(filter(str.isdecimal, by_step), key=int, reverse=True))


def _fault_of_archive(file: Path) -> str | None:
    """What is wrong with a file of torch.save, a zip archive whose table of contents is written last."""
    if not file.exists():
        return f"has no {file.name}"
    try:
        with zipfile.ZipFile(file) as archive:
            whole = bool(archive.namelist())
    except (OSError, zipfile.BadZipFile):
        whole = False
    return None if whole else f"has a {file.name} that is cut short"


def _fault_of_sharded(folder: Path, stem: str) -> str | None:
    """
    What is wrong with what FSDP has saved under a name: one file or one a process, of torch.save, or a folder, whose
    table of contents is written last.
    """
    parts = [path for path in folder.glob(f"{stem}*") if path.is_dir()]
    for part in parts:
        files = [part / ".metadata", *part.glob("*.distcp")]
        if len(files) == 1 or not all(file.is_file() and file.stat().st_size for file in files):
            return f"has a {part.name} that is cut short"
    files = sorted(folder.glob(f"{stem}*.bin")) or ([] if parts else [folder / f"{stem}.bin"])
    return next((fault for file in files if (fault := _fault_of_archive(file))), None)


def _world_size(folder: Path) -> int:
    """How many processes saved a checkpoint; what the stock Trainer saved does not say it, but has a file for each."""
    sums = folder / sums_file(0)
    if sums.exists():
        return int(json.loads(sums.read_text(encoding="utf-8"))["world_size"])
    return len(list(folder.glob("rng_state_*.pth"))) or 1


def _warn_of_other_processes(checkpoint: Path, world_size: int) -> None:
    saved = _world_size(checkpoint)
    if saved != world_size:
        logger.warning(
            f"{checkpoint} was saved by {saved} process(es), and this run has {world_size}: it goes on, but dropout "
            "and the order of images will be others than in an uninterrupted run."
        )
