"""The plot of the speed benchmark: a bar for each ratio of ours to another's, a mark for each goal."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from figures import Figure, significant  # noqa: E402
from matplotlib import pyplot  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402

BAR_COLORS = {True: "#2a7f62", False: "#c8553d", None: "#9aa5ad"}
MEANING = {True: "goal met", False: "goal missed", None: "no goal"}
INCHES_PER_BAR = 0.26


def plot_figures(figures: Sequence[Figure], image: Path) -> None:
    """
    Draw the figures in two panels, times faster and parts of a cost, on logarithmic axes around 1.

    Args:
        figures: at least one.
        image (`Path`): the file to write, in the format of its suffix.
    """
    panels = [[figure for figure in figures if figure.table.at_least is at_least] for at_least in (True, False)]
    panels = [panel for panel in panels if panel]
    heights = [len(panel) + 2 for panel in panels]
    drawing, all_axes = pyplot.subplots(
        len(panels),
        figsize=(9, INCHES_PER_BAR * sum(heights) + 1),
        height_ratios=heights,
        squeeze=False,
        layout="constrained",
    )
    for axes, panel in zip(all_axes[:, 0], panels, strict=True):
        draw_panel(axes, panel)
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=BAR_COLORS[met]) for met in MEANING]
    goal = pyplot.Line2D([], [], color="black", marker="|", linestyle="none", markersize=11, markeredgewidth=2)
    drawing.legend([*handles, goal], [*MEANING.values(), "goal"], loc="outside lower center", ncols=4, frameon=False)
    drawing.savefig(image, dpi=120)
    pyplot.close(drawing)


def draw_panel(axes: Axes, figures: Sequence[Figure]) -> None:
    """The bars of one panel, the first at the top, each with its ratio."""
    places = range(len(figures))
    ratios = [figure.ratio for figure in figures]
    colors = [BAR_COLORS[figure.met] for figure in figures]
    # Bars start at 1, equality, so that the direction of a bar says who wins.
    axes.barh(places, [ratio - 1 for ratio in ratios], left=1, color=colors, height=0.7)
    for place, figure in zip(places, figures, strict=True):
        end = max(figure.ratio, 1.0, figure.goal or 1.0)
        axes.annotate(
            significant(figure.ratio), (end, place), xytext=(5, 0), textcoords="offset points", va="center", fontsize=8
        )
        if figure.goal is not None:
            axes.plot([figure.goal], [place], color="black", marker="|", markersize=11, markeredgewidth=2)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(places, [row_label(figure) for figure in figures], fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.margins(x=0.08)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:.0e}"[0] in "25" else "")
    title = "Stock's time / ours (more is better)" if figures[0].table.at_least else "Cost ratios (less is better)"
    axes.set_title(title)
    axes.spines[["top", "right"]].set_visible(False)


def row_label(figure: Figure) -> str:
    """What the figure is of; its table where the label does not tell."""
    prefixes = {"Peak memory beside stock's": "memory: "}
    return prefixes.get(figure.table.title, "") + figure.label
