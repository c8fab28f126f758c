"""One figure of a report of certificates: certified, attacked and clean accuracy against the radius."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from lrsegformer.evaluation.figures import legend_entry, new_figure, write_figure
from lrsegformer.robustness.certificates.rows import SMOOTHED
from lrsegformer.robustness.certificates.text import unit_of
from lrsegformer.robustness.report.curves import colours_of

_DASHES = ("--", ":", "-.")
_MARKERS = ("v", "x", "D", "P", "*", "^")


def save_certified_curves(
    models: Mapping[str, Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], path: str | os.PathLike
) -> None:
    """
    Draw the accuracy of every model against the radius, a panel for each norm; radius 0 is the clean score.

    Certified curves are solid, with dots at the radii of the table (where the collective certificate may lift them
    above the line, which is pixel by pixel); attacks are dashed, and smoothed models are squares.

    Args:
        models (`dict`), rows (sequence of `dict`): of the report.
        path (`str` or `os.PathLike`): the PNG file to write.
    """
    norms = list(dict.fromkeys(row["norm"] for row in rows))
    figure = new_figure(6.0 * len(norms), 4.6)
    colours = colours_of(list(models))
    attacks = list(dict.fromkeys(name for row in rows for name in row["attacked"]))
    for number, norm in enumerate(norms, start=1):
        axes = figure.add_subplot(1, len(norms), number)
        axes.set(xlabel=f"radius, {unit_of(norm)}", ylabel="accuracy", ylim=(0, 1))
        axes.xaxis.label.set_fontsize(8)
        axes.grid(alpha=0.3)
        for model, found in models.items():
            own = [row for row in rows if row["model"] == model and row["norm"] == norm]
            _draw_model(axes, own, found["curves"].get(norm), colours[model], attacks)
    _add_legend(figure, colours, attacks, any(row["method"] == SMOOTHED for row in rows))
    write_figure(figure, path)


def _draw_model(
    axes: Any, rows: Sequence[Mapping[str, Any]], curve: Sequence | None, colour: Any, attacks: Sequence[str]
) -> None:
    smoothed = [row for row in rows if row["method"] == SMOOTHED]
    others = [row for row in rows if row["method"] != SMOOTHED]
    if curve is not None and others:
        axes.plot(*zip((0.0, others[0]["clean_accuracy"]), *curve, strict=True), color=colour, linewidth=1.6)
    points = [(row["radius"], row["certified_accuracy"]) for row in others if row["certified_accuracy"] is not None]
    if points:
        axes.plot(*zip(*points, strict=True), "o", color=colour, markersize=5)
    if smoothed:
        points = [(row["radius"], row["certified_accuracy"]) for row in smoothed]
        axes.plot(*zip(*points, strict=True), "s", color=colour, markersize=5, markerfacecolor="none")
    for number, name in enumerate(attacks):
        points = [(row["radius"], row["attacked"][name]["accuracy"]) for row in others if name in row["attacked"]]
        if points:
            points = [(0.0, others[0]["clean_accuracy"]), *points]
            axes.plot(*zip(*points, strict=True), color=colour, **_attack_style(number))


def _attack_style(number: int) -> dict[str, Any]:
    dash, marker = _DASHES[number % len(_DASHES)], _MARKERS[number % len(_MARKERS)]
    return {"linestyle": dash, "marker": marker, "markersize": 4, "linewidth": 1.2}


def _add_legend(figure: Any, colours: Mapping[str, Any], attacks: Sequence[str], with_smoothing: bool) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=colour, linewidth=3, label=legend_entry(model)) for model, colour in colours.items()
    ]
    handles.append(Line2D([], [], color="grey", label="certified, each by itself"))
    dot = {"linestyle": "", "marker": "o", "markersize": 5}
    handles.append(Line2D([], [], color="grey", **dot, label="certified, larger of both rules"))
    if with_smoothing:
        square = {"linestyle": "", "marker": "s", "markerfacecolor": "none"}
        handles.append(Line2D([], [], color="grey", **square, label="smoothing, with its probability"))
    handles += [
        Line2D([], [], color="grey", label=legend_entry(name), **_attack_style(n)) for n, name in enumerate(attacks)
    ]
    legend = figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)), fontsize=8)
    for text in legend.get_texts():
        text.set_parse_math(False)
