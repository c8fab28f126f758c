"""What a cell is measured on: a model, the images, and the processes that share them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import Tensor

from lrsegformer.attacks.pixel_model import PixelModel
from lrsegformer.evaluation import largest_class
from lrsegformer.robustness.shift.label_maps import ClassMap
from lrsegformer.robustness.subset import Batch, Subset

Part = TypeVar("Part")


@dataclass(frozen=True)
class ScoredData:
    """
    Images and how their labels count.

    Attributes:
        subset ([`~lrsegformer.robustness.subset.Subset`]): the images.
        names (`tuple[str, ...]`): the classes of the labels.
        ignore_index (`int`, *optional*): label that does not count.
        class_map (`ClassMap`, *optional*): picks the logits of these classes from the model's.
        clean (`Subset`, *optional*): the same images before they were corrupted.
    """

    subset: Subset
    names: tuple[str, ...]
    ignore_index: int | None
    class_map: ClassMap | None = None
    clean: Subset | None = None

    @property
    def num_labels(self) -> int:
        return len(self.names)


def processes() -> PartialState:
    """The processes that `accelerate launch` or `torchrun` started, and the device of this one."""
    # Left to itself, accelerate takes several processes without a GPU for as many single ones.
    return PartialState() if torch.accelerator.is_available() else PartialState(cpu=True)


class Run(NamedTuple):
    """A model on its device, the data, and what a cell is measured with."""

    model: PixelModel
    data: ScoredData
    seed: int
    batch_size: int


def predicted(run: Run, batch: Batch, images: Tensor) -> Tensor:
    """Classes at the size of the labels, among the classes of the data."""
    if run.data.class_map is None:
        return run.model.predict(images, tuple(batch.labels.shape[-2:]) if batch.labels.ndim == 3 else None)
    with torch.no_grad():
        return largest_class(run.data.class_map.restrict(run.model(images)))


def over_batches(run: Run, action: Callable[[Batch], list[Part]]) -> list[Part]:
    """What `action` gives for every batch of every process, in every process."""
    state = processes()
    parts: list[Part] = []
    batches = run.data.subset.batches(run.batch_size, state.process_index, state.num_processes)
    for batch in batches:
        parts += in_memory(batch.to(state.device), action)
    return gather_object(parts)


def in_memory(batch: Batch, action: Callable[[Batch], list[Part]]) -> list[Part]:
    """`action` on the batch, or on its halves where memory runs out."""
    try:
        return action(batch)
    except (RuntimeError, MemoryError) as error:
        if len(batch) == 1 or not (isinstance(error, MemoryError) or should_reduce_batch_size(error)):
            raise
    clear_device_cache(garbage_collection=True)
    return [part for half in batch.halves() for part in in_memory(half, action)]
