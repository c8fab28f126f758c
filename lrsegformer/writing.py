"""Files that are at any time the old one or the new one, and one line where the system does not take them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lrsegformer.errors import InputError

# By words of messages: safetensors has no error numbers, and torch's writer of files says no reason.
_DISK_FAILURES = {
    "No space left on device": "the disk is full",
    "Disk quota exceeded": "the quota of the disk is used up",
    "Read-only file system": "the disk is read-only",
    "PytorchStreamWriter failed writing": "the disk is full, or fails",
    "unexpected pos": "the disk is full, or fails",
}
_LONGEST_NAME = 255  # bytes, in every file system of today


def write_whole(path: Path, text: str) -> None:
    """Write a file, in a folder that is made if need be, which is at any time the old one or the new one."""
    with written_aside(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", newline="")


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """
    A path beside a file, of the same ending, to write to; it is renamed into the file's place, and is gone where
    writing to it fails.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(_unfinished_name(path))
    try:
        yield unfinished
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def _unfinished_name(path: Path) -> str:
    """The same at every try, so that what a crash has left is written over."""
    name = f"{path.stem}.part{path.suffix}"
    if len(os.fsencode(name)) <= _LONGEST_NAME:
        return name
    return f"{hashlib.sha256(os.fsencode(path.name)).hexdigest()}.part{path.suffix}"


def disk_failure(error: BaseException) -> str | None:
    """
    What an error says of a disk that takes nothing more, with the file where it is known; `None` for any other error.
    """
    reason = next((reason for words, reason in _DISK_FAILURES.items() if words in str(error)), None)
    name = getattr(error, "filename", None)
    return reason if reason is None or name is None else f"{reason} ({name})"


@contextmanager
def writing_to(folder: str | Path, option: str = "--output_dir") -> Iterator[None]:
    """
    Turns the operating system's refusal to write, or a full disk, into one line.

    Args:
        folder (`str` or `Path`): where to.
        option (`str`, *optional*, defaults to `"--output_dir"`): by which the user gave it.

    Raises:
        [`~lrsegformer.errors.InputError`]: names the option, the file and the reason.
    """
    try:
        yield
    except OSError as error:
        what, reason = error.filename or "a file", error.strerror or error
        raise InputError(
            f"{option} {folder}: {what} cannot be written ({reason}); make room or give another {option} (what is "
            "finished is kept)"
        ) from error
