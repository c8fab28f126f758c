"""How often each class occurs, counted before training: labels that vanish are said, not trained on."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from lrsegformer.data.labels import LabelSpace, show_value
from lrsegformer.errors import InputError

logger = logging.getLogger(__name__)

SAMPLE = 400  # masks of a split that are read, which takes seconds
_LARGE_VOID_SHARE = 0.25
_LISTED = 5


class MaskSource(Protocol):
    """A source of masks that can be read without their images; `has_colours` says how."""

    has_colours: bool

    def __len__(self) -> int: ...

    def mask(self, index: int) -> np.ndarray: ...

    def mask_name(self, index: int) -> str: ...

    def is_coloured(self) -> bool: ...


def even_sample(count: int, indices: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
    """All of `count` places (or of `indices`), or `SAMPLE` evenly spaced ones where there are more."""
    places = np.arange(count) if indices is None else np.asarray(indices)
    if len(places) <= SAMPLE:
        return places
    return places[np.arange(SAMPLE) * len(places) // SAMPLE]


def value_counts(mask: np.ndarray) -> dict[int, int]:
    """The raw values of a mask and their pixels."""
    if mask.dtype == np.uint8:
        counts = np.bincount(mask.ravel(), minlength=256)
        return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
    values, numbers = np.unique(mask, return_counts=True)
    return dict(zip(values.tolist(), numbers.tolist(), strict=True))


@dataclass
class LabelSurvey:
    """
    The labels of a split.

    Attributes:
        split (`str`): `"training"` or `"validation"`.
        counts (`numpy.ndarray`): int64, pixels (classification: images) of each class.
        read, total (`int`): masks that were read, and masks of the split (of the subset that is used).
        is_subset (`bool`): whether an option leaves out some of the data set's images.
        void (`dict[int, int]`): pixels of each raw value that is void.
    """

    split: str
    counts: np.ndarray
    read: int
    total: int
    is_subset: bool
    void: dict[int, int] = field(default_factory=dict)

    @property
    def absent(self) -> np.ndarray:
        return np.flatnonzero(self.counts == 0)

    @property
    def what(self) -> str:
        return f"{self.total}" if self.read == self.total else f"{self.read} of {self.total} (evenly spaced)"


def survey_masks(
    source: MaskSource, space: LabelSpace, split: str, indices: Sequence[int] | np.ndarray | None = None
) -> LabelSurvey:
    """
    Counts the pixels of each class and of each void value in the masks of a split, or in a sample of `SAMPLE`.

    Raises:
        InputError: a value is neither a class nor void; see [`LabelSpace.encode_mask`].
    """
    chosen = even_sample(len(source), indices)
    total = len(source) if indices is None else len(indices)
    counts = np.zeros(space.num_labels, dtype=np.int64)
    void: dict[int, int] = {}
    for index in chosen:
        found = value_counts(source.mask(int(index)))
        values = np.array([list(found)], dtype=np.int64)
        encoded = space.encode_mask(values, source.mask_name(int(index)))[0]
        for value, code in zip(found, encoded.tolist(), strict=True):
            if code == space.ignore_index:
                void[value] = void.get(value, 0) + found[value]
            else:
                counts[code] += found[value]
    return LabelSurvey(split, counts, len(chosen), total, total < len(source), void)


def check_masks(surveys: Sequence[LabelSurvey], space: LabelSpace, where: str) -> None:
    """
    Says which classes have no pixels, and what share is void where it is large.

    Raises:
        InputError: a split has no pixel that counts, or training has one class alone (of all its images, not of a
            subset).
    """
    for survey in surveys:
        present = np.flatnonzero(survey.counts)
        if not len(present) or (len(present) == 1 and survey.split == "training" and not survey.is_subset):
            only = f"only {space.names[present[0]]!r} has pixels" if len(present) else "no pixel belongs to a class"
            raise InputError(
                f"{where}: in the {survey.what} {survey.split} masks {only}{_of_void(survey, space)}; say what the "
                f"mask values mean by {_remedies(survey, space)}"
            )
        if len(survey.absent):
            _report_absent(survey, space, where)
        valid, void = int(survey.counts.sum()), sum(survey.void.values())
        if void > _LARGE_VOID_SHARE * (valid + void):
            logger.warning(
                "%s: %.0f %% of the pixels of the %s %s masks are void%s; if they are a class, give %s",
                where,
                100 * void / (valid + void),
                survey.what,
                survey.split,
                _of_void(survey, space),
                _remedies(survey, space),
            )
    never = space.ignore_label
    if never is not None and all(survey.read == survey.total for survey in surveys):
        if not any(never in survey.void for survey in surveys) and not any(survey.is_subset for survey in surveys):
            logger.warning("%s: --ignore_label %d occurs in no mask", where, never)


def check_classes(indices: np.ndarray, space: LabelSpace, split: str, total: int, where: str) -> None:
    """
    Says which classes have no images.

    Args:
        indices (`numpy.ndarray`): the class of every image that is used.
        total (`int`): images of the split.

    Raises:
        InputError: a class is outside the label space.
    """
    for index in np.unique(indices).tolist():
        space.encode_class(index, f"{where} {split}")
    counts = np.bincount(indices, minlength=space.num_labels)
    survey = LabelSurvey(split, counts, len(indices), len(indices), len(indices) < total)
    if len(survey.absent):
        _report_absent(survey, space, where, "images")


def _report_absent(survey: LabelSurvey, space: LabelSpace, where: str, unit: str = "masks") -> None:
    """A warning; of a sample, in which a rare class is easily missed, only where half of the classes are absent."""
    absent = survey.absent
    shown = ", ".join(space.names[index] for index in absent[:_LISTED]) + (", ..." if len(absent) > _LISTED else "")
    constant = "; always answering the other one scores 1.0" if len(absent) == space.num_labels - 1 else ""
    is_rare = survey.read < survey.total and 2 * len(absent) < space.num_labels
    remedy = "the subset is small" if survey.is_subset else f"see {_remedies(survey, space)}"
    logger.log(
        logging.INFO if is_rare else logging.WARNING,
        "%s: %d of the %d classes never occur in the %s %s %s (%s)%s%s; %s",
        where,
        len(absent),
        space.num_labels,
        survey.what,
        survey.split,
        unit,
        shown,
        _of_void(survey, space),
        constant,
        "what a score says of them is undefined" if unit == "images" else remedy,
    )


def _of_void(survey: LabelSurvey, space: LabelSpace) -> str:
    values = sorted(survey.void, key=survey.void.__getitem__, reverse=True)[:_LISTED]
    shown = ", ".join(f"{show_value(value, space.colours)} ({survey.void[value]} pixels)" for value in values)
    return f" (void: {shown})" if shown else ""


def _remedies(survey: LabelSurvey, space: LabelSpace) -> str:
    example = " such as --mask_values 0,255" if set(survey.void) == {255} and space.num_labels == 2 else ""
    return f"--mask_values{example}, --ignore_label, --reduce_zero_label or --class_names"
