"""A split of a data set by a list of file stems."""

from __future__ import annotations

from pathlib import Path

from lrsegformer.data.dataset import ImageDataset
from lrsegformer.data.examples import ExampleSource
from lrsegformer.data.folders import ClassFolderSource, MaskFolderSource
from lrsegformer.errors import InputError
from lrsegformer.text_files import read_text


def listed_images(dataset: ImageDataset, file: str | Path) -> ImageDataset:
    """
    The images that a file lists, one file stem a line, as a split: such as the drives that training never saw.

    Args:
        dataset ([`~lrsegformer.data.dataset.ImageDataset`]): from local folders; the stems are looked up among all
            images of its source.
        file (`str` or `Path`): empty lines and lines that begin with `#` are skipped.

    Returns:
        [`~lrsegformer.data.dataset.ImageDataset`]: in the order of the list.

    Raises:
        [`~lrsegformer.errors.InputError`]: the file cannot be read or is empty, a stem is unknown, stands twice or
            belongs to several images, or the images are not local files.
    """
    file = Path(file).expanduser()
    try:
        lines = [line.strip() for line in read_text(file).splitlines()]
    except ValueError as error:
        raise InputError(f"{file}: the file list {error}; give a text file, a stem a line") from None
    listed = [line for line in lines if line and not line.startswith("#")]
    if not listed:
        raise InputError(f"{file}: the file list is empty; write one file stem a line")
    places: dict[str, list[int]] = {}
    for place, stem in enumerate(_stems(dataset.source, file)):
        places.setdefault(stem, []).append(place)
    for stem in listed:
        count = len(places.get(stem, ()))
        if count != 1:
            raise InputError(
                f"{file}: {count or 'no'} images of the data set have the stem {stem!r}; correct the line"
            )
        if listed.count(stem) > 1:
            raise InputError(f"{file}: the stem {stem!r} stands twice; keep one line")
    indices = [places[stem][0] for stem in listed]
    return ImageDataset(dataset.source, dataset.label_space, dataset.transform, dataset.seed, indices)


def _stems(source: ExampleSource, file: Path) -> list[str]:
    while not isinstance(source, (MaskFolderSource, ClassFolderSource)):
        if not hasattr(source, "source"):
            raise InputError(f"{file}: a file list needs images in local folders; these have no file names")
        source = source.source  # a view, such as MappedSource, of the same examples
    files = [image for image, _ in (source.pairs if isinstance(source, MaskFolderSource) else source.files)]
    return [image.stem for image in files]
