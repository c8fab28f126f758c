"""What a speed benchmark reports: figures of ours beside another's, each with a goal, as tables."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from report import markdown_table, median_and_spread, significant


@dataclass(frozen=True)
class Table:
    """
    Figures of one kind.

    Attributes:
        title (`str`): the heading.
        ours (`str`), other (`str`), ratio (`str`): headers of the columns.
        scale (`float`): what figures are multiplied by to be shown.
        at_least (`bool`): whether the ratio is `other / ours` and the goal the least that it may be; else it is
            `ours / other` and the goal the most.
    """

    title: str
    ours: str
    other: str
    ratio: str
    scale: float
    at_least: bool


MILLISECONDS, MEBIBYTES = 1e3, 2.0**-20  # what seconds and bytes are multiplied by to be shown
TIME = Table(
    "Time beside stock's; above 1: ours is faster", "ours, ms", "stock, ms", "stock / ours", MILLISECONDS, True
)
MEMORY = Table("Peak memory beside stock's", "ours, MiB", "stock, MiB", "ours / stock", MEBIBYTES, False)
STRATEGY = Table(
    "Training step of each strategy beside our baseline's", "step, ms", "baseline, ms", "ratio", MILLISECONDS, False
)
PIXELS = Table("Cost as pixels grow fourfold", "larger, ms", "smaller, ms", "ratio", MILLISECONDS, False)
CERTIFICATE = Table(
    "Inference with certificates beside inference", "certified, ms", "plain, ms", "ratio", MILLISECONDS, False
)
SMOOTHING = Table(
    "Certificates beside smoothing", "certified, ms", "smoothing, ms", "smoothing / ours", MILLISECONDS, True
)
TABLES = (TIME, MEMORY, STRATEGY, PIXELS, CERTIFICATE, SMOOTHING)


@dataclass(frozen=True)
class Figure:
    """
    One row: samples of ours and of what it is compared with (seconds or bytes), and the goal of their ratio.

    Without a goal it is there to be known.
    """

    table: Table
    label: str
    ours: Sequence[float]
    other: Sequence[float]
    goal: float | None = None

    @property
    def ratio(self) -> float:
        """The ratio of the medians."""
        ours, other = statistics.median(self.ours), statistics.median(self.other)
        return other / ours if self.table.at_least else ours / other

    @property
    def met(self) -> bool | None:
        if self.goal is None:
            return None
        return self.ratio >= self.goal if self.table.at_least else self.ratio <= self.goal

    def cells(self) -> list[str]:
        goal = "" if self.goal is None else f"{'>=' if self.table.at_least else '<='} {significant(self.goal)}"
        return [
            self.label,
            median_and_spread(self.ours, self.table.scale),
            median_and_spread(self.other, self.table.scale),
            significant(self.ratio),
            goal,
            {None: "", True: "met", False: "missed"}[self.met],
        ]


def figure_tables(figures: Sequence[Figure]) -> list[str]:
    """Heading and table of each kind of figure that there is."""
    parts = []
    for table in TABLES:
        rows = [figure.cells() for figure in figures if figure.table is table]
        if rows:
            header = ["", table.ours, table.other, table.ratio, "goal", ""]
            parts += [f"### {table.title}", markdown_table(header, rows)]
    return parts
