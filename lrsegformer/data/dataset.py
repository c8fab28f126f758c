"""The PyTorch data set that the Trainer reads, the collator of its batches, and whether workers can hand them over."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from multiprocessing.connection import Listener
from typing import Any

import numpy as np
import torch
from PIL import Image

from lrsegformer.data.examples import ExampleSource
from lrsegformer.data.labels import LabelSpace
from lrsegformer.errors import InputError

Transform = Callable[[Image.Image, Any, np.random.Generator], dict[str, Any]]


class ImageDataset(torch.utils.data.Dataset):
    """
    Labelled images ready for the model.

    The randomness of an item depends only on (seed, epoch, index), so the same images are drawn whatever the number of
    workers, processes and accumulation steps.

    Args:
        source ([`ExampleSource`]): where the examples come from.
        label_space ([`LabelSpace`]): what their labels mean.
        transform (`Callable`): see [`lrsegformer.data.transforms`].
        seed (`int`): not negative.
        indices (`Sequence[int]`, *optional*): the examples to use, in this order. Default: all.

    Items are dicts with `pixel_values` (float32 `(3, height, width)`) and `labels` (uint8 or int16 `(height, width)`,
    or an `int`).
    """

    def __init__(
        self,
        source: ExampleSource,
        label_space: LabelSpace,
        transform: Transform,
        seed: int,
        indices: Sequence[int] | np.ndarray | None = None,
    ):
        self.source = source
        self.label_space = label_space
        self.transform = transform
        self.seed = seed
        self.indices = np.arange(len(source)) if indices is None else np.asarray(indices)
        # In shared memory, so that workers which outlive an epoch see the next one's number.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Chooses the random draws of this epoch; also reaches workers that are already running."""
        self._epoch[0] = int(epoch)

    def with_transform(self, transform: Transform) -> ImageDataset:
        """The same examples in the same order, made ready in another way."""
        return ImageDataset(self.source, self.label_space, transform, self.seed, self.indices)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = self.source[int(self.indices[index])]
        if isinstance(example.target, np.ndarray):
            target = self.label_space.encode_mask(example.target, example.name)
        else:
            target = self.label_space.encode_class(int(example.target), example.name)
        rng = np.random.default_rng((self.seed, int(self._epoch[0]), int(index) % len(self)))
        try:
            return self.transform(example.image, target, rng)
        except InputError as error:
            raise InputError(f"{example.name}: {error}") from error


def collate(examples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """
    Stacks items to a batch: `pixel_values` float32 `(batch, 3, height, width)`, and `labels` uint8 or int16
    `(batch, height, width)` or int64 `(batch,)`.

    Raises:
        InputError: the items differ in size, as whole validation images do.
    """
    batch = {"pixel_values": _stack([example["pixel_values"] for example in examples])}
    labels = [example["labels"] for example in examples]
    batch["labels"] = (
        _stack(labels) if isinstance(labels[0], torch.Tensor) else torch.tensor(labels, dtype=torch.int64)
    )
    return batch


def _stack(tensors: list[torch.Tensor]) -> torch.Tensor:
    sizes = sorted({tuple(tensor.shape[-2:]) for tensor in tensors})
    if len(sizes) > 1:
        (height, width), (other_height, other_width) = sizes[:2]
        raise InputError(
            f"images of {width}x{height} and {other_width}x{other_height} cannot share a batch; where they are "
            "scored, give --per_device_eval_batch_size 1; where they are trained on by --whole_images, --scale_min 1 "
            "--scale_max 1, or --per_device_train_batch_size 1"
        )
    # Stacks; in a worker process straight into the shared memory through which the batch travels.
    return torch.utils.data.default_collate(tensors)


def refuse_mute_workers(number: int) -> None:
    """
    Refuse worker processes that could not hand over a batch.

    Torch passes tensors through sockets in the folder for temporary files. Where one cannot be made there, as its path
    would be longer than a socket's may (107 bytes on Linux), the batch is lost in a thread of the worker, and the run
    waits for it for ever (we found no upstream issue).

    Args:
        number (`int`): of the workers; none need no socket.

    Raises:
        [`~lrsegformer.errors.InputError`]: the folder for temporary files takes no socket.
    """
    if number == 0 or torch.multiprocessing.get_sharing_strategy() != "file_descriptor":
        return
    try:
        Listener().close()
    except OSError as error:
        raise InputError(
            f"TMPDIR: in {tempfile.gettempdir()} no socket can be made ({error.strerror or error}), through which "
            "worker processes hand over batches: name a folder of a shorter path, or give --dataloader_num_workers 0."
        ) from None
