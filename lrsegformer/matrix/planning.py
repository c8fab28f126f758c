"""What a matrix comes to: the cells that run, their commands, and the combinations that do not, with the reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from lrsegformer.data.arguments import DIGITS, FOLDER_OPTIONS
from lrsegformer.errors import InputError
from lrsegformer.matrix.cells import Draft, cell_name, draft_cells
from lrsegformer.matrix.definition import Definition, matches

TRAIN = "train"
SAME_RUN = (
    "the same run as another combination, in which lambda_lip weighs nothing or a variation sets what a list varies"
)
TRAINING_COMMANDS = {"segmentation": "finetune-seg", "classification": "finetune-cls"}
# What a follow-up takes over from the cell: which data, and how files are read. Not how many, nor at which size: the
# commands score each model on the inputs of its own processor, and all of them on the same images. `evaluate` finds
# the data of a run by itself.
_DATA_OPTIONS = (
    *("dataset", "dataset_config", "dataset_revision", "train_split", "validation_split"),
    *("image_column", "label_column", *FOLDER_OPTIONS, "image_suffix", "mask_suffix"),
    *("class_names", "mask_values", "ignore_label", "reduce_zero_label"),
    *("image_range", "image_bands", "image_page", "max_image_pixels", "score_at"),
)


class Request(NamedTuple):
    """What the command is asked of a combination: its task and its options."""

    task: str
    options: Mapping[str, Any]


class Verdict(NamedTuple):
    """
    What the command says of a combination's options.

    Attributes:
        words (`list[str]`): the options as on a command line; empty after an error.
        error (`str`, *optional*): they are not options of the command, or have no such values.
        refusal (`str`, *optional*): they are, and the model that they ask for is refused.
        weighs (`bool`): whether `lambda_lip` weighs anything in that model.
        length ([`Length`], *optional*): of the run.
    """

    words: list[str]
    error: str | None = None
    refusal: str | None = None
    weighs: bool = True
    length: Length | None = None


class Length(NamedTuple):
    """
    How long a run is.

    Attributes:
        max_steps (`int`): 0 where the length is given in epochs.
        epochs (`float`): passes over the training images, where `max_steps` is 0.
        eval_strategy (`str`): `"no"`, `"steps"` or `"epoch"`.
        eval_steps (`float`): steps between evaluations, or below 1 their share of the run.
        max_eval_samples (`int`, *optional*): images of an evaluation, where not all.
        built_in (`bool`): whether the data are made by the package, as many as are asked for.
    """

    max_steps: int
    epochs: float
    eval_strategy: str
    eval_steps: float
    max_eval_samples: int | None = None
    built_in: bool = False


class Commands(NamedTuple):
    """
    What planning asks of the command lines.

    Attributes:
        judge (`Callable`): verdicts on requests, in their order.
        follow_up (`Callable`): from a command's name, the task and the command's options to these as on a command
            line; raises `InputError`.
    """

    judge: Callable[[Sequence[Request]], list[Verdict]]
    follow_up: Callable[[str, str, Mapping[str, Any]], list[str]]


@dataclass(frozen=True)
class Step:
    """One command of a cell: the name of its log and of its folder, the command, and its words without folders."""

    name: str
    command: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """
    A cell that runs.

    Attributes:
        coordinates (`dict`): `task`, `variant`, `strategy`, `scope`, `lambda_lip`, `variation`, `seed`; `None` where
            one does not apply, as the weight of a penalty that the model does not have.
        steps (`tuple[Step]`): training first.
        length ([`Length`]): of the training.
    """

    coordinates: Mapping[str, Any]
    steps: tuple[Step, ...]
    length: Length

    @property
    def name(self) -> str:
        return cell_name(self.coordinates)


@dataclass(frozen=True)
class Plan:
    """The cells that run, and what is left out: a reason -> the labels of the combinations."""

    cells: tuple[Cell, ...]
    left_out: Mapping[str, list[str]]


def make_plan(definition: Definition, commands: Commands) -> Plan:
    """
    Ask the command about every combination.

    Raises:
        [`~lrsegformer.errors.InputError`]: options that a command does not take, naming the cell; a named cell that is
            refused; or no cell is left.
    """
    drafts = draft_cells(definition)
    verdicts = commands.judge([Request(draft.task, draft.options) for draft in drafts])
    cells: dict[str, Cell] = {}
    left_out: dict[str, list[str]] = {}
    for draft, verdict in zip(drafts, verdicts, strict=True):
        if verdict.error is not None:
            raise InputError(f"{definition.source}, cell {draft.label}: {verdict.error}")
        if verdict.refusal is not None:
            if draft.named:
                raise InputError(f"{definition.source}, cell {draft.label}: {verdict.refusal}")
            left_out.setdefault(verdict.refusal, []).append(draft.label)
            continue
        cell = _cell(definition, draft, verdict, commands)
        if cell.name not in cells:
            cells[cell.name] = cell
        elif cells[cell.name].steps == cell.steps:
            left_out.setdefault(SAME_RUN, []).append(draft.label)
        else:
            raise InputError(
                f"{definition.source}: two cells with other options are both called {cell.name}; give one of them a "
                "name of its own under variations or cells."
            )
    if not cells:
        reason = next(iter(left_out))
        raise InputError(f"{definition.source}: every combination is refused; the first because: {reason}")
    return Plan(tuple(cells.values()), left_out)


def _cell(definition: Definition, draft: Draft, verdict: Verdict, commands: Commands) -> Cell:
    coordinates, words = draft.coordinates, list(verdict.words)
    if not verdict.weighs:
        coordinates["lambda_lip"] = None
        words = without_option(words, "lambda_lip")
    steps = [Step(TRAIN, TRAINING_COMMANDS[draft.task], tuple(words))]
    for follow_up in definition.follow_ups:
        if matches(follow_up.only, coordinates):
            where = f"{definition.source}, then: {follow_up.name}, cell {draft.label}"
            shared = {} if follow_up.command == "evaluate" else _data_options(draft.options)
            options = {**shared, **follow_up.options}
            try:
                words = commands.follow_up(follow_up.command, draft.task, options)
            except InputError as error:
                raise InputError(f"{where}: {error}") from None
            steps.append(Step(follow_up.name, follow_up.command, tuple(words)))
    return Cell(coordinates, tuple(steps), verdict.length)


def without_option(words: Sequence[str], name: str) -> list[str]:
    """The words of a command line without an option that takes one value."""
    if f"--{name}" not in words:
        return [word for word in words if not word.startswith(f"--{name}=")]
    place = list(words).index(f"--{name}")
    return [*words[:place], *words[place + 2 :]]


def _data_options(options: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: options[name] for name in _DATA_OPTIONS if name in options}
    if options.get("dataset") == DIGITS and "image_size" in options:
        found["image_size"] = options["image_size"]
    return found


def describe_left_out(plan: Plan) -> list[str]:
    """Lines that say what is left out and why."""
    lines = []
    for reason, labels in plan.left_out.items():
        more = f" and {len(labels) - 1} more" if len(labels) > 1 else ""
        lines.append(f"left out: {labels[0]}{more}: {reason}")
    return lines
