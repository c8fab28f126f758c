"""The images of a report: the data set's subset, its corrupted and training views, and the shifted data sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers.image_processing_utils import BaseImageProcessor

from lrsegformer.data import DataSplits, load_data
from lrsegformer.data.arguments import DIGITS, FOLDER_OPTIONS, show_range
from lrsegformer.data.dataset import ImageDataset
from lrsegformer.data.files.pixels import ImageReading
from lrsegformer.data.files.scale import reading_of
from lrsegformer.data.labels import LabelSpace
from lrsegformer.data.processor import without_normalising
from lrsegformer.data.transforms import EvaluationTransform
from lrsegformer.errors import InputError
from lrsegformer.robustness.bench.arguments import DEFAULT_SUBSET, BenchDataArguments, RobustnessArguments
from lrsegformer.robustness.bench.runs import ScoredData
from lrsegformer.robustness.conditions import Condition
from lrsegformer.robustness.shift.corruptions import CorruptedDataset
from lrsegformer.robustness.shift.data_sets import (
    IMAGENET_C,
    IMAGENET_SHIFTS,
    ModelInput,
    imagenet_c_folders,
    load_class_folder,
    load_imagenet_shift,
    map_classes,
)
from lrsegformer.robustness.shift.file_list import listed_images
from lrsegformer.robustness.subset import choose_indices, survey

# Images are prepared by the models' own processors ([`prepared_by`]); these statistics reach nothing.
_UNUSED_STATISTICS = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


def with_saved_reading(arguments: BenchDataArguments, processors: Mapping[str, Any]) -> BenchDataArguments:
    """
    The options with the scale, bands and page of the image files that the models were trained with.

    Args:
        processors (`Mapping[str, image processor]`): of each model, by its name.

    Raises:
        [`~lrsegformer.errors.InputError`]: the models, or a model and an option, differ in them.
    """
    saved = {name: ImageReading.of_processor(processor) for name, processor in processors.items()}
    # A processor that says nothing, such as a stock model's, leaves it to the others.
    said = [(name, reading) for name, reading in saved.items() if str(reading)]
    if not said:
        return arguments
    (first, reading), *others = said
    for name, other in others:
        if other != reading:
            raise InputError(
                f"--models {first} and {name} were trained on image files that are read differently "
                f"({reading}; {other}): compare models of one reading"
            )
    given = reading_of(arguments)
    for option, own, trained in (
        ("--image_range", given.value_range, reading.value_range),
        ("--image_bands", given.bands, reading.bands),
        ("--image_page", given.page, reading.page),
    ):
        if None not in (own, trained) and own != trained:
            raise InputError(f"{option}: the models were trained with {reading}; leave the option out")
    if reading.value_range is not None:
        arguments = replace(arguments, image_range=show_range(reading.value_range))
    if reading.bands is not None:
        arguments = replace(arguments, image_bands=",".join(str(band) for band in reading.bands))
    return arguments if reading.page is None else replace(arguments, image_page=reading.page)


def open_splits(arguments: BenchDataArguments, task: str, seed: int, in_full: bool = True) -> DataSplits:
    """
    Both splits in full (of the built-in digits, as many as are asked for), or as many images of them as the options
    say.
    """
    arguments = arguments.with_training_folders()
    if in_full and arguments.dataset != DIGITS:
        arguments = replace(arguments, max_eval_samples=None, max_train_samples=None)
    return load_data(arguments, task, seed, *_UNUSED_STATISTICS)


def prepared_by(processor: BaseImageProcessor, splits: DataSplits, score_at: str) -> DataSplits:
    """
    The splits with validation images as a model's processor makes them, but for the normalisation, which is part of
    what is attacked: pixels stay in [0, 1].
    """
    transform = EvaluationTransform(without_normalising(processor), resize_labels=score_at == "resized")
    return replace(splits, validation=splits.validation.with_transform(transform))


def validation_subset(splits: DataSplits, task: str, count: int | None, seed: int) -> ScoredData:
    """The seeded subset of the validation split that the report is about."""
    return _subset_of(splits.validation, splits.label_space, task, count, seed)


def training_subset(splits: DataSplits, task: str, count: int | None, seed: int) -> ScoredData:
    """As many training images, made ready as validation images are: without augmentation."""
    train = splits.train.with_transform(splits.validation.transform)
    return _subset_of(train, splits.label_space, task, count, seed)


def corrupted(data: ScoredData, condition: Condition, seed: int) -> ScoredData:
    """The same images under a corruption."""
    dataset = CorruptedDataset(data.subset.dataset, condition.name, condition.severity, seed)
    return replace(data, subset=replace(data.subset, dataset=dataset), clean=data.subset)


def shifted_sets(
    arguments: RobustnessArguments,
    data_arguments: BenchDataArguments,
    splits: DataSplits,
    task: str,
) -> list[tuple[Condition, ScoredData]]:
    """
    The data sets of `--shifted`, each a seeded subset of the same number of images.

    Raises:
        [`~lrsegformer.errors.InputError`]: one cannot be opened, or its classes do not fit the models'.
    """
    mappings = dict(_name_and_value("--class_mappings", entry) for entry in arguments.class_mappings)
    count, seed = data_arguments.max_eval_samples, arguments.seed
    # Labels and logits have one order, so the data set's names are the models'.
    model_names = splits.label_space.names
    sets: list[tuple[Condition, ScoredData]] = []
    for entry in arguments.shifted:
        name, place = entry.split("=", 1) if "=" in entry else (entry, None)
        mapping = mappings.pop(name, None)
        if place is not None and not Path(place).expanduser().exists():
            raise InputError(f"--shifted {entry}: there is no file or folder {place}; check the path")
        if place is not None and Path(place).expanduser().is_file():
            if mapping is not None:
                raise InputError(f"--class_mappings {name}: {place} lists images of the data set, whose classes stay")
            dataset = listed_images(splits.validation, place)
            sets.append((Condition("shifted", name), _subset_of(dataset, splits.label_space, task, count, seed)))
        elif task == "segmentation":
            dataset = _other_masks(name, place, mapping, data_arguments, splits, model_names, seed)
            sets.append((Condition("shifted", name), _subset_of(dataset, dataset.label_space, task, count, seed)))
        else:
            model = ModelInput(tuple(model_names), splits.validation.transform)
            for condition, shifted in _other_classes(name, place, mapping, arguments.synsets, model):
                data = _subset_of(shifted.dataset, shifted.dataset.label_space, task, count, seed)
                sets.append((condition, replace(data, class_map=shifted.class_map)))
    if mappings:
        raise InputError(f"--class_mappings {next(iter(mappings))}: no --shifted data set has this name")
    return sets


def _subset_of(dataset: ImageDataset, space: LabelSpace, task: str, count: int | None, seed: int) -> ScoredData:
    indices = choose_indices(len(dataset), DEFAULT_SUBSET if count is None else count, seed)
    chosen = ImageDataset(dataset.source, dataset.label_space, dataset.transform, seed, dataset.indices[indices])
    ignore_index = space.ignore_index if task == "segmentation" else None
    return ScoredData(survey(chosen, len(dataset)), space.names, ignore_index)


def _other_masks(
    name: str,
    place: str | None,
    mapping: str | None,
    data_arguments: BenchDataArguments,
    splits: DataSplits,
    model_names: Sequence[str],
    seed: int,
) -> ImageDataset:
    if place is None:
        raise InputError(f"--shifted {name}: a second data set for segmentation is given as {name}=FOLDER")
    # What these options say is true of the main data set; here the mapping file says what is void.
    of_main = (
        *("class_names", "ignore_label", "reduce_zero_label", "mask_values", "image_suffix", "mask_suffix"),
        *("image_size", "max_train_samples", "max_eval_samples"),
    )
    unset = dict.fromkeys((*FOLDER_OPTIONS, *of_main))
    opened = load_data(replace(data_arguments, dataset=place, **unset), "segmentation", seed, *_UNUSED_STATISTICS)
    dataset = opened.validation.with_transform(splits.validation.transform)
    if mapping is not None:
        return map_classes(dataset, mapping, model_names, name)
    if dataset.label_space.num_labels != len(model_names):
        raise InputError(
            f"--shifted {name} has {dataset.label_space.num_labels} classes and the models {len(model_names)}: give "
            f"--class_mappings {name}=FILE"
        )
    return dataset


def _other_classes(name: str, place: str | None, mapping: str | None, synsets: str | None, model: ModelInput) -> list:
    if name == IMAGENET_C:
        if place is None:
            raise InputError(
                f"--shifted {name} needs its folder: give {name}=FOLDER, with <corruption>/<severity> in it"
            )
        return [
            (
                Condition("shifted", f"{name}/{corruption}", severity=severity),
                load_class_folder(f"{name}/{corruption}/{severity}", folder, model, mapping, synsets),
            )
            for (corruption, severity), folder in imagenet_c_folders(place).items()
        ]
    if name in IMAGENET_SHIFTS:
        return [(Condition("shifted", name), load_imagenet_shift(name, model, place, mapping, synsets))]
    if place is None:
        raise InputError(
            f"--shifted {name} is unknown: give {', '.join(IMAGENET_SHIFTS)}, {IMAGENET_C}=FOLDER, or {name}=FOLDER"
        )
    return [(Condition("shifted", name), load_class_folder(name, place, model, mapping, synsets))]


def _name_and_value(option: str, entry: str) -> tuple[str, str]:
    name, separator, value = entry.partition("=")
    if not (name and separator and value):
        raise InputError(f"{option} {entry}: write NAME=FILE, NAME as in --shifted")
    return name, value
