"""The rows of a report of certificates, and what has to be true of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lrsegformer.errors import BrokenCertificateError
from lrsegformer.robustness.certificates.arguments import as_eps

PROVEN, SMOOTHED, NOTHING = "proven", "smoothing", "none"
# Scores that are quotients of the same integers differ by no more than this where they are equal.
_ROUNDING = 1e-9


def proven_rows(
    model: str, reach: str, found: Mapping[str, Any], norm: str, attacked: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """
    Rows of a model with a proven constant: one for each radius.

    Args:
        model (`str`): its label.
        reach (`str`): of [`~lrsegformer.robustness.certificates.proven.Proof`].
        found (`dict`): of [`~lrsegformer.robustness.certificates.measuring.certify`], of the norm.
        norm (`str`): of the perturbation.
        attacked (sequence of `dict`): the rows of the attacks on the model, of
            [`~lrsegformer.robustness.report.rows.result_rows`].
    """
    return [
        {
            "model": model,
            "method": PROVEN,
            "reach": reach,
            "norm": norm,
            "radius": row["radius"],
            "probability": 1.0,
            **_clean(found["clean"]),
            "attacked": attacked_at(attacked, norm, row["radius"]),
            **_certified(row),
        }
        for row in found["rows"]
    ]


def smoothed_rows(model: str, found: Mapping[str, Any], alpha: float) -> list[dict[str, Any]]:
    """Rows of the smoothed model, as [`proven_rows`]; no attack on it is run."""
    return [
        {
            "model": model,
            "method": SMOOTHED,
            "reach": "smoothed network",
            "norm": "l2",
            "radius": row["radius"],
            "probability": 1 - alpha,
            **_clean(found["clean"]),
            "attacked": {},
            **_certified(row),
        }
        for row in found["rows"]
    ]


def uncertified_rows(
    model: str, clean: Mapping[str, Any], norm: str, radii: Sequence[float], attacked: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Rows in the norm of a perturbation of the pixels, of a model that has no certificate in it."""
    return [
        {
            "model": model,
            "method": NOTHING,
            "reach": None,
            "norm": norm,
            "radius": radius,
            "probability": None,
            **_clean(clean),
            "attacked": attacked_at(attacked, norm, radius),
            **_certified({}),
        }
        for radius in radii
    ]


def attacked_at(rows: Sequence[Mapping[str, Any]], norm: str, radius: float) -> dict[str, dict[str, float]]:
    """Scores under each attack, by its name, at a norm and a radius."""
    return {
        row["name"]: {name: row[name] for name in ("accuracy", "mean_iou") if name in row}
        for row in rows
        if row["kind"] == "attack" and row["norm"] == norm and row["radius"] == as_eps(norm, radius)
    }


def check_order(rows: Sequence[Mapping[str, Any]]) -> None:
    """
    Raises [`~lrsegformer.errors.BrokenCertificateError`] unless certified <= attacked <= clean in every row.

    Of the accuracy and of the mIoU. In feature space, and of a smoothed model, there is no attack to compare with.
    """
    for row in rows:
        for score in ("accuracy", "mean_iou"):
            chain = [("certified", row[f"certified_{score}"]), ("clean", row[f"clean_{score}"])]
            for name, scores in row["attacked"].items():
                _check(row, score, [chain[0], (f"attacked by {name}", scores.get(score)), chain[1]])
            _check(row, score, chain)


def _check(row: Mapping[str, Any], score: str, chain: Sequence[tuple[str, float | None]]) -> None:
    known = [(name, value) for name, value in chain if value is not None]
    for (lower, less), (upper, more) in zip(known, known[1:], strict=False):
        if less > more + _ROUNDING:
            raise BrokenCertificateError(
                f"{row['model']}, {row['norm']} radius {row['radius']:.6g}, {row['method']}: the {lower} {score} "
                f"{less:.6f} is above the {upper} {score} {more:.6f}, which no certificate allows; no table was "
                "written. Please report it with the command."
            )


def _clean(scores: Mapping[str, Any]) -> dict[str, float | None]:
    return {f"clean_{name}": scores.get(name) for name in ("accuracy", "mean_iou")}


def _certified(row: Mapping[str, Any]) -> dict[str, float | None]:
    return {
        "certified_accuracy": row.get("accuracy"),
        "certified_mean_iou": row.get("mean_iou"),
        "certified_share": row.get("certified_share"),
        "per_pixel_accuracy": row.get("per_pixel_accuracy"),
        "collective_accuracy": row.get("collective_accuracy"),
    }
