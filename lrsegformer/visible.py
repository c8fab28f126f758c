"""Names from data and from files in text for people: they move no cursor, turn no line around, and are no formula."""

from __future__ import annotations

import csv
import io
import logging
import re
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

# Controls, marks of direction and of format, halves of surrogate pairs, and separators of lines and paragraphs.
_UNSEEN = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
# They join letters in some scripts, and the parts of pictographs.
_JOINERS = "\u200c\u200d"
# What a spreadsheet takes for the beginning of a formula.
_FORMULA = re.compile(r"[=+\-@\t\r]")
_TOKEN = re.compile(r"\bhf_\w{8,}")


def visible(text: Any, keep: str = "") -> str:
    """
    The text with each character that is not seen, but does something, as Python writes it: `\\x1b` for an escape.

    Args:
        text: a name, or a text with names in it.
        keep (`str`, *optional*, defaults to `""`): such characters that are meant, as line breaks in a table are.
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(
        repr(each)[1:-1] if unicodedata.category(each) in _UNSEEN and each not in _JOINERS + keep else each
        for each in text
    )


def one_line(text: Any) -> str:
    """[`visible`], with each run of white space, line breaks among it, as one space."""
    return visible(" ".join(str(text).split()))


def without_tokens(text: str) -> str:
    """The text without what looks like a token of the Hub."""
    return _TOKEN.sub("hf_...", text)


def tell(text: str, file: TextIO | None = None) -> None:
    """Print lines for people, to standard output by default."""
    print(visible(without_tokens(text), keep="\n"), file=sys.stdout if file is None else file, flush=True)


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """
    Rows as CSV. Text that a spreadsheet would take for a formula, such as a class named `=1+1`, gets the apostrophe in
    front by which spreadsheets know text; numbers stay as they are.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_no_formula(cell) for cell in row] for row in rows)
    return text.getvalue()


def _no_formula(cell: Any) -> Any:
    if not isinstance(cell, str) or not _FORMULA.match(cell):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


class _VisibleFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return visible(without_tokens(super().format(record)), keep="\n")


def log_plainly() -> None:
    """Messages of the log to standard error, without their level, where the log goes nowhere yet."""
    handler = logging.StreamHandler()
    handler.setFormatter(_VisibleFormatter("%(message)s"))
    logging.basicConfig(handlers=[handler])
