"""Data sets on the Hugging Face Hub, for both tasks."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lrsegformer.data.ade20k import ADE20K_NAMES
from lrsegformer.data.arguments import DataArguments
from lrsegformer.data.classes.names import read_class_names
from lrsegformer.data.classes.options import label_space_of_masks
from lrsegformer.data.examples import DataSource, Example, check_sizes, open_image, open_mask
from lrsegformer.data.files.pixels import ImageReading, holds_colours
from lrsegformer.data.files.scale import reading_of
from lrsegformer.data.hub_access import load_splits
from lrsegformer.data.labels import LabelSpace
from lrsegformer.errors import InputError

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)

ADE20K_ID = "merve/scene_parse_150"
IMAGENET_ID = "ILSVRC/imagenet-1k"
DEFAULT_IDS = {"segmentation": ADE20K_ID, "classification": IMAGENET_ID}
_SCRIPT_COPIES = {"zhoubolei/scene_parse_150": ADE20K_ID, "scene_parse_150": ADE20K_ID}
_IMAGE_COLUMNS = ("image", "images", "img", "pixel_values", "jpg", "png", "webp")
_MASK_COLUMNS = ("annotation", "mask", "label", "labels", "segmentation", "segmentation_mask", "semantic_mask", "seg")
_CLASS_COLUMNS = ("label", "labels", "class", "cls", "fine_label", "target")


class HubSource:
    """
    One split of a Hub data set.

    Args:
        rows (`datasets.Dataset`): the split.
        name (`str`): data set and split, for messages.
        image_column, label_column (`str`): columns of the image and of the mask or class.
        classes (`tuple[str, ...]`, *optional*): the strings of a label column of strings, in the order of the index.

    Attributes:
        has_colours (`bool`): whether masks are read as colours; `False` until it is set.
        reading ([`~lrsegformer.data.files.pixels.ImageReading`]): how the images are read.
    """

    def __init__(
        self,
        rows: datasets.Dataset,
        name: str,
        image_column: str,
        label_column: str,
        classes: tuple[str, ...] | None = None,
        reading: ImageReading | None = None,
    ):
        from datasets import Image

        # Undecoded, so that opening is ours: raw palette indices, orientation, and errors that name the row.
        rows = rows.select_columns([image_column, label_column]).cast_column(image_column, Image(decode=False))
        self.has_masks = isinstance(rows.features[label_column], Image)
        if self.has_masks:
            rows = rows.cast_column(label_column, Image(decode=False))
        self.rows, self.name, self.image_column, self.label_column = rows, name, image_column, label_column
        self.classes = {label: index for index, label in enumerate(classes)} if classes else None
        self.has_colours = False
        self.reading = reading or ImageReading()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        row = self.rows[int(index)]
        name = f"{self.name} row {index}"
        image = open_image(_content(row[self.image_column], name), name, self.reading)
        if not self.has_masks:
            return Example(image, self._class_index(row[self.label_column], name), name)
        mask = open_mask(_content(row[self.label_column], name), self.mask_name(index), self.has_colours, self.reading)
        check_sizes(image, mask, name, self.mask_name(index))
        return Example(image, mask, name)

    def mask(self, index: int) -> np.ndarray:
        """The raw mask alone, without reading the image."""
        name = self.mask_name(index)
        return open_mask(self._mask_content(index), name, self.has_colours, self.reading)

    def mask_name(self, index: int) -> str:
        """Row and column, for messages."""
        return f"{self.name} row {index} ({self.label_column})"

    def is_coloured(self) -> bool:
        """Whether the first mask is an image of colours."""
        return holds_colours(self._mask_content(0), self.mask_name(0), self.reading)

    def image_content(self, index: int) -> bytes | Path:
        """The encoded image of a row."""
        row = self.rows.select_columns([self.image_column])[int(index)]
        return _content(row[self.image_column], self.image_name(index))

    def image_name(self, index: int) -> str:
        """The row, for messages."""
        return f"{self.name} row {index}"

    def _mask_content(self, index: int) -> bytes | Path:
        row = self.rows.select_columns([self.label_column])[int(index)]
        return _content(row[self.label_column], self.mask_name(index))

    def class_indices(self) -> np.ndarray:
        """The class of every row, without reading an image."""
        labels = self.rows.select_columns([self.label_column])[:][self.label_column]
        return np.array([self._class_index(label, self.name) for label in labels], dtype=np.int64)

    def _class_index(self, value: Any, name: str) -> int:
        if self.classes is None:
            if value is None:
                raise InputError(f"{name}: no label; give a split with labels")
            return int(value)
        if value not in self.classes:
            raise InputError(f"{name}: class {value!r} does not occur in training; correct --label_column or the data")
        return self.classes[value]


def load_hub(arguments: DataArguments, task: str) -> DataSource:
    """
    Opens a Hub data set for `"segmentation"` or `"classification"`; says its size before it is downloaded.

    Raises:
        InputError: the id cannot be reached, is gated, is a script, or lacks a split or column.
    """
    dataset_id = arguments.dataset or DEFAULT_IDS[task]
    if dataset_id in _SCRIPT_COPIES:
        logger.warning(
            "%s is a script data set, which `datasets` no longer runs; using %s, the same images and masks as Parquet",
            dataset_id,
            _SCRIPT_COPIES[dataset_id],
        )
        dataset_id = _SCRIPT_COPIES[dataset_id]
    splits = load_splits(dataset_id, arguments)
    features = splits[arguments.train_split].features
    image_column, label_column = find_columns(features, task, arguments, dataset_id)
    names = _class_names(splits[arguments.train_split], label_column, task)
    strings = names if getattr(features[label_column], "dtype", None) == "string" else None
    reading = reading_of(arguments)
    train, validation = (
        HubSource(splits[split], f"{dataset_id} {split}", image_column, label_column, strings, reading)
        for split in (arguments.train_split, arguments.validation_split)
    )
    return DataSource(
        train, validation, _label_space(arguments, dataset_id, names, train, validation), dataset_id, dataset_id
    )


def find_columns(features: datasets.Features, task: str, arguments: DataArguments, where: str) -> tuple[str, str]:
    """
    Returns the names of the image and the label column, by option, else by feature type and usual name.

    Raises:
        InputError: an option names no column, or the columns cannot be told apart.
    """
    from datasets import ClassLabel, Image

    columns = ", ".join(features)
    for option in ("image_column", "label_column"):
        if getattr(arguments, option) is not None and getattr(arguments, option) not in features:
            raise InputError(f"--{option} {getattr(arguments, option)}: {where} has the columns {columns}; name one")
    pictures = [name for name, feature in features.items() if isinstance(feature, Image)]
    image = arguments.image_column
    if image is None:
        image = _choose([name for name in pictures if name != arguments.label_column], _IMAGE_COLUMNS)
    if image is None:
        raise InputError(f"{where}: no image column among {columns}; name it with --image_column")
    if task == "segmentation":
        candidates, usual = [name for name in pictures if name != image], _MASK_COLUMNS
    else:
        candidates = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
        candidates = candidates or [name for name in _CLASS_COLUMNS if name in features]
        usual = _CLASS_COLUMNS
    label = arguments.label_column or _choose(candidates, usual)
    if label is None:
        raise InputError(f"{where}: no label column for {task} among {columns}; name it with --label_column")
    if task == "segmentation" and label not in pictures:
        raise InputError(f"--label_column {label}: it holds no masks; for {where} name one of {', '.join(pictures)}")
    return image, label


def _choose(candidates: list[str], usual: tuple[str, ...]) -> str | None:
    known = [name for name in usual if name in candidates]
    return known[0] if known else candidates[0] if len(candidates) == 1 else None


def _class_names(rows: datasets.Dataset, label_column: str, task: str) -> tuple[str, ...] | None:
    """Returns the class names of a classification column, or `None` for masks."""
    from datasets import ClassLabel

    feature = rows.features[label_column]
    if task == "segmentation":
        return None
    if isinstance(feature, ClassLabel):
        return tuple(feature.names)
    values = [value for value in rows.unique(label_column) if value is not None]
    if feature.dtype == "string":
        return tuple(sorted(values))
    return tuple(f"class_{index}" for index in range(int(max(values, default=-1)) + 1))


def _label_space(
    arguments: DataArguments, dataset_id: str, names: tuple[str, ...] | None, train: HubSource, validation: HubSource
) -> LabelSpace:
    if names is not None:  # classification
        given = read_class_names(arguments.class_names).names if arguments.class_names else names
        if len(given) < len(names):
            raise InputError(
                f"--class_names: {len(given)} names for the {len(names)} classes of {dataset_id}; give all"
            )
        return LabelSpace(given)
    known = (ADE20K_NAMES, True) if dataset_id == ADE20K_ID else (None, False)
    return label_space_of_masks(arguments, train, validation, dataset_id, *known)


def _content(cell: dict[str, Any] | None, name: str) -> bytes | Path:
    if not cell or not (cell.get("bytes") or cell.get("path")):
        raise InputError(f"{name}: the image is missing; give a split whose images are complete")
    return cell["bytes"] or Path(cell["path"])
