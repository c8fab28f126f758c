"""Scores under corruptions, on shifted data and under attacks: all measured, and so estimates of the worst case."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from lrsegformer.choices import NORMS_IN_255THS
from lrsegformer.reporting.groups import Arena, Group
from lrsegformer.reporting.reading.reports import ATTACK, CLEAN, CORRUPTION, SHIFTED, Measured, Report, Setting
from lrsegformer.reporting.tables.scores import MAIN, SCORES
from lrsegformer.reporting.tables.table import (
    Column,
    Table,
    Value,
    figure,
    name_cell,
    percent,
    percent_points,
    seeds_cell,
    seeds_column,
    text_cell,
)

# The bench calls the share of right pixels accuracy.
BENCH_SCORES = {"segmentation": ("mean_iou", "accuracy"), "classification": ("accuracy",)}
_BENCH_TITLES = {"mean_iou": "mIoU", "accuracy": "accuracy"}
IMAGENET_C = "imagenet-c/"


def score_title(task: str, score: str) -> str:
    return "pixel accuracy" if task == "segmentation" and score == "accuracy" else _BENCH_TITLES[score]


NORMS_NOTE = (
    "Radii are of pixels from 0 to 1: linf is the largest change of a value, l2 is over the whole image, per-pixel l2 "
    "the largest over pixels of the l2 norm over channels."
)


def settings_of(arena: Arena, kind: str) -> list[Setting]:
    """The subsets of images on which something of a kind was measured: each has tables of its own."""
    found = (report.setting for report in arena.reports for row in report.measured if row.kind == kind)
    return list(dict.fromkeys(found))


def rows_in(arena: Arena, setting: Setting) -> Iterator[tuple[Report, Measured]]:
    for report in arena.reports:
        if report.setting == setting:
            yield from ((report, row) for row in report.measured)


def values_of(
    arena: Arena, setting: Setting, group: Group, score: str, chosen: Callable[[Measured], bool]
) -> list[Value]:
    """The scores of a group's models under one condition, on one subset of images."""
    return [
        Value(row.scores[score], arena.member_of(report, row), report.source)
        for report, row in rows_in(arena, setting)
        if chosen(row) and score in row.scores and arena.member_of(report, row) in group.members
    ]


def radius_text(norm: str, radius: float) -> str:
    """A radius of pixels from 0 to 1: in 1/255 where the norm is of single pixels, or that is a whole number."""
    in_255ths = 255 * radius
    is_round = abs(in_255ths - round(in_255ths)) < 1e-6 and in_255ths < 256
    return f"{in_255ths:.4g}/255" if norm in NORMS_IN_255THS or is_round else f"{radius:.4g}"


def norm_text(norm: str) -> str:
    return norm.replace("per_pixel_", "per-pixel ")


def attack_tables(arena: Arena) -> list[Table]:
    """For each subset, norm and score a table: models down, attacks and radii across."""
    tables = []
    for setting in settings_of(arena, ATTACK):
        attacks = list(
            dict.fromkeys(
                (row.norm, row.radius, row.name, row.targeted, row.steps)
                for _, row in rows_in(arena, setting)
                if row.kind == ATTACK and row.radius is not None
            )
        )
        for norm in dict.fromkeys(attack[0] for attack in attacks):
            own = sorted((one for one in attacks if one[0] == norm), key=lambda one: (one[1], one[2], one[4] or 0))
            for score in BENCH_SCORES[arena.task]:
                tables.append(_attack_table(arena, setting, score, norm, own))
    return tables


def _attack_table(arena: Arena, setting: Setting, score: str, norm: str, attacks: Sequence[tuple]) -> Table:
    columns = [Column("model", "model"), seeds_column(), Column("clean")]
    same_steps = len({steps for *_, steps in attacks}) == 1
    for _, radius, name, targeted, steps in attacks:
        title = f"{name}{' targeted' if targeted else ''} {radius_text(norm, radius)}"
        title += "" if same_steps or steps is None else f", {steps} steps"
        columns.append(Column(title, note=f"{name}, {norm_text(norm)}, {steps or 'its own number of'} steps"))
    rows = []
    for group in arena.groups:
        under = [values_of(arena, setting, group, score, _is_attack(attack)) for attack in attacks]
        if any(under):
            clean = values_of(arena, setting, group, score, lambda row: row.kind == CLEAN)
            counted = seeds_cell(group, [value for values in under for value in values])
            rows.append(
                [name_cell(group), counted, figure(clean, percent), *(figure(values, percent) for values in under)]
            )
    steps = f", {attacks[0][4]} steps" if same_steps and attacks[0][4] else ""
    caption = f"{score_title(arena.task, score)} under attack, {norm_text(norm)}, percent"
    notes = [
        f"A score under attack is an estimate from the attacks that ran: stronger ones may find less. {NORMS_NOTE}"
    ]
    return Table(caption, columns, rows, notes, score != MAIN[arena.task], f"{setting.words}{steps}")


