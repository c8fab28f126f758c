"""Classes from text: tables with and without a header, and plain lists of names."""

from __future__ import annotations

import csv
import re

from lrsegformer.data.classes.rows import ClassRow, Columns, column_key, parse_colour
from lrsegformer.errors import InputError

_DELIMITERS = "\t;,|:"
_CHANNELS = r"(?P<colour>#[0-9a-fA-F]{6}|\d{1,3}[\s,;]+\d{1,3}[\s,;]+\d{1,3})"
_BETWEEN = r"(?:\s*[\t,;:=|]\s*|\s+)"
_SEPARATOR = r"\s*[\t,;:=|]\s*"
# Tables without a header, by what each line holds; the first that fits all lines is taken.
_LINES = tuple(
    re.compile(pattern)
    for pattern in (
        rf"(?P<index>-?\d+){_BETWEEN}{_CHANNELS}{_BETWEEN}(?P<name>\S.*)",
        rf"{_CHANNELS}{_BETWEEN}(?P<name>\S.*)",
        rf"(?P<index>-?\d+){_BETWEEN}(?P<name>\S.*?){_BETWEEN}{_CHANNELS}",
        rf"(?P<name>\S.*?){_BETWEEN}{_CHANNELS}",
        rf"(?P<index>-?\d+){_SEPARATOR}(?P<name>\S.*)",
        rf"(?P<name>\S.*?){_SEPARATOR}(?P<index>-?\d+)",
        r"(?P<index>-?\d+)\s+(?P<name>\S.*)",
    )
)
_LONGEST_NAME = 200
_REMEDY = (
    "give one name a line, a table whose header has a column `name`, or JSON (id2label, label2id, or a list of names)"
)


def rows_of_text(text: str, where: str) -> list[ClassRow]:
    """
    Reads the classes of a text that is no JSON: a table with a header, one without, or a name a line.

    Lines that begin with `# ` are comments.

    Raises:
        InputError: none of them, with the line.
    """
    lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if not lines:
        raise InputError(f"{where}: the file is empty; {_REMEDY}")
    table = _table(text, lines[0], where)
    if table is not None:
        return table
    lines = [(number, line) for number, line in lines if not line.startswith("# ")]
    return _without_header(lines, where) or _plain_list(lines, where)


def _table(text: str, first: tuple[int, str], where: str) -> list[ClassRow] | None:
    """The rows of a table whose first line is a header; `None` where it is none."""
    number, header = first
    best, most = None, 0
    for delimiter in _DELIMITERS:
        titles = [column_key(title) for title in _split(header.lstrip("# "), delimiter)]
        columns = Columns.of(titles, [], where)
        if columns is not None and (len(titles) > most):
            best, most = delimiter, len(titles)
    if best is None:
        return None
    titles = [column_key(title) for title in _split(header.lstrip("# "), best)]
    rows, places = [], []
    reader = csv.reader(text.splitlines()[number:], delimiter=best, skipinitialspace=True)
    for cells in reader:
        place = f"{where}, line {number + reader.line_num}"
        if not any(cell.strip() for cell in cells):
            continue
        while len(cells) > len(titles) and not cells[-1].strip():
            cells.pop()
        if len(cells) != len(titles):
            raise InputError(
                f"{place}: {len(cells)} columns, but the header has {len(titles)}; put names that hold the delimiter "
                f"{best!r} into double quotes"
            )
        rows.append(dict(zip(titles, (cell.strip() for cell in cells), strict=True)))
        places.append(place)
    if not rows:
        raise InputError(f"{where}, line {number}: a header without rows; {_REMEDY}")
    columns = Columns.of(titles, rows, where)
    assert columns is not None  # the titles were a header above
    return [columns.row(row, place) for row, place in zip(rows, places, strict=True)]


def _split(line: str, delimiter: str) -> list[str]:
    return next(csv.reader([line], delimiter=delimiter, skipinitialspace=True))


def _without_header(lines: list[tuple[int, str]], where: str) -> list[ClassRow] | None:
    for pattern in _LINES:
        matches = [pattern.fullmatch(line.strip()) for _, line in lines]
        if all(matches):
            return [
                _row_of_match(match.groupdict(), f"{where}, line {number}")
                for (number, _), match in zip(lines, matches, strict=True)
                if match is not None
            ]
        others = [number for (number, _), match in zip(lines, matches, strict=True) if match is None]
        # Too many to be names that happen to look like it: a table with lines that are none.
        if len(others) <= len(lines) / (4 if pattern is _LINES[-1] else 2):
            raise InputError(
                f"{where}, line {others[0]}: not like the other lines, which hold {_kinds(pattern)}; correct the "
                "line, or write `name` above a plain list of names"
            )
    return None


def _kinds(pattern: re.Pattern[str]) -> str:
    words = {"index": "an index", "name": "a name", "colour": "a colour"}
    return " and ".join(words[group] for group in sorted(pattern.groupindex, key=pattern.groupindex.__getitem__))


def _row_of_match(cells: dict[str, str], place: str) -> ClassRow:
    colour = None
    if "colour" in cells:
        colour = parse_colour(re.sub(r"[\s,;]+", ",", cells["colour"]))
        if colour is None:
            raise InputError(f"{place}: {cells['colour']!r} is no colour; write three numbers from 0 to 255")
    index = int(cells["index"]) if "index" in cells else None
    return ClassRow(_unquoted(cells["name"]), index, colour, place=place)


def _plain_list(lines: list[tuple[int, str]], where: str) -> list[ClassRow]:
    if len(lines) == 1 and "," in lines[0][1]:
        names = _split(lines[0][1], ",")
        return [ClassRow(name.strip(), place=f"{where}, line {lines[0][0]}") for name in names if name.strip()]
    rows = []
    in_columns = all(line.count("\t") == 1 for _, line in lines)
    for number, line in lines:
        place = f"{where}, line {number}"
        folder, _, name = line.rpartition("\t") if in_columns else ("", "", line)
        name = _unquoted(name)
        if line[0].isspace() or _is_no_name(name):
            raise InputError(f"{place}: {line.strip()[:60]!r} is no class name; {_REMEDY}")
        rows.append(ClassRow(name, folder=folder.strip() or None, place=place))
    return rows


def _is_no_name(name: str) -> bool:
    has_no_letter = not any(character.isalnum() for character in name)
    has_control = any(not character.isprintable() for character in name)
    is_markup = name[:1] in "<{[" or name.endswith((":", "{", "[")) or re.match(r"[\"'][^\"']*[\"']\s*[:,]", name)
    return bool(has_no_letter or has_control or is_markup or len(name) > _LONGEST_NAME)


def _unquoted(name: str) -> str:
    name = name.strip()
    return name[1:-1].strip() if len(name) > 1 and name[0] == name[-1] == '"' else name
