"""The numbers of one cell: counts, gradients or reliability, over the batches of all processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lrsegformer.attacks.base import AttackResult, count_pixels, value_and_gradient
from lrsegformer.attacks.objectives.pixels import cross_entropy
from lrsegformer.attacks.pixel_model import PixelModel
from lrsegformer.attacks.registry import ATTACKS, at_home
from lrsegformer.attacks.run import run_attack
from lrsegformer.attacks.threat import Threat
from lrsegformer.evaluation.scores import without_nan
from lrsegformer.robustness.bench.runs import Run, over_batches, predicted
from lrsegformer.robustness.conditions import Condition
from lrsegformer.robustness.metrics.counting import SparseTable, image_tables, sparse, to_json, worst_per_image
from lrsegformer.robustness.metrics.local_lipschitz import local_lipschitz_estimate
from lrsegformer.robustness.metrics.reliability import CalibrationBins
from lrsegformer.robustness.metrics.small_objects import SmallObjects
from lrsegformer.robustness.metrics.worst_case import attack_counts
from lrsegformer.robustness.report.sheets import SHOWN_IMAGES, Sample
from lrsegformer.robustness.subset import Batch

SMALL_GRADIENT = 1e-8


class ImageCounts(NamedTuple):
    """What one image adds to a cell; the clean image's table stands first."""

    position: int
    tables: list[SparseTable]
    distance: float | None = None
    broken_by: str | None = None
    at_target: tuple[int, int] | None = None
    sample: Sample | None = None
    warnings: Sequence[str] = ()


def measure(run: Run, condition: Condition) -> tuple[dict[str, Any], list[Sample]]:
    """
    The results of a cell, the same in every process.

    Args:
        run ([`Run`]): model and data.
        condition ([`~lrsegformer.robustness.conditions.Condition`]): what to do to them.

    Returns:
        JSON values for the cell (`counts`, and by kind `iou_counts`, `distances`, `image_tables`, `measured`,
        `warnings`), and pictures of the first images, where the condition changes any.
    """
    if condition.kind == "gradients":
        return {"measured": _gradients(run)}, []
    if condition.kind == "reliability":
        return {"measured": _reliability(run)}, []
    images = sorted(over_batches(run, lambda batch: _count_batch(run, condition, batch)), key=lambda one: one.position)
    num_labels = run.data.num_labels
    tables = [one.tables for one in images]
    if condition.kind == "attack" and run.model.task == "segmentation":
        results: dict[str, Any] = attack_counts(tables, num_labels)
    else:
        results = {"counts": to_json(worst_per_image(tables, num_labels))}
    if images and images[0].distance is not None:
        results["distances"] = without_nan([one.distance for one in images])
        if run.model.task == "segmentation":
            results["image_tables"] = [[table.to_json() for table in candidates] for candidates in tables]
    if images and images[0].at_target is not None:
        hits, counted = (sum(numbers) for numbers in zip(*(one.at_target for one in images), strict=True))
        results["measured"] = {"target_reached": hits / counted if counted else None}
    results["warnings"] = list(dict.fromkeys(text for one in images for text in one.warnings))
    flags = ATTACKS[condition.name].flags if condition.kind == "attack" else None
    if images and flags is not None:
        results["warnings"] += at_home(flags)([one.broken_by for one in images])
    return results, [one.sample for one in images if one.sample is not None]


def attack_batch(model: PixelModel, batch: Batch, condition: Condition, seed: int) -> AttackResult:
    """Attack a batch as a condition says; where it has no radius, the smallest perturbation is looked for."""
    if condition.radius is None:
        threat = Threat.unlimited(condition.norm, batch.images)
    else:
        threat = Threat.parse(condition.norm, condition.radius)
    numbers = {"steps": condition.steps, "restarts": condition.restarts, "targeted": condition.targeted}
    return run_attack(
        condition.name, model, batch.images, batch.labels, threat, seed=seed, image_ids=batch.ids, **numbers
    )


def _count_batch(run: Run, condition: Condition, batch: Batch) -> list[ImageCounts]:
    before = predicted(run, batch, batch.images)
    tables = [_tables(run, before, batch.labels)]
    if condition.kind != "attack":
        return [
            ImageCounts(position, [tables[0][row]], sample=_sample(run, condition, batch, row, None, before, before))
            for row, position in enumerate(batch.positions)
        ]
    attacked = attack_batch(run.model, batch, condition, run.seed)
    after = predicted(run, batch, attacked.images)
    tables += [_tables(run, after, batch.labels)] if attacked.counts is None else candidate_tables(attacked.counts)
    at_target = None if attacked.targets is None else _pixels_at_target(run, after, attacked.targets)
    distances = attacked.distances
    if distances is not None:  # in the units in which radii are given
        distances = (distances / Threat.parse(condition.norm, 1.0).radius).tolist()
    return [
        ImageCounts(
            position,
            [candidate[row] for candidate in tables],
            None if distances is None else distances[row],
            None if attacked.broken_by is None else attacked.broken_by[row],
            None if at_target is None else at_target[row],
            _sample(run, condition, batch, row, attacked.images, before, after),
            attacked.warnings,
        )
        for row, position in enumerate(batch.positions)
    ]


