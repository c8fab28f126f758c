"""What runs logged over their steps: losses and scores, and the bounds that were guaranteed meanwhile."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from lrsegformer.reporting.charts.canvas import Canvas, Chart
from lrsegformer.reporting.groups import Arena, Group
from lrsegformer.reporting.reading.runs import Run
from lrsegformer.reporting.reading.sources import number
from lrsegformer.reporting.tables.scores import MAIN, main_name

Points = list[tuple[float, float]]
_BOUND = "lipschitz/"
# Bounds of one thing, and what the run's report calls them; the others that are logged are the layers'. A certified
# network logs its bound up to the classifier, whose rows the report takes in.
_WHOLES = {
    "head": ("Bound of the head", "bound"),
    "network": ("Bound from the pixels to the features", "bound_of_features"),
}
# Of more points than this single dots are left out.
_DOTS = 16


def training_charts(arena: Arena) -> list[Chart]:
    """Losses in training and validation, and the validation score."""
    score = MAIN[arena.task]
    asked = [
        ("Loss in training", "loss", ("loss_task", "loss")),
        ("Loss in validation", "loss", ("eval_loss_task", "eval_loss")),
        (f"{main_name(arena.task)} in validation", "score, %", (f"eval_{score}",)),
        ("Penalty, weighted", "part of the loss", ("loss_lipschitz",)),
    ]
    charts = []
    for title, unit, names in asked:
        scale = 100 if unit == "score, %" else 1
        chart = _over_steps(arena, title, unit, lambda run, names=names, scale=scale: _logged(run, names, scale))
        charts += [chart] if chart is not None else []
    return charts


def bound_charts(arena: Arena) -> list[Chart]:
    """
    The guaranteed bounds of head and network over training, all groups in one chart each, and those of each group's
    layers; all in the colour of what is proven. What a layer logs without a guarantee is drawn apart, as measured.
    """
    charts = []
    for name, (title, reported) in _WHOLES.items():
        chart = _over_steps(
            arena,
            f"{title}, guaranteed",
            "bound",
            lambda run, name=name, reported=reported: _bound(run, name, reported),
            proven=True,
        )
        charts += [chart] if chart is not None else []
    for group in arena.groups:
        layers = _layers(group)
        for guaranteed in (True, False):
            names = [name for name in layers if _is_guaranteed(group.run, name) is guaranteed]
            charts += [_layer_chart(arena, group, names, guaranteed)] if names else []
    return charts


def _layers(group: Group) -> list[str]:
    if group.run is None:
        return []
    names = dict.fromkeys(key for record in group.run.log for key in record if key.startswith(_BOUND))
    return [name.removeprefix(_BOUND) for name in names if name.removeprefix(_BOUND) not in _WHOLES]


def _is_guaranteed(run: Run, name: str) -> bool:
    """Whether the run's report proves what it logged under a name: of several layers together, of all of them."""
    layers = [layer for layer in (run.lipschitz.get("layers") or ()) if isinstance(layer, dict)]
    own = [layer for layer in layers if str(layer.get("name", "")).endswith(name)]
    if name.startswith("encoder_"):
        own = [layer for layer in layers if str(layer.get("name", "")).startswith("segformer.")]
    return bool(own) and all(layer.get("guaranteed") for layer in own)


def _bound(run: Run, name: str, reported: str) -> Points:
    whole = run.lipschitz.get(name)
    proven = isinstance(whole, dict) and whole.get("guaranteed") and whole.get(reported) is not None
    return _logged(run, (f"{_BOUND}{name}",), 1) if proven else []


def _layer_chart(arena: Arena, group: Group, names: Sequence[str], guaranteed: bool) -> Chart:
    kind = "guaranteed bounds" if guaranteed else "estimates, no guarantee"
    title = f"{group.letter} · {group.label}: layers"
    canvas = Canvas(f"{arena.title}: {title}, {kind} over the steps", "step", "bound" if guaranteed else "estimate")
    run = group.run
    for position, name in enumerate(names):
        points = _logged(run, (f"{_BOUND}{name}",), 1)
        if points:
            colour = "proven" if guaranteed else f"tone-{group.tone}"
            canvas.line(points, colour, str(position + 1), position)
    legend = "; ".join(f"{position + 1} {name}" for position, name in enumerate(names))
    of = f" of the first of {len(group.members)} runs, {run.name}" if len(group.members) > 1 else ""
    return Chart(title, canvas.svg(), f"{kind.capitalize()}{of}: {legend}.", proven=guaranteed)


def _over_steps(
    arena: Arena, title: str, unit: str, points_of: Callable[[Run], Points], proven: bool = False
) -> Chart | None:
    canvas = Canvas(f"{arena.title}: {title} over the steps", "step", unit)
    letters, banded = [], False
    for position, group in enumerate(arena.groups):
        curves = [points for member in group.members if member.run and (points := points_of(member.run))]
        if not curves:
            continue
        points, band = _together(curves)
        colour = "proven" if proven else f"tone-{group.tone}"
        tooltips = [f"{group.label}, step {step:g}: {value:.4g}" for step, value in points]
        canvas.line(points, colour, group.letter, position, tooltips if len(points) <= _DOTS else (), band)
        letters.append(group.letter)
        banded = banded or bool(band)
    if not letters:
        return None
    caption = "Mean over the seeds; the band reaches from the lowest to the highest." if banded else ""
    return Chart(title, canvas.svg(), caption, letters, proven)


def _together(curves: Sequence[Points]) -> tuple[Points, list[tuple[float, float, float]]]:
    """Mean, lowest and highest at the steps that all curves have; of a single curve no band."""
    if len(curves) == 1:
        return curves[0], []
    tables = [dict(points) for points in curves]
    steps = [step for step in tables[0] if all(step in table for table in tables)]
    if not steps:
        return curves[0], []
    values = {step: [table[step] for table in tables] for step in steps}
    mean = [(step, statistics.fmean(found)) for step, found in values.items()]
    return mean, [(step, min(found), max(found)) for step, found in values.items()]


def _logged(run: Run, names: Sequence[str], scale: float) -> Points:
    """(step, value) of the first of the names that a record has; of a step logged twice the later."""
    points: dict[float, float] = {}
    for record in run.log:
        value = next((found for name in names if (found := number(record.get(name))) is not None), None)
        if value is not None:
            points[record["step"]] = scale * value
    # The penalty of what learns no constant: a line at zero says nothing.
    return sorted(points.items()) if any(points.values()) else []
