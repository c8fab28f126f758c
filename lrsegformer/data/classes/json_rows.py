"""Classes from JSON: id2label, label2id, a model's configuration, lists, and tables of objects."""

from __future__ import annotations

import json
from typing import Any

from lrsegformer.data.classes.rows import ClassRow, Columns, column_key, is_integer, parse_colour
from lrsegformer.errors import InputError

_NESTED = ("id2label", "label2id", "names", "class_names", "classes", "categories", "labels")
_KINDS = (
    "a list of names, an object from index to name or from name to index, an object with id2label or label2id, or a "
    "list of objects with a name"
)


class _Entries(list):
    """The pairs of a JSON object, in order; a repeated key is not lost as in a `dict`."""


def rows_of_json(text: str, where: str) -> list[ClassRow]:
    """
    Reads the classes of a JSON text.

    Args:
        text (`str`): begins with `{` or `[`.
        where (`str`): the file or option, for messages.

    Raises:
        InputError: no valid JSON (with its line), or JSON of another kind.
    """
    try:
        content = json.loads(text, object_pairs_hook=_Entries)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}, line {error.lineno}: no valid JSON ({error.msg}); correct it") from None
    except (RecursionError, ValueError):  # The latter for a number of more digits than Python reads.
        raise InputError(f"{where}: nested too deeply, or a number of thousands of digits; correct it") from None
    return _rows(content, where)


def _rows(content: Any, where: str) -> list[ClassRow]:
    if isinstance(content, _Entries):
        nested = {key: value for key, value in content if key in _NESTED and isinstance(value, list)}
        if "id2label" in nested and "label2id" in nested:
            _check_agreement(nested["id2label"], nested["label2id"], where)
        chosen = next((key for key in _NESTED if key in nested), None)
        if chosen is not None:
            return _rows(nested[chosen], f"{where}, {chosen!r}")
        return [_row_of_pair(key, value, where) for key, value in content]
    if not isinstance(content, list) or not content:
        raise _unknown(content, where)
    if all(isinstance(item, _Entries) for item in content):
        return _rows_of_objects(content, where)
    return [_row_of_item(item, f"{where}, entry {number}") for number, item in enumerate(content, start=1)]


def _row_of_item(item: Any, place: str) -> ClassRow:
    if is_integer(item) and not isinstance(item, str):
        return ClassRow(None, index=int(item), place=place)
    if isinstance(item, str) and item.strip():
        return ClassRow(item.strip(), place=place)
    if parse_colour(item) is not None:
        return ClassRow(None, colour=parse_colour(item), place=place)
    raise _unknown(item, place)


def _row_of_pair(key: str, value: Any, where: str) -> ClassRow:
    place = f"{where}, {key!r}"
    if isinstance(value, _Entries):
        fields = {column_key(title): cell for title, cell in value}
        titles = {**fields, "index": key} if is_integer(key) else {**fields, "name": key}
        columns = Columns.of(list(titles), [titles], place)
        # A name alone makes no class of whatever object it stands before.
        if columns is None or not (is_integer(key) or columns.says_more_than_the_name()):
            raise _unknown(value, place)
        return columns.row(titles, place)
    if is_integer(value) and not (isinstance(value, str) and is_integer(key)):
        colour = parse_colour(key)
        return ClassRow(None if colour is not None else key, index=int(value), colour=colour, place=place)
    if is_integer(key):
        if isinstance(value, list) and len(value) == 2 and all(isinstance(part, str) for part in value):
            return ClassRow(value[1], index=int(key), folder=value[0], place=place)
        if value is None or (isinstance(value, str) and value.strip()):
            return ClassRow(value and value.strip(), index=int(key), place=place)
        raise _unknown(value, place)
    if parse_colour(key) is not None and (value is None or isinstance(value, str)):
        return ClassRow(value and value.strip(), colour=parse_colour(key), place=place)
    if parse_colour(value) is not None:
        return ClassRow(key, colour=parse_colour(value), place=place)
    if isinstance(value, str) and value.strip():
        return ClassRow(value.strip(), folder=key, place=place)
    raise _unknown(value, place)


def _rows_of_objects(content: list[_Entries], where: str) -> list[ClassRow]:
    cells = [{column_key(title): cell for title, cell in item} for item in content]
    titles = [title for title in cells[0] if all(title in row for row in cells)]
    columns = Columns.of(titles, cells, where)
    if columns is None:
        raise InputError(f"{where}: the objects hold no name; give {_KINDS}")
    return [columns.row(row, f"{where}, entry {number}") for number, row in enumerate(cells, start=1)]


def _check_agreement(id2label: Any, label2id: Any, where: str) -> None:
    forward = {str(index): name for index, name in id2label}
    for name, index in label2id:
        if forward.get(str(index)) != name:
            raise InputError(
                f"{where}: label2id gives {name!r} the index {index}, and id2label calls it "
                f"{forward.get(str(index))!r}; correct one of them"
            )


def _unknown(value: Any, place: str) -> InputError:
    shown = json.dumps(value)
    return InputError(f"{place}: {shown[:60]}{'...' if len(shown) > 60 else ''} names no class; give {_KINDS}")