def candidate_tables(counts: Tensor) -> list[list[SparseTable]]:
    """Of each candidate but the first, which is the clean image and has been counted, the images' tables."""
    return [[sparse(table) for table in candidate] for candidate in counts.unbind(dim=1)[1:]]


def _pixels_at_target(run: Run, predictions: Tensor, targets: Tensor) -> list[tuple[int, int]]:
    """Of each image the pixels that are predicted as their target, and those that count."""
    tables = _tables(run, predictions, targets)
    return [(table.num_right(run.data.num_labels), int(table.counts.sum())) for table in tables]


def _tables(run: Run, predictions: Tensor, labels: Tensor) -> list[SparseTable]:
    return image_tables(predictions, labels, run.data.num_labels, run.data.ignore_index)


def _sample(
    run: Run, condition: Condition, batch: Batch, row: int, changed: Tensor | None, before: Tensor, after: Tensor
) -> Sample | None:
    """
    The picture of an image that the condition changes, of the first ones alone; of corrupted ones the clean image is
    read once more.
    """
    if batch.positions[row] >= SHOWN_IMAGES:
        return None
    if condition.kind == "corruption":
        clean = run.data.clean.dataset[batch.positions[row]]["pixel_values"][None].to(batch.images)
        before, changed = predicted(run, batch, clean), batch.images
        return _picture(clean[0], changed[row], batch.labels[row], before[0], after[row])
    if changed is None:
        return None
    return _picture(batch.images[row], changed[row], batch.labels[row], before[row], after[row])


def _picture(clean: Tensor, perturbed: Tensor, truth: Tensor, before: Tensor, after: Tensor) -> Sample:
    images = [(image * 255).round().byte().permute(1, 2, 0).cpu().numpy() for image in (clean, perturbed)]
    return Sample(*images, *(classes.cpu().numpy() for classes in (truth, before, after)))


def _gradients(run: Run) -> dict[str, float]:
    """The share of input gradients, of the cross-entropy summed over an image's pixels, that hide from float32."""

    def count(batch: Batch) -> list[tuple[int, int]]:
        _, _, gradient = value_and_gradient(run.model, batch.images, batch.labels, cross_entropy)
        # The objective is a mean; a sum does not hang on how many pixels an image has.
        summed_gradient = gradient * count_pixels(batch.labels, run.model.num_labels).view(-1, 1, 1, 1)
        return [(int((summed_gradient.abs() < SMALL_GRADIENT).sum()), gradient.numel())]

    small, entries = (sum(counts) for counts in zip(*over_batches(run, count), strict=True))
    return {"small_gradient_share": small / entries}


def _reliability(run: Run) -> dict[str, Any]:
    """Calibration, small objects and slopes at the data; nan is `None`."""
    data = run.data
    segments = run.model.task == "segmentation"

    def add(batch: Batch) -> list[tuple[Tensor, np.ndarray, int, list[tuple[int, float]]]]:
        bins = CalibrationBins(data.ignore_index)
        objects = SmallObjects(data.num_labels, data.ignore_index)
        with torch.no_grad():
            logits = run.model(batch.images)
            bins.add_batch(logits, batch.labels)
            if segments:
                for prediction, label in zip(predicted(run, batch, batch.images), batch.labels, strict=True):
                    objects.add(prediction, label)
        slopes = local_lipschitz_estimate(run.model, batch.images, seed=run.seed).tolist()
        return [(bins.sums, objects.sums, objects.num_objects, list(zip(batch.positions, slopes, strict=True)))]

    bins = CalibrationBins(data.ignore_index)
    objects = SmallObjects(data.num_labels, data.ignore_index)
    slopes: dict[int, float] = {}
    for sums, object_sums, num_objects, found in over_batches(run, add):
        bins.add_sums(sums)
        objects.sums += object_sums
        objects.num_objects += num_objects
        slopes.update(found)
    ordered = np.array([slopes[position] for position in sorted(slopes)])
    results = {**bins.compute(), **(objects.compute() if segments else {})}
    results["local_lipschitz_estimate_median"] = float(np.median(ordered))
    results["local_lipschitz_estimate_largest"] = float(ordered.max())
    return without_nan(results)
