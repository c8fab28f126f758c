"""
The 1000 classes of ILSVRC 2012 by their wnids, and which of them ImageNet-A and ImageNet-R have.

The index of a class is the place of its wnid in sorted order, as in every published ImageNet checkpoint. The lists of
ImageNet-A (Hendrycks et al. 2021, arXiv 1907.07174) and ImageNet-R (arXiv 2006.16241) are those of their authors.
"""

from __future__ import annotations

import csv
from functools import cache
from importlib.resources import files

NUM_CLASSES = 1000
SUBSETS = ("imagenet-a", "imagenet-r")
_FILE = "imagenet_classes.csv"


@cache
def imagenet_indices() -> dict[str, int]:
    """The index of each wnid."""
    return {row["wnid"]: index for index, row in enumerate(_rows())}


@cache
def subset_indices(name: str) -> tuple[int, ...]:
    """The indices of the 200 classes of `"imagenet-a"` or `"imagenet-r"`, in rising order."""
    column = name.replace("-", "_")
    return tuple(index for index, row in enumerate(_rows()) if row[column] == "1")


def _rows() -> list[dict[str, str]]:
    text = files("lrsegformer.data").joinpath(_FILE).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))
