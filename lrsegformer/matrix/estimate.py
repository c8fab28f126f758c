"""How long a matrix will take: from its finished cells, or else from a few steps of the real command."""

from __future__ import annotations

import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

from lrsegformer.matrix.ledger import DONE
from lrsegformer.matrix.planning import TRAIN, Cell, Length, Step, without_option
from lrsegformer.matrix.processes import CommandProcess

TIMED_STEPS = 8
TIMED_IMAGES = 4
_POLLING_SECONDS = 0.02
_LOSS = "{'loss'"
# Of a run that is timed: no evaluation in between, nothing saved, sent or drawn, a line for each step.
_TIMED_OPTIONS = (
    *("--max_steps", str(TIMED_STEPS), "--logging_strategy", "steps", "--logging_steps", "1"),
    *("--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "False"),
    *("--push_to_hub", "False", "--report_to", "none", "--disable_tqdm", "True"),
)


class Trial(NamedTuple):
    """
    What a few steps of a run took.

    Attributes:
        seconds_a_step (`float`): the first step apart.
        seconds_an_image (`float`): of an evaluation.
        others (`float`): seconds of everything else: start, first step, pictures.
        images (`int`): of the validation split.
        steps_an_epoch (`float`): steps.
    """

    seconds_a_step: float
    seconds_an_image: float
    others: float
    images: int
    steps_an_epoch: float


class Estimate(NamedTuple):
    """Seconds of a step of a cell (`None`: not known), and in words where they come from."""

    seconds: float | None
    source: str


def finished_seconds(entries: Sequence[Mapping[str, Any]]) -> dict[tuple, list[float]]:
    """The seconds of the steps that were finished at their first attempt, by what makes steps take equally long."""
    found: dict[tuple, list[float]] = {}
    for entry in entries:
        for name, step in entry["steps"].items():
            if step["status"] == DONE and step["attempts"] == 1:
                trained = entry["steps"][TRAIN]["words"]
                found.setdefault(timing_key(name, step["words"], trained), []).append(step["seconds"])
    return found


def timing_key(name: str, words: Sequence[str], training_words: Sequence[str]) -> tuple:
    """What the time of a step hangs on: its options and the training's, seed and weight of the penalty apart."""
    trained = without_option(without_option(training_words, "seed"), "lambda_lip")
    return (name, tuple(trained)) if name == TRAIN else (name, tuple(words), tuple(trained))


def estimate_step(
    cell: Cell, step: Step, finished: Mapping[tuple, list[float]], trials: Mapping[tuple, Trial]
) -> Estimate:
    """The time of a step of a cell, from finished cells, or for training from a trial."""
    key = timing_key(step.name, step.words, cell.steps[0].words)
    if key in finished:
        return Estimate(statistics.fmean(finished[key]), f"mean of {len(finished[key])} finished")
    if key in trials:
        return Estimate(whole_run(trials[key], cell.length), f"{TIMED_STEPS} steps timed")
    return Estimate(None, "not known")


def whole_run(trial: Trial, length: Length) -> float:
    """Seconds of a whole training with its evaluations, from a trial."""
    steps = length.max_steps or math.ceil(length.epochs * trial.steps_an_epoch)
    images = trial.images if length.max_eval_samples is None else min(trial.images, length.max_eval_samples)
    evaluations = _evaluations(length, steps, trial.steps_an_epoch) + 1  # the last is of the saved model
    return trial.others + steps * trial.seconds_a_step + evaluations * images * trial.seconds_an_image


def _evaluations(length: Length, steps: int, steps_an_epoch: float) -> int:
    if length.eval_strategy == "steps":
        every = math.ceil(steps * length.eval_steps) if length.eval_steps < 1 else length.eval_steps
        return int(steps // every)
    return math.ceil(steps / steps_an_epoch) if length.eval_strategy == "epoch" else 0


def time_trial(cell: Cell, launch: Callable[[str, Sequence[str]], list[str]]) -> Trial | str:
    """
    Run a few steps of a cell's training in a temporary folder.

    Args:
        cell ([`Cell`]): the cell.
        launch (`Callable`): from a command's name and its words to what is executed.

    Returns:
        [`Trial`], or one line that says why there is none.

    Raises:
        `KeyboardInterrupt`: after the run was stopped.
    """
    training = cell.steps[0]
    with tempfile.TemporaryDirectory(prefix="lrsegformer-timing-") as name:
        folder = Path(name)
        # The built-in data make as many images as are asked for.
        fewer = () if cell.length.built_in else ("--max_eval_samples", str(TIMED_IMAGES))
        words = [*training.words, *_TIMED_OPTIONS, *fewer, "--output_dir", str(folder / "run")]
        log, at = folder / "log", []
        began = time.monotonic()

        def note_steps() -> None:
            seen = log.read_text(encoding="utf-8", errors="replace").count(_LOSS)
            at.extend([time.monotonic()] * (seen - len(at)))

        process = CommandProcess(launch(training.command, words), log, name)
        try:
            end = process.wait(Event(), note_steps, _POLLING_SECONDS)
        except KeyboardInterrupt:
            stop = Event()
            stop.set()
            process.wait(stop)
            raise
        seconds = time.monotonic() - began
        if not end.succeeded:
            return end.error
        return _trial(folder / "run", at, seconds)


def _trial(run: Path, at: Sequence[float], seconds: float) -> Trial | str:
    if len(at) < 2:
        return "its log has no lines of steps"
    results = json.loads((run / "all_results.json").read_text(encoding="utf-8"))
    state = json.loads((run / "trainer_state.json").read_text(encoding="utf-8"))
    images, in_evaluation = results["validation_images"], results["eval_runtime"]
    return Trial(
        (at[-1] - at[0]) / (len(at) - 1),
        in_evaluation / images["scored"],
        seconds - (at[-1] - at[0]) - in_evaluation,
        images["of"],
        state["global_step"] / state["epoch"],
    )
