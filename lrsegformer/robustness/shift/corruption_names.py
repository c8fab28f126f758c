"""The names of the corruptions and what stands for several of them. Light on purpose: option parsing imports it."""

from __future__ import annotations

from collections.abc import Iterable

from lrsegformer.errors import InputError

# In the order of ImageNet-C's tables.
COMMON_CORRUPTIONS = tuple(
    "gaussian_noise shot_noise impulse_noise defocus_blur glass_blur motion_blur zoom_blur snow frost fog brightness "
    "contrast elastic_transform pixelate jpeg_compression".split()
)
EXTRA_CORRUPTIONS = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
CORRUPTIONS = COMMON_CORRUPTIONS + EXTRA_CORRUPTIONS
SEVERITIES = (1, 2, 3, 4, 5)
_SETS = {"common": COMMON_CORRUPTIONS, "extra": EXTRA_CORRUPTIONS, "all": CORRUPTIONS}


def corruption_names(choices: Iterable[str]) -> tuple[str, ...]:
    """
    The corruptions that a user's words stand for, each once, in the order given.

    Args:
        choices (iterable of `str`): names, or `"common"` (the 15 of ImageNet-C), `"extra"` (4 more) or `"all"`.

    Raises:
        [`~lrsegformer.errors.InputError`]: a word is neither.
    """
    names: dict[str, None] = {}
    for choice in choices:
        if choice not in _SETS:
            check_corruption(choice)
        names.update(dict.fromkeys(_SETS.get(choice, (choice,))))
    return tuple(names)


def check_corruption(name: str, severity: int = 1) -> None:
    """Raises `InputError` unless this is one of the 19 corruptions and one of the severities 1 to 5."""
    if name not in CORRUPTIONS:
        raise InputError(
            f"corruption {name!r} is unknown: choose common, extra, all, or from {', '.join(CORRUPTIONS)}"
        )
    if severity not in SEVERITIES:
        raise InputError(f"severity {severity!r} of {name}: give a whole number from 1 to 5")
