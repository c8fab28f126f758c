"""What is proven: certified scores beside the measured ones, and bounds apart from estimates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lrsegformer.reporting.groups import Arena, Group
from lrsegformer.reporting.reading.reports import Certified, Report, Setting
from lrsegformer.reporting.reading.sources import number
from lrsegformer.reporting.tables.perturbed import BENCH_SCORES, norm_text, radius_text, score_title
from lrsegformer.reporting.tables.scores import MAIN
from lrsegformer.reporting.tables.table import (
    Cell,
    Column,
    Table,
    Value,
    figure,
    largest,
    name_cell,
    percent,
    percent_down,
    percent_points,
    seeds_cell,
    seeds_column,
    significant,
    text_cell,
)

PROVEN, SMOOTHED = "proven", "smoothing"
FEATURES = "feature space"


def certified_rows(arena: Arena, setting: Setting | None = None) -> Iterator[tuple[Report, Certified]]:
    for report in arena.reports:
        if setting in (None, report.setting):
            yield from ((report, row) for row in report.certified)


def certified_settings(arena: Arena) -> list[Setting]:
    return list(dict.fromkeys(report.setting for report, _ in certified_rows(arena)))


def certified_tables(arena: Arena) -> list[Table]:
    """
    For each subset, kind of certificate and norm a table: what is proven and what holds with a probability never share
    a table, nor do moves of pixels and of features.
    """
    tables = []
    for setting in certified_settings(arena):
        rows = [row for _, row in certified_rows(arena, setting) if row.certified]
        kinds = dict.fromkeys((row.method == SMOOTHED, row.reach == FEATURES, row.norm) for row in rows)
        for smoothed, in_features, norm in kinds:
            for score in BENCH_SCORES[arena.task]:
                tables.append(_certified_table(arena, setting, score, norm, smoothed, in_features))
    return [table for table in tables if table.rows]


def _certified_table(
    arena: Arena, setting: Setting, score: str, norm: str, smoothed: bool, in_features: bool
) -> Table:
    own = [
        (report, row)
        for report, row in certified_rows(arena, setting)
        if (row.method == SMOOTHED, row.reach == FEATURES, row.norm) == (smoothed, in_features, norm)
        and score in row.certified
    ]
    attacks = list(dict.fromkeys(name for _, row in own for name in row.attacked))
    kind = "probable" if smoothed else "proven"
    columns = [Column("model", "model"), seeds_column(), Column("radius", "text"), Column("clean")]
    columns += [Column(f"under {name}", note="An estimate: a stronger attack may find less.") for name in attacks]
    columns.append(Column("smoothed" if smoothed else "certified", kind, "Holds under every perturbation."))
    if not smoothed:
        columns.append(Column("share with a certificate", kind, "Of pixels or images, right or wrong."))
    rows = []
    for group in arena.groups:
        of_group = [(report, row) for report, row in own if arena.member_of(report, row) in group.members]
        for radius in sorted({row.radius for _, row in of_group}):
            rows.append(_certified_row(arena, group, of_group, radius, score, attacks, smoothed, in_features))
    return Table(
        _certified_caption(arena, score, norm, smoothed, in_features),
        columns,
        rows,
        _certified_notes(own, smoothed, in_features),
        score != MAIN[arena.task],
        setting.words,
    )


def _certified_row(
    arena: Arena,
    group: Group,
    rows: Sequence[tuple[Report, Certified]],
    radius: float,
    score: str,
    attacks: Sequence[str],
    smoothed: bool,
    in_features: bool,
) -> list[Cell]:
    here = [(report, row, arena.member_of(report, row)) for report, row in rows if row.radius == radius]

    def values(found) -> list[Value]:
        pairs = [(found(row), member, report) for report, row, member in here]
        return [Value(value, member, report.source) for value, member, report in pairs if value is not None]

    certified = values(lambda row: row.certified.get(score))
    text = significant(radius) if in_features else radius_text(rows[0][1].norm, radius)
    cells = [name_cell(group), seeds_cell(group, certified), text_cell(text, radius)]
    cells.append(figure(values(lambda row: row.clean.get(score)), percent))
    cells += [figure(values(lambda row, n=name: row.attacked.get(n, {}).get(score)), percent) for name in attacks]
    cells.append(figure(certified, percent_down))
    return cells if smoothed else [*cells, figure(values(lambda row: row.share), percent_down)]


def _certified_caption(arena: Arena, score: str, norm: str, smoothed: bool, in_features: bool) -> str:
    title = score_title(arena.task, score)
    if smoothed:
        return f"{title} of the smoothed model, {norm_text(norm)}, percent"
    if in_features:
        return f"{title} certified against moves of the features, percent"
    return f"{title} certified from the pixels on, {norm_text(norm)}, percent"


def _certified_notes(rows: Sequence[tuple[Report, Certified]], smoothed: bool, in_features: bool) -> list[str]:
    if smoothed:
        probabilities = sorted({row.probability for _, row in rows if row.probability is not None})
        told = " or ".join(f"{one:g}" for one in probabilities)
        return [
            f"Smoothing is of another model, the majority under noise: an image's certificate holds with probability "
            f"{told} over the noise drawn. It is neither proven nor an attack's estimate, and has a colour of its own."
        ]
    if in_features:
        return [
            "These radii are of the features before the head and say nothing about perturbed pixels: the encoder "
            "before them has no proven constant."
        ]
    return [
        "Certified scores are proven under every perturbation of the norm and radius, in exact arithmetic, and are "
        "rounded down. Radii are of the image that the model receives, pixels from 0 to 1. Scores under an attack "
        "are measured."
    ]


def bound_tables(arena: Arena) -> list[Table]:
    """Proven bounds of the saved models, and in a table of its own what was measured of their steepness."""
    return [table for table in (_proven_bounds(arena), _estimates(arena)) if table is not None]


def _proven_bounds(arena: Arena) -> Table | None:
    columns = [
        Column("model", "model"),
        Column("head", "proven", "From the features of all stages to the logits, in the norm beside it."),
        Column("norm of the head", "text"),
        Column("network", "proven", "From l2 of the image to the largest over pixels of the l2 norm of the logits."),
        Column("largest layer", "proven", "The largest bound of a constrained layer, each in the strategy's norm."),
        Column("limited by the constraint", "text", "Whether training held the layers' bounds down."),
    ]
    rows = []
    for group in arena.groups:
        of_head, of_network, of_layers = _bounds(group, "head"), _bounds(group, "network"), _bounds(group, "layers")
        if of_head or of_network or of_layers:
            cells = [largest(of_head), text_cell(_norm_of_head(group)), largest(of_network)]
            rows.append([name_cell(group), *cells, largest(of_layers), text_cell(_limited(group))])
    if not rows:
        return None
    notes = [
        "Each bound is the largest over the seeds, rounded up, and so holds for every one of them. A bound of the "
        "head says nothing about pixels; only a bound of the network does. Bounds in different norms do not compare."
    ]
    return Table("Guaranteed Lipschitz bounds of the saved models", columns, rows, notes)


def _bounds(group: Group, name: str) -> list[Value]:
    values = []
    for member in group.members:
        found = member.run.lipschitz.get(name) if member.run else None
        parts = [part for part in (found if isinstance(found, list) else [found]) if isinstance(part, dict)]
        proven = [number(part.get("bound")) for part in parts if part.get("guaranteed")]
        known = [bound for bound in proven if bound is not None]
        if known:
            values.append(Value(max(known), member, member.run.source))
    return values


def _norm_of_head(group: Group) -> str:
    head = group.run.lipschitz.get("head") if group.run else None
    return str(head.get("norm") or "") if isinstance(head, dict) and head.get("guaranteed") else ""


def _limited(group: Group) -> str:
    layers = [layer for layer in (group.run.lipschitz.get("layers") or ()) if isinstance(layer, dict)]
    limited = [bool(layer.get("limited")) for layer in layers]
    return "" if not limited else "yes" if all(limited) else "in part" if any(limited) else "no"


def _estimates(arena: Arena) -> Table | None:
    titles = {
        "local_lipschitz_estimate_median": Column("steepest slope, median", note="Over images, by power iteration."),
        "local_lipschitz_estimate_largest": Column("steepest slope, largest", note="Over images, by power iteration."),
        "expected_calibration_error": Column("calibration error, %", note="15 bins."),
        "overconfidence": Column("overconfidence, %"),
        "small_object_iou": Column("small-object IoU, %"),
    }
    rows = []
    for group in arena.groups:
        cells = []
        for name in titles:
            values = [
                Value(value, arena.member_of(report, found["model"]), report.source)
                for report in arena.reports
                for found in report.content.get("reliability", ())
                if (value := number(found.get(name))) is not None
                and arena.member_of(report, found["model"]) in group.members
            ]
            cells.append(figure(values, significant if "lipschitz" in name else percent_points))
        if any(cell.order is not None for cell in cells):
            rows.append([name_cell(group), *cells])
    note = "Measured on the bench's images: slopes from pixels in [0, 1] to the logits, in l2. They bound nothing."
    columns = [Column("model", "model"), *titles.values()]
    return Table("Estimates, measured on images", columns, rows, [note]) if rows else None
