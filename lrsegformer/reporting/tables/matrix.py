"""The cells of an experiment of many runs: which are done, failed and to come."""

from __future__ import annotations

from collections.abc import Sequence

from lrsegformer.reporting.reading.reports import Matrix
from lrsegformer.reporting.reading.sources import number
from lrsegformer.reporting.tables.table import Cell, Column, Table, significant, text_cell

_OPTIONS = ("task", "variant", "strategy", "scope", "lambda_lip", "variation", "seed")


def matrix_tables(matrices: Sequence[Matrix]) -> list[Table]:
    """A table for each matrix, its failed cells first."""
    return [_table(matrix) for matrix in matrices]


def _table(matrix: Matrix) -> Table:
    told_of = [name for name in _OPTIONS if any(cell.get(name) is not None for cell in matrix.cells)]
    columns = [Column("cell", "text"), Column("status", "text"), *(Column(name, "text") for name in told_of)]
    columns += [Column("minutes"), Column("error", "text")]
    order = {"failed": 0, "pending": 1, "done": 2}
    rows = []
    for cell in sorted(matrix.cells, key=lambda cell: order.get(str(cell["status"]), 1)):
        seconds = number(cell.get("seconds"))
        minutes = Cell(significant(seconds / 60), order=seconds) if seconds is not None else text_cell("")
        named = [text_cell(str(cell["name"])), text_cell(str(cell["status"]))]
        options = [
            text_cell("" if cell.get(name) is None else str(cell[name]), number(cell.get(name))) for name in told_of
        ]
        told = (matrix.source.number,)
        named[0] = Cell(named[0].text, order=named[0].order, detail=matrix.source.shown, sources=told)
        rows.append([*named, *options, minutes, text_cell(str(cell.get("error") or ""))])
    counts = {status: sum(str(cell["status"]) == status for cell in matrix.cells) for status in order}
    told = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    return Table(f"{matrix.source.shown}: {len(matrix.cells)} cells, {told}", columns, rows)
