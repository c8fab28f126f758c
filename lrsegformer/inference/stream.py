"""Images on their way to the model: read, made inputs and put into batches, by worker processes or without."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from lrsegformer.data.dataset import refuse_mute_workers
from lrsegformer.data.examples import open_image
from lrsegformer.data.files.pixels import ImageReading
from lrsegformer.errors import InputError
from lrsegformer.inference.files import InputFile
from lrsegformer.inference.video import frames

One = TypeVar("One")


class Ready(NamedTuple):
    """
    An image that is ready for the model; without an image one that is done already or, with an error, that cannot be
    read.

    Attributes:
        file ([`~lrsegformer.inference.files.InputFile`]): that it comes from.
        name (`str`): of what is made of it.
        image (`PIL.Image.Image`, *optional*), inputs (`list[torch.Tensor]`): upright, and what the model is given.
        error (`str`, *optional*): why there is no image.
    """

    file: InputFile
    name: str
    image: Image.Image | None = None
    inputs: Sequence[Tensor] = ()
    error: str | None = None


class ImageStream(IterableDataset):
    """
    The images of files and the frames of videos, in order, each made ready once by one of the workers of one of the
    processes. What cannot be read is handed on with the reason.

    Args:
        files (sequence of [`~lrsegformer.inference.files.InputFile`]): images and videos.
        inputs_of (`Callable`): from an upright RGB image to what the model is given.
        reading ([`~lrsegformer.data.ImageReading`]): of image files.
        is_done (`Callable`): from a file and a name to whether there is nothing to do.
        rank, world (`int`): number of this process, and how many there are.
    """

    def __init__(
        self,
        files: Sequence[InputFile],
        inputs_of: Callable[[Image.Image], Sequence[Tensor]],
        reading: ImageReading,
        is_done: Callable[[InputFile, str], bool],
        rank: int = 0,
        world: int = 1,
    ):
        self.files, self.inputs_of, self.reading, self.is_done = files, inputs_of, reading, is_done
        self.rank, self.world = rank, world

    def __iter__(self) -> Iterator[Ready]:
        worker = get_worker_info()
        number, count = (0, 1) if worker is None else (worker.id, worker.num_workers)
        own, of = self.rank * count + number, self.world * count
        for place, (file, name, load) in enumerate(self._images()):
            if place % of == own:
                yield Ready(file, name) if self.is_done(file, name) else self._ready(file, name, load)

    def _images(self) -> Iterator[tuple[InputFile, str, Callable[[], Image.Image]]]:
        """Every image in order, as a function that opens it: each worker counts all and opens its own."""
        for file in self.files:
            if not file.is_video:
                yield file, file.name, lambda file=file: open_image(file.path, reading=self.reading)
                continue
            try:
                for number, frame in enumerate(frames(file.path), start=1):
                    yield file, f"{file.name}/{number:06d}", frame
            except InputError as error:
                message = str(error)
                yield file, file.name, lambda message=message: _raise(message)

    def _ready(self, file: InputFile, name: str, load: Callable[[], Image.Image]) -> Ready:
        try:
            image = load()
        except InputError as error:
            return Ready(file, name, error=str(error))
        try:
            return Ready(file, name, image, self.inputs_of(image))
        except InputError as error:
            return Ready(file, name, error=f"{file.path}: {error}")


def batches(stream: ImageStream, batch_size: int, num_workers: int) -> Iterator[list[Ready]]:
    """Lists of images whose inputs have one size, and lists of those without an image."""
    refuse_mute_workers(num_workers)
    loader = DataLoader(stream, batch_size=batch_size, num_workers=num_workers, collate_fn=list)
    for several in loader:
        yield from of_one_size(several, lambda one: one.inputs)


def of_one_size(several: Sequence[One], inputs_of: Callable[[One], Sequence[Tensor]]) -> list[list[One]]:
    """Images apart by the sizes of their inputs, which decide what shares a batch."""
    groups = defaultdict(list)
    for one in several:
        groups[tuple(pixels.shape for pixels in inputs_of(one))].append(one)
    return list(groups.values())


def stacked(inputs: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Of images of one size the batches of each size of the protocol."""
    return [torch.stack(size) for size in zip(*inputs, strict=True)]


def _raise(message: str) -> Image.Image:
    raise InputError(message)
