"""What the values in a mask mean: the classes, their names, and which values are void."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from lrsegformer.errors import InputError

logger = logging.getLogger(__name__)

_INVALID = -1  # never a class and never an ignore index


@dataclass(frozen=True)
class LabelSpace:
    """
    The classes of a data set and the way its mask files encode them.

    Up to 255 classes, encoded masks are uint8 and 255 marks the pixels that never count. With more classes 255 is a
    class like any other; masks are then int16 and -100 marks those pixels (see `ignore_index`).

    Args:
        names (`tuple[str, ...]`): one name a class, in the order of the class index.
        ignore_label (`int`, *optional*): the raw mask value that means void, besides 255.
        reduce_zero_label (`bool`, defaults to `False`): raw 0 means void, and raw value v > 0 is class v - 1.

    Raises:
        InputError: fewer than two classes, or a name that stands twice.
    """

    names: tuple[str, ...]
    ignore_label: int | None = None
    reduce_zero_label: bool = False

    def __post_init__(self):
        if len(self.names) < 2:
            raise InputError(f"label names {list(self.names)}: at least two classes are needed; see --class_names")
        repeated = sorted({name for name in self.names if self.names.count(name) > 1})
        if repeated:
            raise InputError(f"label name {repeated[0]!r} stands more than once; make the class names unique")

    @property
    def num_labels(self) -> int:
        return len(self.names)

    @property
    def id2label(self) -> dict[int, str]:
        return dict(enumerate(self.names))

    @property
    def label2id(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.names)}

    @property
    def ignore_index(self) -> int:
        """The value, in encoded masks, of pixels that never count: 255, or -100 with more than 255 classes."""
        return ignore_index_of(self.num_labels)

    @property
    def mask_dtype(self) -> type[np.integer]:
        return np.uint8 if self.num_labels <= 255 else np.int16

    def encode_mask(self, raw: np.ndarray, where: str) -> np.ndarray:
        """
        Turns the raw values of a mask into class indices.

        Args:
            raw (`numpy.ndarray`): integers of shape `(height, width)`.
            where (`str`): the file, for the error message.

        Returns:
            `numpy.ndarray` of the same shape, uint8 (int16 above 255 classes), `ignore_index` where `raw` is void.

        Raises:
            InputError: a value is neither a class nor void.
        """
        low, high = int(raw.min(initial=0)), int(raw.max(initial=0))
        if high - low > 65535:
            raise self._outside(high if high > 65535 else low, where)
        table, encoding = _encoding_tables(self, low, high)
        indices = raw if low == 0 else raw.astype(np.int64) - low
        # The pixels are looked through only where the range of values has a gap.
        if encoding is None:
            is_invalid = (table == _INVALID).take(indices)
            if is_invalid.any():
                raise self._outside(int(raw[is_invalid][0]), where)
            encoding = table.astype(self.mask_dtype)
        return encoding.take(indices)

    def encode_class(self, index: int, where: str) -> int:
        """Returns a class index unchanged, or raises `InputError` when it is not one of the classes."""
        if not 0 <= index < self.num_labels:
            raise InputError(
                f"{where}: class {index} is outside 0..{self.num_labels - 1}; give a split with labels, or all names "
                "by --class_names"
            )
        return index

    def _outside(self, value: int, where: str) -> InputError:
        first = int(self.reduce_zero_label)
        void = [0] * self.reduce_zero_label + [255] * (self.num_labels <= 255)
        void += [self.ignore_label] * (self.ignore_label is not None)
        shown = " and ".join(str(number) for number in void) or "none"
        return InputError(
            f"{where}: mask value {value} is outside the {self.num_labels} classes ({first}.."
            f"{first + self.num_labels - 1}; void: {shown}); correct the mask, or set --ignore_label, "
            "--reduce_zero_label or --class_names"
        )


def ignore_index_of(num_labels: int) -> int:
    """The value, in encoded masks of so many classes, of pixels that never count: 255, or -100 above 255 classes."""
    return 255 if num_labels <= 255 else -100


@lru_cache(maxsize=64)
def _encoding_tables(space: LabelSpace, low: int, high: int) -> tuple[np.ndarray, np.ndarray | None]:
    """The code of each raw value from `low` to `high` as int16, and in the masks' type if none of them is invalid."""
    raw = np.arange(low, high + 1)
    classes = raw - int(space.reduce_zero_label)
    void = np.zeros(len(raw), dtype=bool)
    if space.num_labels <= 255:
        void |= raw == 255
    if space.reduce_zero_label:
        void |= raw == 0
    if space.ignore_label is not None:
        void |= raw == space.ignore_label
    table = np.where((classes >= 0) & (classes < space.num_labels), classes, _INVALID)
    table = np.where(void, space.ignore_index, table).astype(np.int16)
    return table, None if (table == _INVALID).any() else table.astype(space.mask_dtype)


def space_of_masks(
    masks: Iterable[np.ndarray], count: int, ignore_label: int | None, reduce_zero_label: bool, where: str
) -> LabelSpace:
    """
    Builds a label space from the values that the masks of a data set use, with the names `class_0`, `class_1`, ...

    A class keeps its raw value as its index, so values that never occur become classes without pixels.

    Args:
        masks (iterable of `numpy.ndarray`): raw masks of all splits.
        count (`int`): how many there are, for the progress bar.
        where (`str`): the data set, for messages.

    Raises:
        InputError: fewer than two classes are found, or more than 1000 (the masks then hold something else).
    """
    from tqdm.auto import tqdm

    values: set[int] = set()
    for mask in tqdm(masks, total=count, desc="finding the classes in the masks", unit="mask"):
        values.update(
            np.flatnonzero(np.bincount(mask.ravel())).tolist() if mask.dtype == np.uint8 else np.unique(mask).tolist()
        )
    used = sorted(values - {255, ignore_label} - ({0} if reduce_zero_label else set()))
    num_labels = used[-1] + 1 - int(reduce_zero_label) if used else 0
    if used and used[0] < 0 or not 2 <= num_labels <= 1000:
        shown = ", ".join(str(value) for value in sorted(values)[:8])
        raise InputError(
            f"{where}: the masks hold the values {shown}{', ...' if len(values) > 8 else ''}, which are no class "
            "indices 0, 1, 2, ... (255 is void); rewrite the masks or give --class_names"
        )
    logger.warning(
        "%s: found %d classes in the masks and named them class_0 to class_%d; --class_names gives them names",
        where,
        num_labels,
        num_labels - 1,
    )
    return LabelSpace(tuple(f"class_{index}" for index in range(num_labels)), ignore_label, reduce_zero_label)
