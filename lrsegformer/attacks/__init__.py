"""
Attacks on any SegFormer, ours or stock, of either task.

They work on images in [0, 1] ([`PixelModel`]), inside a ball of a norm around the clean image ([`Threat`]), and
maximise one of the [`OBJECTIVES`]. Names are loaded on first use. An attack that is called like its file is imported
from there: `from lrsegformer.attacks.pgd import pgd`.
"""

from __future__ import annotations

from lrsegformer._lazy import lazy_attributes

_HOME_OF_NAME = {
    "AttackResult": "base",
    "OBJECTIVES": "objectives.table",
    "PixelModel": "pixel_model",
    "Threat": "threat",
    "run_attack": "run",
}

__all__ = sorted(_HOME_OF_NAME)

__getattr__ = lazy_attributes(__name__, _HOME_OF_NAME)


def __dir__() -> list[str]:
    return __all__
