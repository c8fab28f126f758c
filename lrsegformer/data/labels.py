"""What the values in a mask mean: the classes, their names, and which values are void."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from lrsegformer.errors import InputError

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
        mask_values (`tuple[tuple[int, int | None], ...]`, *optional*):
            Raw values and their class index, `None` for void, in place of the rule that a value is its class. 255
            stays void where it is not among them; other values are an error.
        colours (`bool`, defaults to `False`): raw values are colours, `0xRRGGBB`, and 255 is none that means void.

    Raises:
        InputError: fewer than two classes, or a name that stands twice.
    """

    names: tuple[str, ...]
    ignore_label: int | None = None
    reduce_zero_label: bool = False
    mask_values: tuple[tuple[int, int | None], ...] | None = None
    colours: bool = False

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
        if self.mask_values is not None and (self.colours or high - low > 65535):
            return self._encode_colours(raw, where)
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

    def _encode_colours(self, raw: np.ndarray, where: str) -> np.ndarray:
        values, codes = _mapped_codes(self)
        places = np.searchsorted(values, raw).clip(max=len(values) - 1)
        is_invalid = values.take(places) != raw
        if is_invalid.any():
            raise self._outside(int(raw[is_invalid][0]), where)
        return codes.take(places)

    def encode_class(self, index: int, where: str) -> int:
        """Returns a class index unchanged, or raises `InputError` when it is not one of the classes."""
        if not 0 <= index < self.num_labels:
            raise InputError(
                f"{where}: class {index} is outside 0..{self.num_labels - 1}; give a split with labels, or all names "
                "by --class_names"
            )
        return index

    def _outside(self, value: int, where: str) -> InputError:
        if self.mask_values is not None:
            known = [show_value(number, self.colours) for number in _mapped_codes(self)[0].tolist()]
            return InputError(
                f"{where}: mask {'colour' if self.colours else 'value'} {show_value(value, self.colours)} is none of "
                f"{', '.join(known[:8])}{', ...' if len(known) > 8 else ''}; correct the mask, or add the value to "
                "--mask_values (null for void)"
            )
        first = int(self.reduce_zero_label)
        void = [0] * self.reduce_zero_label + [255] * (self.num_labels <= 255)
        void += [self.ignore_label] * (self.ignore_label is not None)
        shown = " and ".join(str(number) for number in void) or "none"
        return InputError(
            f"{where}: mask value {value} is outside the {self.num_labels} classes ({first}.."
            f"{first + self.num_labels - 1}; void: {shown}); correct the mask, or set --ignore_label, "
            "--mask_values, --reduce_zero_label or --class_names"
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
    if space.mask_values is not None:
        values, codes = _mapped_codes(space)
        is_near = (values >= low) & (values <= high)
        table = np.full(len(raw), _INVALID, dtype=np.int16)
        table[values[is_near] - low] = codes[is_near]
    return table, None if (table == _INVALID).any() else table.astype(space.mask_dtype)


@lru_cache(maxsize=64)
def _mapped_codes(space: LabelSpace) -> tuple[np.ndarray, np.ndarray]:
    """The raw values that a space with `mask_values` knows, sorted, and the code of each in the masks' type."""
    table = {} if space.colours or space.num_labels > 255 else {255: None}
    table |= dict(space.mask_values or ())
    if space.ignore_label is not None:
        table[space.ignore_label] = None
    values = sorted(table)
    codes = [space.ignore_index if table[value] is None else table[value] for value in values]
    return np.array(values, dtype=np.int32), np.array(codes, dtype=space.mask_dtype)


def show_value(value: int, is_colour: bool) -> str:
    """A raw mask value for a message: a colour as `#rrggbb`."""
    return f"#{value:06x}" if is_colour else str(value)
