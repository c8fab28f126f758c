"""`summary.md` and `summary.csv`: scores of the finished cells, mean and spread over the seeds."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lrsegformer.hub.markdown import plain, table
from lrsegformer.matrix.cells import configuration_name
from lrsegformer.matrix.definition import COORDINATES
from lrsegformer.matrix.ledger import DONE, FAILED
from lrsegformer.matrix.measures import CERTIFIED, MAIN_SCORE, MEASURED, SCORES, Measure, cell_measures
from lrsegformer.matrix.planning import TRAIN
from lrsegformer.robustness.report.files import table_text
from lrsegformer.writing import write_whole, writing_to

SUMMARY_FILES = ("summary.csv", "summary.md")
_GROUPED_BY = tuple(name for name in COORDINATES if name != "seed")
_COLUMNS = ("configuration", *_GROUPED_BY, "source", "condition", "score", "kind", "n", "mean", "spread", "seeds")
_WHAT = (
    "Mean ± sample standard deviation over n seeds. Scores go from 0 to 1. Scores under attack are estimates "
    "from the attacks that ran; bounds and certified scores are proven, or hold with the probability that the cell's "
    "own report names."
)


class Average(NamedTuple):
    """A measure over the seeds of a configuration: the number of seeds, mean and sample standard deviation."""

    count: int
    mean: float
    spread: float | None

    def __str__(self) -> str:
        return f"{self.mean:.4g}" if self.spread is None else f"{self.mean:.4g} ± {self.spread:.2g}"


def average(values: Sequence[float]) -> Average:
    """Mean and sample standard deviation (n - 1); no spread of a single value."""
    spread = statistics.stdev(values) if len(values) > 1 else None
    return Average(len(values), statistics.fmean(values), spread)


def write_summary(folder: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    """
    Write both files.

    Args:
        folder (`Path`): of the matrix.
        entries (sequence of `dict`): of `matrix.json`.

    Raises:
        [`~lrsegformer.errors.InputError`]: a file cannot be written, or results of a cell cannot be read.
    """
    measures = {entry["name"]: cell_measures(folder, entry) for entry in entries}
    with writing_to(folder):
        table, text = (folder / name for name in SUMMARY_FILES)
        write_whole(table, table_text(_COLUMNS, _csv_lines(entries, measures)))
        write_whole(text, _text(entries, measures))


def _grouped(entries: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for entry in entries:
        groups.setdefault(configuration_name(entry), []).append(entry)
    return groups


def _averages(
    group: Sequence[Mapping[str, Any]], measures: Mapping[str, Sequence[Measure]]
) -> dict[Measure, tuple[Average, list[int]]]:
    """Each measure of a configuration, its own value apart, with the seeds that have it."""
    values: dict[Measure, dict[int, float]] = {}
    for entry in group:
        for measure in measures[entry["name"]]:
            values.setdefault(measure._replace(value=0.0), {})[entry["seed"]] = measure.value
    return {key: (average(list(found.values())), sorted(found)) for key, found in values.items()}


def _csv_lines(
    entries: Sequence[Mapping[str, Any]], measures: Mapping[str, Sequence[Measure]]
) -> Iterable[dict[str, Any]]:
    for name, group in _grouped(entries).items():
        coordinates = {key: group[0][key] for key in _GROUPED_BY}
        for key, (found, seeds) in _averages(group, measures).items():
            yield {
                "configuration": name,
                **coordinates,
                **key._asdict(),
                "n": found.count,
                "mean": found.mean,
                "spread": found.spread,
                "seeds": " ".join(map(str, seeds)),
            }


def _text(entries: Sequence[Mapping[str, Any]], measures: Mapping[str, Sequence[Measure]]) -> str:
    done = sum(entry["status"] == DONE for entry in entries)
    parts = ["# Matrix", f"{done} of {len(entries)} cells are finished. {_WHAT}"]
    for task in dict.fromkeys(entry["task"] for entry in entries):
        groups = {
            name: _averages(group, measures)
            for name, group in _grouped(entry for entry in entries if entry["task"] == task).items()
        }
        parts += [f"## {task.capitalize()}", *_task_tables(task, groups)]
    failed = [entry for entry in entries if entry["status"] == FAILED]
    if failed:
        parts += ["## Failed", table(("cell", "why"), [(entry["name"], plain(entry["error"])) for entry in failed])]
    return "\n\n".join(parts) + "\n"


def _task_tables(task: str, groups: Mapping[str, Mapping[Measure, tuple[Average, list[int]]]]) -> list[str]:
    """
    Scores after training and proven bounds, then for every follow-up its conditions by the main score; of the
    configurations that have any.
    """
    found = list(dict.fromkeys(key for averages in groups.values() for key in averages))
    if not found:
        return ["No cell is finished."]
    trained = [key for key in found if key.source == TRAIN]
    scores = sorted((key for key in trained if key.kind == MEASURED), key=lambda key: SCORES[task].index(key.score))
    parts = ["### After training", _table(groups, scores, lambda key: key.score)]
    bounds = [key for key in trained if key.kind == CERTIFIED]
    if bounds:
        parts += ["### Proven bounds", _table(groups, bounds, lambda key: f"{key.score}, {key.condition}")]
    for source in dict.fromkeys(key.source for key in found if key.source != TRAIN):
        main = [key for key in found if key.source == source and key.shown and key.score == MAIN_SCORE[task]]
        parts += [f"### {source}: {MAIN_SCORE[task]}", _table(groups, main, _condition_title)]
    return parts


def _condition_title(key: Measure) -> str:
    return key.condition if key.kind == MEASURED else f"{key.condition} ({key.kind})"


def _table(
    groups: Mapping[str, Mapping[Measure, tuple[Average, list[int]]]], columns: Sequence[Measure], title: Any
) -> str:
    rows = []
    for name, averages in groups.items():
        counts = [averages[key][0].count for key in columns if key in averages]
        if counts:
            cells = [_cell(averages.get(key), max(counts)) for key in columns]
            rows.append((name, str(max(counts)), *cells))
    return table(("configuration", "n", *(plain(title(key)) for key in columns)), rows)


def _cell(found: tuple[Average, list[int]] | None, most: int) -> str:
    if found is None:
        return "-"
    own = found[0]
    return str(own) if own.count == most else f"{own} (n = {own.count})"
