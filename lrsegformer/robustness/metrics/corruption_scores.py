"""The scores that sum up what corruptions do to a model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from lrsegformer.errors import InputError
from lrsegformer.robustness.shift.corruption_names import COMMON_CORRUPTIONS, SEVERITIES, check_corruption

# Error of AlexNet on ImageNet-C, mean over the five severities: what the corruption errors are divided by. Published
# with the benchmark (Hendrycks and Dietterich 2019, arXiv 1903.12261).
ALEXNET_ERRORS = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}


@dataclass(frozen=True)
class CorruptionSummary:
    """
    What the scores under corruption come to.

    Attributes:
        per_corruption (`dict[str, float]`): mean over the severities that were measured.
        mean (`float`): mean of these.
        retention (`float`): `mean` over the clean score, such as mIoU_C / mIoU; nan where the clean score is 0.
        mce (`float`, *optional*): see [`mean_corruption_error`]; `None` where it is not defined.
    """

    per_corruption: dict[str, float]
    mean: float
    retention: float
    mce: float | None


def summarise_corruptions(
    clean: float, scores: Mapping[tuple[str, int], float], task: str = "segmentation"
) -> CorruptionSummary:
    """
    Sum up one model's score (mIoU or accuracy, from 0 to 1) under corruption.

    Args:
        clean (`float`): the score of the same images without corruption.
        scores (`Mapping`): (corruption, severity) -> score; every corruption at the same severities.
        task (`str`, *optional*, defaults to `"segmentation"`):
            For `"classification"` the scores are accuracies, and the mean corruption error is given as well.

    Raises:
        [`~lrsegformer.errors.InputError`]: there are no scores, a corruption is unknown, or the corruptions were
            measured at different severities, which no mean can compare.
    """
    if not scores:
        raise InputError("no scores under corruption: measure at least one corruption before summing up")
    severities: dict[str, set[int]] = {}
    for name, severity in scores:
        check_corruption(name, severity)
        severities.setdefault(name, set()).add(severity)
    expected = next(iter(severities.values()))
    for name, found in severities.items():
        if found != expected:
            raise InputError(
                f"{name} was measured at the severities {sorted(found)}, other corruptions at {sorted(expected)}: "
                "measure all at the same ones"
            )
    per_corruption = {
        name: sum(scores[name, severity] for severity in expected) / len(expected) for name in severities
    }
    mean = sum(per_corruption.values()) / len(per_corruption)
    mce = mean_corruption_error(scores) if task == "classification" else None
    return CorruptionSummary(per_corruption, mean, mean / clean if clean else math.nan, mce)


def mean_corruption_error(accuracies: Mapping[tuple[str, int], float]) -> float | None:
    """
    The mCE of ImageNet-C, or of images corrupted in its manner.

    The mean over the 15 common corruptions c of `sum_s error(c, s) / sum_s error_AlexNet(c, s)` (arXiv 1903.12261,
    section 4), as a share: 1 is as bad as AlexNet. It means something for the 1000 ImageNet classes alone. The
    published images are JPEG files of 224 x 224 pixels: of images corrupted in memory the figure is not comparable
    with published mCE, and reports call it the in-memory mCE.

    Args:
        accuracies (`Mapping`): (corruption, severity) -> accuracy from 0 to 1.

    Returns:
        `float`, or `None` where one of the 75 accuracies is missing.
    """
    if any((name, severity) not in accuracies for name in COMMON_CORRUPTIONS for severity in SEVERITIES):
        return None
    ratios = [
        sum(1 - accuracies[name, severity] for severity in SEVERITIES) / len(SEVERITIES) / alexnet
        for name, alexnet in ALEXNET_ERRORS.items()
    ]
    return sum(ratios) / len(ratios)
