"""DeepSpeed's ZeRO: which stage is asked for, and what cannot be trained under it. Needs no DeepSpeed itself."""

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lrsegformer.errors import InputError
from lrsegformer.text_files import parse_json, read_text

# What `accelerate launch` says to the processes that it starts.
LAUNCHED, LAUNCHED_STAGE, LAUNCHED_FILE = (
    f"ACCELERATE_{name}" for name in ("USE_DEEPSPEED", "DEEPSPEED_ZERO_STAGE", "DEEPSPEED_CONFIG_FILE")
)
DEFAULT_STAGE = 2  # accelerate's
REFUSAL = (
    "ZeRO stage 3 with a constrained model ({}): it gathers a layer's weights for the layer's own forward pass alone, "
    "and penalties and bounds take them elsewhere; use accelerate_configs/zero2.yaml or ddp.yaml, or train the "
    "baseline."
)


def asked_stage(deepspeed: str | Mapping[str, Any] | None) -> int | None:
    """
    The stage of ZeRO that a command asks for; `None` without DeepSpeed.

    Args:
        deepspeed (`str` or mapping, *optional*): the value of `--deepspeed`, a file or what stands in one.

    Raises:
        [`~lrsegformer.errors.InputError`]: for a file that is none.
    """
    if deepspeed:
        return _stage_of(deepspeed, "--deepspeed")
    if os.environ.get(LAUNCHED, "false").lower() not in ("true", "1", "yes", "y", "on", "t"):
        return None
    file = os.environ.get(LAUNCHED_FILE, "none")
    if file != "none":
        return _stage_of(file, "the DeepSpeed configuration of the launcher")
    return int(os.environ.get(LAUNCHED_STAGE, DEFAULT_STAGE))


def check_zero(deepspeed: str | Mapping[str, Any] | None, strategy: str | None) -> None:
    """
    Refuse what cannot be trained as a command asks, before anything of DeepSpeed is loaded.

    Args:
        strategy (`str`, *optional*): that of the model, or `None` for a baseline.

    Raises:
        [`~lrsegformer.errors.InputError`]: for ZeRO stage 3 with a constrained model, or a missing DeepSpeed.
    """
    stage = asked_stage(deepspeed)
    refuse_sharded_weights(stage, strategy)
    if stage is not None and importlib.util.find_spec("deepspeed") is None:
        raise InputError(
            "DeepSpeed is asked for and not installed: pip install deepspeed, or start by accelerate_configs/ddp.yaml."
        )


def refuse_sharded_weights(stage: int | None, strategy: str | None) -> None:
    """Raises [`~lrsegformer.errors.InputError`] for a constrained model under ZeRO stage 3."""
    if stage == 3 and strategy is not None:
        raise InputError(REFUSAL.format(strategy))


def _stage_of(configuration: str | Mapping[str, Any], source: str) -> int:
    if not isinstance(configuration, Mapping):
        try:
            text = configuration if configuration.lstrip().startswith("{") else read_text(Path(configuration))
            configuration = parse_json(text)
        except ValueError as error:
            raise InputError(f"{source} {configuration} {error}") from None
    optimization = configuration.get("zero_optimization") if isinstance(configuration, Mapping) else None
    stage = optimization.get("stage", 0) if isinstance(optimization, Mapping) else 0
    if not isinstance(stage, int):
        raise InputError(f"{source}: zero_optimization.stage is {stage!r}: give 0, 1, 2 or 3.")
    return stage
