"""Lipschitz layers: one strategy, one file. The classes are imported when they are asked for."""

from importlib import import_module

from lrsegformer.layers.registry import STRATEGIES, build_lipschitz_conv1x1, build_lipschitz_linear

_CLASSES = {
    "LipschitzConstraint": "base",
    "LipschitzConv1x1": "base",
    "LipschitzLinear": "base",
    "StableSoftplusLipschitzLinear": "stable_softplus",
    "GeometricMeanLipschitzLinear": "geometric_mean",
    "SpectralNormalizedLinear": "spectral_norm",
    "OrthogonalLipschitzLinear": "orthogonal",
    "JacobianNormLipschitzLinear": "jacobian_norm",
}

__all__ = ["STRATEGIES", "build_lipschitz_conv1x1", "build_lipschitz_linear", *_CLASSES]


def __getattr__(name: str):
    if name not in _CLASSES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"lrsegformer.layers.{_CLASSES[name]}"), name)
