"""Images in local folders: pairs of image and mask folders, the layout of ADE20K, and one folder a class."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lrsegformer.data.ade20k import ADE20K_NAMES
from lrsegformer.data.arguments import FOLDER_OPTIONS, DataArguments
from lrsegformer.data.classes.names import read_class_names
from lrsegformer.data.classes.options import label_space_of_masks
from lrsegformer.data.examples import DataSource, Example, check_sizes, open_image, open_mask
from lrsegformer.data.files.pairing import is_image, pair_files
from lrsegformer.data.files.pixels import ImageReading, holds_colours
from lrsegformer.data.files.scale import reading_of
from lrsegformer.data.labels import LabelSpace
from lrsegformer.errors import InputError

_SPLIT_FOLDERS = {"train": ("train", "training"), "validation": ("validation", "val", "valid")}


class MaskFolderSource:
    """
    Pairs of image and mask files below two folders; see [`~lrsegformer.data.files.pairing.pair_files`].

    Attributes:
        has_colours (`bool`): whether masks are read as colours; `False` until it is set.
        reading ([`~lrsegformer.data.files.pixels.ImageReading`]): how the files are read.
    """

    def __init__(
        self,
        images: str | Path,
        masks: str | Path,
        image_suffix: str | None = None,
        mask_suffix: str | None = None,
        reading: ImageReading | None = None,
    ):
        self.pairs = pair_files(Path(images), Path(masks), image_suffix, mask_suffix)
        self.has_colours = False
        self.reading = reading or ImageReading()

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Example:
        image_file, mask_file = self.pairs[index]
        image, mask = open_image(image_file, reading=self.reading), self.mask(index)
        check_sizes(image, mask, str(image_file), str(mask_file))
        return Example(image, mask, str(mask_file))

    def mask(self, index: int) -> np.ndarray:
        """The raw mask alone, without opening the image."""
        return open_mask(self.pairs[index][1], colours=self.has_colours, reading=self.reading)

    def mask_name(self, index: int) -> str:
        """The file, for messages."""
        return str(self.pairs[index][1])

    def is_coloured(self) -> bool:
        """Whether the first mask is an image of colours."""
        return holds_colours(self.pairs[0][1], self.mask_name(0), self.reading)

    def image_content(self, index: int) -> Path:
        """The file of an image."""
        return self.pairs[index][0]

    def image_name(self, index: int) -> str:
        """The file, for messages."""
        return str(self.pairs[index][0])


class ClassFolderSource:
    """Image files below one folder a class. `classes` are the folder names, in the order of the class index."""

    def __init__(self, root: str | Path, classes: list[str] | None = None, reading: ImageReading | None = None):
        root = Path(root)
        self.reading = reading or ImageReading()
        found = _class_folders(root)
        self.classes = found if classes is None else classes
        unknown = sorted(set(found) - set(self.classes))
        if unknown:
            raise InputError(f"{root / unknown[0]}: no such class among the training folders; remove or rename it")
        self.files: list[tuple[Path, int]] = []
        for index, name in enumerate(self.classes):
            if name in found:
                self.files += [(file, index) for file in _images_below(root / name)]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Example:
        file, class_index = self.files[index]
        return Example(open_image(file, reading=self.reading), class_index, str(file))

    def image_content(self, index: int) -> Path:
        """The file of an image."""
        return self.files[index][0]

    def image_name(self, index: int) -> str:
        """The file, for messages."""
        return str(self.files[index][0])

    def class_indices(self) -> np.ndarray:
        """The class of every image, without opening one."""
        return np.array([index for _, index in self.files], dtype=np.int64)


def load_mask_folders(arguments: DataArguments) -> DataSource:
    """
    Opens the four folder options, or a folder with `images/<split>` and `annotations/<split>`, for segmentation.

    ADE20K is recognised by `objectInfo150.csv` or its file names; it then has its 150 names and zero-label reduction.
    """
    if arguments.train_images is not None:
        folders = [Path(getattr(arguments, option)).expanduser() for option in FOLDER_OPTIONS]
        for option, folder in zip(FOLDER_OPTIONS, folders, strict=True):
            if not folder.is_dir():
                raise InputError(f"--{option} {folder}: no such folder; check the path")
        root, name = folders[0].parent, folders[0].resolve().parent.name
    else:
        root = _segmentation_root(Path(arguments.dataset or "").expanduser())
        name = root.resolve().name
        folders = [
            _split_folder(root / kind, split, option)
            for split, option in _splits(arguments)
            for kind in ("images", "annotations")
        ]
    how = arguments.image_suffix, arguments.mask_suffix, reading_of(arguments)
    train, validation = MaskFolderSource(*folders[:2], *how), MaskFolderSource(*folders[2:], *how)
    is_ade20k = (root / "objectInfo150.csv").is_file() or train.pairs[0][0].stem.startswith(("ADE_train_", "ADE_val_"))
    known = (ADE20K_NAMES, True) if is_ade20k else (None, False)
    return DataSource(train, validation, label_space_of_masks(arguments, train, validation, str(root), *known), name)


def load_class_folders(arguments: DataArguments) -> DataSource:
    """Opens a classification data set: `<root>/<split>/<class>/*`, classes sorted by folder name."""
    root = Path(arguments.dataset or "").expanduser()
    (train_split, train_option), (validation_split, validation_option) = _splits(arguments)
    reading = reading_of(arguments)
    train = ClassFolderSource(_split_folder(root, train_split, train_option), None, reading)
    validation = ClassFolderSource(_split_folder(root, validation_split, validation_option), train.classes, reading)
    names = _rename_classes(train.classes, arguments.class_names) if arguments.class_names else train.classes
    return DataSource(train, validation, LabelSpace(tuple(names)), root.resolve().name)


def _splits(arguments: DataArguments) -> list[tuple[str, str]]:
    return [(arguments.train_split, "--train_split"), (arguments.validation_split, "--validation_split")]


def _split_folder(parent: Path, split: str, option: str) -> Path:
    for name in _SPLIT_FOLDERS.get(split, (split,)):
        if (parent / name).is_dir():
            return parent / name
    found = ", ".join(folder.name for folder in _subfolders(parent)[:5]) or "no folders"
    raise InputError(
        f"{parent}: no folder for the split {split!r} (it holds {found}); name an existing one with {option}, "
        f"or put the images under {parent / split}"
    )


def _segmentation_root(root: Path) -> Path:
    for candidate in (root, root / "ADEChallengeData2016"):
        if (candidate / "images").is_dir() and (candidate / "annotations").is_dir():
            return candidate
    raise InputError(
        f"{root}: no images/ and annotations/ folders in it; give such a folder, or the four options --train_images, "
        "--train_masks, --validation_images and --validation_masks"
    )


def _subfolders(parent: Path) -> list[Path]:
    if not parent.is_dir():
        raise InputError(f"{parent}: no such folder; check the path")
    return sorted(entry for entry in parent.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _class_folders(root: Path) -> list[str]:
    names = [folder.name for folder in _subfolders(root)]
    if len(names) < 2:
        raise InputError(f"{root}: {len(names)} class folder(s) in it; put the images into one folder a class")
    return names


def _images_below(folder: Path) -> list[Path]:
    files = sorted(file for file in folder.rglob("*") if is_image(file))
    if not files:
        raise InputError(f"{folder}: the class folder holds no images; add some or remove the folder")
    return files


def _rename_classes(classes: list[str], class_names: str) -> list[str]:
    table = read_class_names(class_names)
    if table.folders is not None:
        names = dict(zip(table.folders, table.names, strict=True))
        missing = [folder for folder in classes if folder not in names]
        if missing:
            raise InputError(
                f"--class_names {class_names}: no name for the class folder {missing[0]}; add a line for it"
            )
        return [names[folder] for folder in classes]
    if len(table.names) != len(classes):
        raise InputError(
            f"--class_names {class_names}: {len(table.names)} names for {len(classes)} class folders; give as many"
        )
    moved = [(folder, name) for folder, name in zip(classes, table.names, strict=True) if folder != name]
    if moved and sorted(classes) == sorted(table.names):
        raise InputError(
            f"--class_names {class_names}: the names of the class folders in another order, so that {moved[0][0]} "
            f"would be called {moved[0][1]}; leave the option out (classes are sorted by folder name)"
        )
    return list(table.names)
