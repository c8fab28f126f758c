"""A saved model applied to images: predictions of files, and scores of a data set by every protocol."""

from lrsegformer._lazy import lazy_attributes

_HOMES = {
    "ClassPrediction": "prediction",
    "MapPrediction": "prediction",
    "Predictor": "predictor",
}

__all__ = sorted(_HOMES)
__getattr__ = lazy_attributes(__name__, _HOMES)
