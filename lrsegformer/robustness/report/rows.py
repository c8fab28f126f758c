"""From finished cells to rows: one for each model and condition, with scores and everything that they hang on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lrsegformer.attacks.registry import names_where
from lrsegformer.data.imagenet import NUM_CLASSES
from lrsegformer.robustness.conditions import Condition
from lrsegformer.robustness.metrics.corruption_scores import summarise_corruptions
from lrsegformer.robustness.metrics.counting import SparseTable, cell_scores
from lrsegformer.robustness.metrics.reliability import train_validation_gap
from lrsegformer.robustness.metrics.worst_case import attack_counts
from lrsegformer.robustness.shift.data_sets import IMAGENET_C

# The scores of the tables, and what the axes of the curves say.
SHOWN = {
    "segmentation": {"mean_iou": "mIoU", "accuracy": "pixel accuracy"},
    "classification": {"accuracy": "accuracy"},
}
SCORED_KINDS = ("clean", "attack", "corruption", "shifted", "train")
# How many points of accuracy an adaptive attack may find beyond PGD before PGD looks deceived.
MASKING_POINTS = 0.01
ROUNDING = 1e-9
MOSTLY = 0.5
# What PGD is checked by.
STRONGER = names_where(lambda attack: attack.stronger)
IN_MEMORY = "in memory"


def result_rows(cells: Sequence[Mapping[str, Any]], task: str, radii: Sequence[float]) -> list[dict[str, Any]]:
    """
    A row for each cell that has scores, in their order.

    Args:
        cells (sequence of `dict`): as [`~lrsegformer.robustness.bench.bench.run_bench`] keeps them.
        task (`str`): `"segmentation"` or `"classification"`.
        radii (sequence of `float`): where a minimum-norm attack, one cell, is read off.

    Returns:
        `list[dict]`: `model`, `input` (its size in words), `condition` (its label), the fields of the condition,
        `images`, `of`, `subset`, `seed`, `seconds`, `device`, `processes`, `versions`, `warnings`, `measured`, `sheet`
        (file name of its pictures), and every score of the task (from 0 to 1; lists of the classes' for segmentation).
    """
    rows = []
    for cell in cells:
        condition = cell["condition"]
        if condition["kind"] not in SCORED_KINDS:
            continue
        shared = {
            "model": cell["model"],
            "input": cell["input"],
            **condition,
            **{name: cell[name] for name in ("images", "of", "subset", "seed", "seconds", "device", "processes")},
            "versions": cell["versions"],
            "warnings": cell["warnings"],
            "measured": cell.get("measured", {}),
            "sheet": cell.get("sheet"),
        }
        if "distances" not in cell:
            rows.append({**shared, "condition": label_of(condition), **cell_scores(cell, task)})
            continue
        for radius in radii:
            at_radius = {**condition, "radius": radius}
            scores = _scores_within(radius, cell, task)
            rows.append({**shared, "radius": radius, "condition": label_of(at_radius), **scores})
    return rows


def _scores_within(radius: float, cell: Mapping[str, Any], task: str) -> dict[str, Any]:
    """The scores where an image resists at radii below the smallest perturbation that was found for it."""
    resists = [distance is None or distance > radius for distance in cell["distances"]]
    if "image_tables" in cell:
        candidates = [
            [SparseTable.from_json(tables[0 if resisting else place]) for place in range(len(tables))]
            for tables, resisting in zip(cell["image_tables"], resists, strict=True)
        ]
        return cell_scores({**cell, **attack_counts(candidates, cell["num_labels"])}, task)
    return {"accuracy": sum(resists) / len(resists) if resists else None}


def label_of(condition: Mapping[str, Any]) -> str:
    """The condition's label; see [`~lrsegformer.robustness.conditions.Condition`]."""
    return Condition(**condition).label


def corruption_rows(rows: Sequence[Mapping[str, Any]], task: str, num_labels: int) -> list[dict[str, Any]]:
    """
    For each source of corruptions, model and score what the scores come to.

    Returns:
        `list[dict]`: `source` ([`corruption_source`]), `model`, `score`, `clean` (for ImageNet-C that of the report's
        own images), `mean`, `retention`, `per_corruption`, and `mce`, `None` but for the 1000 classes of ImageNet.
    """
    summaries = []
    for source in (IN_MEMORY, IMAGENET_C):
        for model in dict.fromkeys(row["model"] for row in rows):
            own = [row for row in rows if row["model"] == model]
            clean = next(row for row in own if row["kind"] == "clean")
            corrupted = [row for row in own if corruption_source(row) == source]
            for score, score_name in SHOWN[task].items() if corrupted else ():
                measured = {(row["name"].rpartition("/")[2], row["severity"]): row[score] for row in corrupted}
                summary = summarise_corruptions(clean[score], measured, task)
                summaries.append(
                    {
                        "source": source,
                        "model": model,
                        "score": score_name,
                        "clean": clean[score],
                        "mean": summary.mean,
                        "retention": summary.retention if clean[score] else None,
                        "mce": summary.mce if num_labels == NUM_CLASSES else None,
                        "per_corruption": summary.per_corruption,
                    }
                )
    return summaries


def corruption_source(row: Mapping[str, Any]) -> str | None:
    """Where a row's corruption comes from: `"in memory"`, `"imagenet-c"`, or `None` where there is none."""
    if row["kind"] == "shifted" and row["name"].startswith(f"{IMAGENET_C}/") and row["severity"] is not None:
        return IMAGENET_C
    return IN_MEMORY if row["kind"] == "corruption" else None


def masking_rows(cells: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """
    For each model whose gradients were looked at: does PGD on the cross-entropy look deceived?

    Returns:
        `list[dict]`: `model`, `small_gradient_share` (of input gradients below 1e-8 of the cross-entropy summed over
        an image), `largest_gap` (accuracy under PGD minus that under one of [`STRONGER`] at the same radius, the
        largest; `None` where none ran), and `flags`, a list of lines, empty where nothing is suspicious.
    """
    found = []
    for cell in cells:
        if cell["condition"]["kind"] != "gradients":
            continue
        model, share = cell["model"], cell["measured"]["small_gradient_share"]
        gaps = _gaps(model, rows)
        flags = []
        if share > MOSTLY:
            flags.append(
                f"small gradients: see {' and '.join(STRONGER)} beside pgd ({100 * share:.1f} % of the input "
                "gradients are below 1e-8, so attacks by gradient may overrate this model)"
            )
        flags += [
            f"{attack} leaves {100 * gap:.1f} points less accuracy than PGD at {norm} {radius:g}: PGD overrates this "
            "model"
            for (attack, norm, radius), gap in gaps.items()
            if gap > MASKING_POINTS + ROUNDING
        ]
        largest = max(gaps.values()) if gaps else None
        found.append({"model": model, "small_gradient_share": share, "largest_gap": largest, "flags": flags})
    return found


def _gaps(model: str, rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str, float], float]:
    attacks = {
        (row["name"], row["norm"], row["radius"]): row["accuracy"]
        for row in rows
        if row["model"] == model and row["kind"] == "attack" and not row["targeted"]
    }
    return {
        (name, norm, radius): attacks["pgd", norm, radius] - accuracy
        for (name, norm, radius), accuracy in attacks.items()
        if name in STRONGER and ("pgd", norm, radius) in attacks
    }


def reliability_rows(
    cells: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], task: str
) -> list[dict[str, Any]]:
    """For each model with a reliability cell: what was measured, and the gap between training and validation."""
    found = []
    for cell in cells:
        if cell["condition"]["kind"] == "reliability":
            own = {row["kind"]: row for row in rows if row["model"] == cell["model"]}
            gap = train_validation_gap(
                *({name: own[kind][name] for name in SHOWN[task]} for kind in ("train", "clean"))
            )
            found.append({"model": cell["model"], **cell["measured"], "train_validation_gap": gap})
    return found
