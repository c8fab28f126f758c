"""The study's JSON files, read into scores of runs, and the comparisons that docs/study.md declares."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

BASELINE = "baseline"
# Baselines of other lengths, whose scores make the curve for comparisons at equal clean score.
LENGTHS = ("baseline_half", BASELINE, "baseline_double")
SEEN, UNSEEN = "seen", "unseen"
CLEAN, CORRUPTED, WEAK_ATTACK, ATTACK = "clean", "corrupted", "PGD 0.5/255", "PGD 1/255"
# The four scores that arms are selected by; the unseen drive takes no part.
SELECTED_BY = (CLEAN, CORRUPTED, WEAK_ATTACK, ATTACK)
_CONDITIONS = {CLEAN: "clean", WEAK_ATTACK: "pgd-linf-0.5", ATTACK: "pgd-linf-1"}
MAIN_SCORE = {"segmentation": "mean_iou", "classification": "accuracy"}


@dataclass(frozen=True)
class Run:
    """
    One cell of a stage.

    Attributes:
        arm (`str`): its name in the stage's recipe.
        task (`str`): of the run.
        seed (`int`): of the run.
        measures (`dict`): step -> condition -> score -> value, values from 0 to 1.
    """

    arm: str
    task: str
    seed: int
    measures: dict[str, Any]

    def score(self, name: str, step: str = SEEN, score: str | None = None) -> float:
        """In percent, the main score of the task unless another is named."""
        conditions = self.measures[step]
        condition = _CONDITIONS.get(name, name)
        if name == CORRUPTED:
            (condition,) = (one for one in conditions if one.startswith("mean of corruptions"))
        return 100 * conditions[condition][score or MAIN_SCORE[self.task]]

    def loss(self, name: str) -> float:
        """The clean score minus the score under a condition, on the same images, in points."""
        return self.score(CLEAN) - self.score(name)

    def mean_of_four(self) -> float:
        """What the selection goes by."""
        return statistics.fmean(self.score(name) for name in SELECTED_BY)


class Difference(NamedTuple):
    """
    An arm minus the baseline of the same seed.

    Attributes:
        mean (`float`): over seeds.
        deviation (`float`): sample standard deviation; NaN for one seed.
        supported (`bool`): the mean is more than twice its standard error, and all seeds agree in sign.
    """

    mean: float
    deviation: float
    supported: bool


def read_runs(path: Path) -> list[Run]:
    """The runs of a stage, as `collect.py` wrote them."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    fields = ("arm", "task", "seed", "measures")
    return [Run(**{field: cell[field] for field in fields}) for cell in cells]


def by_arm(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """The runs of every arm in the order of their seeds, arms in the order of the recipe."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run.arm, []).append(run)
    return {arm: sorted(group, key=lambda run: run.seed) for arm, group in found.items()}


def difference(values: Sequence[float], baseline: Sequence[float]) -> Difference:
    """
    The paired comparison.

    Args:
        values: of an arm, a seed each.
        baseline: of the same seeds in the same order.
    """
    pairs = [ours - theirs for ours, theirs in zip(values, baseline, strict=True)]
    mean = statistics.fmean(pairs)
    if len(pairs) < 2:
        return Difference(mean, math.nan, False)
    deviation = statistics.stdev(pairs)
    one_sign = all(pair > 0 for pair in pairs) or all(pair < 0 for pair in pairs)
    return Difference(mean, deviation, one_sign and abs(mean) > 2 * deviation / math.sqrt(len(pairs)))


def saved_loss(runs: Sequence[Run], baseline: Sequence[Run], condition: str) -> float:
    """By which part the mean loss is smaller than the baseline's, in percent; negative where it is larger."""
    ours = statistics.fmean(run.loss(condition) for run in runs)
    theirs = statistics.fmean(run.loss(condition) for run in baseline)
    return 100 * (1 - ours / theirs)


def goals_met(clean_points: float, saved: dict[str, float]) -> list[str]:
    """
    The recipes whose goal an arm meets.

    Args:
        clean_points (`float`): by which its clean score differs from the baseline's.
        saved (`dict`): percent of the baseline's loss that it saves, by condition. A goal that asks for a condition
            which was not measured is not met.
    """
    never = -math.inf
    goals = {
        "default": clean_points >= -0.5 and min(saved.get(CORRUPTED, never), saved.get(WEAK_ATTACK, never)) >= 20,
        "robust": clean_points >= -3 and saved.get(ATTACK, never) >= 60,
    }
    return [name for name, met in goals.items() if met]


def at_equal_clean_score(clean: float, curve: Sequence[tuple[float, float]]) -> float | None:
    """
    What the baseline has under a condition where it has this clean score.

    Args:
        clean (`float`): the clean score of an arm.
        curve: clean score and score under the condition of baselines of several lengths.

    Returns:
        `float`: interpolated between neighbours; `None` outside the curve, where nothing is extrapolated.
    """
    points = sorted(curve)
    for (low, under_low), (high, under_high) in zip(points, points[1:], strict=False):
        if low <= clean <= high:
            share = (clean - low) / (high - low) if high > low else 0.0
            return under_low + share * (under_high - under_low)
    return None
