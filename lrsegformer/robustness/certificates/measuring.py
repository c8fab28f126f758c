"""Certificates of a model over the images of a report: one pass, or many noisy ones for smoothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lrsegformer.attacks.threat import image_generator
from lrsegformer.certification.guaranteed_scores import (
    certified_counts,
    collectively_flipped,
    guaranteed_accuracy,
    guaranteed_mean_iou,
)
from lrsegformer.certification.margins import certified_pixels, certified_radii
from lrsegformer.certification.smoothing import Smoothing, smoothed_prediction
from lrsegformer.evaluation.scores import scores_from_counts
from lrsegformer.robustness.bench.runs import Run, over_batches
from lrsegformer.robustness.certificates.pictures import CertifiedPicture
from lrsegformer.robustness.certificates.proven import FEATURES, PathConstants, Proof, feature_norms
from lrsegformer.robustness.report.rows import SHOWN
from lrsegformer.robustness.subset import Batch

# The certified curve is read off at so many radii, up to this multiple of the largest radius of the table.
CURVE_POINTS, CURVE_REACH = 40, 1.25
# Names the random numbers of the noise, apart from those of attacks.
_NOISE = "smoothing"


class ImageCertificate(NamedTuple):
    """
    What one image adds to a norm's rows.

    Attributes:
        position (`int`): in the subset.
        tables (`torch.Tensor`): of [`~lrsegformer.certification.guaranteed_scores.certified_counts`], for the radii of
            the table.
        curve (`torch.Tensor`, int64): right and certified pixels at each radius of the curve, by the per-pixel rule.
        flipped (`list[int]`, *optional*): for each radius of the table the most right pixels that can flip together;
            `None` where there is no collective certificate.
        constants ([`PathConstants`], *optional*): that were used.
        picture ([`CertifiedPicture`], *optional*): of the first images.
        feature_norm (`float`, *optional*): of a certificate in feature space, the norm of the image's features.
    """

    position: int
    tables: Tensor
    curve: Tensor
    flipped: list[int] | None = None
    constants: PathConstants | None = None
    picture: CertifiedPicture | None = None
    feature_norm: float | None = None


def curve_radii(radii: Sequence[float]) -> list[float]:
    """Where the curve of a norm is read off."""
    return (np.arange(1, CURVE_POINTS + 1) / CURVE_POINTS * CURVE_REACH * max(radii)).tolist()


def certify(run: Run, proof: Proof, radii: dict[str, list[float]], num_pictures: int) -> dict[str, dict[str, Any]]:
    """
    The certified scores of a model, by norm.

    Args:
        run ([`~lrsegformer.robustness.bench.runs.Run`]): the model and its images.
        proof ([`Proof`]): what the certificates stand on.
        radii (`dict[str, list[float]]`): rising, by norm.
        num_pictures (`int`): of how many images to keep pictures, in the first norm.
    """

    def action(batch: Batch) -> list[dict[str, ImageCertificate]]:
        with torch.no_grad():
            logits = run.model(batch.images)
        inverse = proof.inverse.to(logits.device)
        label_size = tuple(batch.labels.shape[1:]) if batch.labels.ndim == 3 else None
        found = certified_pixels(logits, inverse, label_size)
        of_features = proof.reach == FEATURES
        norms = feature_norms(run.model, batch.images).tolist() if of_features else [None] * len(batch)
        images: list[dict[str, ImageCertificate]] = [{} for _ in batch.positions]
        for number, (norm, eps) in enumerate(radii.items()):
            logits_size = tuple(logits.shape[2:]) or None
            constants = proof.constants(norm, tuple(batch.images.shape[-2:]), logits_size, label_size)
            pixel_radii = certified_radii(found.distances, constants.per_pixel)
            for row, position in enumerate(batch.positions):
                shown = number == 0 and position < num_pictures
                images[row][norm] = ImageCertificate(
                    position,
                    *_tables(run, found.classes[row], pixel_radii[row], batch.labels[row], eps),
                    _flipped(run, found.classes[row], found.distances[row], batch.labels[row], constants, eps),
                    constants,
                    CertifiedPicture.of(batch, row, found.classes[row], pixel_radii[row]) if shown else None,
                    norms[row],
                )
        return images

    images = over_batches(run, action)
    return {norm: _summed([image[norm] for image in images], eps, run) for norm, eps in radii.items()}


def smooth(run: Run, smoothing: Smoothing, radii: Sequence[float], num_pictures: int) -> dict[str, Any]:
    """The certified scores of the smoothed model in l2; see [`certify`]."""

    def action(batch: Batch) -> list[ImageCertificate]:
        return [_smooth_image(run, batch, row, smoothing, radii, num_pictures) for row in range(len(batch))]

    return _summed(over_batches(run, action), radii, run)


def _smooth_image(
    run: Run, batch: Batch, row: int, smoothing: Smoothing, radii: Sequence[float], num_pictures: int
) -> ImageCertificate:
    labels, position = batch.labels[row], batch.positions[row]
    size = tuple(labels.shape) if labels.ndim == 2 else None
    found = smoothed_prediction(
        lambda images: run.model.predict(images, size),
        batch.images[row],
        smoothing,
        image_generator(run.seed, (_NOISE, batch.ids[row])),
        run.data.num_labels,
        run.batch_size,
    )
    picture = CertifiedPicture.of(batch, row, found.classes, found.radii) if position < num_pictures else None
    return ImageCertificate(position, *_tables(run, found.classes, found.radii, labels, radii), picture=picture)


def _tables(run: Run, classes: Tensor, radii: Tensor, labels: Tensor, eps: Sequence[float]) -> tuple[Tensor, Tensor]:
    data = run.data
    tables = certified_counts(classes, radii, labels, data.num_labels, eps, data.ignore_index)
    right = radii[_right(run, classes, labels)].double()
    edges = torch.tensor(curve_radii(eps), dtype=torch.float64, device=radii.device)
    levels = torch.bincount(torch.bucketize(right, edges), minlength=len(edges) + 1)
    return tables, levels.flip(0).cumsum(0).flip(0)[1:].cpu()


def _right(run: Run, classes: Tensor, labels: Tensor) -> Tensor:
    right = (classes == labels) & (labels >= 0)
    return right if run.data.ignore_index is None else right & (labels != run.data.ignore_index)


def _flipped(
    run: Run, classes: Tensor, distances: Tensor, labels: Tensor, constants: PathConstants, eps: Sequence[float]
) -> list[int] | None:
    if not np.isfinite(constants.collective):
        return None
    right = distances[_right(run, classes, labels)]
    return collectively_flipped(right, [constants.collective * radius for radius in eps])


def _summed(images: Sequence[ImageCertificate], eps: Sequence[float], run: Run) -> dict[str, Any]:
    """The scores of a norm over all images, at each radius and along the curve."""
    tables = torch.stack([image.tables for image in images]).sum(dim=0).numpy()
    total = int(tables[0].sum())
    clean = scores_from_counts(tables[0], run.model.task)
    rows = [_row(images, tables, number, radius, run) for number, radius in enumerate(eps, start=1)]
    curve = torch.stack([image.curve for image in images]).sum(dim=0).tolist()
    return {
        "clean": {name: clean[name] for name in SHOWN[run.model.task]},
        "rows": rows,
        "curve": [[radius, count / total] for radius, count in zip(curve_radii(eps), curve, strict=True)],
        "constants": _constants(images),
        "median_feature_norm": _median([image.feature_norm for image in images if image.feature_norm is not None]),
        "pictures": [image.picture for image in images if image.picture is not None],
    }


def _median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if values else None


def _row(images: Sequence[ImageCertificate], tables: np.ndarray, number: int, radius: float, run: Run) -> dict:
    total = int(tables[0].sum())
    row = {"radius": radius, **_scores(tables[number], tables[0], run)}
    row["certified_share"] = int(tables[number].sum()) / total
    row["per_pixel_accuracy"], row["collective_accuracy"] = row["accuracy"], None
    if images[0].flipped is not None:
        right = [int(image.tables[0].diagonal().sum()) for image in images]
        collective = [count - image.flipped[number - 1] for count, image in zip(right, images, strict=True)]
        own = [int(image.tables[number].diagonal().sum()) for image in images]
        row["collective_accuracy"] = sum(collective) / total
        # Both hold of each image, so the better one does.
        row["accuracy"] = sum(map(max, own, collective)) / total
    return row


def _scores(certified: np.ndarray, all_pixels: np.ndarray, run: Run) -> dict[str, float]:
    scores = {"accuracy": guaranteed_accuracy(certified, all_pixels)}
    if run.model.task == "segmentation":
        scores["mean_iou"] = guaranteed_mean_iou(certified, all_pixels)
    return scores


def _constants(images: Sequence[ImageCertificate]) -> dict[str, float]:
    """Of each constant the largest that was used; images of different sizes have different ones."""
    found = [image.constants for image in images if image.constants is not None]
    if not found:
        return {}
    return {name: max(one.details[name] for one in found) for name in found[0].details}
