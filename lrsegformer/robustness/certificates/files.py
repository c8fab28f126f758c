"""The files of a report of certificates: tables in Markdown, JSON and CSV, curves, pictures, and the options."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from lrsegformer.evaluation.scores import without_nan
from lrsegformer.robustness.bench.bench import PreparedModel
from lrsegformer.robustness.bench.planning import Prepared
from lrsegformer.robustness.certificates.arguments import CertificateArguments
from lrsegformer.robustness.certificates.curves import save_certified_curves
from lrsegformer.robustness.certificates.pictures import CertifiedPicture, save_certified_picture
from lrsegformer.robustness.certificates.rows import check_order
from lrsegformer.robustness.certificates.text import certificates_text, unit_of
from lrsegformer.robustness.report.files import SHEETS, SUBSETS, table_text
from lrsegformer.training.run.run_config import RUN_CONFIG_FILE
from lrsegformer.writing import write_whole, writing_to, written_aside

REPORT_KIND = "certificates"
PICTURES = "pictures"
# All that a report is made of, for [`~lrsegformer.output_folder.claim`]; the finished cells belong to it.
FILES = (
    *(RUN_CONFIG_FILE, "cells.jsonl", "results.json", "results.md", "results.csv", "curves.png"),
    *(PICTURES, SHEETS, SUBSETS),
)
_COLUMNS = (
    *("model", "method", "reach", "norm", "radius", "probability"),
    *("clean_accuracy", "certified_accuracy", "per_pixel_accuracy", "collective_accuracy", "certified_share"),
    *("clean_mean_iou", "certified_mean_iou"),
)


class ModelResult(NamedTuple):
    """
    What is known of a model.

    Attributes:
        model ([`~lrsegformer.robustness.bench.bench.PreparedModel`]): the model.
        note (`str`): what its certificate is of, or that there is none.
        reach (`str`, *optional*): of [`~lrsegformer.robustness.certificates.proven.Proof`].
        rows (`list[dict]`): of the table.
        found (`dict`): by norm, and for `"smoothing"`, what
            [`~lrsegformer.robustness.certificates.measuring.certify`] gave.
        seconds (`dict`): of the certificates, and of smoothing.
        resizings (`list[dict]`): of [`~lrsegformer.robustness.certificates.resizing.resizings_of`].
        files (`dict`): of [`~lrsegformer.hub.digests.file_digests`].
    """

    model: PreparedModel
    note: str
    reach: str | None
    rows: list[dict[str, Any]]
    found: dict[str, dict[str, Any]]
    seconds: dict[str, float]
    resizings: Sequence[dict[str, Any]] = ()
    files: Mapping[str, str] = MappingProxyType({})


def write_certificates(
    results: Sequence[ModelResult], context: Mapping[str, Any], arguments: CertificateArguments, prepared: Prepared
) -> dict[str, Any]:
    """
    Write every file of the report, each of them whole at any time; returns what `results.json` holds.

    Raises:
        [`~lrsegformer.errors.BrokenCertificateError`]: certified <= attacked <= clean fails in a row; before anything
            is written.
        [`~lrsegformer.errors.InputError`]: a file cannot be written.
    """
    rows = [row for result in results for row in result.rows]
    check_order(rows)
    folder = Path(arguments.output_dir)
    with writing_to(folder):
        pictures = {result.model.label: _save_pictures(result, context, arguments, folder) for result in results}
        models = {result.model.label: _described(result, pictures[result.model.label]) for result in results}
        report = without_nan({"command": " ".join(sys.argv), **context, "models": models, "rows": rows})
        write_whole(folder / "results.json", json.dumps(report, indent=1) + "\n")
        write_whole(folder / "results.md", certificates_text(report))
        attacks = list(dict.fromkeys(name for row in rows for name in row["attacked"]))
        scores = ("accuracy", "mean_iou") if context["task"] == "segmentation" else ("accuracy",)
        columns = (*_COLUMNS, *(f"{name}_{score}" for name in attacks for score in scores))
        write_whole(folder / "results.csv", table_text(columns, (_flat(row) for row in rows)))
        with written_aside(folder / "curves.png") as path:
            save_certified_curves(models, rows, path)
        for fingerprint, names in prepared.subsets().items():
            write_whole(folder / SUBSETS / f"{fingerprint}.txt", "".join(f"{Path(name).name}\n" for name in names))
    return report


def _described(result: ModelResult, pictures: list[str]) -> dict[str, Any]:
    proven = {norm: found for norm, found in result.found.items() if norm != "smoothing"}
    return {
        "note": result.note,
        "reach": result.reach,
        "weights": result.model.weights,
        "files": dict(result.files),
        "input": result.model.input_size,
        "bounds": {norm: found["constants"] for norm, found in proven.items()},
        "curves": {norm: found["curve"] for norm, found in result.found.items()},
        "median_feature_norm": next((found.get("median_feature_norm") for found in proven.values()), None),
        "resizings": list(result.resizings),
        "seconds": {name: round(value, 3) for name, value in result.seconds.items()},
        "pictures": pictures,
    }


def save_pictures(
    folder: str | Path,
    label: str,
    norm: str,
    found: Sequence[CertifiedPicture],
    radii: Sequence[float],
    names: Sequence[str],
) -> None:
    """
    Draw pictures of a model.

    Args:
        norm (`str`): that the radii are in, or `"smoothing"`.
        found (sequence of [`CertifiedPicture`]), names (sequence of `str`): the images, and the classes in them.
    """
    for picture in found:
        path = Path(folder) / PICTURES / _picture_name(label, norm, picture.position)
        title = f"{label}, image {picture.position}"
        with writing_to(folder), written_aside(path) as unfinished:
            save_certified_picture(picture, title, unit_of(norm), radii, names, unfinished)


def _picture_name(label: str, norm: str, position: int) -> str:
    return f"{label}-{norm}-".replace("/", "-").replace(" ", "_") + f"{position}.png"


def _save_pictures(
    result: ModelResult, context: Mapping[str, Any], arguments: CertificateArguments, folder: Path
) -> list[str]:
    """Draw the pictures of the first norm; gives their names, and those of smoothing, which are drawn already."""
    (folder / PICTURES).mkdir(parents=True, exist_ok=True)
    label, names = result.model.label, []
    for norm in [*[norm for norm in result.found if norm != "smoothing"][:1], "smoothing"]:
        if norm in result.found:
            if norm != "smoothing":
                found, radii = result.found[norm]["pictures"], arguments.radii_of(norm)
                save_pictures(folder, label, norm, found, radii, context["class_names"])
            names += [_picture_name(label, norm, position) for position in range(arguments.pictures)]
    return [name for name in names if (folder / PICTURES / name).exists()]


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    attacked = {f"{name}_{score}": value for name, found in row["attacked"].items() for score, value in found.items()}
    return {**row, **attacked}
