"""Markdown around names that people give to classes, folders and data sets: whatever they hold, it stays text."""

from __future__ import annotations

import re
from collections.abc import Sequence

# What Markdown, or HTML in it, would read as markup. A star between spaces is none, nor an underscore inside a word.
_MARKUP = re.compile(r"[\\`~$<\[\]]|\*(?=\S)|(?<=\S)\*|&(?=#?\w+;)|(?<![^\W_])_|_(?![^\W_])")


def plain(text: str) -> str:
    """A name on one line, to be read as it is written; in a cell [`table`] also takes care of its bars."""
    return _MARKUP.sub(r"\\\g<0>", one_line(text))


def one_line(text: str) -> str:
    """The text with each run of white space, line breaks among it, as one space."""
    return " ".join(str(text).split())


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """
    A table.

    Args:
        header (sequence of `str`), rows (sequence of such): cells in Markdown; names from elsewhere go through
            [`plain`]. A bar or a line break inside a cell does not end it.
    """
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(one_line(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
