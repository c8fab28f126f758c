"""What a command line names: image files, folders of them, patterns, and videos."""

from __future__ import annotations

import glob
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lrsegformer.data.files.pairing import is_image
from lrsegformer.errors import InputError

VIDEO_SUFFIXES = frozenset((".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv"))


@dataclass(frozen=True)
class InputFile:
    """
    An image or a video.

    Attributes:
        path (`Path`): as given.
        name (`str`): of what is made of it, a relative path without an ending: `a/b` of `folder/a/b.jpg` where
            `folder` was given. Of a video the folder of its frames.
    """

    path: Path
    name: str

    @property
    def is_video(self) -> bool:
        return self.path.suffix.lower() in VIDEO_SUFFIXES


def find_files(words: Sequence[str], output_dir: str | Path) -> list[InputFile]:
    """
    The images and videos that a command line names, in its order; those of a folder, with its folders, sorted by name,
    numbers by their value.

    Args:
        words (sequence of `str`): files, folders, or patterns with `*`, `?` and `**`.
        output_dir (`str` or `Path`): what lies in it is no input.

    Raises:
        [`~lrsegformer.errors.InputError`]: there is no such file, a folder holds no image, or two files would be
            written under one name.
    """
    output = Path(output_dir).resolve()
    found: dict[Path, InputFile] = {}
    for word in words:
        for file in _files_of(word, output):
            found.setdefault(file.path.resolve(), file)
    return _named_apart(list(found.values()))


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts `frame2` before `frame10`."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part.lower()) for part in parts if part]


def _files_of(word: str, output: Path) -> Iterator[InputFile]:
    path = Path(word).expanduser()
    if path.is_dir():
        yield from _files_below(path, output)
    elif path.exists():
        yield InputFile(path, path.stem)
    elif glob.has_magic(word):
        matches = sorted(glob.glob(str(path), recursive=True), key=natural_key)
        files = [match for match in map(Path, matches) if not match.is_dir() and not _is_below(match, output)]
        if not files:
            raise InputError(f"{word}: no file fits this pattern; check it, and the folder")
        yield from (InputFile(file, file.stem) for file in files)
    else:
        raise InputError(f"{word}: no such file or folder; check the path")


def _files_below(folder: Path, output: Path) -> Iterator[InputFile]:
    every = [file for file in folder.rglob("*") if _is_wanted(file)]
    files = [file for file in every if not _is_below(file, output)]
    if not every:
        raise InputError(f"{folder}: holds no images or videos; check the path")
    if not files:
        raise InputError(f"{folder}: its images lie in the --output_dir {output}; give another folder for the output")
    inside = {file: file.relative_to(folder).with_suffix("").as_posix() for file in files}
    yield from (InputFile(file, inside[file]) for file in sorted(files, key=lambda file: natural_key(str(file))))


def _is_wanted(file: Path) -> bool:
    is_video = file.suffix.lower() in VIDEO_SUFFIXES and not file.name.startswith(".") and file.is_file()
    return is_video or is_image(file)


def _is_below(file: Path, folder: Path) -> bool:
    return file.resolve().is_relative_to(folder)


def _named_apart(files: list[InputFile]) -> list[InputFile]:
    """Files of one name get their endings, and if need be the name of their folder, into it."""
    for rename in (_with_ending, _with_folder):
        for same in _of_one_name(files):
            files = [replace(file, name=rename(file)) if file in same else file for file in files]
    for first, second, *_ in _of_one_name(files):
        raise InputError(
            f"{first.path} and {second.path} would both be written as {first.name}: give them to two commands, each "
            "with an --output_dir of its own"
        )
    return files


def _of_one_name(files: Sequence[InputFile]) -> list[list[InputFile]]:
    groups = defaultdict(list)
    for file in files:
        groups[file.name.lower()].append(file)  # some file systems do not tell cases apart
    return [group for group in groups.values() if len(group) > 1]


def _with_ending(file: InputFile) -> str:
    return f"{file.name}{file.path.suffix}"


def _with_folder(file: InputFile) -> str:
    return f"{file.path.resolve().parent.name}/{file.name}"
