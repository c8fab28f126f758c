"""Whether a folder can hold a saved model, before a library fails over it in words of its own."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from transformers import SegformerConfig
from transformers.activations import ACT2FN

from lrsegformer.data.arguments import LARGEST_INPUT, SMALLEST_INPUT
from lrsegformer.errors import InputError
from lrsegformer.models.saved.agreement import fault_of_sizes
from lrsegformer.models.saved.weights import INDEX_FILE, WEIGHTS_FILE, fault_of_weights, shapes_of

CONFIG_FILE, ADAPTER_CONFIG_FILE = "config.json", "adapter_config.json"
PROCESSOR_FILE = "preprocessor_config.json"
_DEFAULTS = SegformerConfig().to_dict()
_MODEL_TYPES = ("lrsegformer", "segformer")
# One entry a stage, each a whole number of at least 1 and at most this: many times what any SegFormer has, and little
# enough that a model is built or refused in seconds.
_OF_STAGES = {
    **{"depths": 1_000, "hidden_sizes": 16_384, "num_attention_heads": 1_024, "mlp_ratios": 256},
    **{"sr_ratios": 256, "patch_sizes": 256, "strides": 256},
}
_NOT_NEGATIVE = ("layer_norm_eps", "initializer_range")
_PROBABILITIES = ("drop_path_rate", "hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout_prob")
_COUNTS = {"num_channels": 1_024, "num_encoder_blocks": 16, "decoder_hidden_size": 8_192, "num_labels": 65_536}


def refuse_broken_folder(name: str, said: str) -> None:
    """
    Refuse a folder whose configuration, weights or processor cannot be those of a SegFormer, whose weights are not all
    finite, or that holds an adapter and not the model that it belongs to. Reads every tensor once.

    Weights as pickles are left to transformers, which opens none that could run code.

    Args:
        name (`str`): the folder, or an id on the Hub, which is not looked at.
        said (`str`): the folder as the command line names it.

    Raises:
        [`~lrsegformer.errors.InputError`]: for such a folder, naming the file.
    """
    folder = Path(name)
    if not folder.is_dir():
        return
    if (folder / ADAPTER_CONFIG_FILE).is_file() and not (folder / CONFIG_FILE).is_file():
        raise InputError(
            f"{said} holds an adapter of peft without its model: give the folder of the finished run, in which it is "
            "merged."
        )
    fault = _fault_of_config(folder) or _fault_of_processor(folder)
    if fault is None and any((folder / file).exists() for file in (WEIGHTS_FILE, INDEX_FILE)):
        fault = fault_of_weights(folder) or _fault_between(folder)
    if fault is not None:
        raise InputError(f"{said} {fault}: give the folder of a finished run, or save the model again.")


def _fault_of_config(folder: Path) -> str | None:
    if not (folder / CONFIG_FILE).exists():
        return f"has no {CONFIG_FILE}"
    config = _mapping(folder / CONFIG_FILE)
    if config is None:
        return f"has a {CONFIG_FILE} that is no JSON object"
    if not _is_ours(config):
        return None  # Another kind of model, which is said by name where the task is asked for.
    fault = _fault_of_sizes(config) or _fault_of_names(config)
    return None if fault is None else f"has a {CONFIG_FILE} whose {fault}"


def _fault_of_sizes(config: dict[str, Any]) -> str | None:
    stages = config.get("num_encoder_blocks", _DEFAULTS["num_encoder_blocks"])
    for field, largest in _COUNTS.items():
        if field in config and not _is_count(config[field], largest):
            return f"{field} is {config[field]!r}, no whole number from 1 to {largest}"
    for field, largest in _OF_STAGES.items():
        values = config.get(field)
        if values is None:
            continue
        if (
            not isinstance(values, list)
            or len(values) != stages
            or not all(_is_count(each, largest) for each in values)
        ):
            return f"{field} are {values!r}, not {stages} whole numbers from 1 to {largest}"
    for field in (*_NOT_NEGATIVE, *_PROBABILITIES):
        value, is_probability = config.get(field), field in _PROBABILITIES
        if value is not None and not (_is_above(value, -math.inf) and 0 <= value <= (1 if is_probability else value)):
            return f"{field} is {value!r}, no {'number from 0 to 1' if is_probability else 'finite number from 0 up'}"
    return None


def _fault_of_names(config: dict[str, Any]) -> str | None:
    architectures = config.get("architectures")
    if architectures is not None and not (isinstance(architectures, list) and all(map(_is_text, architectures))):
        return f"architectures are {architectures!r}, no list of names"
    if config.get("hidden_act") is not None and config["hidden_act"] not in map(str, ACT2FN):
        return f"hidden_act is {config['hidden_act']!r}, no activation of transformers"
    id2label = config.get("id2label")
    if id2label is None:
        return None
    if not (isinstance(id2label, dict) and sorted(id2label) == sorted(map(str, range(len(id2label))))):
        return "id2label is no object from the class indices, 0 and up, to names"
    if not all(map(_is_text, id2label.values())):
        return "id2label has a name that is no text"
    return None


def _fault_between(folder: Path) -> str | None:
    """Between two files, each of which could be a model's."""
    config = _mapping(folder / CONFIG_FILE) or {}
    if not _is_ours(config):
        return None
    given = {name: value for name, value in config.items() if value is not None}
    fault = fault_of_sizes(_DEFAULTS | given, shapes_of(folder))
    return None if fault is None else f"has a {CONFIG_FILE} that is not of its weights: {fault}"


def _fault_of_processor(folder: Path) -> str | None:
    if not (folder / PROCESSOR_FILE).exists():
        return None
    processor = _mapping(folder / PROCESSOR_FILE)
    if processor is None:
        return f"has a {PROCESSOR_FILE} that is no JSON object"
    for field, smallest in (("image_mean", -math.inf), ("image_std", 0.0)):
        values = processor.get(field)
        if values is None:
            continue
        if not isinstance(values, list) or not values or not all(_is_above(value, smallest) for value in values):
            wanted = "finite numbers" if field == "image_mean" else "finite numbers above 0"
            return f"has a {PROCESSOR_FILE} whose {field} is {values!r}, not {wanted}"
    for field, value in processor.items():
        if field.startswith("do_") and not (value is None or isinstance(value, bool)):
            return f"has a {PROCESSOR_FILE} whose {field} is {value!r}, not true or false"
    factor = processor.get("rescale_factor")
    if factor is not None and not _is_above(factor, 0.0):
        return f"has a {PROCESSOR_FILE} whose rescale_factor is {factor!r}, no finite number above 0"
    for field, switch in (("size", "do_resize"), ("crop_size", "do_center_crop")):
        size = processor.get(field)
        if processor.get(switch) is not False and size is not None and not _is_input_size(size):
            sides = f"sides of whole numbers from {SMALLEST_INPUT} to {LARGEST_INPUT}"
            return f"has a {PROCESSOR_FILE} whose {field} is {size!r}, not {sides}"
    return None


def _is_input_size(size: Any) -> bool:
    """One side, two, or sides by their names; the name says which side of an image each becomes."""
    sides = list(size.values()) if isinstance(size, dict) else size if isinstance(size, list) else [size]
    sides = [side for side in sides if side is not None]
    return bool(sides) and all(_is_count(side, LARGEST_INPUT) and side >= SMALLEST_INPUT for side in sides)


def _mapping(file: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_ours(config: dict[str, Any]) -> bool:
    return config.get("model_type", _MODEL_TYPES[0]) in _MODEL_TYPES


def _is_count(value: Any, largest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= largest


def _is_above(value: Any, smallest: float) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and value > smallest
