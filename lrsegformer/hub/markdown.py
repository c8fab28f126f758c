"""Markdown around names that people give to classes, folders and data sets: whatever they hold, it stays text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from lrsegformer.visible import one_line, visible

# What Markdown, or HTML in it, would read as markup. A star between spaces is none, nor an underscore inside a word.
_MARKUP = re.compile(r"[\\`~$<\[\]]|\*(?=\S)|(?<=\S)\*|&(?=#?\w+;)|(?<![^\W_])_|_(?![^\W_])")
# What it would at the start of a line: a heading, a quotation, a list, a rule.
_START = re.compile(r"[#>]|[-+=](?=\s|$|[-=]+\s*$)|\d{1,9}(?=[.)](\s|$))")
_BACKTICKS = re.compile("`+")


def plain(text: Any) -> str:
    """A name on one line, to be read as it is written; in a cell [`table`] also takes care of its bars."""
    line = one_line(text)
    start = _START.match(line)
    if start is None:
        return _MARKUP.sub(r"\\\g<0>", line)
    # The backslash goes before the character that makes the number one of a list.
    end = start.end() if start[0][0].isdecimal() else 0
    return line[:end] + "\\" + line[end] + _MARKUP.sub(r"\\\g<0>", line[end + 1 :])


def code(text: Any) -> str:
    """A name as code on one line, between more backticks than it holds side by side."""
    line = one_line(text)
    fence = _fence(line, 1)
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{space}{line}{space}{fence}"


def code_block(text: str, language: str = "") -> str:
    """Lines of code as a block of their own, which nothing in them ends."""
    fence = _fence(text, 3)
    return f"{fence}{language}\n{visible(text, keep=chr(10))}\n{fence}"


def _fence(text: str, least: int) -> str:
    return "`" * max(least, 1 + max(map(len, _BACKTICKS.findall(text)), default=0))


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """
    A table.

    Args:
        header (sequence of `str`), rows (sequence of such): cells in Markdown; names from elsewhere go through
            [`plain`]. A bar or a line break inside a cell does not end it.
    """
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(one_line(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
