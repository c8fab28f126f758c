"""What a report of robustness leaves beside each model: its part of the results, and a section of its card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lrsegformer.hub.markdown import plain, table
from lrsegformer.hub.sections import keep_results
from lrsegformer.robustness.report.curves import save_robustness_curves
from lrsegformer.robustness.report.rows import IN_MEMORY, SHOWN, corruption_source
from lrsegformer.robustness.report.text import condition_title, introduction, percent, version_text

_BY_MODEL = ("inputs", "bounds")
_OF_MODEL = ("rows", "corruption_summary", "gradient_masking", "reliability")


def keep_robustness(folder: str, report: Mapping[str, Any], model: str) -> bool:
    """
    Keep a model's part of a report in its folder and in its card ([`~lrsegformer.hub.sections.keep_results`]).

    Args:
        folder (`str`): of the model; a Hub id keeps nothing, and neither does a report of clean images alone.
        report (`dict`): what `results.json` holds.
        model (`str`): the model's label in it.
    """
    own = part_of(report, model)
    if all(row["kind"] in ("clean", "train") for row in own["rows"]):
        return False
    score_names = SHOWN[report["task"]]
    return keep_results(
        folder,
        "robustness",
        own,
        robustness_section(own),
        report["inputs"][model]["files"],
        lambda path: save_robustness_curves(own["rows"], score_names, path),
    )


def part_of(report: Mapping[str, Any], model: str) -> dict[str, Any]:
    """The report as if it were of this model alone; without pictures, which stay in the report's folder."""
    own = {**report, **{name: {model: report[name][model]} for name in _BY_MODEL}}
    own |= {name: [row for row in report[name] if row["model"] == model] for name in _OF_MODEL}
    own["rows"] = [{name: value for name, value in row.items() if name != "sheet"} for row in own["rows"]]
    return own


def robustness_section(report: Mapping[str, Any]) -> str:
    """
    The section of a card, of the report of one model: clean, attacked, corrupted and shifted scores, and what they
    hang on. Every corruption is in the JSON file; the section has their means.
    """
    rows, names = report["rows"], SHOWN[report["task"]]
    (inputs,) = report["inputs"].values()
    lines = [
        [condition_title(row), *_numbers(row), *(percent(row.get(score)) for score in names)]
        for row in rows
        if row["kind"] != "train" and corruption_source(row) is None
    ]
    parts = [
        "## Robustness",
        f"{introduction(report)} Inputs: {inputs['size']}, by the saved image processor.",
        table(["condition", "steps", "restarts", *names.values()], [*lines, *_corruption_lines(report, names)]),
    ]
    flags = [f"- {flag}" for row in report["gradient_masking"] for flag in row["flags"]]
    warnings = dict.fromkeys(
        f"- {condition_title(row)}: {plain(warning)}" for row in rows for warning in row["warnings"]
    )
    if flags or warnings:
        parts.append("\n".join(["What the attacks warn of:", "", *flags, *warnings]))
    parts += ["![Scores against radius and severity](robustness.png)", _versions(rows)]
    return "\n\n".join(parts)


def _numbers(row: Mapping[str, Any]) -> list[str]:
    return ["-" if row[name] is None else f"{row[name]:g}" for name in ("steps", "restarts")]


def _corruption_lines(report: Mapping[str, Any], names: Mapping[str, str]) -> list[list[str]]:
    """A line for each source of corruptions: the mean over all of them."""
    summaries = report["corruption_summary"]
    lines = []
    for source in dict.fromkeys(summary["source"] for summary in summaries):
        own = {summary["score"]: summary for summary in summaries if summary["source"] == source}
        kinds = len(next(iter(own.values()))["per_corruption"])
        severities = {row["severity"] for row in report["rows"] if corruption_source(row) == source}
        where = "" if source == IN_MEMORY else f" ({source})"
        title = f"mean over corruptions ({kinds}) and severities ({len(severities)}){where}"
        lines.append([title, "-", "-", *(percent(own[name]["mean"]) for name in names.values())])
    return lines


def _versions(rows: Sequence[Mapping[str, Any]]) -> str:
    return "Versions: " + "; or ".join(dict.fromkeys(version_text(row) for row in rows)) + "."
