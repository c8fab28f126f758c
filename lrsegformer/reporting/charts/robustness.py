"""Scores against the radius of attacks, the severity of corruptions, and the radius of certificates."""

from __future__ import annotations

from lrsegformer.reporting.charts.canvas import Canvas, Chart
from lrsegformer.reporting.groups import Arena, Group
from lrsegformer.reporting.reading.reports import CLEAN, CORRUPTION, Setting
from lrsegformer.reporting.reading.sources import number
from lrsegformer.reporting.tables.guarantees import certified_settings
from lrsegformer.reporting.tables.overview import attacked_threats, clean_on, weakest_under_attack
from lrsegformer.reporting.tables.perturbed import corrupted, norm_text, rows_in, settings_of, values_of
from lrsegformer.reporting.tables.scores import MAIN, main_name
from lrsegformer.reporting.tables.table import mean_of, percent


def attack_charts(arena: Arena) -> list[Chart]:
    """For each subset and norm the main score against the radius, the lowest over the attacks that ran."""
    threats, score, charts = attacked_threats(arena), MAIN[arena.task], []
    for setting, norm in dict.fromkeys((one.setting, one.norm) for one in threats):
        own = [one for one in threats if (one.setting, one.norm) == (setting, norm)]
        title = f"{main_name(arena.task)} under attack, {norm_text(norm)}"
        canvas = Canvas(f"{arena.title}: {title}; {setting.words}", "radius, in 1/255", f"{main_name(arena.task)}, %")
        letters = []
        for position, group in enumerate(arena.groups):
            means = [(one.radius, mean_of(weakest_under_attack(arena, one, group, score))) for one in own]
            points = [(255 * radius, 100 * mean) for radius, mean in means if mean is not None]
            if points:
                clean = mean_of(clean_on(arena, setting, group, score))
                points = [(0.0, 100 * clean)] * (clean is not None) + points
                _draw(canvas, group, position, points, "radius", "/255")
                letters.append(group.letter)
        canvas.start_at_zero()
        charts.append(Chart(title, canvas.svg(), f"The lowest over the attacks that ran; {setting.words}.", letters))
    return charts


def _draw(
    canvas: Canvas, group: Group, position: int, points: list[tuple[float, float]], of: str, unit: str = ""
) -> None:
    tooltips = [f"{group.label}, {of} {x:.4g}{unit}: {percent(y / 100)} %" for x, y in points]
    canvas.line(points, f"tone-{group.tone}", group.letter, position, tooltips)


def severity_charts(arena: Arena) -> list[Chart]:
    """For each subset the main score against the severity of the corruptions, their mean."""
    score, charts = MAIN[arena.task], []
    for setting in settings_of(arena, CORRUPTION):
        rows = [row for _, row in rows_in(arena, setting) if row.kind == CORRUPTION]
        names, severities = list(dict.fromkeys(row.name for row in rows)), sorted({row.severity for row in rows})
        if len(severities) < 2:
            continue
        title = f"{main_name(arena.task)} under corruption"
        canvas = Canvas(f"{arena.title}: {title}; {setting.words}", "severity", f"{main_name(arena.task)}, %")
        canvas.axes.set_xticks([0, *severities])
        letters = []
        for position, group in enumerate(arena.groups):
            means = [(one, mean_of(corrupted(arena, setting, group, score, names, one))) for one in severities]
            points = [(float(one), 100 * mean) for one, mean in means if mean is not None]
            clean = mean_of(values_of(arena, setting, group, score, lambda row: row.kind == CLEAN))
            if points:
                points = [(0.0, 100 * clean)] * (clean is not None) + points
                _draw(canvas, group, position, points, "severity")
                letters.append(group.letter)
        canvas.start_at_zero()
        caption = f"Mean over {len(names)} corruptions; severity 0 is the clean score; {setting.words}."
        charts.append(Chart(title, canvas.svg(), caption, letters))
    return charts


def certified_charts(arena: Arena) -> list[Chart]:
    """For each subset and norm of pixels the certified accuracy against the radius, in the colour of proofs."""
    charts = []
    for setting in certified_settings(arena):
        for norm in ("l2", "per_pixel_l2"):
            chart = _certified_chart(arena, setting, norm)
            charts += [chart] if chart is not None else []
    return charts


def _certified_chart(arena: Arena, setting: Setting, norm: str) -> Chart | None:
    title = f"Certified accuracy, {norm_text(norm)}"
    canvas = Canvas(f"{arena.title}: {title}; {setting.words}", "radius, in 1/255", "certified accuracy, %")
    letters = []
    for position, group in enumerate(arena.groups):
        for points in _certified_curves(arena, setting, norm, group):
            tooltips = [f"{group.label}, radius {x:.4g}/255: at least {y:.2f} %" for x, y in points]
            canvas.line(points, "proven", group.letter, position, tooltips if len(points) < 17 else ())
            letters.append(group.letter)
    if not letters:
        return None
    canvas.start_at_zero()
    caption = f"Proven, pixel by pixel, a curve for each model; {setting.words}."
    return Chart(title, canvas.svg(), caption, list(dict.fromkeys(letters)), proven=True)


def _certified_curves(arena: Arena, setting: Setting, norm: str, group: Group) -> list[list[tuple[float, float]]]:
    """Of each model of a group that is certified from the pixels on, from the newest file that has it."""
    curves = {}
    for report in sorted(arena.reports, key=lambda report: report.source.modified):
        for label, found in (report.content.get("models") or {}).items() if report.setting == setting else ():
            if found.get("reach") != "network" or arena.member_of(report, label) not in group.members:
                continue
            pairs = [(number(x), number(y)) for x, y in (found.get("curves") or {}).get(norm, ())]
            points = [(255 * x, 100 * y) for x, y in pairs if x is not None and y is not None]
            if points:
                curves[arena.member_of(report, label)] = points
    return list(curves.values())
