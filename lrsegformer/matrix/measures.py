"""The numbers that a finished cell has left in its folder, under names that tell proven ones from measured ones."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lrsegformer.errors import InputError
from lrsegformer.matrix.ledger import DONE
from lrsegformer.matrix.planning import TRAIN
from lrsegformer.robustness.certificates.arguments import as_eps
from lrsegformer.robustness.certificates.rows import NOTHING, PROVEN

SCORES = {
    "segmentation": ("mean_iou", "overall_accuracy", "precision", "recall", "f1", "matthews_correlation"),
    "classification": ("accuracy", "precision", "recall", "f1", "matthews_correlation"),
}
# The one that tables with a column for each condition show.
MAIN_SCORE = {"segmentation": "mean_iou", "classification": "accuracy"}
MEASURED, ATTACKED, CERTIFIED, SMOOTHED = "measured", "estimated by attack", "proven", "with probability"


class Measure(NamedTuple):
    """
    A number of a cell.

    Attributes:
        source (`str`): the step that gave it: `train`, or the name of a follow-up.
        condition (`str`): under what; empty for the scores at the end of training.
        score (`str`): of what.
        kind (`str`): measured, estimated by an attack, proven, or holding with a probability.
        value (`float`): the number.
        shown (`bool`): whether it has a place in the Markdown tables; all have one in the CSV file.
    """

    source: str
    condition: str
    score: str
    kind: str
    value: float
    shown: bool = True


def cell_measures(matrix_folder: Path, entry: Mapping[str, Any]) -> list[Measure]:
    """
    What the finished steps of a cell came to.

    Args:
        matrix_folder (`Path`): of the matrix.
        entry (`dict`): of `matrix.json`.

    Raises:
        [`~lrsegformer.errors.InputError`]: a file of results is there and cannot be read.
    """
    folder, task = matrix_folder / entry["folder"], entry["task"]
    found: list[Measure] = []
    for name, step in entry["steps"].items():
        if step["status"] != DONE:
            continue
        file, read = _READERS[TRAIN if name == TRAIN else step["command"]]
        content = _content(folder / file if name == TRAIN else folder / name / file)
        if content is not None:
            found += [measure for measure in read(name, task, content) if measure.value is not None]
    return found


def _content(path: Path) -> dict[str, Any] | None:
    """What a file of results holds; `None` where somebody has taken it away."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read ({error}): delete its folder, and the matrix makes it anew."
        ) from None


# Parts of a report of bounds, and what tables call their bounds.
_BOUNDED = {"head": "bound of the head", "network": "bound of the network"}


def _of_training(source: str, task: str, content: Mapping[str, Any]) -> Iterator[Measure]:
    for score in SCORES[task]:
        yield Measure(source, "", score, MEASURED, content.get(f"eval_{score}"))
    report = content.get("lipschitz") or {}
    for part, name in _BOUNDED.items():
        bound = report.get(part) or {}
        if bound.get("guaranteed"):
            yield Measure(source, bound.get("norm", ""), name, CERTIFIED, bound.get("bound"))


def _of_evaluation(source: str, task: str, content: Mapping[str, Any]) -> Iterator[Measure]:
    for protocol, sizes in content["protocols"].items():
        for size, scores in sizes.items():
            for score in SCORES[task]:
                yield Measure(source, f"{protocol}, {size}", score, MEASURED, scores.get(score))


def _of_robustness(source: str, task: str, content: Mapping[str, Any]) -> Iterator[Measure]:
    for row in content["rows"]:
        kind = ATTACKED if row["kind"] == "attack" else MEASURED
        for score in SCORES[task]:
            yield Measure(source, row["condition"], score, kind, row.get(score), row["kind"] != "corruption")
    for row in content["corruption_summary"]:
        score = _score_called(row["score"])
        yield Measure(source, f"mean of corruptions ({row['source']})", score, MEASURED, row["mean"])
    for row in content["reliability"]:
        for name, value in {**row, **_prefixed("train_validation_gap", row["train_validation_gap"])}.items():
            if isinstance(value, int | float):
                yield Measure(source, "reliability", name, MEASURED, value, shown=False)


def _of_certificates(source: str, task: str, content: Mapping[str, Any]) -> Iterator[Measure]:
    for row in content["rows"]:
        radius = f"{row['norm']} {_shown_radius(row['norm'], row['radius'])}"
        for score in ("mean_iou", "accuracy"):
            for attack, scores in row["attacked"].items():
                yield Measure(source, f"{attack}, {radius}", score, ATTACKED, scores.get(score))
            if row["method"] != NOTHING:
                kind = CERTIFIED if row["method"] == PROVEN else SMOOTHED
                where = "" if row["reach"] == "network" else f" ({row['reach']})"
                condition = f"certified{where}, {radius}"
                yield Measure(source, condition, score, kind, row[f"certified_{score}"])


_READERS = {
    TRAIN: ("all_results.json", _of_training),
    "evaluate": ("evaluation.json", _of_evaluation),
    "robustness": ("results.json", _of_robustness),
    "certify": ("results.json", _of_certificates),
}


def _score_called(words: str) -> str:
    """The name of a score that the tables of corruptions give in words."""
    return "mean_iou" if words == "mIoU" else "accuracy"


def _prefixed(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{prefix} of {name}": value for name, value in values.items()}


def _shown_radius(norm: str, radius: float) -> str:
    """A radius of pixels from 0 to 1 as a fraction of 255 where it is one, of features as it is."""
    in_255ths = as_eps("linf", radius)
    return f"{in_255ths:.4g}/255" if norm in ("l2", "per_pixel_l2") else f"{radius:.4g}"
