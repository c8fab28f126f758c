"""What a model costs: steps, time, memory, size, and the time of a certificate."""

from __future__ import annotations

from collections.abc import Callable

from lrsegformer.reporting.groups import Arena, Group
from lrsegformer.reporting.reading.reports import CLEAN
from lrsegformer.reporting.reading.runs import Run
from lrsegformer.reporting.reading.sources import number
from lrsegformer.reporting.tables.table import (
    Column,
    Table,
    Value,
    figure,
    name_cell,
    seeds_cell,
    seeds_column,
    significant,
)

_MEGA, _GIGA = 1e6, 1e9


def cost_table(arena: Arena) -> Table | None:
    """A column for each cost that some model's files record."""
    asked: list[tuple[Column, Callable[[Group], list[Value]]]] = [
        (Column("steps"), _of_runs(lambda run: _logged(run, "step"))),
        (
            Column("seconds a step", note="Wall clock of training, evaluations in it, over the steps."),
            _of_runs(_seconds_a_step),
        ),
        (
            Column("images a second", note="In training."),
            _of_runs(lambda run: _logged(run, "train_samples_per_second")),
        ),
        (Column("training, minutes"), _of_runs(_minutes)),
        (Column("peak GPU memory, GB", note="Of the run."), _of_runs(_peak_memory)),
        (Column("parameters, M"), _of_runs(lambda run: run.weights and run.weights / _MEGA)),
        (Column("file, MB", note="Of the saved weights."), _of_runs(lambda run: _over(run.weights_bytes, _MEGA))),
        (
            Column("ms an image, scored", note="Clean images in the bench: reading, inference and scores."),
            lambda group: _scoring(arena, group),
        ),
        (
            Column("ms an image, certified", note="Inference and certificates."),
            lambda group: _certifying(arena, group),
        ),
    ]
    found = [(column, {group: values(group) for group in arena.groups}) for column, values in asked]
    kept = [(column, values) for column, values in found if any(values.values())]
    groups = [group for group in arena.groups if any(values[group] for _, values in kept)]
    if not kept:
        return None
    columns = [Column("model", "model"), seeds_column(), *(column for column, _ in kept)]
    rows = [
        [name_cell(group), seeds_cell(group), *(figure(values[group], significant) for _, values in kept)]
        for group in groups
    ]
    notes = ["Times are of the machines that the runs had; rows of different machines cannot be compared."]
    return Table("Training and inference", columns, rows, notes)


def _of_runs(cost: Callable[[Run], float | None]) -> Callable[[Group], list[Value]]:
    def values(group: Group) -> list[Value]:
        found = [(cost(member.run), member) for member in group.members if member.run is not None]
        return [Value(float(value), member, member.run.source) for value, member in found if value is not None]

    return values


def _logged(run: Run, name: str) -> float | None:
    """The last value of a name in the log."""
    logged = [value for record in run.log if (value := number(record.get(name))) is not None]
    return logged[-1] if logged else None


def _seconds_a_step(run: Run) -> float | None:
    seconds, steps = _logged(run, "train_runtime"), _logged(run, "step")
    return seconds / steps if seconds and steps else None


def _minutes(run: Run) -> float | None:
    return _over(_logged(run, "train_runtime"), 60)


def _peak_memory(run: Run) -> float | None:
    return _over(number(run.results.get("peak_gpu_memory_bytes")), _GIGA)


def _over(value: float | None, unit: float) -> float | None:
    return None if value is None else value / unit


def _scoring(arena: Arena, group: Group) -> list[Value]:
    return [
        Value(1000 * row.seconds / report.setting.images, arena.member_of(report, row), report.source)
        for report in arena.reports
        for row in report.measured
        if row.kind == CLEAN and row.seconds and arena.member_of(report, row) in group.members
    ]


def _certifying(arena: Arena, group: Group) -> list[Value]:
    values = []
    for report in arena.reports:
        for label, found in (report.content.get("models") or {}).items():
            seconds = number((found.get("seconds") or {}).get("certificates"))
            if seconds is not None and arena.member_of(report, label) in group.members:
                value = 1000 * seconds / report.setting.images
                values.append(Value(value, arena.member_of(report, label), report.source))
    return values
