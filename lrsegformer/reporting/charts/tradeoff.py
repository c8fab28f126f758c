"""Clean against robust score, with the front of the groups that no other beats in both."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lrsegformer.reporting.charts.canvas import COLOURS, Canvas, Chart
from lrsegformer.reporting.groups import Arena, Group
from lrsegformer.reporting.reading.reports import CLEAN, CORRUPTION, Measured, Setting
from lrsegformer.reporting.tables.overview import (
    attacked_threats,
    certified_threats,
    clean_on,
    proven_at,
    weakest_under_attack,
)
from lrsegformer.reporting.tables.perturbed import corrupted, rows_in, settings_of, values_of
from lrsegformer.reporting.tables.scores import MAIN, main_name
from lrsegformer.reporting.tables.table import Value, mean_of, percent


def tradeoff_charts(arena: Arena) -> dict[str, list[Chart]]:
    """
    By kind of robustness the charts to choose from: a chart for each norm and radius of attacks and of certificates,
    and one for corruptions. Measured and proven scores are never in one chart.
    """
    score = MAIN[arena.task]
    charts: dict[str, list[Chart]] = {}
    several = len({report.setting for report in arena.reports}) > 1
    for threat in attacked_threats(arena):
        robust = _by_group(arena, lambda group, threat=threat: weakest_under_attack(arena, threat, group, score))
        clean = _by_group(arena, lambda group, threat=threat: clean_on(arena, threat.setting, group, score))
        chart = _chart(arena, clean, robust, threat.words, "under attack", threat.setting, False)
        charts.setdefault(_titled("Under attack, measured", threat.setting, several), []).extend(chart)
    for setting in settings_of(arena, CORRUPTION):
        names = list(dict.fromkeys(row.name for _, row in rows_in(arena, setting) if row.kind == CORRUPTION))
        robust = _by_group(arena, lambda group, s=setting, n=names: corrupted(arena, s, group, score, n))
        clean = _by_group(arena, lambda group, s=setting: values_of(arena, s, group, score, _is_clean))
        chart = _chart(arena, clean, robust, f"mean of {len(names)} corruptions", "corrupted", setting, False)
        charts.setdefault(_titled("Under corruption, measured", setting, several), []).extend(chart)
    for threat in certified_threats(arena):
        robust = _by_group(arena, lambda group, threat=threat: proven_at(arena, threat, group, score))
        clean = _by_group(arena, lambda group, threat=threat: clean_on(arena, threat.setting, group, score))
        chart = _chart(arena, clean, robust, threat.words, "certified", threat.setting, True)
        charts.setdefault(_titled("Certified, proven", threat.setting, several), []).extend(chart)
    return {kind: found for kind, found in charts.items() if found}


def _titled(kind: str, setting: Setting, several: bool) -> str:
    return f"{kind}: {setting.images} of {setting.of} images" if several else kind


def _is_clean(row: Measured) -> bool:
    return row.kind == CLEAN


def _by_group(arena: Arena, values_of_group: Callable[[Group], list[Value]]) -> dict[Group, list[Value]]:
    return {group: values for group in arena.groups if (values := values_of_group(group))}


def _chart(
    arena: Arena,
    clean: dict[Group, list[Value]],
    robust: dict[Group, list[Value]],
    title: str,
    kind: str,
    setting: Setting,
    proven: bool,
) -> list[Chart]:
    """A disc for each group at its means, a dot for each seed; empty where no group has both scores."""
    both = [group for group in arena.groups if group in clean and group in robust]
    if not both:
        return []
    name = main_name(arena.task)
    canvas = Canvas(
        f"{arena.title}: clean against {kind} {name}, {title}; {setting.words}", f"clean {name}, %", f"{kind}, %"
    )
    means = {group: (100 * mean_of(clean[group]), 100 * mean_of(robust[group])) for group in both}
    _draw_front(canvas, list(means.values()))
    for group in both:
        colour = "proven" if proven else f"tone-{group.tone}"
        of_clean = {value.member: value.value for value in clean[group]}
        pairs = [(of_clean[one.member], one.value, one.member) for one in robust[group] if one.member in of_clean]
        for x, y, member in pairs if len(pairs) > 1 else ():
            canvas.dot(100 * x, 100 * y, colour, group.letter, _words(member.name, x, y, kind))
        x, y = means[group]
        canvas.disc(x, y, colour, group.letter, _words(group.label, x / 100, y / 100, kind))
    canvas.axes.margins(0.14)
    caption = f"Discs are means over the seeds, dots the seeds; the line is the front. {setting.words.capitalize()}."
    return [Chart(title, canvas.svg(), caption, [group.letter for group in both], proven)]


def _words(name: str, clean: float, robust: float, kind: str) -> str:
    return f"{name}: clean {percent(clean)} %, {kind} {percent(robust)} %"


def _draw_front(canvas: Canvas, points: Sequence[tuple[float, float]]) -> None:
    """The steps under which lie all groups that another one beats in both scores."""
    front = pareto_front(points)
    if len(front) > 1:
        xs, ys = zip(*front, strict=True)
        canvas.axes.plot(xs, ys, color=COLOURS["ink"], linewidth=0.8, alpha=0.5, drawstyle="steps-pre", zorder=1)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other one reaches in both coordinates and passes in one, by rising first coordinate."""
    front: list[tuple[float, float]] = []
    for x, y in sorted(set(points), key=lambda point: (-point[0], -point[1])):
        if not front or y > front[-1][1]:
            front.append((x, y))
    return front[::-1]