def _is_attack(attack: tuple) -> Callable[[Measured], bool]:
    norm, radius, name, targeted, steps = attack
    return lambda row: (
        row.kind == ATTACK
        and (row.norm, row.name, row.targeted, row.steps) == (norm, name, targeted, steps)
        and row.radius == radius
    )


def corruption_tables(arena: Arena) -> list[Table]:
    """For each subset: the mean over corruptions, the share of the clean score that it is, and each corruption."""
    tables = []
    score = MAIN[arena.task]
    for setting in settings_of(arena, CORRUPTION):
        names = list(dict.fromkeys(row.name for _, row in rows_in(arena, setting) if row.kind == CORRUPTION))
        severities = sorted({row.severity for _, row in rows_in(arena, setting) if row.kind == CORRUPTION})
        columns = [Column("model", "model"), seeds_column(), Column("clean")]
        columns += [
            Column("mean", note="Mean over the corruptions of the means over their severities."),
            Column("kept", note="The mean as a share of the clean score."),
            *(Column(name.replace("_", " ")) for name in names),
        ]
        rows = []
        for group in arena.groups:
            each = [corrupted(arena, setting, group, score, [name]) for name in names]
            if any(each):
                clean = values_of(arena, setting, group, score, lambda row: row.kind == CLEAN)
                mean = corrupted(arena, setting, group, score, names)
                cells = [figure(values, percent) for values in (clean, mean, _kept(clean, mean), *each)]
                rows.append([name_cell(group), seeds_cell(group, mean), *cells])
        caption = f"{SCORES[arena.task][score]} under corruption, percent"
        severity = f"Severities {', '.join(map(str, severities))}; each corruption is the mean over them."
        tables.append(Table(caption, columns, rows, [severity], setting=setting.words))
    return tables


def corrupted(
    arena: Arena, setting: Setting, group: Group, score: str, names: Sequence[str], severity: int | None = None
) -> list[Value]:
    """Each model's mean over corruptions of the means over severities, of models that were put to all of them."""
    found: dict = {}
    for report, row in rows_in(arena, setting):
        is_meant = row.kind == CORRUPTION and row.name in names and severity in (None, row.severity)
        if is_meant and score in row.scores and arena.member_of(report, row) in group.members:
            member = arena.member_of(report, row)
            found.setdefault((member, report.source), {}).setdefault(row.name, []).append(row.scores[score])
    return [
        Value(sum(sum(one) / len(one) for one in by_name.values()) / len(by_name), member, source)
        for (member, source), by_name in found.items()
        if set(by_name) == set(names)
    ]


def _kept(clean: Sequence[Value], mean: Sequence[Value]) -> list[Value]:
    of_clean = {(one.member, one.source): one.value for one in clean}
    return [
        one._replace(value=one.value / of_clean[one.member, one.source])
        for one in mean
        if of_clean.get((one.member, one.source))
    ]


def shifted_tables(arena: Arena) -> list[Table]:
    """For each subset: scores on other data."""
    tables = []
    score = MAIN[arena.task]
    for setting in settings_of(arena, SHIFTED):
        shifts = list(
            dict.fromkeys((row.name, row.severity) for _, row in rows_in(arena, setting) if row.kind == SHIFTED)
        )
        columns = [Column("model", "model"), seeds_column(), Column("clean")]
        columns += [Column(name if severity is None else f"{name} {severity}") for name, severity in shifts]
        rows = []
        for group in arena.groups:
            each = [
                values_of(arena, setting, group, score, lambda row, shift=shift: (row.name, row.severity) == shift)
                for shift in shifts
            ]
            if any(each):
                clean = values_of(arena, setting, group, score, lambda row: row.kind == CLEAN)
                counted = seeds_cell(group, [value for values in each for value in values])
                rows.append([name_cell(group), counted, *(figure(values, percent) for values in (clean, *each))])
        caption = f"{SCORES[arena.task][score]} on shifted data, percent"
        tables.append(Table(caption, columns, rows, setting=setting.words))
    return tables


def masking_table(arena: Arena) -> Table | None:
    """Whether attacks by gradient may be deceived: what the bench looked at."""
    columns = [
        Column("model", "text"),
        Column("small gradients", note="Share of the input gradients below 1e-8."),
        Column("PGD minus a stronger attack", note="Largest difference in accuracy at the same radius, in points."),
        Column("remarks of the bench", "text"),
    ]
    rows = []
    for report in arena.reports:
        for found in report.content.get("gradient_masking", ()):
            member = arena.member_of(report, found["model"])
            small, gap = found["small_gradient_share"], found["largest_gap"]
            cells = [
                figure([Value(value, member, report.source)] if value is not None else [], written)
                for value, written in ((small, percent), (gap, percent_points))
            ]
            rows.append([text_cell(member.name), *cells, text_cell("; ".join(found["flags"]) or "none")])
    return Table("Are gradients masked? In percent and points", columns, rows, folded=True) if rows else None
