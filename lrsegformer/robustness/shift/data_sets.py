"""
Test data from another distribution than the training data: ImageNet's variants, ImageNet-C folders, and other
segmentation data with a class mapping.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lrsegformer.data.arguments import DataArguments
from lrsegformer.data.dataset import ImageDataset
from lrsegformer.data.folders import ClassFolderSource
from lrsegformer.data.hub import HubSource, load_hub
from lrsegformer.data.labels import LabelSpace
from lrsegformer.data.transforms import EvaluationTransform
from lrsegformer.errors import InputError
from lrsegformer.robustness.shift.label_maps import ClassMap, MappedSource, match_classes, read_mapping


@dataclass(frozen=True)
class HubSet:
    """A variant of ImageNet: its copy on the Hub, where its folders come from, and how many classes it has."""

    hub_id: str
    origin: str
    num_classes: int


IMAGENET_SHIFTS = {
    "imagenet-v2": HubSet(
        "clip-benchmark/wds_imagenetv2",
        "https://huggingface.co/datasets/vaishaal/ImageNetV2 (matched frequency)",
        1000,
    ),
    "imagenet-a": HubSet(
        "clip-benchmark/wds_imagenet-a", "https://people.eecs.berkeley.edu/~hendrycks/imagenet-a.tar", 200
    ),
    "imagenet-r": HubSet(
        "clip-benchmark/wds_imagenet-r", "https://people.eecs.berkeley.edu/~hendrycks/imagenet-r.tar", 200
    ),
    "imagenet-sketch": HubSet(
        "clip-benchmark/wds_imagenet_sketch", "https://github.com/HaohanWang/ImageNet-Sketch", 1000
    ),
}
IMAGENET_C = "imagenet-c"
IMAGENET_C_ORIGIN = "https://zenodo.org/records/2235448"
_SPLIT = "test"  # the only one of the Hub copies


@dataclass(frozen=True)
class ShiftedSet:
    """
    A data set for classification whose classes are some of the model's.

    Attributes:
        name (`str`): for the report.
        dataset ([`~lrsegformer.data.dataset.ImageDataset`]): its labels count the data set's own classes.
        class_map ([`ClassMap`]): `class_map.restrict(logits)` has one logit for each of these classes.
    """

    name: str
    dataset: ImageDataset
    class_map: ClassMap


@dataclass(frozen=True)
class ModelInput:
    """
    What has to be known of a classification model to make a data set for it.

    Attributes:
        names (`tuple[str, ...]`): label names in the order of the logits.
        transform ([`~lrsegformer.data.transforms.EvaluationTransform`]): how an image becomes the model's input.
    """

    names: tuple[str, ...]
    transform: EvaluationTransform


def load_imagenet_shift(
    name: str,
    model: ModelInput,
    folder: str | Path | None = None,
    mapping: str | Path | None = None,
    synsets: str | Path | None = None,
) -> ShiftedSet:
    """
    Opens ImageNet-V2, -A, -R or -Sketch, from the Hub or from a local folder `<folder>/<class>/*`.

    The classes are matched as [`match_classes`] says: for a model of ImageNet's 1000 classes nothing else is needed,
    for a model of some of them `synsets` or a `mapping` file.

    Args:
        name (`str`): one of [`IMAGENET_SHIFTS`].
        model ([`ModelInput`]): whose classes and input are meant.
        folder (`str` or `Path`, *optional*): local images. Default: the copy on the Hub.
        mapping (`str` or `Path`, *optional*): a class-mapping file, see [`read_mapping`].
        synsets (`str` or `Path`, *optional*): a file of the model's wnids, see [`match_classes`].

    Raises:
        [`~lrsegformer.errors.InputError`]: the name is unknown, the data cannot be reached (the message says what to
            fetch, and from where), or a class cannot be matched.
    """
    if name not in IMAGENET_SHIFTS:
        raise InputError(f"shifted data set {name!r} is unknown: choose from {', '.join(IMAGENET_SHIFTS)}")
    if folder is not None:
        return load_class_folder(name, folder, model, mapping, synsets)
    shift = IMAGENET_SHIFTS[name]
    try:
        arguments = DataArguments(dataset=shift.hub_id, train_split=_SPLIT, validation_split=_SPLIT)
        opened = load_hub(arguments, "classification")
    except InputError as error:
        reason = str(error).split(";")[0]
        raise InputError(
            f"{name}: {reason}; run once where the Hub can be reached, or fetch {shift.origin}, unpack it and give "
            f"the folder that holds its {shift.num_classes} class folders as --shifted {name}=FOLDER"
        ) from error
    return _shifted_set(name, opened.validation, opened.label_space.names, model, mapping, synsets)


def load_class_folder(
    name: str,
    folder: str | Path,
    model: ModelInput,
    mapping: str | Path | None = None,
    synsets: str | Path | None = None,
) -> ShiftedSet:
    """
    Opens any local folder `<folder>/<class>/*` whose classes are some of the model's.

    Args and errors as for [`load_imagenet_shift`]; `name` is for the report.
    """
    source = ClassFolderSource(Path(folder).expanduser())
    return _shifted_set(name, source, source.classes, model, mapping, synsets)


def imagenet_c_folders(root: str | Path) -> dict[tuple[str, int], Path]:
    """
    The cells of a local ImageNet-C: (corruption, severity) -> folder of class folders, sorted.

    Args:
        root (`str` or `Path`): holds `<corruption>/<severity>/<wnid>/*`, as the published archives unpack.

    Raises:
        [`~lrsegformer.errors.InputError`]: no such folders; the message says what to fetch, and from where.
    """
    root = Path(root).expanduser()
    cells = {
        (severity.parent.name, int(severity.name)): severity
        for severity in sorted(root.glob("*/[1-5]"))
        if severity.is_dir()
    }
    if not cells:
        raise InputError(
            f"{root}: no folders <corruption>/<severity>/<wnid> in it; fetch ImageNet-C from {IMAGENET_C_ORIGIN} and "
            "unpack its archives there"
        )
    return cells


def map_classes(dataset: ImageDataset, mapping: str | Path, model_names: Sequence[str], name: str) -> ImageDataset:
    """
    A segmentation data set of other classes, with its masks in the model's classes.

    Pixels of classes that the file ignores, and void pixels, do not count.

    Args:
        dataset ([`~lrsegformer.data.dataset.ImageDataset`]): with an evaluation transform.
        mapping (`str` or `Path`): a class-mapping file, see [`read_mapping`].
        model_names (`Sequence[str]`): label names of the model, in the order of the index.
        name (`str`): the data set, for messages.

    Raises:
        [`~lrsegformer.errors.InputError`]: the file does not fit the classes; see [`read_mapping`].
    """
    table = read_mapping(mapping, dataset.label_space.names, model_names, name)
    source = MappedSource(dataset.source, dataset.label_space, table, model_names)
    return ImageDataset(source, source.new_space, dataset.transform, dataset.seed, dataset.indices)


def _shifted_set(
    name: str,
    source: ClassFolderSource | HubSource,
    classes: Sequence[str],
    model: ModelInput,
    mapping: str | Path | None,
    synsets: str | Path | None,
) -> ShiftedSet:
    if mapping is not None:
        matched = read_mapping(mapping, classes, model.names, name)
    else:
        matched = match_classes(classes, model.names, name, synsets)
    kept = [old for old, new in enumerate(matched) if new is not None]
    place = {old: new for new, old in enumerate(kept)}
    space = LabelSpace(tuple(classes))
    mapped = MappedSource(source, space, [place.get(old) for old in range(len(classes))], [classes[k] for k in kept])
    indices = [index for index, old in enumerate(source.class_indices().tolist()) if old in place]
    dataset = ImageDataset(mapped, mapped.new_space, model.transform, 0, np.array(indices))
    return ShiftedSet(name, dataset, ClassMap(tuple(matched[old] for old in kept), len(model.names)))
