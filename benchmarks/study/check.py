"""
Compare a stage that was run again with the committed one; exit status 1 where a mean has moved beyond the spread.

    python benchmarks/study/check.py --committed docs/study/digits.json --again runs/study/digits.json

A mean of n seeds may differ from the committed one by 3 s sqrt(2 / n): three standard errors of a difference of two
such means, s the larger of the two sample standard deviations, and at least a point.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from results import CLEAN, CORRUPTED, Run, by_arm, read_runs

SMALLEST_DEVIATION_POINTS = 1.0


class Comparison(NamedTuple):
    """A mean over seeds, in points, committed and again, and how far apart the two may be."""

    arm: str
    condition: str
    committed: float
    again: float
    allowed: float

    @property
    def agrees(self) -> bool:
        return abs(self.again - self.committed) <= self.allowed


def compare(committed: list[Run], again: list[Run]) -> Iterator[Comparison]:
    """
    All scores that both have.

    Raises:
        `SystemExit`: an arm or a seed of the committed stage was not run again.
    """
    fresh = by_arm(again)
    for arm, group in by_arm(committed).items():
        seeds, seeds_again = ([run.seed for run in runs] for runs in (group, fresh.get(arm, [])))
        if seeds != seeds_again:
            raise SystemExit(f"{arm}: seeds {seeds} are committed, and {seeds_again} were run again.")
        for condition in _conditions(group[0]):
            values, values_again = ([run.score(condition) for run in runs] for runs in (group, fresh[arm]))
            deviation = max(statistics.stdev(values), statistics.stdev(values_again), SMALLEST_DEVIATION_POINTS)
            allowed = 3 * deviation * math.sqrt(2 / len(values))
            yield Comparison(arm, condition, statistics.fmean(values), statistics.fmean(values_again), allowed)


def _conditions(run: Run) -> list[str]:
    attacks = [condition for condition in run.measures["seen"] if condition.startswith("pgd")]
    return [CLEAN, CORRUPTED, *attacks]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--committed", type=Path, required=True, help="JSON file in the repository")
    parser.add_argument("--again", type=Path, required=True, help="JSON file of collect.py")
    arguments = parser.parse_args()
    found = list(compare(read_runs(arguments.committed), read_runs(arguments.again)))
    for one in found:
        verdict = "agrees" if one.agrees else "DIFFERS"
        moved = f"{one.committed:.2f} -> {one.again:.2f}"
        print(f"{one.arm:32} {one.condition:16} {moved:18} allowed {one.allowed:5.2f}  {verdict}")
    if not all(one.agrees for one in found):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
