"""
The tables and figures of docs/study.md, from the JSON files beside it (`make study`).

    python benchmarks/study/tables.py --results docs/study --document docs/study.md
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from plots import plot_frontier  # noqa: E402
from report import markdown_table, replace_section  # noqa: E402
from results import (  # noqa: E402
    ATTACK,
    BASELINE,
    CLEAN,
    CORRUPTED,
    LENGTHS,
    SEEN,
    SELECTED_BY,
    UNSEEN,
    WEAK_ATTACK,
    Run,
    at_equal_clean_score,
    by_arm,
    difference,
    goals_met,
    read_runs,
    saved_loss,
)

CLEAN_SCORES = ("mean_iou", "overall_accuracy", "recall", "precision", "f1", "matthews_correlation")
CLASSIFIED_SCORES = ("accuracy", "recall", "precision", "f1", "matthews_correlation")
Column = tuple[str, Callable[[Run], float]]
COLUMNS: tuple[Column, ...] = (
    (CLEAN, lambda run: run.score(CLEAN)),
    (CORRUPTED, lambda run: run.score(CORRUPTED)),
    (WEAK_ATTACK, lambda run: run.score(WEAK_ATTACK)),
    (ATTACK, lambda run: run.score(ATTACK)),
    ("unseen drive", lambda run: run.score(CLEAN, UNSEEN)),
)


def _certified(radius: int) -> Callable[[Run], float]:
    return lambda run: run.score(f"certified, l2 {radius}/255", "certify", "accuracy")


SMALL_COLUMNS: tuple[Column, ...] = (
    *COLUMNS[:2],
    ("PGD 2/255", lambda run: run.score("pgd-linf-2")),
    ("PGD 4/255", lambda run: run.score("pgd-linf-4")),
)
STRONGEST_COLUMNS: tuple[Column, ...] = (
    COLUMNS[0],
    ("PGD 1/255", lambda run: run.score("pgd-linf-1")),
    ("SEA 1/255", lambda run: run.score("sea-linf-1")),
)
LONGER_COLUMNS: tuple[Column, ...] = (COLUMNS[0], *COLUMNS[2:])
CERTIFIED_COLUMNS: tuple[Column, ...] = (
    (CLEAN, lambda run: run.score("", "train", "overall_accuracy")),
    *((f"certified, {radius}/255", _certified(radius)) for radius in (18, 36, 72)),
)


def screening_table(runs: Sequence[Run]) -> str:
    """Every arm of the screening, best mean of four first."""
    ranked = sorted(runs, key=Run.mean_of_four, reverse=True)
    rows = [[run.arm, f"{run.mean_of_four():.2f}", *(f"{value(run):.2f}" for _, value in COLUMNS)] for run in ranked]
    return markdown_table(["arm", "mean of four", *(name for name, _ in COLUMNS)], rows)


def mean_table(arms: dict[str, list[Run]], columns: Sequence[Column]) -> str:
    """Mean and sample standard deviation over the seeds."""
    rows = [
        [arm, *(_mean_and_deviation([value(run) for run in group]) for _, value in columns)]
        for arm, group in arms.items()
    ]
    return markdown_table(["arm", *(name for name, _ in columns)], rows)


def paired_table(arms: dict[str, list[Run]], columns: Sequence[Column]) -> str:
    """Differences from the baseline of the same seed; bold where they are supported."""
    baseline = arms[BASELINE]
    rows = []
    for arm, group in arms.items():
        if arm != BASELINE:
            cells = []
            for _, value in columns:
                found = difference([value(run) for run in group], [value(run) for run in baseline])
                shown = f"{found.mean:+.2f} ± {found.deviation:.2f}"
                cells.append(f"**{shown}**" if found.supported else shown)
            rows.append([arm, *cells])
    return markdown_table(["arm minus baseline", *(name for name, _ in columns)], rows)


def goal_table(arms: dict[str, list[Run]], conditions: Sequence[str] = SELECTED_BY[1:]) -> str:
    """What the goals of the recipes ask: points of clean score, and which part of the baseline's losses is saved."""
    baseline = arms[BASELINE]
    rows = []
    for arm, group in arms.items():
        if arm != BASELINE:
            clean = difference([run.score(CLEAN) for run in group], [run.score(CLEAN) for run in baseline])
            saved = {condition: saved_loss(group, baseline, condition) for condition in conditions}
            parts = [f"{part:.0f} %" for part in saved.values()]
            rows.append([arm, f"{clean.mean:+.2f}", *parts, ", ".join(goals_met(clean.mean, saved)) or "-"])
    header = ["arm", "clean, points", *(f"loss saved, {name}" for name in conditions), "goals met"]
    return markdown_table(header, rows)


