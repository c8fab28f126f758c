"""Lipschitz layers: one strategy, one file. The classes are imported when they are asked for."""

from lrsegformer._lazy import lazy_attributes
from lrsegformer.layers.registry import (
    STRATEGIES,
    build_lipschitz_conv1x1,
    build_lipschitz_conv2d,
    build_lipschitz_linear,
)

_CLASSES = {
    "LipschitzConstraint": "base",
    "LipschitzConv1x1": "conv",
    "LipschitzConv2d": "conv",
    "LipschitzLinear": "base",
    **STRATEGIES.homes(),
}

__all__ = ["STRATEGIES", "build_lipschitz_conv1x1", "build_lipschitz_conv2d", "build_lipschitz_linear", *_CLASSES]
__getattr__ = lazy_attributes(__name__, _CLASSES)
