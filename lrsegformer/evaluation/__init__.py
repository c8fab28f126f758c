"""Scores from one confusion matrix, predictions at full resolution, and the pictures of a run.

Names are loaded on first use: `evaluate` and `matplotlib` take seconds to import and most callers need neither.
"""

from __future__ import annotations

from lrsegformer._lazy import lazy_attributes

_HOME_OF_NAME = {
    "ConfusionMatrix": "confusion",
    "confusion_counts": "scores",
    "scores_from_counts": "scores",
    "largest_class": "prediction",
    "predict_classes": "prediction",
    "predict_pixels": "prediction",
    "holds_bounds": "curves",
    "palette": "figures",
    "save_bounds": "curves",
    "save_classification_samples": "figures",
    "save_curves": "curves",
    "save_samples": "figures",
}

__all__ = sorted(_HOME_OF_NAME)

__getattr__ = lazy_attributes(__name__, _HOME_OF_NAME)


def __dir__() -> list[str]:
    return __all__
