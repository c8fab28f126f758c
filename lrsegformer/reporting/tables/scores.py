"""Clean scores, by the run itself and by protocol, and what training scores lie above validation scores."""

from __future__ import annotations

from collections.abc import Sequence

from lrsegformer.reporting.groups import Arena, Group
from lrsegformer.reporting.reading.collection import Collection
from lrsegformer.reporting.reading.reports import CLEAN, TRAIN, Evaluation
from lrsegformer.reporting.reading.runs import Run
from lrsegformer.reporting.reading.sources import number
from lrsegformer.reporting.tables.table import (
    ABSENT,
    Cell,
    Column,
    Table,
    Value,
    figure,
    name_cell,
    percent,
    percent_points,
    seeds_cell,
    seeds_column,
    significant,
    text_cell,
)

SCORES = {
    "segmentation": {
        "mean_iou": "mIoU",
        "overall_accuracy": "pixel accuracy",
        "mean_accuracy": "mean accuracy",
        "precision": "precision",
        "recall": "recall",
        "f1": "F1",
        "matthews_correlation": "MCC",
    },
    "classification": {
        "accuracy": "accuracy",
        "precision": "precision",
        "recall": "recall",
        "f1": "F1",
        "matthews_correlation": "MCC",
    },
}
# The score that charts and narrow tables show.
MAIN = {"segmentation": "mean_iou", "classification": "accuracy"}


def main_name(task: str) -> str:
    return SCORES[task][MAIN[task]]


def clean_tables(arena: Arena, collection: Collection) -> list[Table]:
    """Scores of the runs, then those of `evaluation.json` by protocol."""
    tables = []
    groups = [group for group in arena.groups if group.run is not None]
    if groups:
        tables.append(_of_runs(arena, groups))
    evaluations = [one for one in collection.evaluations if (one.task, one.dataset) == (arena.task, arena.dataset)]
    if evaluations:
        tables.append(_by_protocol(arena, evaluations))
    return tables


def _of_runs(arena: Arena, groups: Sequence[Group]) -> Table:
    names = SCORES[arena.task]
    columns = [Column("model", "model"), seeds_column(), *(Column(title) for title in names.values())]
    rows = []
    for group in groups:
        values = {name: _scores(group, name) for name in names}
        rows.append(
            [name_cell(group), seeds_cell(group), *(figure(values[name], percent) for name in names)],
        )
    constant = _constant_answer(groups, names)
    if constant:
        rows.append(constant)
    sizes = dict.fromkeys(_scored(member.run) for group in groups for member in group.members)
    return Table(
        "Scores of the saved models on the validation images, in percent",
        columns,
        rows,
        [*sizes, "Precision, recall and F1 are means over the classes; MCC is the Matthews correlation."],
    )


def _scores(group: Group, name: str) -> list[Value]:
    return [
        Value(member.run.scores[name], member, member.run.source)
        for member in group.members
        if member.run is not None and name in member.run.scores
    ]


def _scored(run: Run) -> str:
    images = run.results.get("validation_images")
    if not isinstance(images, dict):
        return "Scored on the validation images that each run was given."
    at = f", at the {run.results['score_at']} size of the labels" if run.results.get("score_at") else ""
    return (
        f"Scored on {images.get('scored')} of {images.get('of')} images, inputs {run.results.get('input_size')}{at}."
    )


def _constant_answer(groups: Sequence[Group], names: dict[str, str]) -> list[Cell] | None:
    """What answering the commonest class everywhere scores; the same for all runs on the same images."""
    for group in groups:
        answer = group.run.results.get("constant_answer")
        if isinstance(answer, dict):
            label = text_cell(f"always “{answer.get('class')}”")
            values = [number(answer.get(name)) for name in names]
            told = (group.run.source.number,)
            cells = [
                text_cell("")
                if one is None
                else Cell(percent(one), order=one, detail="a constant answer", sources=told)
                for one in values
            ]
            return [label, text_cell(""), *cells]
    return None


