"""One figure of a report: scores against radius and against severity, all models in it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from lrsegformer.evaluation.figures import legend_entry, new_figure, palette, write_figure
from lrsegformer.robustness.report.rows import IN_MEMORY, corruption_source
from lrsegformer.robustness.shift.data_sets import IMAGENET_C

# Told apart by colour-blind readers, too (Okabe and Ito, "Color Universal Design", 2008).
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D00")
_DASHES = ("-", "--", ":", "-.")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_AXIS_NAMES = {
    "linf": "linf radius, in 1/255",
    "l2": "l2 radius",
    "per_pixel_l2": "l2 radius of each pixel, in 1/255",
}


def save_robustness_curves(
    rows: Sequence[Mapping[str, Any]], scores: Mapping[str, str], path: str | os.PathLike
) -> None:
    """
    Draw each score against the radius of each norm, and against the severity of corruptions.

    A colour is a model, a dash and marker an attack; the legend has both. The clean score is the point at radius and
    severity 0. The curve over severities is the mean over the corruptions of the report.

    Args:
        rows (sequence of `dict`): the rows of [`~lrsegformer.robustness.report.files.result_rows`].
        scores (`dict`): key of a row -> name of the axis, such as `{"mean_iou": "mIoU"}`.
        path (`str` or `os.PathLike`): the PNG file to write.
    """
    norms = sorted({row["norm"] for row in rows if row["kind"] == "attack"}, reverse=True)
    columns = [*norms, *(["severity"] if any(corruption_source(row) for row in rows) else [])]
    figure = new_figure(6.0 * max(1, len(columns)), 3.8 * len(scores) + 0.9)
    if not columns:
        figure.text(0.5, 0.5, "Neither attacks nor corruptions were asked for.", ha="center")
        return write_figure(figure, path)
    models = list(dict.fromkeys(row["model"] for row in rows))
    colours = colours_of(models)
    styles: dict[str, dict[str, Any]] = {}
    for row_number, (score, score_name) in enumerate(scores.items()):
        for column_number, column in enumerate(columns):
            axes = figure.add_subplot(len(scores), len(columns), row_number * len(columns) + column_number + 1)
            axes.set(xlabel=_AXIS_NAMES.get(column, "severity, mean over corruptions"), ylabel=score_name)
            axes.grid(alpha=0.3)
            curves = severity_curves(rows, score) if column == "severity" else radius_curves(rows, score, column)
            attacks = list(dict.fromkeys(attack for _, attack in curves))
            for (model, attack), points in curves.items():
                number = attacks.index(attack)
                style = {"linestyle": _DASHES[number % len(_DASHES)], "marker": _MARKERS[number % len(_MARKERS)]}
                styles[attack] = {**style, "markersize": 4, "linewidth": 1.4}
                axes.plot(*zip(*points, strict=True), color=colours[model], **styles[attack])
            if column == "severity":
                axes.set_xticks(range(1 + max(row["severity"] for row in rows if corruption_source(row))))
            axes.set_ylim(bottom=0)
    _add_legend(figure, colours, styles)
    write_figure(figure, path)


def colours_of(models: Sequence[str]) -> dict[str, Any]:
    """A colour for each model."""
    several = _COLOURS if len(models) <= len(_COLOURS) else palette(len(models)) / 255.0 * 0.8
    return dict(zip(models, several, strict=False))


def _add_legend(figure: Any, colours: Mapping[str, Any], styles: Mapping[str, Mapping[str, Any]]) -> None:
    """A line for each model in its colour, then one for each attack in its dash and marker."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=colour, linewidth=3, label=legend_entry(model)) for model, colour in colours.items()
    ]
    handles += [Line2D([], [], color="grey", label=legend_entry(attack), **style) for attack, style in styles.items()]
    legend = figure.legend(
        handles=handles, loc="outside lower center", ncols=min(4, len(handles)), fontsize=8, frameon=False
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def radius_curves(
    rows: Sequence[Mapping[str, Any]], score: str, norm: str
) -> dict[tuple[str, str], list[tuple[float, float]]]:
    """(model, attack) -> points (radius, score) in rising order, from the clean score at 0."""
    clean = _clean_scores(rows, score)
    curves: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in rows:
        if row["kind"] == "attack" and row["norm"] == norm and row["radius"] is not None and row[score] is not None:
            points = curves.setdefault((row["model"], row["name"]), [(0.0, clean[row["model"]])])
            points.append((row["radius"], row[score]))
    return {key: sorted(points) for key, points in curves.items()}


def severity_curves(rows: Sequence[Mapping[str, Any]], score: str) -> dict[tuple[str, str], list[tuple[float, float]]]:
    """
    (model, `"corruptions"` or `"imagenet-c"`) -> points (severity, mean score of the corruptions), from the clean
    score at 0.
    """
    clean = _clean_scores(rows, score)
    names = {IN_MEMORY: "corruptions", IMAGENET_C: IMAGENET_C}
    values: dict[tuple[str, str], dict[int, list[float]]] = {}
    for row in rows:
        source = corruption_source(row)
        if source is not None:
            severities = values.setdefault((row["model"], names[source]), {})
            severities.setdefault(row["severity"], []).append(row[score])
    return {
        (model, name): [
            (0.0, clean[model]),
            *((float(severity), sum(found) / len(found)) for severity, found in sorted(severities.items())),
        ]
        for (model, name), severities in values.items()
    }


def _clean_scores(rows: Sequence[Mapping[str, Any]], score: str) -> dict[str, float]:
    return {row["model"]: row[score] for row in rows if row["kind"] == "clean"}