def equal_clean_table(arms: dict[str, list[Run]], columns: Sequence[Column]) -> str:
    """Arms beside baselines of other lengths at the arm's own clean score."""
    lengths = [arms[name] for name in LENGTHS if name in arms]
    rows = []
    for arm, group in arms.items():
        if arm in LENGTHS:
            continue
        clean = statistics.fmean(run.score(CLEAN) for run in group)
        cells = []
        for _, value in columns[1:]:
            curve = [
                (statistics.fmean(run.score(CLEAN) for run in length), statistics.fmean(map(value, length)))
                for length in lengths
            ]
            theirs = at_equal_clean_score(clean, curve)
            cells.append("outside" if theirs is None else f"{statistics.fmean(map(value, group)) - theirs:+.2f}")
        rows.append([arm, f"{clean:.2f}", *cells])
    return markdown_table(["arm", CLEAN, *(f"{name}, minus curve" for name, _ in columns[1:])], rows)


def generalisation_table(arms: dict[str, list[Run]]) -> str:
    """Training, validation and unseen drive, and the gaps between them."""
    columns: list[Column] = [
        ("training", lambda run: run.score(CLEAN) + _gap(run)),
        ("validation", lambda run: run.score(CLEAN)),
        ("unseen drive", lambda run: run.score(CLEAN, UNSEEN)),
        ("training - validation", _gap),
        ("validation - unseen", lambda run: run.score(CLEAN) - run.score(CLEAN, UNSEEN)),
        ("calibration error", lambda run: 100 * run.measures[SEEN]["reliability"]["expected_calibration_error"]),
        ("local slope", lambda run: run.measures[SEEN]["reliability"]["local_lipschitz_estimate_median"]),
    ]
    return mean_table(arms, columns)


def clean_table(arms: dict[str, list[Run]], scores: Sequence[str] = CLEAN_SCORES) -> str:
    """All scores of clean validation images at the end of training."""
    columns = [(name, lambda run, name=name: run.score("", "train", name)) for name in scores]
    return mean_table(arms, columns)


def cost_table(measured: dict[str, Any]) -> str:
    """Time and memory of a step, of the arms that `costs.py` has measured; each arm beside the baseline's round."""
    baseline = measured["arms"][0]
    rows = []
    for arm in measured["arms"]:
        ratios = [ours / theirs for ours, theirs in zip(arm["seconds"], baseline["seconds"], strict=True)]
        seconds, megabytes = statistics.median(arm["seconds"]), statistics.median(arm["megabytes"])
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        rows.append([arm["arm"], f"{seconds:.3f}", f"{statistics.median(ratios):.2f}", spread, f"{megabytes:.0f}"])
    return markdown_table(["arm", "seconds", "of the baseline's", "over rounds", "megabytes"], rows)


def _gap(run: Run) -> float:
    return 100 * run.measures[SEEN]["reliability"]["train_validation_gap of mean_iou"]


def _mean_and_deviation(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{statistics.fmean(values):.2f} ± {statistics.stdev(values):.2f}"


def _tables(results: Path) -> Iterator[tuple[str, str]]:
    """Every section's name and table."""
    yield "screening", screening_table(read_runs(results / "screening.json"))
    comparison = by_arm(read_runs(results / "camvid.json"))
    yield "scores", mean_table(comparison, COLUMNS)
    yield "paired", paired_table(comparison, COLUMNS)
    yield "goals", goal_table(comparison)
    yield "equal-clean", equal_clean_table(comparison, COLUMNS)
    yield "generalisation", generalisation_table(comparison)
    yield "clean", clean_table(comparison)
    longer = by_arm(read_runs(results / "camvid_long.json"))
    yield "longer", mean_table(longer, LONGER_COLUMNS)
    yield "longer-paired", paired_table(longer, LONGER_COLUMNS)
    yield "longer-goals", goal_table(longer, (WEAK_ATTACK, ATTACK))
    yield "longer-gpu", clean_table(by_arm(read_runs(results / "camvid_long_gpu.json")))
    strongest = by_arm(read_runs(results / "sea.json"))
    yield "sea", mean_table(strongest, STRONGEST_COLUMNS)
    classified = by_arm(read_runs(results / "tiny_imagenet.json"))
    yield "classification", mean_table(classified, COLUMNS[:4])
    yield "classification-paired", paired_table(classified, COLUMNS[:4])
    yield "classification-goals", goal_table(classified)
    yield "classification-clean", clean_table(classified, CLASSIFIED_SCORES)
    yield "certified", mean_table(by_arm(read_runs(results / "certified.json")), CERTIFIED_COLUMNS)
    yield "costs", cost_table(json.loads((results / "costs.json").read_text(encoding="utf-8")))
    small = by_arm(read_runs(results / "digits.json"))
    yield "digits", mean_table(small, SMALL_COLUMNS)
    yield "digits-paired", paired_table(small, SMALL_COLUMNS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("docs/study"), help="folder of the JSON files")
    parser.add_argument("--document", type=Path, default=Path("docs/study.md"), help="file that holds the sections")
    arguments = parser.parse_args()
    for name, table in _tables(arguments.results):
        replace_section(arguments.document, name, table)
    comparison = by_arm(read_runs(arguments.results / "camvid.json"))
    plot_frontier(comparison, COLUMNS[1:], arguments.results / "frontier.png")
    classified = by_arm(read_runs(arguments.results / "tiny_imagenet.json"))
    plot_frontier(classified, COLUMNS[1:4], arguments.results / "frontier_classification.png")


if __name__ == "__main__":
    main()
