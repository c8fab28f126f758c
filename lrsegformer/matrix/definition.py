"""`matrix.yaml`: what a file of experiments may say, and what is wrong with one that says something else."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lrsegformer.choices import SCOPES, TASKS
from lrsegformer.errors import InputError
from lrsegformer.layers.registry import DEFAULT_STRATEGY, STRATEGIES

VARIANTS = ("baseline", "lipschitz")
# What a cell can be picked by, in `exclude` and `only`.
COORDINATES = ("task", "variant", "strategy", "scope", "lambda_lip", "variation", "seed")
# The lists whose product gives the cells, and the option that each is of.
AXES = {"strategies": "strategy", "scopes": "scope", "lambdas": "lambda_lip", "seeds": "seed"}
_CHOICES = {"tasks": TASKS, "variants": VARIANTS, "strategies": tuple(STRATEGIES), "scopes": SCOPES}
_NUMBERS = {"lambdas": float, "seeds": int}
_LISTS = ("tasks", "variants", *AXES)
_MAPPINGS = ("common", "per_task", "variations", "cells", "then")
KEYS = (*_LISTS, *_MAPPINGS, "exclude")
# They come to stand in the names of folders.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.]*")
FOLLOW_UP_COMMANDS = ("evaluate", "robustness", "certify")


@dataclass(frozen=True)
class FollowUp:
    """
    A command that is run on every trained cell.

    Attributes:
        name (`str`): of its folder inside the cell's.
        command (`str`): one of `FOLLOW_UP_COMMANDS`.
        only (`dict`): the cells that it is for; see [`matches`].
        options (`dict`): of the command.
    """

    name: str
    command: str
    only: Mapping[str, Any]
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Definition:
    """
    What a matrix file says.

    Attributes:
        source (`str`): the file, for messages.
        axes (`dict`): the lists by their keys; of those that are not given only `variants` and `strategies` are there.
        common, per_task (`dict`): options of all cells, and of those of a task.
        variations (`dict`): named sets of options; each is combined with every other list.
        cells (`dict`): named further cells: their options, repeated for every task and seed.
        exclude (`list[dict]`): combinations that are left out; see [`matches`].
        follow_ups (`list[FollowUp]`): what is run after training, in order.
    """

    source: str
    axes: Mapping[str, list[Any]]
    common: Mapping[str, Any] = field(default_factory=dict)
    per_task: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    variations: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    cells: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    exclude: list[Mapping[str, Any]] = field(default_factory=list)
    follow_ups: list[FollowUp] = field(default_factory=list)


def parse_definition(content: Mapping[str, Any], source: str) -> Definition:
    """
    Check what a matrix file holds.

    Args:
        content (`dict`): as YAML gives it.
        source (`str`): the file's name, for messages.

    Raises:
        [`~lrsegformer.errors.InputError`]: an unknown key or value, a value of another kind than its key asks for, or
            an option that is given twice. Options of the commands are not looked at here.
    """
    for key in content:
        if key not in KEYS:
            near = difflib.get_close_matches(str(key), KEYS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"a matrix has {', '.join(KEYS)}."
            raise InputError(f"Unknown key {key!r} in {source}: {hint}")
    given = {key: value for key, value in content.items() if value is not None}
    axes = {key: _axis(given[key], key, source) for key in _LISTS if key in given}
    if "tasks" not in axes:
        raise InputError(f"{source} names no tasks: give tasks: [segmentation], [classification], or both.")
    mappings = {key: _mapping(given.get(key, {}), key, source) for key in _MAPPINGS}
    for key in ("per_task", "variations", "cells", "then"):
        for name, value in mappings[key].items():
            mappings[key][name] = _mapping({} if value is None else value, f"{key}: {name}", source)
    for name in mappings["per_task"]:
        if name not in axes["tasks"]:
            raise InputError(f"{source}, per_task: {name!r} is not among the tasks ({', '.join(axes['tasks'])}).")
    _check_names(mappings, source)
    _check_given_once(axes, mappings, source)
    axes = {"variants": ["lipschitz"], "strategies": [DEFAULT_STRATEGY], **axes}
    exclude = given.get("exclude", [])
    if not isinstance(exclude, list):
        raise InputError(f"{source}, exclude: give a list of mappings such as - {{strategy: orthogonal, seed: 1}}.")
    return Definition(
        source,
        axes,
        mappings["common"],
        mappings["per_task"],
        mappings["variations"],
        mappings["cells"],
        [_pattern(entry, f"{source}, exclude") for entry in exclude],
        [_follow_up(name, value, source) for name, value in mappings["then"].items()],
    )


def matches(pattern: Mapping[str, Any], coordinates: Mapping[str, Any]) -> bool:
    """Whether each coordinate that a pattern names has its value, or one of its values where it gives a list."""
    for name, wanted in pattern.items():
        if coordinates[name] not in (wanted if isinstance(wanted, list) else [wanted]):
            return False
    return True


def _axis(values: Any, key: str, source: str) -> list[Any]:
    values = values if isinstance(values, list) else [values]
    if not values:
        raise InputError(f"{source}, {key}: give at least one value, or leave the key out.")
    if key in _NUMBERS:
        values = [_number(value, _NUMBERS[key], f"{source}, {key}") for value in values]
    for value in values:
        if key in _CHOICES and value not in _CHOICES[key]:
            raise InputError(f"{source}, {key}: {value!r} is unknown; choose from {', '.join(_CHOICES[key])}.")
    return list(dict.fromkeys(values))


def _number(value: Any, kind: type, where: str) -> Any:
    """YAML reads 1e-3 as text: the number that it is."""
    try:
        number = float(value)
        if isinstance(value, bool) or kind(number) != number:
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        wanted = "whole numbers" if kind is int else "numbers"
        raise InputError(f"{where}: {value!r} is no such number; give {wanted}.") from None
    return kind(number)


def _mapping(value: Any, key: str, source: str) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{source}, {key}: {value!r} is no mapping from names to values.")
    return dict(value)


def _check_names(mappings: Mapping[str, Mapping[str, Any]], source: str) -> None:
    for key in ("variations", "cells", "then"):
        for name in mappings[key]:
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise InputError(f"{source}, {key}: {name!r} names a folder; use letters, digits, _ and dots.")
    twice = [name for name in mappings["cells"] if name in mappings["variations"]]
    if twice:
        raise InputError(f"{source}: {twice[0]!r} names one of the variations and one of the cells; rename one.")


def _check_given_once(axes: Mapping[str, Any], mappings: Mapping[str, Any], source: str) -> None:
    """No option stands in a list and in a mapping that is for all cells, nor anywhere but where it belongs."""
    of_axes = {option: key for key, option in AXES.items() if key in axes}
    shared = {"common": mappings["common"], **{f"per_task: {k}": v for k, v in mappings["per_task"].items()}}
    for where, options in shared.items():
        for name in options:
            if name in of_axes:
                raise InputError(f"{source}: {name} is given by {of_axes[name]} and in {where}; take one of them out.")
    named = {f"variations: {k}": v for k, v in mappings["variations"].items()}
    named |= {f"cells: {k}": v for k, v in mappings["cells"].items()}
    for where, options in {**shared, **named}.items():
        for name in options:
            if str(name).endswith("_token"):  # It would stand in matrix.json and in the logs.
                raise InputError(f"{source}, {where}: {name} is no option of a file; run `hf auth login` instead.")
            if name in ("output_dir", "resume_from_checkpoint"):
                raise InputError(f"{source}, {where}: {name} is the matrix's own; leave it out.")
            if name in ("task", "variant", "strategy") and not where.startswith("cells"):
                raise InputError(f"{source}, {where}: {name} is for the lists and for cells; leave it out.")


def _pattern(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        raise InputError(f"{where}: {value!r} is no mapping such as {{strategy: orthogonal, scope: [head, network]}}.")
    for name in value:
        if name not in COORDINATES:
            raise InputError(f"{where}: {name!r} is unknown; a cell is picked by {', '.join(COORDINATES)}.")
    pattern = dict(value)
    if "lambda_lip" in pattern:
        wanted = pattern["lambda_lip"]
        wanted = wanted if isinstance(wanted, list) else [wanted]
        pattern["lambda_lip"] = [None if one is None else _number(one, float, where) for one in wanted]
    return pattern


def _follow_up(name: str, content: Mapping[str, Any], source: str) -> FollowUp:
    where = f"{source}, then: {name}"
    options = dict(content)
    command = options.pop("command", name)
    only = options.pop("only", None)
    if command not in FOLLOW_UP_COMMANDS:
        raise InputError(f"{where}: {command!r} is no command for trained cells; {', '.join(FOLLOW_UP_COMMANDS)} are.")
    for option in ("model", "models", "output_dir"):
        if option in options:
            raise InputError(f"{where}: {option} is the matrix's own; leave it out.")
    return FollowUp(name, command, {} if only is None else _pattern(only, f"{where}, only"), options)
