"""The files below the given folders that a page is made of, in a fixed order and each with a number."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrsegformer.errors import InputError
from lrsegformer.text_files import parse_json, read_text

RUN_FILE, REPORT_FILE, EVALUATION_FILE, MATRIX_FILE = (
    "all_results.json",
    "results.json",
    "evaluation.json",
    "matrix.json",
)
FILES = (RUN_FILE, REPORT_FILE, EVALUATION_FILE, MATRIX_FILE)
# What a run leaves from its first checkpoint on, and so an unfinished one, too.
STARTED_FILE = "run.yaml"


@dataclass(frozen=True)
class Source:
    """
    A file that numbers come from.

    Attributes:
        number (`int`): what the page refers to it by, from 1.
        path (`Path`): where it lies.
        shown (`str`): its path from the folder on that was given.
        modified (`float`): when it was written; of two files that say the same, the newer one counts.
    """

    number: int
    path: Path
    shown: str
    modified: float

    @property
    def folder(self) -> Path:
        return self.path.parent


def find_sources(folders: Sequence[str | os.PathLike]) -> list[Source]:
    """
    Every file of [`FILES`] below the folders, once each. Checkpoints and hidden folders are passed over.

    Raises:
        [`~lrsegformer.errors.InputError`]: a folder is missing or cannot be read.
    """
    paths: dict[Path, tuple[Path, str]] = {}
    names = [Path(os.path.abspath(folder)).name for folder in folders]
    for folder, name in zip(folders, names, strict=True):
        # The folder's own name is enough to find a file again, and tells a reader nothing of the machine.
        root, shown_root = Path(folder), str(folder) if names.count(name) > 1 else name
        for path in _walk(root):
            if path.name in FILES:
                shown = (Path(shown_root) / path.relative_to(root)).as_posix()
                paths.setdefault(path.resolve(), (path, shown))
    return [
        Source(number, path, shown, path.stat().st_mtime)
        for number, (path, shown) in enumerate(paths.values(), start=1)
    ]


def unfinished_runs(folders: Sequence[str | os.PathLike]) -> list[str]:
    """The folders of runs that have begun and hold no scores yet, as the page calls them."""
    beside = (RUN_FILE, REPORT_FILE, EVALUATION_FILE)
    begun = [
        (Path(os.path.abspath(folder)).name / path.relative_to(folder)).parent.as_posix()
        for folder in folders
        for path in _walk(Path(folder))
        if path.name == STARTED_FILE and not any((path.parent / name).exists() for name in beside)
    ]
    return list(dict.fromkeys(begun))


def _walk(root: Path) -> Iterator[Path]:
    if not root.is_dir():
        state = "is a file, not a folder" if root.exists() else "no such folder"
        raise InputError(f"{root}: {state}; give folders of runs and reports")

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror}); change its permissions") from error

    for folder, below, files in os.walk(root, onerror=refuse):
        below[:] = sorted(name for name in below if not name.startswith((".", "checkpoint-")))
        yield from (Path(folder) / name for name in sorted(files))


def read_json(path: Path) -> Any:
    """
    What a JSON file holds.

    Raises:
        `ValueError`: in words that follow the name of the file.
    """
    return parse_json(read_text(path))


def number(value: Any) -> float | None:
    """The value where it is a finite number."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None
