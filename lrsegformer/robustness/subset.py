"""Which images are scored: a seeded subset, its fingerprint, and batches of one size."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.utils import logging

from lrsegformer.data.dataset import ImageDataset, collate


@dataclass(frozen=True)
class Batch:
    """
    Images of one size.

    Attributes:
        positions (`list[int]`): places in the subset.
        ids (`list[int]`): places in the whole split, from which random draws are seeded.
        images (`torch.Tensor`): float32 `(batch, 3, height, width)`, from 0 to 1.
        labels (`torch.Tensor`): int64 `(batch, label_height, label_width)`, or `(batch,)`.
    """

    positions: list[int]
    ids: list[int]
    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.positions)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def halves(self) -> tuple[Batch, Batch]:
        """The first half, and the rest."""
        middle = len(self) // 2
        return self._part(slice(None, middle)), self._part(slice(middle, None))

    def _part(self, part: slice) -> Batch:
        return Batch(self.positions[part], self.ids[part], self.images[part], self.labels[part])


@dataclass(frozen=True)
class Subset:
    """
    The images of a cell in a fixed order.

    Attributes:
        dataset ([`~lrsegformer.data.dataset.ImageDataset`]): items with `pixel_values` from 0 to 1.
        total (`int`): images in the whole split.
        names (`list[str]`): file, or data set and row, of each image.
        fingerprint (`str`): 16 hexadecimal digits from every image and label.
        groups (`list[list[int]]`): positions that share the sizes of image and label.
    """

    dataset: ImageDataset
    total: int
    names: list[str]
    fingerprint: str
    groups: list[list[int]]

    def __len__(self) -> int:
        return len(self.names)

    def batches(self, batch_size: int, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """
        This process's batches. Every number of processes makes the same batches, so that no rounding differs.

        Args:
            batch_size (`int`): images in a batch, at most.
            rank, world (`int`): number of this process, and how many there are.
        """
        chunks = [
            group[start : start + batch_size] for group in self.groups for start in range(0, len(group), batch_size)
        ]
        for positions in chunks[rank::world]:
            batch = collate([self.dataset[position] for position in positions])
            ids = [int(self.dataset.indices[position]) for position in positions]
            yield Batch(positions, ids, batch["pixel_values"], batch["labels"].long())


def choose_indices(total: int, count: int, seed: int) -> np.ndarray:
    """The first `count` of a shuffle of `range(total)` by `seed`, in rising order; all of them where there are no
    more."""
    return np.sort(np.random.default_rng(seed).permutation(total)[:count])


def survey(dataset: ImageDataset, total: int) -> Subset:
    """
    Look through a data set once: names, sizes and fingerprint.

    Args:
        dataset ([`~lrsegformer.data.dataset.ImageDataset`]): the subset to score.
        total (`int`): images in the split that it was chosen from.
    """
    digest = hashlib.sha256()
    names: list[str] = []
    groups: dict[tuple, list[int]] = defaultdict(list)
    for position in logging.tqdm(range(len(dataset)), desc="looking through the images", disable=len(dataset) < 100):
        item = dataset[position]
        labels = torch.as_tensor(item["labels"])
        sizes = (*item["pixel_values"].shape, *labels.shape)
        digest.update(repr(sizes).encode())
        digest.update(item["pixel_values"].numpy().tobytes())
        digest.update(labels.contiguous().to(torch.int64).numpy().tobytes())
        groups[sizes].append(position)
        names.append(example_name(dataset, position))
    return Subset(dataset, total, names, digest.hexdigest()[:16], list(groups.values()))


def example_name(dataset: Any, position: int) -> str:
    """What the source calls the image at this place."""
    return dataset.source[int(dataset.indices[position])].name
