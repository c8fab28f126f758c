"""The table that stands first: a number of each kind, at radii in the middle of those that were tried."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from lrsegformer.reporting.groups import Arena, Group
from lrsegformer.reporting.reading.reports import ATTACK, CLEAN, CORRUPTION, Setting
from lrsegformer.reporting.tables.guarantees import PROVEN, certified_rows, certified_settings
from lrsegformer.reporting.tables.perturbed import corrupted, norm_text, radius_text, rows_in, settings_of, values_of
from lrsegformer.reporting.tables.scores import MAIN, main_name
from lrsegformer.reporting.tables.table import (
    Column,
    Table,
    Value,
    figure,
    name_cell,
    percent,
    percent_down,
    seeds_cell,
    seeds_column,
)


class Threat(NamedTuple):
    """A norm and a radius on one subset of images."""

    setting: Setting
    norm: str
    radius: float

    @property
    def words(self) -> str:
        return f"{norm_text(self.norm)} {radius_text(self.norm, self.radius)}"


def attacked_threats(arena: Arena) -> list[Threat]:
    """Every norm and radius at which something was attacked, the largest subsets first."""
    found = {
        Threat(setting, row.norm, row.radius)
        for setting in settings_of(arena, ATTACK)
        for _, row in rows_in(arena, setting)
        if row.kind == ATTACK and row.radius is not None
    }
    return sorted(found, key=lambda one: (-one.setting.images, one.norm, one.radius))


def certified_threats(arena: Arena) -> list[Threat]:
    """Every norm and radius of the pixels at which something is proven."""
    found = {
        Threat(setting, row.norm, row.radius)
        for setting in certified_settings(arena)
        for _, row in certified_rows(arena, setting)
        if row.method == PROVEN and row.reach == "network"
    }
    return sorted(found, key=lambda one: (-one.setting.images, one.norm, one.radius))


def clean_on(arena: Arena, setting: Setting, group: Group, score: str) -> list[Value]:
    """The clean scores on a subset, of the bench or beside certificates."""
    found = values_of(arena, setting, group, score, lambda row: row.kind == CLEAN)
    of_certificates = [
        Value(row.clean[score], arena.member_of(report, row), report.source)
        for report, row in certified_rows(arena, setting)
        if score in row.clean and row.method != "smoothing" and arena.member_of(report, row) in group.members
    ]
    return found or of_certificates


def weakest_under_attack(arena: Arena, threat: Threat, group: Group, score: str) -> list[Value]:
    """Each model's lowest score over the attacks that ran at a norm and radius."""
    lowest: dict = {}
    values = values_of(
        arena,
        threat.setting,
        group,
        score,
        lambda row: row.kind == ATTACK and (row.norm, row.radius) == (threat.norm, threat.radius) and not row.targeted,
    )
    for one in values:
        held = lowest.get(one.member)
        lowest[one.member] = one if held is None or one.value < held.value else held
    return list(lowest.values())


def proven_at(arena: Arena, threat: Threat, group: Group, score: str) -> list[Value]:
    """The guaranteed scores at a norm and radius."""
    return [
        Value(row.certified[score], arena.member_of(report, row), report.source)
        for report, row in certified_rows(arena, threat.setting)
        if (row.method, row.norm, row.radius) == (PROVEN, threat.norm, threat.radius)
        and row.reach == "network"
        and score in row.certified
        and arena.member_of(report, row) in group.members
    ]


def middle_of_each_norm(threats: Sequence[Threat]) -> list[Threat]:
    """Of each norm the middle radius of the largest subset, the smaller of two."""
    chosen = []
    for norm in dict.fromkeys(one.norm for one in threats):
        own = [one for one in threats if one.norm == norm]
        own = [one for one in own if one.setting == own[0].setting]
        chosen.append(own[(len(own) - 1) // 2])
    return chosen


def overview_table(arena: Arena) -> Table:
    """
    Models down; clean, corrupted, attacked and certified scores across. Each is of the images that its own section
    names, so that a robust score may stand beside a clean one of more images.
    """
    score = MAIN[arena.task]
    columns = [Column("model", "model"), seeds_column(), Column("clean", note="By the run, or else by the bench.")]
    attacked = middle_of_each_norm(attacked_threats(arena))
    certified = middle_of_each_norm(certified_threats(arena))
    corruptions = settings_of(arena, CORRUPTION)[:1]
    columns += [Column("corrupted", note=f"Mean over corruptions: {one.words}") for one in corruptions]
    columns += [
        Column(f"attacked {one.words}", note=f"The lowest over the attacks that ran: {one.setting.words}")
        for one in attacked
    ]
    columns += [Column(f"certified {one.words}", "proven", f"Proven: {one.setting.words}") for one in certified]
    rows = []
    for group in arena.groups:
        cells = [figure(_clean(arena, group, score), percent)]
        for setting in corruptions:
            names = dict.fromkeys(row.name for _, row in rows_in(arena, setting) if row.kind == CORRUPTION)
            cells.append(figure(corrupted(arena, setting, group, score, list(names)), percent))
        cells += [figure(weakest_under_attack(arena, one, group, score), percent) for one in attacked]
        cells += [figure(proven_at(arena, one, group, score), percent_down) for one in certified]
        rows.append([name_cell(group), seeds_cell(group), *cells])
    return Table(f"{main_name(arena.task)} in percent, mean ± standard deviation over n seeds", columns, rows)


def _clean(arena: Arena, group: Group, score: str) -> list[Value]:
    of_runs = [
        Value(member.run.scores[score], member, member.run.source)
        for member in group.members
        if member.run is not None and member.run.dataset == arena.dataset and score in member.run.scores
    ]
    if of_runs:
        return of_runs
    settings = sorted({report.setting for report in arena.reports}, key=lambda one: -one.images)
    return next((found for one in settings if (found := clean_on(arena, one, group, score))), [])
