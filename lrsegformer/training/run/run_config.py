"""`run.yaml`: the options of a run, as `--config` takes them back, and by its first line whose the folder is."""

import dataclasses
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from lrsegformer.output_folder import claim, command_of, mark_of
from lrsegformer.recipes import RECIPES, SCOPE_DEFAULTS, TASK_DEFAULTS
from lrsegformer.writing import write_whole, writing_to

RUN_CONFIG_FILE = "run.yaml"
# What a task's run is called in its folder's mark.
COMMANDS = {"segmentation": "finetune-seg", "classification": "finetune-cls"}
# All that a run writes into its folder, its checkpoints apart, by which a run is known.
_RUN_FILES = (
    *(RUN_CONFIG_FILE, "config.json", "model*.safetensors", "model.safetensors.index.json", "adapter"),
    *("preprocessor_config.json", "training_args.bin", "trainer_state.json", "all_results.json", "README.md"),
    *("curves.png", "bounds.png", "samples.png"),
)

_CHECKPOINTS = ("checkpoint-*", "unfinished")


def claim_by_mark(folder: str | Path, command: str, names: Sequence[str]) -> None:
    """[`~lrsegformer.output_folder.claim`] for a command whose folders are known by the first line of `run.yaml`."""
    claim(folder, names, command_of(Path(folder) / RUN_CONFIG_FILE) == command)


def claim_run(folder: str | Path, task: str, checkpoint: str | None) -> None:
    """
    [`~lrsegformer.output_folder.claim`] for a run, which goes on from `checkpoint`: the folder that holds this is its
    own.
    """
    goes_on = checkpoint is not None and Path(checkpoint).resolve().parent == Path(folder).resolve()
    claim(folder, _RUN_FILES, goes_on or command_of(Path(folder) / RUN_CONFIG_FILE) == COMMANDS[task])
    claim(folder, _CHECKPOINTS, is_own=True)


def holds_run(folder: str | Path) -> bool:
    """Whether a run of either task has been begun in a folder."""
    folder = Path(folder)
    return command_of(folder / RUN_CONFIG_FILE) in COMMANDS.values() or any(folder.glob("checkpoint-*"))


def write_run_config(folder: str | Path, command: str, *arguments: Any) -> None:
    """
    `run.yaml`: the mark of the command, then every option that differs from its default, as `--config` takes it back.

    Raises:
        [`~lrsegformer.errors.InputError`]: it cannot be written.
    """
    import yaml

    options = yaml.safe_dump(arguments_to_config(*arguments), sort_keys=False)
    with writing_to(folder):
        write_whole(Path(folder) / RUN_CONFIG_FILE, f"# {mark_of(command)}, whose --config takes this file\n{options}")


def arguments_to_config(*arguments: Any) -> dict[str, Any]:
    """
    What differs from the defaults, under the names that `--config` takes back.

    Left out: what continues another run, tokens, and batch sizes that follow from the total.
    """
    # The defaults of these depend on task, scope and recipe, and the strategy's on the command.
    sets = (
        *TASK_DEFAULTS.values(),
        *SCOPE_DEFAULTS.values(),
        *(of for recipe in RECIPES.values() for of in recipe.values()),
    )
    always = {"recipe", "strategy", *(name for options in sets for name in options)}
    config: dict[str, Any] = {}
    for group in arguments:
        for item in dataclasses.fields(group):
            value = getattr(group, item.name)
            value = value.value if isinstance(value, Enum) else value
            default = item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
            differs = value != default or item.name in always
            if item.init and differs and isinstance(value, str | int | float | list | dict):
                config[item.name] = value
    if config.get("gradient_accumulation_steps") == 1:
        for name in ("per_device_train_batch_size", "gradient_accumulation_steps"):
            config.pop(name, None)
    config.pop("resume_from_checkpoint", None)
    return {name: value for name, value in config.items() if value not in ([], {}) and not name.endswith("_token")}
