"""The page as HTML and as Markdown, from the same tables."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from lrsegformer.hub.markdown import plain
from lrsegformer.hub.markdown import table as markdown_table
from lrsegformer.output_folder import mark_of
from lrsegformer.reporting.groups import Arena
from lrsegformer.reporting.page.sections import Section
from lrsegformer.reporting.reading.collection import Collection
from lrsegformer.reporting.tables.table import Cell, Table
from lrsegformer.visible import visible

COMMAND = "report"
_FOLDER = Path(__file__).parent


def html_page(title: str, sections: Sequence[Section], arenas: Sequence[Arena], collection: Collection) -> str:
    """
    One file with everything in it: names of classes, folders and options come out as text, whatever they hold.
    """
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        finalize=_seen,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Drawn here, from numbers; all text in them has been escaped by the writer of XML.
    environment.filters |= {"drawing": Markup, "breakable": _breakable}
    return environment.get_template("page.html.j2").render(
        mark=mark_of(COMMAND),
        title=title,
        sections=sections,
        arenas=arenas,
        collection=collection,
        style=Markup((_FOLDER / "page.css").read_text(encoding="utf-8")),
        script=Markup((_FOLDER / "page.js").read_text(encoding="utf-8")),
        made=_made(),
        counts=_counts(collection),
    )


def markdown_page(title: str, sections: Sequence[Section], collection: Collection) -> str:
    """The tables of the page; charts and pictures are in the HTML alone."""
    parts = [
        f"<!-- {mark_of(COMMAND)} -->",
        f"# {plain(title)}",
        f"{_made()}. Numbers in brackets name the files of a row, listed at the end.",
    ]
    for section in sections:
        parts.append(f"## {section.title}")
        if not section.blocks:
            parts.append(plain(section.missing))
        for block in section.blocks:
            if block.arena is not None:
                parts.append(f"### {plain(block.arena.title)}")
            for one in block.tables:
                parts += [plain(_caption(one)) + ":", _markdown_table(one), *(plain(note) for note in one.notes)]
            if not block.tables:
                parts.append("Charts and pictures are in the HTML page.")
    parts += ["## Files", "\n".join(f"{one.number}. {plain(one.shown)}" for one in collection.sources)]
    if collection.left_out:
        parts += ["Left out, in full or in part:", "\n".join(f"- {plain(line)}" for line in collection.left_out)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _caption(one: Table) -> str:
    return f"{one.caption} ({one.setting})" if one.setting else one.caption


def _markdown_table(one: Table) -> str:
    header = [*(_marked(column.title, column.kind) for column in one.columns), "files"]
    rows = [
        [*(_markdown_cell(cell) for cell in row), " ".join(f"[{number}]" for number in one.sources_of(row))]
        for row in one.rows
    ]
    return markdown_table(header, rows)


def _marked(title: str, kind: str) -> str:
    return f"{plain(title)} ({kind})" if kind in ("proven", "probable") else plain(title)


def _markdown_cell(cell: Cell) -> str:
    return plain(cell.text) + (f" ± {cell.spread}" if cell.spread else "")


def _breakable(text: str) -> Markup:
    """A name that a narrow window may break after its underscores, which browsers do not do by themselves."""
    return Markup("_<wbr>").join(escape(part) for part in visible(text).split("_"))


def _seen(value: Any) -> Any:
    """Text with [`visible`] characters alone, but for the line breaks of tooltips; what was drawn here stays."""
    return visible(value, keep="\n") if isinstance(value, str) and not isinstance(value, Markup) else value


def _counts(collection: Collection) -> str:
    """What was found, in words."""
    kinds = {
        "finished run": collection.runs,
        "report": collection.reports,
        "evaluation": collection.evaluations,
        "matrix": collection.matrices,
    }
    plural = {"matrix": "matrices"}
    return ", ".join(
        f"{len(found)} {name if len(found) == 1 else plural.get(name, f'{name}s')}"
        for name, found in kinds.items()
        if found
    )


def _made() -> str:
    day = datetime.datetime.now().strftime("%Y-%m-%d")
    try:
        return f"Made on {day} by LRSegformer {version('lrsegformer')}"
    except PackageNotFoundError:  # A checkout that is not installed.
        return f"Made on {day} by LRSegformer"
