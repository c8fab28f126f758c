"""
The numbers of a matrix's folder as one JSON file, which is committed in place of weights and images (docs/study.md).

    python benchmarks/study/collect.py --matrix_folder runs/study/screening --output docs/study/screening.json
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lrsegformer.matrix.measures import Measure, cell_measures

COORDINATES = ("task", "strategy", "scope", "lambda_lip", "seed")
PACKAGES = ("torch", "transformers", "accelerate", "lrsegformer")
BASELINE, RELIABILITY = "baseline", "reliability"
# Single corruptions are kept by their main score alone, or the file would be mostly those.
MAIN_SCORES = ("mean_iou", "accuracy")


def collect(folder: Path) -> dict[str, Any]:
    """
    What the finished cells of a matrix came to.

    Args:
        folder (`Path`): of the matrix, with its `matrix.json`.

    Returns:
        `dict`: `versions` and `cells`; a cell has its `arm` (its name in the file of the matrix, or scope and
        strategy), its coordinates and `measures`: step -> condition -> score -> value.
    """
    entries = json.loads((folder / "matrix.json").read_text(encoding="utf-8"))
    cells = []
    for entry in entries:
        if entry["status"] != "done":
            print(f"left out, {entry['status']}: {entry['name']}")
            continue
        cells.append(
            {
                "arm": entry["variation"] or _arm(entry),
                **{name: entry[name] for name in COORDINATES},
                "measures": _nested(cell_measures(folder, entry)),
            }
        )
    return {"versions": {name: importlib.metadata.version(name) for name in PACKAGES}, "cells": cells}


def _arm(entry: Mapping[str, Any]) -> str:
    """What a cell without a name of its own is called."""
    return BASELINE if entry["variant"] == BASELINE else f"{entry['scope']}_{entry['strategy']}"


def _nested(measures: Iterable[Measure]) -> Mapping[str, Any]:
    found: dict[str, Any] = {}
    for measure in measures:
        if measure.shown or measure.score in MAIN_SCORES or measure.condition == RELIABILITY:
            conditions = found.setdefault(measure.source, {})
            conditions.setdefault(measure.condition, {})[measure.score] = round(measure.value, 6)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--matrix_folder", type=Path, required=True, help="--output_dir of `lrsegformer run --matrix`")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args()
    content = collect(arguments.matrix_folder)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(cell, sort_keys=True) for cell in content["cells"])
    versions = json.dumps(content["versions"], sort_keys=True)
    arguments.output.write_text(f'{{"versions": {versions},\n"cells": [\n{lines}\n]}}\n', encoding="utf-8")
    print(f"{arguments.output}: {len(content['cells'])} cells")


if __name__ == "__main__":
    main()
