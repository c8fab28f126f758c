"""The figures of docs/study.md: what an arm scores clean, and what it scores under each condition."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from results import CLEAN, LENGTHS, Run  # noqa: E402

COLOUR_OF_BASELINES, SHADES = "#333333", ("#ffffff", "#999999", "#333333")
SHOWN_SCORE = {"segmentation": "mIoU", "classification": "accuracy"}


def plot_frontier(
    arms: Mapping[str, Sequence[Run]], columns: Sequence[tuple[str, Callable[[Run], float]]], image: Path
) -> None:
    """
    A panel for each condition: means over the seeds with their sample standard deviations, baselines of several
    lengths joined by a line. Up and to the right is better; above the line is more than that clean score pays for.

    Args:
        arms: the runs of each arm.
        columns: name and value of each condition, the clean score not among them.
        image (`Path`): PNG file to write.
    """
    width = 2
    height = -(-len(columns) // width)
    figure, panels = pyplot.subplots(height, width, figsize=(11, 4.6 * height), layout="constrained", squeeze=False)
    for axes, (name, value) in zip(panels.flat, columns, strict=False):
        _panel(axes, arms, name, value)
    for axes in panels.flat[len(columns) :]:
        axes.set_visible(False)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.savefig(image, dpi=110)
    pyplot.close(figure)


def _panel(axes: Axes, arms: Mapping[str, Sequence[Run]], name: str, value: Callable[[Run], float]) -> None:
    curve = []
    for arm, runs in arms.items():
        across, up = [run.score(CLEAN) for run in runs], [value(run) for run in runs]
        place = statistics.fmean(across), statistics.fmean(up)
        look = {"fmt": "o"}
        if arm in LENGTHS:
            look = {"fmt": "s", "color": COLOUR_OF_BASELINES, "markerfacecolor": SHADES[LENGTHS.index(arm)]}
            curve.append(place)
        spread = {"xerr": _deviation(across), "yerr": _deviation(up), "linewidth": 0.7}
        axes.errorbar(*place, **spread, **look, markersize=6, label=arm.replace("_", " "))
    axes.plot(*zip(*sorted(curve), strict=True), color=COLOUR_OF_BASELINES, linewidth=0.8, linestyle="--")
    score = SHOWN_SCORE[runs[0].task]
    axes.set_xlabel(f"clean {score}, %")
    axes.set_ylabel(f"{score}, {name}, %")
    axes.margins(0.15)


def _deviation(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0
