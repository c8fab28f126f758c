"""`results.md` of a report of certificates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from lrsegformer.certification.text import round_up
from lrsegformer.hub.markdown import plain, table
from lrsegformer.robustness.certificates.proven import FEATURES
from lrsegformer.robustness.certificates.rows import NOTHING, SMOOTHED
from lrsegformer.robustness.report.rows import SHOWN
from lrsegformer.robustness.report.text import percent

_UNITS = {
    "l2": "l2 over the image, pixels from 0 to 1",
    "per_pixel_l2": "largest over pixels of l2 over channels, pixels from 0 to 1",
    "smoothing": "l2 over the image, pixels from 0 to 1, by smoothing",
    FEATURES: "in the norm of the features",
}


def unit_of(norm: str) -> str:
    """What the radii of a norm are, for axes and captions."""
    return _UNITS[norm]


def certificates_text(report: Mapping[str, Any]) -> str:
    """
    `results.md`.

    Args:
        report (`dict`): what `results.json` holds.
    """
    parts = ["# Certificates", *_tables(report, "##")]
    parts += ["## Inputs and cost", _inputs_table(report["models"]), _resizings(report["models"])]
    parts += [_pictures(report["models"]), _versions(report)]
    return "\n\n".join(part for part in parts if part) + "\n"


def certificates_section(report: Mapping[str, Any]) -> str:
    """The section of a card, of the report of one model."""
    (found,) = report["models"].values()
    parts = ["## Certificates", *_tables(report, "###"), f"Inputs: {found['input']}, by the saved image processor."]
    parts += [_resizings(report["models"]), "![Certified accuracy against radius](certificates.png)"]
    return "\n\n".join(part for part in [*parts, _versions(report)] if part)


def _tables(report: Mapping[str, Any], level: str) -> list[str]:
    """Scores, what they are of, and the constants, under headings of a level."""
    in_pixels = [row for row in report["rows"] if row["reach"] != FEATURES]
    in_features = [row for row in report["rows"] if row["reach"] == FEATURES]
    parts, task = [_introduction(report)], report["task"]
    if in_pixels:
        parts += [f"{level} Perturbations of the pixels", _table(in_pixels, task), _caption(report, in_pixels)]
    if in_features:
        parts += [f"{level} Perturbations of the features", _table(in_features, task)]
        parts.append(_feature_caption(report["models"]))
    parts += [f"{level} What is certified", "\n".join(_notes(report))]
    bounds = _bounds_table(report["models"])
    return [*parts, f"{level} Proven constants", bounds] if bounds else parts


def _versions(report: Mapping[str, Any]) -> str:
    return "Versions: " + ", ".join(f"{name} {number}" for name, number in report["versions"].items()) + "."


def _introduction(report: Mapping[str, Any]) -> str:
    images, of = report["images"], report["of"]
    which = f"all {of} validation images" if images == of else f"a seeded subset of {images} of {of} validation images"
    lines = [
        f"{report['task'].capitalize()} on {plain(report['dataset'])}: {which} (seed {report['seed']}). Scores are in "
        "percent, certified ones rounded down. *Certified* scores hold under every perturbation of the norm and "
        "radius; scores under an attack are estimates from what ran, and never lie below the certified ones.",
    ]
    if report["task"] == "segmentation":
        lines.append(f"Scored at {report['score_at']} size; ignored pixels never count.")
    return " ".join(lines)


def _table(rows: Sequence[Mapping[str, Any]], task: str) -> str:
    attacks = list(dict.fromkeys(name for row in rows for name in row["attacked"]))
    header = ["model", "certificate", "norm", "radius"]
    for score_name in SHOWN[task].values():
        header += [f"{score_name}: clean", *(f"under {plain(name)}" for name in attacks), "certified"]
    if task == "segmentation":
        header += ["pixel by pixel", "collectively", "pixels with a certificate"]
    lines = []
    for row in rows:
        line = [plain(row["model"]), _method(row), row["norm"], radius_text(row["radius"])]
        for score in SHOWN[task]:
            line.append(percent(row[f"clean_{score}"]))
            line += [percent(row["attacked"].get(name, {}).get(score)) for name in attacks]
            line.append(_floor_percent(row[f"certified_{score}"]))
        if task == "segmentation":
            names = ("per_pixel_accuracy", "collective_accuracy", "certified_share")
            line += [_floor_percent(row[name]) for name in names]
        lines.append(line)
    return table(header, lines)


def _method(row: Mapping[str, Any]) -> str:
    if row["method"] == SMOOTHED:
        return f"smoothing, probability {row['probability']:g}"
    return "none" if row["method"] == NOTHING else "proven"


def _caption(report: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        "Radii are of the image that the model receives, after the processor's resizing, in pixels from 0 to 1 before "
        "its normalisation. A certificate is one of the network in exact arithmetic at the logits that were computed; "
        "rounding inside the forward pass is not covered."
    ]
    if report["task"] == "segmentation":
        lines.append(
            "Certified accuracy is the larger of two, image by image: pixels judged one by one, and pixels that "
            "cannot all flip together. Certified mIoU takes every pixel without a certificate for wrong in the "
            "worst way."
        )
    if any(row["method"] == SMOOTHED for row in rows):
        chosen = report["smoothing"]
        lines.append(
            f"Smoothing is of another model, the majority under noise of sigma {chosen['sigma']:g}, from n0 = "
            f"{chosen['n0']} and n = {chosen['n']} samples; each image's certificate holds with the probability given "
            "over the noise drawn. Its clean score counts pixels where it abstains by their majority."
        )
        if report["task"] == "segmentation":
            lines.append(
                f"tau {chosen['tau']:g}, correction {chosen['correction']}: its one radius is {chosen['radius']:.4g}."
            )
    return " ".join(lines)


def _feature_caption(models: Mapping[str, Mapping[str, Any]]) -> str:
    norms = [
        f"{plain(model)} {found['median_feature_norm']:.4g}"
        for model, found in models.items()
        if found["median_feature_norm"] is not None
    ]
    return (
        "These radii are of the features, not of the image, and say nothing about perturbed pixels: the encoder "
        "before them has no proven constant. For scale, the median over images of the features' own norm: "
        f"{', '.join(norms)}."
    )


def _notes(report: Mapping[str, Any]) -> list[str]:
    return [f"- {plain(model)}: {found['note']}" for model, found in report["models"].items()]


def _bounds_table(models: Mapping[str, Mapping[str, Any]]) -> str | None:
    lines = [
        [plain(model), norm, name, round_up(value)]
        for model, found in models.items()
        for norm, constants in found["bounds"].items()
        for name, value in constants.items()
    ]
    return table(["model", "norm of the perturbation", "constant", "bound"], lines) if lines else None


def _inputs_table(models: Mapping[str, Mapping[str, Any]]) -> str:
    lines = [
        [
            plain(model),
            found["input"],
            *(_seconds(found["seconds"].get(name)) for name in ("certificates", "smoothing")),
        ]
        for model, found in models.items()
    ]
    return table(["model", "input", "seconds of inference and certificates", "seconds of smoothing"], lines)


def _resizings(models: Mapping[str, Mapping[str, Any]]) -> str | None:
    lines = [
        [plain(model), _size(one["size"]), _size(one["new_size"]), round_up(one["l2"]), round_up(one["per_pixel"])]
        for model, found in models.items()
        for one in found["resizings"]
    ]
    if not lines:
        return None
    text = table(["model", "image", "resized to", "constant in l2", "constant in per_pixel_l2"], lines)
    return text + (
        "\n\nA radius of the image before resizing is the radius in the tables over the resizing's constant, as far "
        "as resizing is a map of real numbers: what it rounds to 255 levels is not covered."
    )


def _size(size: Sequence[int]) -> str:
    return f"{size[1]}x{size[0]}"


def _pictures(models: Mapping[str, Mapping[str, Any]]) -> str:
    links = [f"[{plain(name)}](pictures/{quote(name)})" for found in models.values() for name in found["pictures"]]
    return "\n".join(["![curves](curves.png)", "", *(f"- {link}" for link in links)])


def radius_text(radius: float) -> str:
    """A radius in 1/255, and as it is."""
    return f"{255 * radius:.4g}/255 ({radius:.4g})"


def _floor_percent(value: float | None) -> str:
    return "-" if value is None else f"{math.floor(10000 * value + 1e-9) / 100:.2f}"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
