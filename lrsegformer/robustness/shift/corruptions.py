"""
The corruptions of ImageNet-C and four more, applied in flight to the decoded image at its own size.

The definitions are those of Hendrycks and Dietterich 2019 (arXiv 1903.12261) as the package `imagecorruptions-imaug`
has them; it is imported when the first image is corrupted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePath

import numpy as np
from PIL import Image

from lrsegformer.data.dataset import ImageDataset
from lrsegformer.data.examples import Example, ExampleSource
from lrsegformer.errors import InputError
from lrsegformer.extras import require
from lrsegformer.robustness.shift.corruption_names import check_corruption

_SMALLEST_SIDE = 32  # the package takes nothing smaller
# These two ask the operating system for randomness unless they are given a seed; numpy's state does not reach them.
_WITH_SEED_ARGUMENT = ("impulse_noise", "glass_blur")
_DRAWS = 64


def corrupt(image: Image.Image | np.ndarray, name: str, severity: int, seed: int) -> np.ndarray:
    """
    Corrupt an image. The result depends on the four arguments alone, and numpy's global random state stays as it was.

    An image with a side below 32 pixels is continued by reflection to 32, corrupted, and cut back to its size. Not
    thread-safe: the package draws from numpy's global state, so other threads must not draw meanwhile.

    Args:
        image (`PIL.Image.Image` of mode RGB, or `numpy.ndarray`): uint8, shape `(height, width, 3)`; not changed.
        name (`str`): one of the 19 [`~lrsegformer.robustness.shift.corruption_names.CORRUPTIONS`].
        severity (`int`): from 1 to 5.
        seed (`int`): of the random draws, not negative; see [`image_seed`]. It is mixed with the name and severity.

    Returns:
        `numpy.ndarray`: uint8, same shape.

    Raises:
        [`~lrsegformer.errors.InputError`]: the corruption, severity or seed is out of range, the image is not 8-bit
            RGB, or the package is missing.
    """
    check_corruption(name, severity)
    if seed < 0:
        raise InputError(f"seed {seed} of {name}: give a whole number of at least 0")
    if isinstance(image, Image.Image) and image.mode != "RGB":
        raise InputError(f"an image of mode {image.mode} cannot be corrupted: convert it to RGB first")
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise InputError(
            f"an image of type {pixels.dtype} and shape {pixels.shape} cannot be corrupted: give uint8 pixels of "
            "shape (height, width, 3)"
        )
    height, width = pixels.shape[:2]
    missing = [(0, max(0, _SMALLEST_SIDE - side)) for side in (height, width)]
    if any(after for _, after in missing):
        pixels = np.pad(pixels, (*missing, (0, 0)), mode="symmetric")
    return np.ascontiguousarray(_corrupted(pixels, name, severity, seed)[:height, :width])


def image_seed(image_id: str, seed: int = 0) -> int:
    """
    The seed of an image's random draws, from its id and the run's seed: the same in any order, subset and process.

    Of a path only the last two parts count, so that it does not matter where the data set lies.

    Args:
        image_id (`str`): the example's name: its file, or data set and row.
        seed (`int`, *optional*, defaults to 0): the run's.
    """
    return _hash(f"{'/'.join(PurePath(image_id).parts[-2:])}\n{seed}")


class CorruptedSource:
    """
    The examples of a source with their images corrupted; targets and names stay. Picklable where the source is.

    Args:
        source ([`~lrsegformer.data.examples.ExampleSource`]): the clean examples.
        name (`str`): one of the 19 [`~lrsegformer.robustness.shift.corruption_names.CORRUPTIONS`].
        severity (`int`): from 1 to 5.
        seed (`int`, *optional*, defaults to 0): the run's; see [`image_seed`].
    """

    def __init__(self, source: ExampleSource, name: str, severity: int, seed: int = 0):
        check_corruption(name, severity)
        self.source, self.name, self.severity, self.seed = source, name, severity, seed

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        example = self.source[index]
        pixels = corrupt(example.image, self.name, self.severity, image_seed(example.name, self.seed))
        return Example(Image.fromarray(pixels), example.target, example.name)


class CorruptedDataset(ImageDataset):
    """
    The same images as a data set, in the same order, corrupted at their own size before its transform.

    Args:
        dataset ([`~lrsegformer.data.dataset.ImageDataset`]): with an evaluation transform.
        name (`str`): one of the 19 [`~lrsegformer.robustness.shift.corruption_names.CORRUPTIONS`].
        severity (`int`): from 1 to 5.
        seed (`int`, *optional*, defaults to 0): the run's; see [`image_seed`].
    """

    def __init__(self, dataset: ImageDataset, name: str, severity: int, seed: int = 0):
        source = CorruptedSource(dataset.source, name, severity, seed)
        super().__init__(source, dataset.label_space, dataset.transform, dataset.seed, dataset.indices)


def _corrupted(pixels: np.ndarray, name: str, severity: int, seed: int) -> np.ndarray:
    package = require("imagecorruptions")
    with _private_random_state():
        for draw in range(_DRAWS):
            draw_seed = _hash(f"{seed}\n{name}\n{severity}\n{draw}")
            np.random.seed(draw_seed)
            options = {"seed": draw_seed} if name in _WITH_SEED_ARGUMENT else {}
            try:
                # On small images spatter may draw no drop at all and then divides 0 by 0, which would come out as a
                # black image: such a draw is made again.
                with np.errstate(invalid="raise"):
                    return package.corrupt(pixels, severity=severity, corruption_name=name, **options)
            except FloatingPointError:
                continue
    height, width = pixels.shape[:2]
    raise InputError(f"{name} at severity {severity} has no result for an image of {width}x{height}: leave it out")


@contextmanager
def _private_random_state() -> Iterator[None]:
    state = np.random.get_state()
    try:
        yield
    finally:
        np.random.set_state(state)


def _hash(text: str) -> int:
    # 32 bits: what numpy's and numba's generators take as a seed.
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "little")
