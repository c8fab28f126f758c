"""`--class_names`: from the files that people have to names in the order of their index."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lrsegformer.data.ade20k import ADE20K_NAMES
from lrsegformer.data.classes.json_rows import rows_of_json
from lrsegformer.data.classes.rows import ClassRow
from lrsegformer.data.classes.text_rows import rows_of_text
from lrsegformer.errors import InputError
from lrsegformer.text_files import is_file, read_text


@dataclass(frozen=True)
class ClassTable:
    """
    The classes that `--class_names` gives, in the order of their index.

    Attributes:
        names (`tuple[str, ...]`): no name stands twice.
        first_index (`int`, *optional*): 0 or 1, where the table numbers its classes from there.
        colours (`tuple[int, ...]`, *optional*): `0xRRGGBB` of each class.
        folders (`tuple[str, ...]`, *optional*): the folder or wnid of each class.
    """

    names: tuple[str, ...]
    first_index: int | None = None
    colours: tuple[int, ...] | None = None
    folders: tuple[str, ...] | None = None


def read_class_names(option: str) -> ClassTable:
    """
    Reads the classes from a file or from the option itself.

    A file is JSON (id2label, label2id, a `config.json` with one of them, a list), a table with a header (a column
    called `name`, and where it has them an index and colours; commas, semicolons or tabs), lines of index and name, or
    one name a line. The option itself is a list with commas, JSON, or a single name.

    Raises:
        InputError: neither, a name stands twice, or indices repeat or leave a gap; with the line.
    """
    rows = read_rows(option, "--class_names")
    for row in rows:
        if row.name is None:
            raise InputError(f"{row.place}: no name; --class_names needs one for every class")
    rows, first_index = _in_order(rows)
    names = tuple(row.name or "" for row in rows)
    colours = tuple(row.colour for row in rows if row.colour is not None)
    folders = tuple(row.folder for row in rows if row.folder is not None)
    if len(folders) == len(rows):
        _check_unique(folders, rows)  # of the names only those whose folders exist are used
    else:
        _check_unique(names, rows)
    return ClassTable(
        ADE20K_NAMES if _is_ade20k(names) else names,
        first_index,
        colours if len(colours) == len(rows) else None,
        folders if len(folders) == len(rows) else None,
    )


def read_rows(option: str, option_name: str) -> list[ClassRow]:
    """
    Reads the value of an option that is a file, JSON, or a list with commas (quotes keep commas in a name).

    Raises:
        InputError: it is none of them.
    """
    stripped = option.strip()
    if stripped[:1] in ("{", "["):
        return rows_of_json(stripped, option_name)
    if is_file(option):
        path = Path(option).expanduser()
        where = f"{option_name} {path}"
        try:
            text = read_text(path)
        except ValueError as error:
            raise InputError(f"{where} {error}; give a text file") from None
        is_json = text.lstrip()[:1] in ("{", "[") or path.suffix.lower() == ".json"
        return rows_of_json(text, where) if is_json else rows_of_text(text, where)
    names = [name.strip() for name in next(csv.reader([option], skipinitialspace=True), [])]
    is_path = len(names) == 1 and re.search(r"[/\\]|\.\w+$", names[0])
    if not names or "" in names or is_path:
        raise InputError(f"{option_name} {option}: no such file, and no list of names with commas")
    return [ClassRow(name, place=option_name) for name in names]


def _check_unique(keys: Sequence[str], rows: Sequence[ClassRow]) -> None:
    seen: dict[str, ClassRow] = {}
    for key, row in zip(keys, rows, strict=True):
        if key in seen:
            raise InputError(f"{row.place}: {key!r} stands more than once (before at {seen[key].place}); keep one")
        seen[key] = row


def _in_order(rows: Sequence[ClassRow]) -> tuple[list[ClassRow], int | None]:
    """The rows by their index, and the first index (`None` where there are none)."""
    by_index: dict[int, ClassRow] = {}
    for row in rows:
        if row.index is None:
            continue
        if row.index in by_index:
            raise InputError(
                f"{row.place}: the index {row.index} is given to {by_index[row.index].name!r} and to {row.name!r}; "
                "number the classes 0, 1, 2, ... or 1, 2, 3, ..."
            )
        by_index[row.index] = row
    if not by_index:
        return list(rows), None
    if len(by_index) < len(rows):
        without = next(row for row in rows if row.index is None)
        raise InputError(f"{without.place}: {without.name!r} has no index, where others have one; number all classes")
    order = sorted(by_index)
    first = order[0]
    expected = next((index for place, index in enumerate(order) if index != first + place), None)
    if first not in (0, 1) or expected is not None:
        before = [index for index in order if expected is not None and index < expected]
        fault = (
            f"the indices begin at {first}"
            if expected is None
            else f"the index {before[-1]} is followed by {expected}, which leaves a gap"
        )
        raise InputError(
            f"{by_index[order[0] if expected is None else expected].place}: {fault}; number the classes 0, 1, 2, ... "
            "or 1, 2, 3, ... without void, or give the table by --mask_values, which takes any values"
        )
    return [by_index[index] for index in order], first


def _is_ade20k(names: Sequence[str]) -> bool:
    """
    Whether these are ADE20K's classes under the names of its objectInfo150 files. Those join words and synonyms with
    the same semicolon (or list synonyms with commas), so the names people know cannot be cut out of them.
    """

    def words(name: str) -> str:
        return " ".join(re.split(r"[\s;,]+", name))

    return len(names) == len(ADE20K_NAMES) and all(
        f" {known} " in f" {words(name)} " for known, name in zip(ADE20K_NAMES, names, strict=True)
    )
