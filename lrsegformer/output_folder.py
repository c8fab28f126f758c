"""Whose an output folder is: a command writes over nothing but what it wrote itself."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from lrsegformer.errors import InputError

_MARK = re.compile(r"(?:<!doctype html>\s*)?(?:# |<!-- )lrsegformer ([a-z-]+)\b")
_MARK_BYTES = 200


def mark_of(command: str) -> str:
    """What the first line of a file begins with, after `# ` or `<!-- `, by which it is known as a command's own."""
    return f"lrsegformer {command}"


def command_of(file: str | Path) -> str | None:
    """The command whose mark a file begins with; `None` where it has none, or cannot be read."""
    try:
        with open(file, "rb") as opened:
            found = _MARK.match(opened.read(_MARK_BYTES).decode("utf-8", errors="replace"))
    except OSError:
        return None
    return found and found[1]


def check_place(folder: str | Path, option: str = "--output_dir") -> None:
    """
    Refuse a place where no folder can be made or written, before anything is computed for it. Makes nothing.

    Raises:
        [`~lrsegformer.errors.InputError`]: a file stands there or above it, a link leads nowhere, or this user may not
            write there.
    """
    try:
        nearest = _nearest(Path(folder).absolute())
        os.stat(nearest)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{option} {folder} cannot be used ({reason}): give another folder") from None
    if not nearest.is_dir():
        below = "" if nearest == Path(folder).absolute() else f" lies below {nearest}, which"
        raise InputError(f"{option} {folder}{below} is a file: give a folder")
    if not os.access(nearest, os.R_OK | os.W_OK | os.X_OK):
        raise InputError(
            f"{option} {folder} cannot be written ({nearest} is closed to this user, or read-only): give another "
            "folder"
        )


def claim(folder: str | Path, names: Sequence[str], is_own: bool, option: str = "--output_dir") -> None:
    """
    Refuse to write over what another has put into an output folder. Writes nothing itself.

    Args:
        folder (`str` or `Path`): where the command is going to write; need not be there.
        names (sequence of `str`):
            of the files, and of the folders in it, that the command writes, first those that say most; `*` and `?`
            stand for what they stand for in a shell.
        is_own (`bool`): the folder's own mark says that these are the command's.
        option (`str`, *optional*, defaults to `"--output_dir"`): by which the user gave the folder.

    Raises:
        [`~lrsegformer.errors.InputError`]: one of the files is there and is not the command's, or is a link, by which
            a file elsewhere would be written; or the folder cannot be used at all ([`check_place`]).
    """
    check_place(folder, option)
    for name in _present(Path(folder), names):
        refuse_links(folder, name, option)
        if not is_own:
            writer = command_of(Path(folder, name))
            whose = f"which lrsegformer {writer} wrote" if writer else "which this command did not write"
            raise InputError(f"{option} {folder} holds {name}, {whose}: give another {option}, or move it away")


def refuse_links(folder: str | Path, name: str, option: str = "--output_dir") -> None:
    """
    Refuse a name in an output folder by which something would be written outside of it.

    Args:
        name (`str`): of a file that is going to be written, with the folders below `folder` that it lies in.

    Raises:
        [`~lrsegformer.errors.InputError`]: the file, or a folder on the way to it, is a link, or the name leads up.
    """
    path, parts = Path(folder), Path(name).parts
    if not parts or ".." in parts or Path(name).is_absolute():
        raise InputError(f"{option} {folder}: {name!r} lies outside of it: rename what is called so")
    for place, part in enumerate(parts, start=1):
        path = path / part
        if path.is_symlink():
            raise InputError(
                f"{option} {folder}: {'/'.join(parts[:place])} there is a link, and would be written elsewhere; take "
                f"it out, or give another {option}"
            )


def _nearest(path: Path) -> Path:
    """The path itself, or the lowest of the folders above it that is there, be it a link that leads nowhere."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return _nearest(path.parent)
    return path


def _present(folder: Path, patterns: Sequence[str]) -> Iterator[str]:
    there = sorted(os.listdir(folder)) if folder.is_dir() else []
    for pattern in patterns:
        yield from (name for name in there if fnmatchcase(name, pattern))
