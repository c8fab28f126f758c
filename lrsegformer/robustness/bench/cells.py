"""A cell is one model under one condition. Finished cells are lines of a file that survives a crash."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lrsegformer.errors import InputError
from lrsegformer.robustness.conditions import Condition

CELLS_FILE = "cells.jsonl"
# What every cell holds, besides its results.
_FIELDS = set(
    "key model weights condition num_labels class_names images of subset seed seconds device processes "
    "versions".split()
)


def cell_key(weights: str, data: str, condition: Condition, options: Mapping[str, Any]) -> str:
    """
    What makes two cells the same: weights, images with labels, condition, and whatever else changes the numbers.

    Args:
        weights, data (`str`): fingerprints.
        options (`dict`): JSON values, such as the seed.

    Returns:
        `str`: 16 hexadecimal digits.
    """
    identity = {"weights": weights, "data": data, "condition": asdict(condition), "options": dict(options)}
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


class CellFile:
    """
    The finished cells of a report: one JSON object a line, with the `key` of [`cell_key`].

    A line is there whole or not at all: it is written with one call, brought to the disk, and a line that a crash cut
    short is taken off before the next one is added.

    Args:
        folder (`str` or `Path`):
            of the report; made if need be, with an empty file in it, which shows that cells can be kept there before
            any is computed.

    Raises:
        [`~lrsegformer.errors.InputError`]: the folder or the file cannot be written or read, the disk is full, or a
            line inside the file is no cell.
    """

    def __init__(self, folder: str | Path):
        self.path = Path(folder) / CELLS_FILE
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"--output_dir {folder} cannot be made: {error.strerror}; give another folder") from None
        with self._explained("written", "give another --output_dir"), open(self.path, "ab"):
            pass

    def read(self) -> dict[str, dict[str, Any]]:
        """The finished cells by their keys; the later of two with one key."""
        with self._explained("read", "make it readable, or give another --output_dir"):
            content = self.path.read_bytes()
        cells = {}
        for number, line in enumerate(self._whole_lines(content).splitlines(), start=1):
            cell = _parse_cell(line)
            if cell is None:
                raise InputError(
                    f"{self.path}, line {number}: not a finished cell; take the line out, or give another --output_dir"
                )
            cells[cell["key"]] = cell
        return cells

    def append(self, cell: Mapping[str, Any]) -> None:
        """Add one finished cell, which holds its `key`."""
        line = json.dumps(cell, allow_nan=False).encode() + b"\n"
        remedy = "make room and give the same command again (finished cells are kept), or give another --output_dir"
        with self._explained("written", remedy), open(self.path, "a+b") as file:
            file.seek(0)
            content = file.read()
            file.truncate(len(self._whole_lines(content)))
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    @contextmanager
    def _explained(self, what: str, remedy: str) -> Iterator[None]:
        """Turn the operating system's refusal into an `InputError`: what the file cannot be, why, and the remedy."""
        try:
            yield
        except OSError as error:
            raise InputError(f"{self.path} cannot be {what}: {error.strerror}; {remedy}") from None

    @staticmethod
    def _whole_lines(content: bytes) -> bytes:
        return content[: content.rfind(b"\n") + 1]


def _parse_cell(line: bytes) -> dict[str, Any] | None:
    """The cell on a line of the file; `None` where the line is none, or lacks what a report needs."""
    try:
        cell = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):  # No UTF-8 or no JSON; lists within lists without end.
        return None
    if not isinstance(cell, dict) or not _FIELDS <= cell.keys():
        return None
    has_results = "measured" in cell or {"counts", "warnings"} <= cell.keys()
    is_cell = has_results and isinstance(cell["key"], str) and isinstance(cell["condition"], dict)
    return cell if is_cell else None
