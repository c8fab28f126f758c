"""`matrix.json`: what has become of every cell; whole at any time, so that a matrix goes on from wherever it ended."""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lrsegformer.errors import InputError
from lrsegformer.matrix.definition import COORDINATES
from lrsegformer.matrix.planning import TRAIN, Cell, Plan
from lrsegformer.output_folder import claim
from lrsegformer.writing import write_whole, writing_to

MATRIX_FILE = "matrix.json"
LOCK_FILE = "matrix.lock"
DONE, FAILED, PENDING = "done", "failed", "pending"
# What stands in the lock's file: nothing, while a process is about to write itself down.
_OWNER = re.compile(r"(process \d+ on .*\n?)?")
_FIELDS = {*COORDINATES, "name", "folder", "status", "seconds", "error", "steps"}
_NEW_STEP = {"status": PENDING, "attempts": 0, "seconds": 0.0, "error": None}


@contextmanager
def sole_owner(folder: Path) -> Iterator[None]:
    """
    Holds the folder's lock, which the system releases with this process, however it ends.

    Raises:
        [`~lrsegformer.errors.InputError`]: another process holds it, its file is none that a matrix wrote, or the
            folder cannot be written.
    """
    lock = folder / LOCK_FILE
    with writing_to(folder):
        claim(folder, [LOCK_FILE], not lock.exists() or bool(_OWNER.fullmatch(lock.read_text(errors="replace"))))
        folder.mkdir(parents=True, exist_ok=True)
        file = open(lock, "a+", encoding="utf-8")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "another process"
            raise InputError(
                f"--output_dir {folder} is being worked on by {owner}: wait for it, or give another folder."
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


def read_entries(folder: Path) -> dict[str, dict[str, Any]]:
    """
    The entries of `matrix.json` by the cells' names; none where there is no such file.

    Raises:
        [`~lrsegformer.errors.InputError`]: it cannot be read, or is not of a matrix.
    """
    path = folder / MATRIX_FILE
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}): mend it, or give another --output_dir.") from None
    if not isinstance(entries, list) or not all(isinstance(one, dict) and one.keys() >= _FIELDS for one in entries):
        raise InputError(f"{path} is not what a matrix writes: give another --output_dir.")
    return {entry["name"]: entry for entry in entries}


class Ledger:
    """
    The entries of a matrix, on disk after each change, for threads.

    An entry holds the cell's coordinates, `name`, `folder` (inside the matrix's), `status` (`"done"` where every step
    is, `"failed"` where one is, `"pending"`), `seconds` of all its steps and `error` (one line, or `None`), and
    under `steps` the same of each step, with its `command`, `words` and number of `attempts`.

    Args:
        folder (`Path`): of the matrix.
        plan ([`Plan`]): what is to be run. Finished cells that it does not have are kept.

    Raises:
        [`~lrsegformer.errors.InputError`]: a cell that has been trained, or begun, has other options now, or a folder
            that a cell is to have holds something else.
    """

    def __init__(self, folder: Path, plan: Plan):
        self.folder = folder
        self._lock = threading.Lock()
        before = read_entries(folder)
        names = {cell.name for cell in plan.cells}
        self.entries = {name: entry for name, entry in before.items() if name not in names and entry["status"] == DONE}
        for cell in plan.cells:
            self.entries[cell.name] = self._entry(cell, before.get(cell.name))
        self._write()

    def step(self, name: str, step: str) -> dict[str, Any]:
        """What is known of a step of a cell; not to be changed."""
        return self.entries[name]["steps"][step]

    def begin(self, name: str, step: str) -> None:
        """Note that a step is tried."""
        with self._lock:
            record = self.step(name, step)
            record["attempts"] += 1
            self._write()

    def end(self, name: str, step: str, status: str, seconds: float, error: str | None = None) -> None:
        """Note how a try ended; the seconds of all tries add up."""
        with self._lock:
            record = self.step(name, step)
            record.update(status=status, seconds=round(record["seconds"] + seconds, 3), error=error)
            _sum_up(self.entries[name])
            self._write()

    def _write(self) -> None:
        with writing_to(self.folder):
            write_whole(self.folder / MATRIX_FILE, json.dumps(list(self.entries.values()), indent=1) + "\n")

    def _entry(self, cell: Cell, before: Mapping[str, Any] | None) -> dict[str, Any]:
        folder = self.folder / cell.name
        if before is None and folder.exists() and any(folder.iterdir()):
            raise InputError(f"{folder} is no cell of this matrix: move it away, or give another --output_dir.")
        steps = {}
        for step in cell.steps:
            known = {} if before is None else before["steps"].get(step.name, {})
            asked = {"command": step.command, "words": list(step.words)}
            changed = any(known.get(key) != value for key, value in asked.items())
            if changed and known and step.name == TRAIN and holds_training(folder):
                raise InputError(
                    f"cell {cell.name} was begun with other options ({_difference(known['words'], asked['words'])}): "
                    f"give another --output_dir, or delete {folder} to run it anew."
                )
            is_gone = not (folder if step.name == TRAIN else folder / step.name).exists()
            begun_anew = changed or is_gone
            steps[step.name] = {**asked, **_NEW_STEP, **({} if begun_anew else known)}
        if steps[TRAIN]["status"] != DONE:
            # What was said of another model.
            steps = {name: {**step, **({} if name == TRAIN else _NEW_STEP)} for name, step in steps.items()}
        coordinates = {name: cell.coordinates[name] for name in COORDINATES}
        entry = {"name": cell.name, **coordinates, "folder": cell.name, "steps": steps}
        _sum_up(entry)
        return entry


def holds_training(folder: Path) -> bool:
    """Whether training has left something in a cell's folder that another training would mix with."""
    return (folder / "config.json").exists() or any(folder.glob("checkpoint-*"))


def _sum_up(entry: dict[str, Any]) -> None:
    steps = entry["steps"]
    failed = [name for name, step in steps.items() if step["status"] == FAILED]
    all_done = all(step["status"] == DONE for step in steps.values())
    entry["status"] = FAILED if failed else DONE if all_done else PENDING
    entry["seconds"] = round(sum(step["seconds"] for step in steps.values()), 3)
    errors = [f"{name}: {step['error']}" for name, step in steps.items() if step["error"]]
    entry["error"] = "; ".join(errors) or None


def _difference(before: list[str], now: list[str]) -> str:
    was, becomes = " ".join(_only_in(before, now)), " ".join(_only_in(now, before))
    return f"{was or 'nothing'} before, {becomes or 'nothing'} now"


def _only_in(words: list[str], others: list[str]) -> list[str]:
    """The options, with their values, of a command line that another one does not have."""
    return [word for option in _options(words) if option not in _options(others) for word in option]


def _options(words: list[str]) -> list[tuple[str, ...]]:
    options: list[tuple[str, ...]] = []
    for word in words:
        options = [*options, (word,)] if word.startswith("--") else [*options[:-1], (*options[-1], word)]
    return options
