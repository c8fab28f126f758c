"""The cells of a matrix, failed ones first."""

import json

from lrsegformer.reporting.reading.reports import read_matrix
from lrsegformer.reporting.reading.sources import Source
from lrsegformer.reporting.tables.matrix import matrix_tables


def test_failed_cells_stand_first_with_their_error(tmp_path):
    shared = {"task": "segmentation", "variant": "lipschitz", "strategy": "orthogonal", "scope": None, "seed": 1}
    cells = [
        {**shared, "name": "one", "status": "done", "seconds": 120.0, "error": None},
        {**shared, "name": "two", "status": "failed", "seconds": 6.0, "error": "out of <memory>"},
        {**shared, "name": "three", "status": "pending", "seconds": None, "error": None},
    ]
    source = Source(7, tmp_path / "matrix.json", "runs/matrix.json", 0.0)
    (table,) = matrix_tables([read_matrix(source, json.loads(json.dumps(cells)))])
    assert table.caption == "runs/matrix.json: 3 cells, 1 failed, 1 pending, 1 done"
    titles = [column.title for column in table.columns]
    assert titles == ["cell", "status", "task", "variant", "strategy", "seed", "minutes", "error"]
    assert [[cell.text for cell in row][:2] for row in table.rows] == [
        ["two", "failed"],
        ["three", "pending"],
        ["one", "done"],
    ]
    assert [row[-1].text for row in table.rows] == ["out of <memory>", "–", "–"]
    assert [row[-2].text for row in table.rows] == ["0.1", "–", "2"]
    assert table.sources_of(table.rows[0]) == [7]
