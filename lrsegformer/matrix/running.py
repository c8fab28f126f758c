"""Running the cells of a plan, one after another or a few at a time, each by the ordinary command."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from lrsegformer.matrix.ledger import (
    DONE,
    FAILED,
    MATRIX_FILE,
    PENDING,
    Ledger,
    holds_training,
    read_entries,
    sole_owner,
)
from lrsegformer.matrix.planning import TRAIN, Cell, Plan, Step
from lrsegformer.matrix.processes import CommandProcess
from lrsegformer.matrix.summary import SUMMARY_FILES, write_summary
from lrsegformer.output_folder import check_place, claim, refuse_links
from lrsegformer.training.run.checkpoints import last_whole_checkpoint
from lrsegformer.training.run.run_config import RUN_CONFIG_FILE
from lrsegformer.writing import writing_to

_LOOK_SECONDS = 0.5
# By which option a command takes the model that it looks at, before its folder.
_MODEL_OPTIONS = {"evaluate": [], "robustness": ["--models"], "certify": ["--models"]}


@dataclass(frozen=True)
class Outcome:
    """What a matrix came to: the names of the finished cells, and of the others with the reason."""

    done: list[str]
    failed: dict[str, str]
    pending: dict[str, str]

    @property
    def is_complete(self) -> bool:
        return not (self.failed or self.pending)


def run_plan(
    plan: Plan,
    folder: Path,
    launch: Callable[[str, Sequence[str]], list[str]],
    say: Callable[[str], None],
    retry_failed: bool = False,
    jobs: int = 1,
) -> Outcome:
    """
    Run what is not finished, and write `matrix.json`, `summary.md` and `summary.csv`.

    A cell whose training fails has no further steps; other steps and other cells go on. What was ended by a signal
    goes on with the next call.

    Args:
        plan ([`Plan`]): the cells.
        folder (`Path`): of the matrix; each cell gets a folder in it.
        launch (`Callable`): from a command's name and its words to what is executed.
        say (`Callable`): takes lines about the progress.
        retry_failed (`bool`, *optional*, defaults to `False`): try failed steps again.
        jobs (`int`, *optional*, defaults to 1): cells at a time.

    Raises:
        [`~lrsegformer.errors.InputError`]: the folder is another matrix's, or cannot be written; before any cell runs.
        `KeyboardInterrupt`: after the running cells were stopped.
    """
    check_place(folder)
    claim(folder, (MATRIX_FILE, *SUMMARY_FILES), bool(read_entries(folder)))
    for cell in plan.cells:
        for name in (cell.name, *(f"{cell.name}/{step.name}{end}" for step in cell.steps for end in ("", ".log"))):
            refuse_links(folder, name)
    with sole_owner(folder):
        ledger = Ledger(folder, plan)
        stop = Event()
        work = [cell for cell in plan.cells if steps_to_run(ledger.entries[cell.name], retry_failed)]
        worker = _Worker(ledger, launch, say, retry_failed, stop, len(work))
        with ThreadPoolExecutor(jobs) as pool:
            futures = [pool.submit(worker.run_cell, number, cell) for number, cell in enumerate(work, start=1)]
            try:
                _raise_first(futures)
            finally:
                # After Ctrl-C, or where the ledger cannot be written: nothing new begins, and what runs is stopped.
                stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                entries = [ledger.entries[cell.name] for cell in plan.cells]
                write_summary(folder, list(ledger.entries.values()))
    return Outcome(
        [entry["name"] for entry in entries if entry["status"] == DONE],
        {entry["name"]: entry["error"] for entry in entries if entry["status"] == FAILED},
        {entry["name"]: entry["error"] or "not begun" for entry in entries if entry["status"] == PENDING},
    )


def steps_to_run(entry: dict[str, Any], retry_failed: bool) -> list[str]:
    """The names of an entry's steps that are to be run now; none where the training has failed for good."""
    runnable = (PENDING, FAILED) if retry_failed else (PENDING,)
    steps = [name for name, step in entry["steps"].items() if step["status"] in runnable]
    training = entry["steps"][TRAIN]["status"]
    return steps if training == DONE or TRAIN in steps else []


def _raise_first(futures: Sequence[Future[None]]) -> None:
    """Wait for all, or for the first that raises."""
    pending = set(futures)
    while pending:
        # In short pieces: a wait without end may sleep through Ctrl-C, where another thread gets the signal.
        done, pending = wait(pending, _LOOK_SECONDS, FIRST_EXCEPTION)
        for future in done:
            future.result()


@dataclass(frozen=True)
class _Worker:
    """What the threads share."""

    ledger: Ledger
    launch: Callable[[str, Sequence[str]], list[str]]
    say: Callable[[str], None]
    retry_failed: bool
    stop: Event
    count: int

    def run_cell(self, number: int, cell: Cell) -> None:
        """The steps of a cell that are to be run, until its training fails or all is stopped."""
        wanted = steps_to_run(self.ledger.entries[cell.name], self.retry_failed)
        for step in cell.steps:
            trained = step.name == TRAIN or self.ledger.step(cell.name, TRAIN)["status"] == DONE
            if step.name in wanted and trained and not self.stop.is_set():
                self._run_step(f"[{number}/{self.count}] {cell.name}, {step.name}", cell, step)

    def _run_step(self, label: str, cell: Cell, step: Step) -> None:
        folder = self.ledger.folder / cell.name
        with writing_to(folder):
            words = _training_words(folder, step) if step.name == TRAIN else _follow_up_words(folder, step)
            self.ledger.begin(cell.name, step.name)
            self.say(f"{label}: {'goes on' if '--resume_from_checkpoint' in words else 'begins'}")
            began = time.monotonic()
            log = folder / f"{step.name}.log"
            process = CommandProcess(self.launch(step.command, words), log, str(folder.resolve()))
        end = process.wait(self.stop)
        seconds = time.monotonic() - began
        status = DONE if end.succeeded else PENDING if end.interrupted or self.stop.is_set() else FAILED
        self.ledger.end(cell.name, step.name, status, seconds, end.error)
        self.say(f"{label}: {f'done in {seconds:.0f} s' if end.succeeded else end.error}")


def _training_words(folder: Path, step: Step) -> list[str]:
    words = [*step.words, "--output_dir", str(folder)]
    if last_whole_checkpoint(folder) is not None:
        return [*words, "--resume_from_checkpoint"]
    if holds_training(folder) or (folder / RUN_CONFIG_FILE).exists():
        # An attempt that left no checkpoint to go on from is begun anew.
        _clear(folder)
    return words


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        if path.suffix != ".log":
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _follow_up_words(folder: Path, step: Step) -> list[str]:
    model = _MODEL_OPTIONS[step.command]
    return [*model, str(folder), *step.words, "--output_dir", str(folder / step.name)]
