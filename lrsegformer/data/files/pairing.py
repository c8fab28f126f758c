"""Which image file belongs to which mask file."""

from __future__ import annotations

import logging
import os
import re
import unicodedata
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from lrsegformer.errors import InputError

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".gif"))
_SEPARATOR = re.compile(r"[_\-. ]")


def is_image(file: Path) -> bool:
    """Whether the name is that of an image, its ending in any case, and the file is not hidden."""
    return file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".") and file.is_file()


def pair_files(
    images: Path, masks: Path, image_suffix: str | None = None, mask_suffix: str | None = None
) -> list[tuple[Path, Path]]:
    """
    Pairs the image files below one folder with the mask files below another.

    Two files belong together when their paths below their folders are equal but for the ending. Composed and
    decomposed accents are equal. A suffix may follow the name on either side (`x.jpg` with `x_mask.png`,
    `x_leftImg8bit.png` with `x_gtFine_labelIds.png`): one that is not given is found where all files end in it and
    every file gets its partner. Upper and lower case are told apart where that is possible.

    Args:
        images, masks (`Path`): the folders; one folder for both needs a suffix.
        image_suffix, mask_suffix (`str`, *optional*):
            The end of every image's and mask's name, before its ending (`_mask`) or with it (`_mask.png`, `.png`).
            Files that do not end so are left out.

    Returns:
        `list[tuple[Path, Path]]`: sorted by name.

    Raises:
        InputError: a folder is missing or empty, a file has no partner, or more than one fits.
    """
    image_files, mask_files = _chosen_files(images, masks, image_suffix, mask_suffix)
    image_choices, mask_choices = _choices(image_files, image_suffix), _choices(mask_files, mask_suffix)
    for fold, chosen_image, chosen_mask in product((False, True), image_choices, mask_choices):
        by_image = _by_key(image_files, images, chosen_image, fold)
        by_mask = _by_key(mask_files, masks, chosen_mask, fold)
        if by_image.keys() == by_mask.keys() and all(
            len(files) == 1 for files in (*by_image.values(), *by_mask.values())
        ):
            pairs = [(by_image[key][0], by_mask[key][0]) for key in sorted(by_image)]
            if (chosen_image, chosen_mask) != (image_choices[0], mask_choices[0]):
                logger.info("%s: %s is the mask of %s, and so on", masks, pairs[0][1].name, pairs[0][0].name)
            return pairs
    for choice in image_choices:
        _refuse_ambiguous(_by_key(image_files, images, choice), _by_key(mask_files, masks, mask_choices[0]), masks)
    raise _alone(
        _by_key(image_files, images, image_choices[0]),
        _by_key(mask_files, masks, mask_choices[0]),
        (images, masks),
        "" if image_suffix or mask_suffix else ", or say by --image_suffix and --mask_suffix how the names end",
    )


@dataclass(frozen=True)
class _Suffix:
    """The end of a file's name: what stands before its ending, and the ending itself if it was given."""

    before: str
    ending: str | None

    @classmethod
    def of(cls, text: str) -> _Suffix:
        stem, dot, ending = _composed(text).rpartition(".")
        if dot and f".{ending.lower()}" in IMAGE_SUFFIXES:
            return cls(stem, f".{ending.lower()}")
        return cls(_composed(text), None)

    def ends(self, file: Path) -> bool:
        return _composed(file.stem).endswith(self.before) and self.ending in (None, file.suffix.lower())


def _chosen_files(
    images: Path, masks: Path, image_suffix: str | None, mask_suffix: str | None
) -> tuple[list[Path], list[Path]]:
    """The images and the masks: the files that end as the options say, and in a folder of both the others."""
    image_files, mask_files = _files_below(images), _files_below(masks)
    if images.resolve() == masks.resolve():
        if image_suffix is None and mask_suffix is None:
            raise InputError(
                f"{images}: holds images and masks together; say by --mask_suffix how the name of a mask ends, such "
                "as _mask or .png"
            )
        if mask_suffix is not None:
            image_files = [file for file in image_files if not _Suffix.of(mask_suffix).ends(file)]
        if image_suffix is not None:
            mask_files = [file for file in mask_files if not _Suffix.of(image_suffix).ends(file)]
    return (
        _selected(image_files, images, "--image_suffix", image_suffix),
        _selected(mask_files, masks, "--mask_suffix", mask_suffix),
    )


