"""Files that are at any time the old one or the new one, and one line where the system does not take them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lrsegformer.errors import InputError

# By words of messages: safetensors has no error numbers, and torch's writer of files says no reason.
_DISK_FAILURES = {
    "No space left on device": "the disk is full",
    "Disk quota exceeded": "the quota of the disk is used up",
    "File too large": "a limit on the size of files is reached",
    "Read-only file system": "the disk is read-only",
    "PytorchStreamWriter failed writing": "the disk is full, or fails",
    "unexpected pos": "the disk is full, or fails",
    "iostream error": "the disk is full, or fails",
}
_LONGEST_NAME = 255  # bytes, in every file system of today


def write_whole(path: Path, text: str) -> None:
    """Write a file, in a folder that is made if need be, which is at any time the old one or the new one."""
    with written_aside(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """
    A path beside a file, of the same ending, to write to; it is renamed into the file's place, and is gone where
    writing to it fails.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(_unfinished_name(path))
    if unfinished.is_symlink():  # It would be written to where it leads.
        unfinished.unlink()
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


def put_in_place(unfinished: Path, folder: Path) -> None:
    """
    Give a folder that is written aside, on the same disk, its name, once all of it is on the disk.

    One that has the name already is replaced; a crash between two renamings leaves the old one beside the new, under
    another name. The folder above `unfinished` goes with it where it is empty then.
    """
    for path in (*unfinished.rglob("*"), unfinished):
        _sync(path)
    if folder.exists():
        replaced = unfinished.with_name(f"replaced-{folder.name}")
        os.replace(folder, replaced)
        os.replace(unfinished, folder)
        shutil.rmtree(replaced)
    else:
        os.replace(unfinished, folder)
    _sync(folder.parent)
    with contextlib.suppress(OSError):  # Something else lies in it.
        unfinished.parent.rmdir()


def remove_folder(folder: Path, aside: Path) -> None:
    """
    Remove a folder, which a crash leaves whole or not at all under its name.

    Args:
        aside (`Path`):
            a folder on the same disk, made if need be, where it goes first; it is removed, too, where it is empty.
    """
    aside.mkdir(exist_ok=True)
    removed = aside / f"removed-{folder.name}"
    os.replace(folder, removed)
    shutil.rmtree(removed, ignore_errors=True)
    with contextlib.suppress(OSError):  # Something else lies in it.
        aside.rmdir()


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk; some systems cannot tell of folders."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:
        if path.is_dir():
            return
        raise
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
