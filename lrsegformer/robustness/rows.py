"""From finished cells to rows: one for each model and condition, with scores and everything that they hang on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lrsegformer.robustness.corruption_scores import summarise_corruptions
from lrsegformer.robustness.counting import cell_scores
from lrsegformer.robustness.reliability import train_validation_gap

# The scores of the tables, and what the axes of the curves say.
SHOWN = {
    "segmentation": {"mean_iou": "mIoU", "accuracy": "pixel accuracy"},
    "classification": {"accuracy": "accuracy"},
}
SCORED_KINDS = ("clean", "attack", "corruption", "shifted", "train")
# How many points of accuracy an adaptive attack may find beyond PGD before PGD looks deceived.
MASKING_POINTS = 0.01
STRONGER_ATTACKS = ("apgd", "square")
MOSTLY = 0.5


def result_rows(cells: Sequence[Mapping[str, Any]], task: str, radii: Sequence[float]) -> list[dict[str, Any]]:
    """
    A row for each cell that has scores, in their order.

    Args:
        cells (sequence of `dict`): as [`~lrsegformer.robustness.bench.run_bench`] keeps them.
        task (`str`): `"segmentation"` or `"classification"`.
        radii (sequence of `float`): where a minimum-norm attack, one cell, is read off.

    Returns:
        `list[dict]`: `model`, `condition` (its label), the fields of the condition, `images`, `of`, `subset`, `seed`,
        `seconds`, `device`, `processes`, `versions`, `warnings`, `measured`, and every score of the task (from 0 to 1;
        lists of the classes' for segmentation).
    """
    rows = []
    for cell in cells:
        condition = cell["condition"]
        if condition["kind"] not in SCORED_KINDS:
            continue
        shared = {
            "model": cell["model"],
            **condition,
            **{name: cell[name] for name in ("images", "of", "subset", "seed", "seconds", "device", "processes")},
            "versions": cell["versions"],
            "warnings": cell["warnings"],
            "measured": cell.get("measured", {}),
        }
        if "distances" not in cell:
            rows.append({**shared, "condition": label_of(condition), **cell_scores(cell, task)})
            continue
        for radius in radii:
            at_radius = {**condition, "radius": radius}
            # An image resists at a radius below the smallest perturbation that was found for it.
            resists = [distance is None or distance > radius for distance in cell["distances"]]
            row = {**shared, "radius": radius, "condition": label_of(at_radius)}
            rows.append({**row, "accuracy": sum(resists) / len(resists) if resists else None})
    return rows


def label_of(condition: Mapping[str, Any]) -> str:
    """The condition's label; see [`~lrsegformer.robustness.cells.Condition`]."""
    from lrsegformer.robustness.cells import Condition

    return Condition(**condition).label


def corruption_rows(rows: Sequence[Mapping[str, Any]], task: str) -> list[dict[str, Any]]:
    """For each model and score: the clean score, the mean under corruption, the retention, and the in-memory mCE."""
    summaries = []
    for model in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == model]
        clean = next(row for row in own if row["kind"] == "clean")
        for score, score_name in SHOWN[task].items():
            measured = {(row["name"], row["severity"]): row[score] for row in own if row["kind"] == "corruption"}
            if not measured:
                continue
            summary = summarise_corruptions(clean[score], measured, task)
            summaries.append(
                {
                    "model": model,
                    "score": score_name,
                    "clean": clean[score],
                    "mean": summary.mean,
                    "retention": summary.retention if clean[score] else None,
                    "in_memory_mce": summary.in_memory_mce,
                    "per_corruption": summary.per_corruption,
                }
            )
    return summaries


def masking_rows(cells: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """
    For each model whose gradients were looked at: does PGD on the cross-entropy look deceived?

    Returns:
        `list[dict]`: `model`, `small_gradient_share` (of input gradients below 1e-8 of the cross-entropy summed over
        an image), `largest_gap` (accuracy under PGD minus that under APGD or Square at the same radius, the largest;
        `None` where they did not run), and `flags`, a list of lines, empty where nothing is suspicious.
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
                f"small gradients: see APGD and Square beside PGD ({100 * share:.1f} % of the input gradients are "
                "below 1e-8, so attacks by gradient may overrate this model)"
            )
        flags += [
            f"{attack} leaves {100 * gap:.1f} points less accuracy than PGD at {norm} {radius:g}: PGD overrates this "
            "model"
            for (attack, norm, radius), gap in gaps.items()
            if gap > MASKING_POINTS
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
        if name in STRONGER_ATTACKS and ("pgd", norm, radius) in attacks
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
