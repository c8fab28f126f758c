"""A table as HTML and Markdown write it: columns say what kind of number they hold, cells from which file it is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from lrsegformer.certification.text import round_up
from lrsegformer.reporting.groups import Group, Member
from lrsegformer.reporting.reading.sources import Source

# A number that is proven, one that holds with a stated probability, and one that was measured never share a column,
# and each kind has a colour of its own on the page.
Kind = Literal["model", "text", "measured", "proven", "probable"]
ABSENT = "–"


class Value(NamedTuple):
    """One model's number, and the file that it stands in."""

    value: float
    member: Member
    source: Source


@dataclass(frozen=True)
class Column:
    """
    Attributes:
        title (`str`): heading.
        kind (`str`): what its cells are.
        note (`str`): the heading's tooltip.
    """

    title: str
    kind: Kind = "measured"
    note: str = ""


@dataclass(frozen=True)
class Cell:
    """
    Attributes:
        text (`str`): what is read.
        spread (`str`): its standard deviation over seeds, where there are several.
        order (`float` or `str`, *optional*): what it is sorted by; `None` goes last either way.
        detail (`str`): the tooltip: each seed's value, and its file.
        sources (`tuple[int, ...]`): numbers of these files.
        group (`Group`, *optional*): of a cell that names it.
    """

    text: str
    spread: str = ""
    order: float | str | None = None
    detail: str = ""
    sources: tuple[int, ...] = ()
    group: Group | None = None


@dataclass
class Table:
    """
    Attributes:
        caption (`str`): what it shows.
        setting (`str`): of which images; may be empty.
        columns (`list[Column]`): the first names the model.
        rows (`list[list[Cell]]`): as many cells as columns.
        notes (`list[str]`): what a reader has to know about the numbers.
        folded (`bool`): whether it is opened by a click.
    """

    caption: str
    columns: list[Column]
    rows: list[list[Cell]]
    notes: list[str] = field(default_factory=list)
    folded: bool = False
    setting: str = ""

    def sources_of(self, row: Sequence[Cell]) -> list[int]:
        return sorted({number for cell in row for number in cell.sources})


def percent(value: float) -> str:
    return f"{100 * value:.2f}"


def percent_down(value: float) -> str:
    """Of a guaranteed score, which must not be told higher than it is."""
    return f"{math.floor(10000 * value + 1e-9) / 100:.2f}"


def percent_points(value: float) -> str:
    """Of a difference of scores, which may be negative."""
    return percent(value).replace("-", "−")


def significant(value: float) -> str:
    return f"{value:.4g}".replace("-", "−")


def name_cell(group: Group) -> Cell:
    detail = ", ".join(member.name for member in group.members)
    return Cell(group.label, order=group.label.lower(), detail=f"folders: {detail}", group=group)


def text_cell(text: str, order: float | str | None = None) -> Cell:
    return Cell(text or ABSENT, order=order if order is not None else text.lower() or None)


def figure(values: Iterable[Value], written: Callable[[float], str] = significant) -> Cell:
    """The mean over seeds, and the sample standard deviation where they differ."""
    values = _latest(values)
    if not values:
        return Cell(ABSENT)
    mean = statistics.fmean(one.value for one in values)
    several = [one.value for one in values]
    spread = _spread(statistics.stdev(several), written) if len(set(several)) > 1 else ""
    return Cell(written(mean), spread, mean, _detail(values, written), _numbers(values))


def _spread(deviation: float, written: Callable[[float], str]) -> str:
    """In the places of the mean where these are fixed, else in two digits."""
    return f"{deviation:.2g}" if written is significant else percent(deviation)


def largest(values: Iterable[Value]) -> Cell:
    """The largest over seeds, rounded up: a bound that holds for each of them."""
    values = _latest(values)
    if not values:
        return Cell(ABSENT)
    top = max(one.value for one in values)
    return Cell(round_up(top), "", top, _detail(values, round_up), _numbers(values))


def mean_of(values: Iterable[Value]) -> float | None:
    values = _latest(values)
    return statistics.fmean(one.value for one in values) if values else None


def _latest(values: Iterable[Value]) -> list[Value]:
    """One value a model: of files that score it twice under the same condition, the newer one's."""
    newest: dict[Member, Value] = {}
    for one in values:
        held = newest.get(one.member)
        if held is None or one.source.modified > held.source.modified:
            newest[one.member] = one
    return list(newest.values())


def _detail(values: Sequence[Value], written: Callable[[float], str]) -> str:
    lines = []
    for one in values:
        seed = f", seed {one.member.run.seed}" if one.member.run and one.member.run.seed is not None else ""
        lines.append(f"{one.member.name}{seed}: {written(one.value)} ({one.source.shown})")
    return "\n".join(lines)


def _numbers(values: Sequence[Value]) -> tuple[int, ...]:
    return tuple(sorted({one.source.number for one in values}))


def seeds_column() -> Column:
    return Column("n", "text", "Models of this row: runs that differ in the seed alone.")


def seeds_cell(group: Group, counted: Iterable[Value] | None = None) -> Cell:
    """How many models a row's numbers come from at most, and their seeds."""
    members = group.members if counted is None else list(dict.fromkeys(one.member for one in counted))
    seeds = f"seeds {group.seeds}" if counted is None and group.seeds else ", ".join(one.name for one in members)
    return Cell(str(len(members)), order=float(len(members)), detail=seeds)
