"""`run.yaml`: the options of a run, as `--config` takes them back."""

import dataclasses
from enum import Enum
from pathlib import Path
from typing import Any

from lrsegformer.choices import RECIPES

RUN_CONFIG_FILE = "run.yaml"


def write_run_config(folder: str, *arguments: Any) -> None:
    """`run.yaml`: every option that differs from its default, as `--config` takes it back."""
    import yaml

    path = Path(folder) / RUN_CONFIG_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(arguments_to_config(*arguments), sort_keys=False), encoding="utf-8")


def arguments_to_config(*arguments: Any) -> dict[str, Any]:
    """
    What differs from the defaults, under the names that `--config` takes back.

    Left out: what continues another run, tokens, and batch sizes that follow from the total.
    """
    # The defaults of these depend on the task, and the strategy's on the command.
    always = {"strategy", *(name for recipe in RECIPES.values() for name in recipe)}
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