def _by_protocol(arena: Arena, evaluations: Sequence[Evaluation]) -> Table:
    names = {name: title for name, title in SCORES[arena.task].items() if _some_has(evaluations, name)}
    columns = [Column("model", "model"), seeds_column(), Column("protocol", "text"), Column("size", "text")]
    columns += [Column("images", "text"), *(Column(title) for title in names.values())]
    rows = []
    for group in arena.groups:
        own = [one for one in evaluations if arena.member_of(one, one.model) in group.members]
        asked = dict.fromkeys((protocol, size, one.images) for one in own for protocol, size in one.scores)
        for protocol, size, images in asked:
            here = [one for one in own if one.images == images and (protocol, size) in one.scores]
            found = {name: _evaluated(arena, here, protocol, size, name) for name in names}
            counted = seeds_cell(group, [value for values in found.values() for value in values])
            told = [text_cell(protocol), text_cell(size), text_cell("" if images is None else str(images), images)]
            rows.append([name_cell(group), counted, *told, *(figure(values, percent) for values in found.values())])
    return Table("Scores by protocol and size of the labels, in percent", columns, rows)


def _evaluated(arena: Arena, here: Sequence[Evaluation], protocol: str, size: str, name: str) -> list[Value]:
    return [
        Value(one.scores[protocol, size][name], arena.member_of(one, one.model), one.source)
        for one in here
        if name in one.scores[protocol, size]
    ]


def _some_has(evaluations: Sequence[Evaluation], name: str) -> bool:
    return any(name in scores for one in evaluations for scores in one.scores.values())


def generalisation_table(arena: Arena) -> Table | None:
    """Training above validation: the scores that the bench took of both, and the losses that the Trainer logged."""
    title = main_name(arena.task)
    columns = [
        Column("model", "model"),
        Column(f"{title}, training", note="By the bench, on training images without augmentation."),
        Column(f"{title}, validation", note="By the bench, on its validation images."),
        Column(f"{title}, gap", note="Training minus validation, in points."),
        Column("loss, training", note="Mean over the last logging interval, with augmentation."),
        Column("loss, validation", note="Of the saved model."),
        Column("loss, gap", note="Validation minus training."),
    ]
    rows = []
    for group in arena.groups:
        scores = _score_pairs(arena, group)
        losses = _loss_pairs(group)
        writers = (percent, percent, percent_points, significant, significant, significant)
        found = (*_with_gaps(scores, 1), *_with_gaps(losses, -1))
        cells = [figure(values, written) for values, written in zip(found, writers, strict=True)]
        if any(cell.order is not None for cell in cells):
            rows.append([name_cell(group), *cells])
    if not rows:
        return None
    notes = [
        "Scores are in percent and gaps in points. The training loss is that of augmented images in training mode; of "
        "runs that train on attacked images or for a certificate it is another loss than the validation loss, and is "
        "left out."
    ]
    kept = [place for place in range(len(columns)) if any(row[place].text != ABSENT for row in rows)]
    rows = [[row[place] for place in kept] for row in rows]
    return Table("Training against validation", [columns[place] for place in kept], rows, notes)


def _with_gaps(pairs: Sequence[tuple[Value, Value]], sign: int) -> tuple[list[Value], list[Value], list[Value]]:
    gaps = [Value(sign * (one.value - other.value), one.member, one.source) for one, other in pairs]
    return [one for one, _ in pairs], [other for _, other in pairs], gaps


def _score_pairs(arena: Arena, group: Group) -> list[tuple[Value, Value]]:
    pairs = []
    for report in arena.reports:
        found: dict[tuple[str, str], float] = {}
        for row in report.measured:
            score = row.scores.get(MAIN[arena.task])
            if row.kind in (CLEAN, TRAIN) and score is not None:
                found[row.model, row.kind] = score
        for label in report.labels:
            member = arena.member_of(report, label)
            if member in group.members and (label, TRAIN) in found and (label, CLEAN) in found:
                both = (found[label, kind] for kind in (TRAIN, CLEAN))
                pairs.append(tuple(Value(score, member, report.source) for score in both))
    return pairs


def _loss_pairs(group: Group) -> list[tuple[Value, Value]]:
    pairs = []
    for member in group.members:
        run = member.run
        if run is None or run.scope == "certified" or run.options.get("adversarial_steps"):
            continue
        logged = [number(record.get("loss_task", record.get("loss"))) for record in run.log]
        training = [loss for loss in logged if loss is not None]
        validation = run.scores.get("loss_task", run.scores.get("loss"))
        if training and validation is not None:
            pairs.append((Value(training[-1], member, run.source), Value(validation, member, run.source)))
    return pairs
