"""What `--dry_run` prints: the cells, and an estimate of the time that says where it comes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lrsegformer.matrix.cells import configuration_name
from lrsegformer.matrix.estimate import Trial, estimate_step, finished_seconds, time_trial, timing_key
from lrsegformer.matrix.ledger import DONE, PENDING
from lrsegformer.matrix.planning import TRAIN, Cell, Plan, Step
from lrsegformer.training.progress import readable_time


def preview(
    plan: Plan,
    entries: Mapping[str, Mapping[str, Any]],
    launch: Callable[[str, Sequence[str]], list[str]],
    say: Callable[[str], None],
) -> None:
    """
    Print the cells, time what has to be timed, and print the estimate. Nothing is written but to a temporary folder.

    Args:
        plan ([`Plan`]): the cells.
        entries (`dict`): of `matrix.json`, by name.
        launch (`Callable`): from a command's name and its words to what is executed.
        say (`Callable`): takes the lines.
    """
    for cell in plan.cells:
        status = entries[cell.name]["status"] if cell.name in entries else PENDING
        say(f"{cell.name}: {', '.join(step.name for step in cell.steps)} ({status})")
    say(f"{len(plan.cells)} cells")
    to_run = {cell.name: _steps_to_run(cell, entries.get(cell.name)) for cell in plan.cells}
    finished = finished_seconds(list(entries.values()))
    trials = _time(plan, to_run, finished, launch, say)
    _say_estimate(plan, to_run, finished, trials, say)


def _steps_to_run(cell: Cell, entry: Mapping[str, Any] | None) -> list[Step]:
    known = {} if entry is None else entry["steps"]
    return [step for step in cell.steps if known.get(step.name, {}).get("status") != DONE]


def _time(
    plan: Plan,
    to_run: Mapping[str, Sequence[Step]],
    finished: Mapping[tuple, list[float]],
    launch: Callable[[str, Sequence[str]], list[str]],
    say: Callable[[str], None],
) -> dict[tuple, Trial]:
    """A trial of each distinct configuration that is to be trained and of which no cell is finished."""
    wanted: dict[tuple, Cell] = {}
    for cell in plan.cells:
        for step in to_run[cell.name]:
            key = timing_key(step.name, step.words, cell.steps[0].words)
            if step.name == TRAIN and key not in finished:
                wanted.setdefault(key, cell)
    trials: dict[tuple, Trial] = {}
    try:
        for number, (key, cell) in enumerate(wanted.items(), start=1):
            label = f"timing {number} of {len(wanted)}, {configuration_name(cell.coordinates)}"
            trial = time_trial(cell, launch)
            if isinstance(trial, Trial):
                trials[key] = trial
                say(f"{label}: {trial.seconds_a_step:.3g} s a step, {trial.others:.3g} s besides steps and scoring")
            else:
                say(f"{label}: {trial}")
    except KeyboardInterrupt:
        say("timing was stopped")
    return trials


def _say_estimate(
    plan: Plan,
    to_run: Mapping[str, Sequence[Step]],
    finished: Mapping[tuple, list[float]],
    trials: Mapping[tuple, Trial],
    say: Callable[[str], None],
) -> None:
    total, unknown = 0.0, 0
    by_source: dict[str, list[float]] = {}
    for cell in plan.cells:
        for step in to_run[cell.name]:
            estimate = estimate_step(cell, step, finished, trials)
            if estimate.seconds is None:
                unknown += 1
            else:
                total += estimate.seconds
                by_source.setdefault(f"{step.name}: {estimate.source}", []).append(estimate.seconds)
    for source, seconds in by_source.items():
        say(f"{source}: {len(seconds)} times, {readable_time(sum(seconds))} in all")
    more = f", and {unknown} steps of which nothing is known" if unknown else ""
    say(f"about {readable_time(total)}, one after another{more}")
