"""One entry of a table of classes, and the cells that make it up."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lrsegformer.errors import InputError

_NAME_COLUMNS = (
    "name class_name label_name category_name names classname class label category object classes labels title"
).split()
_INDEX_COLUMNS = (
    "index idx id class_id label_id category_id class_index value mask_value pixel_value gray grey train_id trainid"
).split()
_COLOUR_COLUMNS = "color colour rgb color_rgb colour_rgb hex rgb_hex color_hex".split()
_CHANNEL_COLUMNS = (("r", "g", "b"), ("red", "green", "blue"))
_FOLDER_COLUMNS = "folder wnid synset directory".split()
_INTEGER = re.compile(r"[-+]?\d{1,18}")  # more digits than that are no index, and Python refuses thousands
_HEX = re.compile(r"#[0-9a-fA-F]{6}")
_TRIPLE = re.compile(r"[(\[]?\s*(\d{1,3})\s*[\s,;/]\s*(\d{1,3})\s*[\s,;/]\s*(\d{1,3})\s*[)\]]?")


@dataclass(frozen=True)
class ClassRow:
    """
    What a line or an entry says of a class; what it does not say is `None`.

    Attributes:
        name (`str`, *optional*): no name means void, where there is an index or a colour.
        index (`int`, *optional*): the class index, or the value in the mask files.
        colour (`int`, *optional*): `0xRRGGBB`.
        folder (`str`, *optional*): the folder or wnid that holds the images of the class.
        place (`str`): the file with the line, or the option, for messages.
    """

    name: str | None
    index: int | None = None
    colour: int | None = None
    folder: str | None = None
    place: str = ""


def is_integer(value: Any) -> bool:
    """Whether a cell holds a whole number."""
    if isinstance(value, str):
        return _INTEGER.fullmatch(value.strip()) is not None
    return isinstance(value, int) and not isinstance(value, bool)


def parse_colour(value: Any) -> int | None:
    """`0xRRGGBB` of `#rrggbb`, `r,g,b`, `(r, g, b)`, `r g b` or a list of three numbers; `None` of anything else."""
    if isinstance(value, str):
        text = value.strip()
        if _HEX.fullmatch(text):
            return int(text[1:], 16)
        match = _TRIPLE.fullmatch(text)
        value = [int(number) for number in match.groups()] if match else None
    if not isinstance(value, (list, tuple)) or len(value) != 3:
        return None
    if not all(is_integer(number) and 0 <= int(number) <= 255 for number in value):
        return None
    red, green, blue = (int(number) for number in value)
    return red << 16 | green << 8 | blue


def column_key(title: Any) -> str:
    """The title of a column as it is compared: `Class Name`, `class-name` and `class_name` are one."""
    return re.sub(r"[\s\-]+", "_", str(title).strip().strip("\"'?").lower())


@dataclass(frozen=True)
class Columns:
    """
    Which columns of a table hold what, by their titles.

    Attributes:
        name, index, colour, folder (`str`, *optional*): column keys.
        channels (`tuple[str, str, str]`, *optional*): the columns of red, green and blue.
    """

    name: str | None
    index: str | None = None
    colour: str | None = None
    channels: tuple[str, ...] | None = None
    folder: str | None = None

    @classmethod
    def of(cls, titles: Sequence[str], cells: Sequence[Mapping[str, Any]], place: str) -> Columns | None:
        """
        Finds the columns; `None` where the titles are no header of a table of classes.

        Args:
            titles (`Sequence[str]`): the column keys.
            cells (`Sequence[Mapping]`): the rows by column key. A column called `label` is an index where all its
                cells are whole numbers, and else a name.
            place (`str`): the file, for messages.

        Raises:
            InputError: two columns are both called an index and differ.
        """
        names = [title for title in _NAME_COLUMNS if title in titles]
        numeric = [title for title in names if cells and all(is_integer(row.get(title)) for row in cells)]
        words = [title for title in names if title not in numeric]
        name = (words or names or [None])[0]
        index = [title for title in _INDEX_COLUMNS if title in titles]
        if not index and len(names) > 1:
            index = [title for title in numeric if title != name][:1]
        if len(index) > 1 and any(row.get(index[0]) != row.get(other) for row in cells for other in index[1:]):
            raise InputError(
                f"{place}: the columns {' and '.join(index)} both give an index, and differ; keep the one that "
                "the masks use"
            )
        colour = next((title for title in _COLOUR_COLUMNS if title in titles), None)
        channels = next((group for group in _CHANNEL_COLUMNS if set(group) <= set(titles)), None)
        folder = next((title for title in _FOLDER_COLUMNS if title in titles), None)
        if name is None and not (index and (colour or channels)):
            return None
        is_certain = index or colour or channels or folder or len(names) > 1 or name in _NAME_COLUMNS[:4]
        if len(titles) > 1 and not is_certain:
            return None
        return cls(name, index[0] if index else None, colour, channels, folder)

    def says_more_than_the_name(self) -> bool:
        """Whether there is an index, a colour or a folder."""
        return any(column is not None for column in (self.index, self.colour, self.channels, self.folder))

    def row(self, cells: Mapping[str, Any], place: str) -> ClassRow:
        """
        One row of the table.

        Raises:
            InputError: a cell is empty, no index, or no colour.
        """
        name = cells.get(self.name) if self.name else None
        if self.name and (not isinstance(name, (str, int)) or not str(name).strip()):
            raise InputError(f"{place}: the column {self.name!r} holds no name; give every class one")
        index, colour = None, None
        if self.index is not None:
            if not is_integer(cells.get(self.index)):
                raise InputError(f"{place}: the {self.index} {cells.get(self.index)!r} is no whole number; correct it")
            index = int(cells[self.index])
        if self.colour is not None or self.channels is not None:
            given = cells.get(self.colour) if self.colour else [cells.get(channel) for channel in self.channels or ()]
            colour = parse_colour(given)
            if colour is None:
                raise InputError(f"{place}: {given!r} is no colour; write #rrggbb or three numbers from 0 to 255")
        folder = cells.get(self.folder) if self.folder else None
        return ClassRow(None if name is None else str(name).strip(), index, colour, folder, place)
