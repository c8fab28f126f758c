"""Pictures of what a Trainer logged: curves over the steps, and the bounds alone."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lrsegformer.evaluation.figures import new_figure, palette, write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LOSS_KEYS = ("loss", "loss_task", "eval_loss", "eval_loss_task")
_PENALTY_KEYS = ("loss_lipschitz", "eval_loss_lipschitz")
_SCORE_NAMES = ("mean_iou", "mean_accuracy", "overall_accuracy", "accuracy", "f1", "matthews_correlation")
_BOUND_PREFIX = "lipschitz/"
_BOUNDS_TITLE = "guaranteed Lipschitz bounds"
# The bounds of many layers together, which are what counts: in black, each with its name and line style. No layer is
# black: the palette keeps away from it.
_WHOLE = {
    "lipschitz/head": ("the head: features to logits", "-"),
    "lipschitz/network": ("the network: pixels to logits", "--"),
}


def save_curves(log_history: Sequence[Mapping[str, Any]], path: str | os.PathLike) -> None:
    """Draw what a Trainer logged, over the steps: loss, penalty, guaranteed bounds, scores.

    Panels without a value are left out; `nan` and infinite values are skipped. Bounds are drawn as by [`save_bounds`].

    Args:
        log_history (`list[dict]`):
            `trainer.state.log_history`: records with `step` and any of `loss`, `loss_task`, `loss_lipschitz`,
            `lipschitz/<layer>`, `lipschitz/head`, `lipschitz/network` and the scores with the prefix `eval_`.
        path (`str` or `os.PathLike`): the PNG file to write.
    """
    panels = [
        ("loss", "loss", _LOSS_KEYS),
        ("penalty, weighted", "part of the loss", _PENALTY_KEYS),
        (_BOUNDS_TITLE, "bound", _bound_keys(log_history)),
        ("validation scores", "score", [f"eval_{name}" for name in _SCORE_NAMES]),
    ]
    series = [{key: points for key in keys if (points := _points(log_history, key))} for _, _, keys in panels]
    drawn = [(title, unit, curves) for (title, unit, _), curves in zip(panels, series, strict=True) if curves]

    columns = min(2, max(1, len(drawn)))
    rows = max(1, math.ceil(len(drawn) / columns))
    figure = new_figure(6.4 * columns, 4.2 * rows)
    if not drawn:
        figure.text(0.5, 0.5, "Nothing was logged: the run was shorter than its logging interval.", ha="center")
    for position, (title, unit, curves) in enumerate(drawn):
        axes = figure.add_subplot(rows, columns, position + 1)
        axes.set(title=title, xlabel="step", ylabel=unit)
        _draw_series(axes, curves)
        if title == _BOUNDS_TITLE:
            _scale_bounds(axes, curves)
        if title == "validation scores":
            axes.set_ylim(min(0.0, axes.get_ylim()[0]), 1.0)
    write_figure(figure, path)


def save_bounds(log_history: Sequence[Mapping[str, Any]], path: str | os.PathLike) -> None:
    """Draw the guaranteed bounds that a Trainer logged, over the steps: the layers' in colour, and in black that of
    the head and, of a certified network, that of the network.

    The axis is logarithmic where the bounds span more than a factor of ten; values that are not finite are skipped.

    Args:
        log_history (`list[dict]`):
            `trainer.state.log_history`: records with `step`, `lipschitz/<layer>` and, where the constraint bounds
            them, `lipschitz/head` and `lipschitz/network`.
        path (`str` or `os.PathLike`): the PNG file to write.
    """
    curves = {key: points for key in _bound_keys(log_history) if (points := _points(log_history, key))}
    figure = new_figure(8.0, 5.0)
    if not curves:
        figure.text(0.5, 0.5, "No bound was logged.", ha="center")
        return write_figure(figure, path)
    axes = figure.add_subplot()
    axes.set(title=_BOUNDS_TITLE, xlabel="step", ylabel="bound")
    _draw_series(axes, curves)
    _scale_bounds(axes, curves)
    write_figure(figure, path)


def holds_bounds(log_history: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a Trainer's log has bounds that [`save_bounds`] can draw."""
    return any(_points(log_history, key) for key in _bound_keys(log_history))


def _bound_keys(log_history: Sequence[Mapping[str, Any]]) -> list[str]:
    """The bounds of the log by their names, those of many layers together in front."""
    keys = sorted({key for record in log_history for key in record if key.startswith(_BOUND_PREFIX)})
    return [*(key for key in _WHOLE if key in keys), *(key for key in keys if key not in _WHOLE)]


def _points(log_history: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    pairs = ((record.get("step"), record.get(key)) for record in log_history)
    return [(step, value) for step, value in pairs if step is not None and _is_finite(value)]


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and math.isfinite(value)


def _draw_series(axes: Axes, curves: Mapping[str, Sequence[tuple[float, float]]]) -> None:
    styles = [(colour, dash) for dash in ("-", "--", ":") for colour in palette(8) / 255.0 * 0.8]
    coloured = 0
    for key, points in curves.items():
        if key in _WHOLE:
            (label, dash), colour, width = _WHOLE[key], "black", 2.4
        else:
            (colour, dash), label, width = styles[coloured % len(styles)], key.removeprefix(_BOUND_PREFIX), 1.3
            coloured += 1
        steps, values = zip(*points, strict=True)
        marker = "o" if len(points) <= 30 else None
        axes.plot(
            steps, values, color=colour, linestyle=dash, marker=marker, markersize=3, linewidth=width, label=label
        )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=6 if len(curves) > 8 else 8, ncols=2 if len(curves) > 8 else 1)


def _scale_bounds(axes: Axes, curves: Mapping[str, Sequence[tuple[float, float]]]) -> None:
    """A logarithmic axis where the bounds span more than a factor of ten, as a head's and its layers' do."""
    values = [value for points in curves.values() for _, value in points]
    if min(values) > 0 and max(values) > 10 * min(values):
        axes.set_yscale("log")
