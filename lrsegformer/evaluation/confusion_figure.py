"""A picture of a confusion matrix that can be read with three classes and with hundreds."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from lrsegformer.evaluation.figures import new_figure, write_figure
from lrsegformer.visible import visible

# Up to so many classes a cell is large enough for its number, and up to so many a line for a name.
_MOST_NUMBERED, _MOST_NAMED = 30, 260
_LONGEST_NAME = 22


def save_confusion_matrix(
    counts: np.ndarray, names: Sequence[str], path: str | os.PathLike, title: str, unit: str = "pixels"
) -> None:
    """
    Draw the shares of each true class: a row sums to 100 %, and a class without reference is left grey.

    Cells are numbered up to 30 classes, rows and columns named up to 260. The sum of a row stands behind its name.

    Args:
        counts (`np.ndarray` of shape `(num_labels, num_labels)`): row = reference, column = prediction.
        names (sequence of `str`): class names.
        path (`str` or `os.PathLike`): the PNG file to write.
        title (`str`): of the picture.
        unit (`str`, *optional*, defaults to `"pixels"`): what is counted.
    """
    counts = np.asarray(counts, dtype=np.float64)
    of_reference = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, of_reference, out=np.full_like(counts, np.nan), where=of_reference > 0)
    num_labels = len(names)
    cell = 0.52 if num_labels <= _MOST_NUMBERED else max(16.0 / num_labels, 0.12) if num_labels <= _MOST_NAMED else 0
    side = max(2.4, cell * num_labels) if cell else 16.0
    figure = new_figure(side + 3.2, side + 1.9)
    figure.suptitle(visible(title), fontsize=11, parse_math=False)
    axes = figure.add_subplot()
    axes.set_facecolor("0.85")
    shown = axes.imshow(shares, vmin=0.0, vmax=1.0, cmap="Blues", interpolation="nearest", aspect="equal")
    axes.set(xlabel="predicted", ylabel="true")
    bar = figure.colorbar(
        shown, ax=axes, fraction=0.04, pad=0.02, shrink=0.8, aspect=20 if num_labels <= _MOST_NUMBERED else 50
    )
    bar.set_label(f"share of the {unit} of the true class", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    if num_labels > _MOST_NAMED:
        axes.set_xlabel("predicted, by class index")
        axes.set_ylabel("true, by class index")
    else:
        font = 9 if num_labels <= _MOST_NUMBERED else max(4.0, min(9.0, 55 * cell))
        short = [
            name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 3]}..." for name in map(visible, names)
        ]
        rows = [f"{name}  {_brief(count)}" for name, count in zip(short, of_reference[:, 0], strict=True)]
        axes.set_xticks(range(num_labels), short, rotation=90, fontsize=font, parse_math=False)
        axes.set_yticks(range(num_labels), rows, fontsize=font, parse_math=False)
    if num_labels <= _MOST_NUMBERED:
        _number_cells(axes, shares)
    write_figure(figure, path)


def _number_cells(axes, shares: np.ndarray) -> None:
    for row, column in zip(*np.nonzero(np.nan_to_num(shares) >= 0.0005), strict=True):
        share = shares[row, column]
        colour = "white" if share > 0.55 else "black"
        text = "100" if share > 0.9995 else f"{100 * share:.1f}"
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)


def _brief(count: float) -> str:
    """A count in three digits: `812`, `45.1 k`, `3.2 M`."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f}"
