"""The cells of a matrix: every combination of its lists, and the cells that it names."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lrsegformer.choices import NO_STRATEGY
from lrsegformer.errors import InputError
from lrsegformer.matrix.definition import AXES, VARIANTS, Definition, matches
from lrsegformer.recipes import DEFAULT_RECIPE, recipe_options
from lrsegformer.training.arguments import ModelArguments, TrainingDefaults


@dataclass(frozen=True)
class Draft:
    """
    A combination as the file has it, before the command has looked at its options.

    Attributes:
        task (`str`): its task.
        variation (`str`, *optional*): the name of its variation, or its own where the file names the cell.
        options (`dict`): of the fine-tuning command.
        named (`bool`): whether the file names the cell: the command then has to take it.
    """

    task: str
    variation: str | None
    options: Mapping[str, Any]
    named: bool = False

    @property
    def coordinates(self) -> dict[str, Any]:
        """What the cell is picked by; a baseline has no strategy, scope or weight of a penalty."""
        defaults = {**_DEFAULTS, **recipe_options(self.task, self.options.get("recipe", DEFAULT_RECIPE))}
        given = {name: self.options.get(name, defaults[name]) for name in _DEFAULTS}
        is_baseline = given["strategy"] == NO_STRATEGY
        without = dict.fromkeys(("strategy", "scope", "lambda_lip")) if is_baseline else {}
        variant = VARIANTS[0] if is_baseline else VARIANTS[1]
        return {"task": self.task, "variant": variant, "variation": self.variation, **given, **without}

    @property
    def label(self) -> str:
        """The cell in words, for messages."""
        return cell_name(self.coordinates)


_DEFAULTS = {
    "strategy": ModelArguments.strategy,
    "scope": ModelArguments.scope,
    "lambda_lip": TrainingDefaults.lambda_lip,
    "seed": TrainingDefaults.seed,
}


def cell_name(coordinates: Mapping[str, Any]) -> str:
    """
    A cell's name, which is also its folder's, such as `segmentation-orthogonal-head-lambda0.1-seed0`: what does not
    apply to it is left out.
    """
    return f"{configuration_name(coordinates)}-seed{coordinates['seed']}"


def configuration_name(coordinates: Mapping[str, Any]) -> str:
    """The name without the seed: what cells have in common over which scores are averaged."""
    parts = [coordinates["task"], coordinates["strategy"] or VARIANTS[0], coordinates["scope"]]
    if coordinates["lambda_lip"] is not None:
        parts.append(f"lambda{coordinates['lambda_lip']:g}")
    return "-".join(part for part in (*parts, coordinates["variation"]) if part)


def draft_cells(definition: Definition) -> list[Draft]:
    """
    Every combination, without those that `exclude` leaves out.

    Raises:
        [`~lrsegformer.errors.InputError`]: an entry of `exclude` fits none of them, or a named cell says something
            that no cell can.
    """
    drafts = list(_product(definition))
    for pattern in definition.exclude:
        kept = [draft for draft in drafts if not matches(pattern, draft.coordinates)]
        if len(kept) == len(drafts):
            raise InputError(f"{definition.source}, exclude: {dict(pattern)} fits no cell that is left to leave out.")
        drafts = kept
    drafts += _named(definition)
    if not drafts:
        raise InputError(f"{definition.source}: every cell is excluded.")
    return drafts


def _product(definition: Definition) -> Iterator[Draft]:
    axes = definition.axes
    variations = definition.variations or {None: {}}
    for task, variant, name in itertools.product(axes["tasks"], axes["variants"], variations):
        shared = {**definition.common, **definition.per_task.get(task, {})}
        varied = {option: axes[key] for key, option in AXES.items() if key in axes}
        if variant == VARIANTS[0]:
            varied = {**{k: v for k, v in varied.items() if k == "seed"}, "strategy": [NO_STRATEGY]}
        for values in itertools.product(*varied.values()):
            options = {**shared, **dict(zip(varied, values, strict=True)), **variations[name]}
            # A variation that changes nothing is the plain run.
            yield Draft(task, name if variations[name] else None, options)


def _named(definition: Definition) -> Iterator[Draft]:
    seeds = definition.axes.get("seeds", [TrainingDefaults.seed])
    for name, given in definition.cells.items():
        where = f"{definition.source}, cells: {name}"
        task, variant = given.get("task"), given.get("variant")
        if task not in (None, *definition.axes["tasks"]):
            raise InputError(f"{where}: task {task!r} is not among the tasks.")
        if variant not in (None, *VARIANTS):
            raise InputError(f"{where}: variant {variant!r} is unknown; choose from {', '.join(VARIANTS)}.")
        options = {key: value for key, value in given.items() if key not in ("task", "variant")}
        strategy = options.get("strategy")
        if variant == VARIANTS[0] and strategy not in (None, NO_STRATEGY):
            raise InputError(f"{where}: a baseline has no strategy, and {strategy} is given; leave one out.")
        if variant == VARIANTS[1] and strategy in (None, NO_STRATEGY):
            raise InputError(f"{where}: variant {variant} needs a strategy.")
        for one in definition.axes["tasks"] if task is None else [task]:
            for seed in [options["seed"]] if "seed" in options else seeds:
                shared = {**definition.common, **definition.per_task.get(one, {}), **options, "seed": seed}
                # As for the fine-tuning commands, a cell that names no strategy has that of its recipe, or none.
                own = recipe_options(one, shared.get("recipe", DEFAULT_RECIPE)).get("strategy", NO_STRATEGY)
                yield Draft(one, name, {"strategy": own, **shared}, named=True)
