"""`report.html` and `report.md`: both whole at any time."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lrsegformer.errors import InputError
from lrsegformer.output_folder import check_place, claim, command_of
from lrsegformer.reporting.groups import arenas_of
from lrsegformer.reporting.page.render import COMMAND, html_page, markdown_page
from lrsegformer.reporting.page.sections import sections_of
from lrsegformer.reporting.reading.collection import collect
from lrsegformer.writing import write_whole, writing_to


class Written(NamedTuple):
    """The files that were written, and a line for each file that was not used, or not in full."""

    html: Path
    markdown: Path
    left_out: list[str]


def write_page(folders: Sequence[str | os.PathLike], output: str | os.PathLike, title: str) -> Written:
    """
    Write one page on everything below the folders, as HTML and as Markdown beside it.

    Args:
        folders (sequence of `str` or `os.PathLike`): of runs, reports of the bench and of certificates, evaluations.
        output (`str` or `os.PathLike`): the HTML file; the Markdown file has its name, with the ending `.md`.
        title (`str`): heading of the page.

    Raises:
        [`~lrsegformer.errors.InputError`]: a folder is missing, nothing in them can be used, `output` is no name of an
            HTML file, or it cannot be written.
    """
    html = Path(output)
    if html.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"--output {output}: the page is HTML; give a name that ends in .html")
    check_place(html.parent, "--output")
    if html.is_dir():
        raise InputError(f"--output {output} is a folder; give the name of a file in it")
    markdown = html.with_suffix(".md")
    for path in (html, markdown):
        claim(html.parent, [glob.escape(path.name)], command_of(path) == COMMAND, "--output")
    collection = collect(folders)
    arenas = arenas_of(collection)
    sections = sections_of(arenas, collection)
    texts = {
        html: html_page(title, sections, arenas, collection),
        markdown: markdown_page(title, sections, collection),
    }
    with writing_to(html.parent, "--output"):
        for path, text in texts.items():
            # Names of files that are no UTF-8 come as lone surrogates, which no text file takes.
            write_whole(path, text.encode("utf-8", errors="replace").decode("utf-8"))
    return Written(html, markdown, collection.left_out)