def _choices(files: list[Path], suffix: str | None) -> list[str]:
    """What may stand between the name that a pair shares and the ending."""
    before = "" if suffix is None else _Suffix.of(suffix).before
    return [before] if before else ["", *_common_suffixes(files)]


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _files_below(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; check the path")
    files = []
    for root, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [file for file in (Path(root, name) for name in names) if is_image(file)]
    if not files:
        raise InputError(
            f"{folder}: holds no image files; expected {', '.join(sorted(IMAGE_SUFFIXES)[:4])} and the like"
        )
    return sorted(files)


def _selected(files: list[Path], folder: Path, option: str, suffix: str | None) -> list[Path]:
    if suffix is None:
        return files
    chosen = [file for file in files if _Suffix.of(suffix).ends(file)]
    if not chosen:
        example = f" (one of them is {files[0].name})" if files else ""
        raise InputError(f"{option} {suffix}: no file in {folder} ends so{example}; correct the option")
    if len(chosen) < len(files):
        logger.info("%s: %d of %d files end in %s", folder, len(chosen), len(files), suffix)
    return chosen


def _common_suffixes(files: list[Path]) -> list[str]:
    """What the stems of all files end in, from a separator on: with a letter, and with something before it."""
    stems = [_composed(file.stem) for file in files]
    common = os.path.commonprefix([stem[::-1] for stem in stems])[::-1]
    suffixes = [common[match.start() :] for match in _SEPARATOR.finditer(common)]
    return [suffix for suffix in suffixes if re.search(r"[^\W\d_]", suffix) and suffix not in stems]


def _by_key(files: list[Path], folder: Path, suffix: str, fold: bool = False) -> dict[str, list[Path]]:
    """The files by what has to be equal: the path below the folder, without its ending and the suffix."""
    keyed: dict[str, list[Path]] = {}
    for file in files:
        key = _composed(file.relative_to(folder).with_suffix("").as_posix()).removesuffix(suffix)
        keyed.setdefault(key.casefold() if fold else key, []).append(file)
    return keyed


def _refuse_ambiguous(images: dict[str, list[Path]], masks: dict[str, list[Path]], folder: Path) -> None:
    """Raises `InputError` where several files have one name, or several masks begin with the name of one image."""
    for files in (*images.values(), *masks.values()):
        if len(files) > 1:
            raise InputError(
                f"{files[1]}: {files[0].name} has the same stem; keep one of the two files, or choose by "
                "--image_suffix and --mask_suffix, such as .png"
            )
    owners: dict[str, list[Path]] = {}
    for key, (mask,) in masks.items():
        # The longest image name that the mask's begins with: a_1_mask belongs to a_1, not to a.
        cuts = [match.start() for match in _SEPARATOR.finditer(key)]
        owner = next((key[:cut] for cut in (len(key), *reversed(cuts)) if key[:cut] in images), None)
        if owner is not None:
            owners.setdefault(owner, []).append(mask)
    for owner, found in owners.items():
        if len(found) > 1:
            suffix = found[1].stem[len(Path(owner).name) :]
            raise InputError(
                f"{images[owner][0]}: {len(found)} files in {folder} could be its mask ({found[0].name}, "
                f"{found[1].name}{', ...' if len(found) > 2 else ''}); say which, such as --mask_suffix {suffix}"
            )


def _alone(
    images: dict[str, list[Path]], masks: dict[str, list[Path]], folders: tuple[Path, Path], remedy: str
) -> InputError:
    for one, other, what, (here, there) in ((images, masks, "mask", folders), (masks, images, "image", folders[::-1])):
        alone = sorted(one.keys() - other.keys())
        if alone:
            names = ", ".join(one[key][0].name for key in alone[:3]) + (", ..." if len(alone) > 3 else "")
            return InputError(
                f"{here}: {len(alone)} file(s) without {what} of the same stem in {there} ({names}); add the missing "
                f"files or remove these{remedy}"
            )
    raise AssertionError("files that cannot be paired stand alone or share a name")
