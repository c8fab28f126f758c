"""Whether a configuration can be that of the weights beside it, before a model of its sizes is built."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lrsegformer.models.saved.weights import Shapes

HEAD = "decode_head."


def fault_of_sizes(config: Mapping[str, Any], shapes: Shapes) -> str | None:
    """
    What a configuration asks for that the files of weights cannot have, as a clause (`"hidden_sizes are [8, 9], but
    no tensor is 9 long"`), or `None`.

    Necessary, not sufficient: each size has to be the length of some tensor, under the names of any version of
    transformers and in all networks of ours. The rest is found by loading, whose model is then of the order of its
    file: a depth of a million, by itself, is built for hours.

    Args:
        config (mapping): fields of config.json of possible types; those that are missing are not looked at.
        shapes (mapping): of all tensors, by their names.
    """
    blocks = sum(depth * steps for depth, steps in zip(config["depths"], _steps(config), strict=False))
    if blocks > len(shapes):
        return f"depths are {config['depths']!r}, more than {len(shapes)} tensors can be of"
    lengths = {length for shape in shapes.values() for length in shape}
    for field, wanted in _wanted_lengths(config, shapes):
        if wanted not in lengths:
            return f"{field} is {config[field]!r}, but no tensor is {wanted} long"
    return None


def is_certified(config: Mapping[str, Any]) -> bool:
    """Whether the network has the certified encoder, by its configuration file."""
    return config.get("lipschitz_strategy") is not None and config.get("lipschitz_scope") == "certified"


def _steps(config: Mapping[str, Any]) -> list[int]:
    """Modules of a block that are made one by one."""
    return config["mlp_ratios"] if is_certified(config) else [1] * len(config["depths"])


def _wanted_lengths(config: Mapping[str, Any], shapes: Shapes) -> Iterator[tuple[str, int]]:
    """Fields, and the length that one of the tensors that they make has."""
    hidden_sizes = config["hidden_sizes"]
    yield from (("hidden_sizes", size) for size in hidden_sizes)
    if any(name.startswith(HEAD) for name in shapes):
        yield "decoder_hidden_size", config["decoder_hidden_size"]
    if is_certified(config):
        inputs = [config["num_channels"], *hidden_sizes]
        yield from (("strides", size * stride**2) for size, stride in zip(inputs, config["strides"], strict=False))
        return
    yield "num_channels", config["num_channels"]
    yield from (("patch_sizes", size) for size in config["patch_sizes"])
    yield from (("sr_ratios", ratio) for ratio in config["sr_ratios"] if ratio > 1)
    yield from (("mlp_ratios", size * ratio) for size, ratio in zip(hidden_sizes, config["mlp_ratios"], strict=False))
