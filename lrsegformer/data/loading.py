"""From the arguments to data sets that the Trainer reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lrsegformer.choices import Task
from lrsegformer.data.arguments import DIGITS, DataArguments
from lrsegformer.data.labels import LabelSpace
from lrsegformer.errors import InputError

if TYPE_CHECKING:
    from transformers.image_processing_utils import BaseImageProcessor

    from lrsegformer.data.dataset import ImageDataset, Transform
    from lrsegformer.data.examples import DataSource

_DIGITS_TRAIN, _DIGITS_VALIDATION = 2000, 200
_IMAGE_SIZES = {"segmentation": 512, "classification": 224}
_DIGITS_IMAGE_SIZES = {"segmentation": 128, "classification": 64}


@dataclass(frozen=True)
class DataSplits:
    """
    A data set ready for training and evaluation.

    Attributes:
        train, validation ([`~lrsegformer.data.dataset.ImageDataset`]): batches come from `dataset.collate`.
        label_space ([`LabelSpace`]): number of classes, names, and the index of pixels that never count.
        dataset_name (`str`): for the model card.
        hub_id (`str`, *optional*): id on the Hub, if it came from there.
        image_size, eval_size (`int`): side of the training input, and short side at evaluation, in pixels.
        processor (image processor): how an image becomes an input at evaluation; to be saved with the model.
    """

    train: ImageDataset
    validation: ImageDataset
    label_space: LabelSpace
    dataset_name: str
    hub_id: str | None
    image_size: int
    eval_size: int
    processor: BaseImageProcessor


def load_data(
    arguments: DataArguments,
    task: Task,
    seed: int,
    image_mean: Sequence[float],
    image_std: Sequence[float],
) -> DataSplits:
    """
    Opens the data set that the arguments name and gives both splits their transforms.

    Images with more than 8 bits a channel get one scale. The processor keeps it, and what else the options say of the
    reading of files; see [`~lrsegformer.data.files.pixels.ImageReading.of_processor`].
    With `max_train_samples` the first of a shuffle by `seed` are used, with `max_eval_samples` evenly spaced ones.

    Args:
        task (`str`): `"segmentation"` or `"classification"`.
        seed (`int`): of augmentation, of the choice of training samples, and of the built-in digits; not negative.
        image_mean, image_std (`Sequence[float]`): of the channels on a scale of 0 to 1, from the image processor.

    Raises:
        InputError: anything the user has to mend: see the sources in `folders.py` and `hub.py`.
    """
    from lrsegformer.data.dataset import ImageDataset
    from lrsegformer.data.files.scale import settle_scale
    from lrsegformer.data.processor import build_processor
    from lrsegformer.data.transforms import EvaluationTransform

    if task not in _IMAGE_SIZES:
        raise InputError(f"task {task!r} is unknown; give `segmentation` or `classification`")
    is_digits = arguments.dataset == DIGITS
    image_size = arguments.image_size or (_DIGITS_IMAGE_SIZES if is_digits else _IMAGE_SIZES)[task]
    eval_size = arguments.eval_size or image_size
    source = _open_source(arguments, task, seed, image_size)
    statistics = image_mean, image_std
    if task == "segmentation":
        train_transform = _segmentation_transform(arguments, source, image_size, eval_size, statistics)
    else:
        train_transform = _classification_transform(arguments, image_size, statistics)
    processor = build_processor(task, eval_size, *statistics, source.label_space.reduce_zero_label)
    eval_transform = EvaluationTransform(processor, resize_labels=arguments.score_at == "resized")
    train_indices, eval_indices = None, None
    if not is_digits and arguments.max_train_samples is not None:
        train_indices = np.random.default_rng(seed).permutation(len(source.train))[: arguments.max_train_samples]
    if not is_digits and arguments.max_eval_samples is not None:
        count = min(arguments.max_eval_samples, len(source.validation))
        eval_indices = np.arange(count) * len(source.validation) // count
    space = source.label_space
    if not is_digits:
        _check_labels(source, task, train_indices, eval_indices)
        settle_scale((source.train, source.validation), train_indices, source.dataset_name)
        source.train.reading.keep_in(processor)
    return DataSplits(
        train=ImageDataset(source.train, space, train_transform, seed, train_indices),
        validation=ImageDataset(source.validation, space, eval_transform, seed, eval_indices),
        label_space=space,
        dataset_name=source.dataset_name,
        hub_id=source.hub_id,
        image_size=image_size,
        eval_size=eval_size,
        processor=processor,
    )


def _check_labels(
    source: DataSource, task: Task, train_indices: np.ndarray | None, eval_indices: np.ndarray | None
) -> None:
    from lrsegformer.data.classes.survey import check_classes, check_masks, survey_masks

    splits = (("training", source.train, train_indices), ("validation", source.validation, eval_indices))
    where, space = source.dataset_name, source.label_space
    if task == "segmentation":
        check_masks([survey_masks(images, space, split, used) for split, images, used in splits], space, where)
        return
    for split, images, used in splits:
        classes = images.class_indices()
        check_classes(classes if used is None else classes[used], space, split, len(classes), where)


def _open_source(arguments: DataArguments, task: str, seed: int, image_size: int) -> DataSource:
    dataset = arguments.dataset
    if dataset == DIGITS:
        from lrsegformer.data.digits import load_digit_images

        counts = arguments.max_train_samples or _DIGITS_TRAIN, arguments.max_eval_samples or _DIGITS_VALIDATION
        return load_digit_images(task, *counts, image_size, seed)
    if arguments.train_images is not None and task == "classification":
        raise InputError("--train_images and --train_masks are for segmentation; give class folders by --dataset")
    if arguments.train_images is not None or (dataset is not None and _is_local(dataset)):
        from lrsegformer.data.folders import load_class_folders, load_mask_folders

        return load_mask_folders(arguments) if task == "segmentation" else load_class_folders(arguments)
    from lrsegformer.data.hub import load_hub

    return load_hub(arguments, task)


def _is_local(dataset: str) -> bool:
    if Path(dataset).expanduser().is_dir():
        return True
    if dataset.startswith((".", "/", "~")) or "\\" in dataset or dataset.count("/") > 1:
        raise InputError(f"--dataset {dataset}: no such folder; check the path")
    return False


def _segmentation_transform(
    arguments: DataArguments,
    source: DataSource,
    image_size: int,
    eval_size: int,
    statistics: tuple[Sequence[float], Sequence[float]],
) -> Transform:
    from lrsegformer.data.transforms import SegmentationTrainTransform

    return SegmentationTrainTransform(
        image_size,
        *statistics,
        scale_range=(arguments.scale_min, arguments.scale_max),
        base_size=eval_size,
        flip_probability=_flip_probability(arguments),
        ignore_index=source.label_space.ignore_index,
        whole_images=arguments.whole_images,
        colour_distortion=arguments.colour_distortion,
    )


def _classification_transform(
    arguments: DataArguments, image_size: int, statistics: tuple[Sequence[float], Sequence[float]]
) -> Transform:
    from lrsegformer.data.transforms import ClassificationTrainTransform

    crop_area_min = arguments.crop_area_min or (0.5 if arguments.dataset == DIGITS else 0.08)
    return ClassificationTrainTransform(
        image_size, *statistics, crop_area_min=crop_area_min, flip_probability=_flip_probability(arguments)
    )


def _flip_probability(arguments: DataArguments) -> float:
    return 0.0 if arguments.dataset == DIGITS else 0.5  # a mirrored digit is no digit
