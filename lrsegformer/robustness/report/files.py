"""The files of a report: results in Markdown, JSON and CSV, per-class results, curves, subset and configuration."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lrsegformer.evaluation.scores import without_nan
from lrsegformer.robustness.metrics.counting import from_json
from lrsegformer.robustness.report.curves import save_robustness_curves
from lrsegformer.robustness.report.rows import (
    SHOWN,
    corruption_rows,
    label_of,
    masking_rows,
    reliability_rows,
    result_rows,
)
from lrsegformer.robustness.report.text import report_text
from lrsegformer.training.run.run_config import RUN_CONFIG_FILE
from lrsegformer.visible import csv_text
from lrsegformer.writing import write_whole, writing_to, written_aside

_CONDITION_COLUMNS = (
    "model",
    "condition",
    "kind",
    "name",
    "norm",
    "radius",
    "severity",
    "steps",
    "restarts",
    "targeted",
)
_RUN_COLUMNS = (
    *("input", "images", "of", "subset", "seed"),
    *("seconds", "device", "processes", "versions", "warnings", "sheet"),
)
SHEETS, SUBSETS = "sheets", "subsets"
# All that a report is made of, for [`~lrsegformer.output_folder.claim`]; the finished cells belong to it.
FILES = (
    *(RUN_CONFIG_FILE, "cells.jsonl", "results.json", "results.md", "results.csv", "per_class.csv", "curves.png"),
    *(SHEETS, SUBSETS),
)
_SCORES = {
    "segmentation": ("mean_iou", "mean_accuracy", "accuracy", "precision", "recall", "f1", "matthews_correlation"),
    "classification": ("accuracy", "precision", "recall", "f1", "matthews_correlation"),
}
_PER_CLASS = ("input", "class", "reference", "iou", "accuracy")


def write_report(
    folder: str | Path,
    cells: Sequence[Mapping[str, Any]],
    context: Mapping[str, Any],
    subsets: Mapping[str, Sequence[str]],
    radii: Sequence[float],
) -> dict[str, Any]:
    """
    Write every file of the report, over what was there; each file is whole at any time.

    Args:
        folder (`str` or `Path`): of the report.
        cells (sequence of `dict`): the finished cells, in the order of the tables.
        context (`dict`): `task`, `dataset`, `images`, `of`, `class_names`, `seed`, `versions`, `score_at`, `inputs`:
            for each model the `size` of its input in words, the fingerprint of its images (`subset`) and the SHA-256
            of its `files`, and `bounds`: for each model the proven bound of its head, or `None`.
        subsets (`dict`): names of the images of every subset, by its fingerprint.
        radii (sequence of `float`): where minimum-norm attacks are read off.

    Returns:
        `dict`: what `results.json` holds.

    Raises:
        [`~lrsegformer.errors.InputError`]: a file cannot be written.
    """
    folder, task = Path(folder), context["task"]
    rows = result_rows(cells, task, radii)
    report = {
        **context,
        "rows": rows,
        "corruption_summary": corruption_rows(rows, task, len(context["class_names"])),
        "gradient_masking": masking_rows(cells, rows),
        "reliability": reliability_rows(cells, rows, task),
    }
    report = without_nan(report)
    columns = (*_CONDITION_COLUMNS, *_SCORES[task], *_RUN_COLUMNS)
    class_lines = (line for cell in cells for line in _class_lines(cell, context))
    with writing_to(folder):
        write_whole(folder / "results.json", json.dumps(report, indent=1) + "\n")
        write_whole(folder / "results.md", report_text(report))
        write_whole(folder / "results.csv", table_text(columns, (_flat(row) for row in rows)))
        write_whole(folder / "per_class.csv", table_text((*_CONDITION_COLUMNS, *_PER_CLASS), class_lines))
        with written_aside(folder / "curves.png") as path:
            save_robustness_curves(rows, SHOWN[task], path)
        for fingerprint, names in subsets.items():
            write_whole(folder / SUBSETS / f"{fingerprint}.txt", "".join(f"{name}\n" for name in _short_names(names)))
    return report


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    versions = " ".join(f"{package}={number}" for package, number in row["versions"].items())
    return {**row, "versions": versions, "warnings": " | ".join(row["warnings"])}


def _class_lines(cell: Mapping[str, Any], context: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    """The results of each class of a cell: pixels (or images) of the class, and its scores."""
    if "counts" not in cell or "distances" in cell:
        return
    accuracy_table = from_json(cell["counts"], cell["num_labels"])
    iou_table = from_json(cell["iou_counts"], cell["num_labels"]) if cell.get("iou_counts") else accuracy_table
    condition = {**cell["condition"], "model": cell["model"], "condition": label_of(cell["condition"])}
    for index, name in enumerate(cell["class_names"]):
        union = int(iou_table[index].sum() + iou_table[:, index].sum() - iou_table[index, index])
        reference = int(accuracy_table[index].sum())
        yield {
            **condition,
            "input": cell["input"],
            "class": name,
            "reference": reference,
            "iou": int(iou_table[index, index]) / union if union and context["task"] == "segmentation" else None,
            "accuracy": int(accuracy_table[index, index]) / reference if reference else None,
        }


def table_text(columns: Sequence[str], lines: Iterable[Mapping[str, Any]]) -> str:
    """A table as CSV with a header, of what the lines hold under the names of the columns."""
    return csv_text([columns, *([line.get(column, "") for column in columns] for line in lines)])


def _short_names(names: Sequence[str]) -> list[str]:
    """Names without the folder that all of them lie in, where they are files."""
    if not all(os.path.isabs(name) for name in names) or len(names) < 2:
        return list(names)
    root = os.path.commonpath(names)
    return [os.path.relpath(name, root) for name in names]
