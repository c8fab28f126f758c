"""One pass over labelled images: confusion counts by protocol and size, and how well each image came out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate.utils import gather_object
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader
from transformers.utils import logging

from lrsegformer.data.dataset import ImageDataset, refuse_mute_workers
from lrsegformer.data.transforms import nearest_crop
from lrsegformer.evaluation.prediction import largest_class
from lrsegformer.evaluation.protocols import SCALES
from lrsegformer.evaluation.scores import confusion_counts, scores_from_counts
from lrsegformer.inference.predictor import Predictor
from lrsegformer.inference.protocol import Protocol, classes_of
from lrsegformer.inference.stream import of_one_size, stacked
from lrsegformer.robustness.bench.runs import processes

# Sizes at which a segmentation model is scored: of each annotation, and of the input.
SIZES = ("original", "resized")


class ProtocolInputs:
    """A transform of [`~lrsegformer.data.dataset.ImageDataset`]: what the protocols give the model, and the labels."""

    def __init__(self, processor: Any, protocols: Sequence[Protocol]):
        self.processor = processor
        names = [protocol.name for protocol in protocols]
        self.protocol = Protocol("multi_scale_flip" if "multi_scale_flip" in names else "whole")

    def __call__(self, image: Image.Image, target: np.ndarray | int, rng: np.random.Generator) -> dict[str, Any]:
        return {"inputs": self.protocol.inputs(self.processor, image), "labels": target}

    def of(self, protocol: Protocol, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Of all inputs those of a protocol."""
        if protocol.name == "multi_scale_flip" or len(inputs) == 1:
            return inputs
        return [inputs[SCALES.index(1.0)]]


class ImageScore(NamedTuple):
    """
    How well an image came out, by the first protocol, at its own size.

    Attributes:
        position (`int`): in the data set.
        badness (`float`): what images are ranked by: 1 less the mean IoU over the classes that the image has or was
            given, or the loss of classification.
        accuracy (`float`): share of its valid pixels that are right; of classification 0 or 1.
    """

    position: int
    badness: float
    accuracy: float


class Scored(NamedTuple):
    """
    What a data set gave.

    Attributes:
        counts (`dict`): confusion matrices `(num_labels, num_labels)` by protocol and size.
        images (`list[ImageScore]`): those with a valid label, in the order of the data set.
    """

    counts: dict[tuple[str, str], np.ndarray]
    images: list[ImageScore]


@torch.no_grad()
def score(
    predictor: Predictor,
    dataset: ImageDataset,
    protocols: Sequence[Protocol],
    ignore_index: int | None,
    batch_size: int,
    num_workers: int,
) -> Scored:
    """
    Score every image of a data set by every protocol; processes share the images and get the same result.

    Args:
        predictor ([`~lrsegformer.inference.Predictor`]): the model.
        dataset ([`~lrsegformer.data.dataset.ImageDataset`]): with [`ProtocolInputs`] as its transform.
        protocols (sequence of [`~lrsegformer.inference.protocol.Protocol`]): the first one ranks the images.
        ignore_index (`int`, *optional*): label that does not count.
        batch_size, num_workers (`int`): of the data loader.
    """
    state = processes()
    own = range(state.process_index, len(dataset), state.num_processes)
    chunks = [list(own[start : start + batch_size]) for start in range(0, len(own), batch_size)]
    refuse_mute_workers(num_workers)
    loader = DataLoader(dataset, batch_sampler=chunks, num_workers=num_workers, collate_fn=list)
    counting = _Counting(predictor, dataset.transform, protocols, ignore_index)
    with logging.tqdm(total=len(own), unit="image", disable=not state.is_main_process) as bar:
        for chunk, items in zip(chunks, loader, strict=True):
            for batch in of_one_size(list(zip(chunk, items, strict=True)), lambda one: one[1]["inputs"]):
                counting.add([position for position, _ in batch], [item for _, item in batch])
            bar.update(len(chunk))
    tables = gather_object([counting.counts])
    counts = {key: sum(table[key] for table in tables).numpy() for key in counting.counts}
    return Scored(counts, sorted(gather_object(counting.images)))


class _Counting:
    """The counts of the images so far."""

    def __init__(
        self, predictor: Predictor, transform: ProtocolInputs, protocols: Sequence[Protocol], ignore_index: int | None
    ):
        self.predictor, self.transform, self.protocols = predictor, transform, protocols
        self.ignore_index, self.num_labels = ignore_index, len(predictor.class_names)
        sizes = SIZES if predictor.task == "segmentation" else SIZES[:1]
        empty = torch.zeros(self.num_labels, self.num_labels, dtype=torch.int64)
        self.counts = {(protocol.name, size): empty.clone() for protocol in protocols for size in sizes}
        self.images: list[ImageScore] = []

    def add(self, positions: Sequence[int], items: Sequence[dict[str, Any]]) -> None:
        """Count images whose inputs have one size."""
        inputs = stacked([item["inputs"] for item in items])
        input_size = tuple(self.transform.of(Protocol(), inputs)[0].shape[-2:])
        for number, protocol in enumerate(self.protocols):
            maps = protocol.logits(self.predictor.logits_of, self.transform.of(protocol, inputs))
            for row, (position, item) in enumerate(zip(positions, items, strict=True)):
                own = [one[row : row + 1] for one in maps]
                if self.predictor.task == "segmentation":
                    table = self._add_map(protocol, own, item["labels"], input_size)
                    found = None if number else _image_score(position, table)
                else:
                    found = self._add_class(position, own[0], item["labels"])
                if found is not None:
                    self.images.append(found)

    def _add_map(
        self, protocol: Protocol, maps: Sequence[Tensor], labels: np.ndarray, input_size: tuple[int, int]
    ) -> Tensor:
        """The counts of an image at its own size."""
        table = self._table(maps, labels)
        self.counts[protocol.name, "original"] += table
        if labels.shape != input_size:
            height, width = input_size
            resized = nearest_crop(labels, (width, height), (0, 0, width, height))
            self.counts[protocol.name, "resized"] += self._table(maps, resized)
        else:
            self.counts[protocol.name, "resized"] += table
        return table

    def _table(self, maps: Sequence[Tensor], labels: np.ndarray) -> Tensor:
        classes = classes_of(maps, labels.shape)[0]
        truth = torch.from_numpy(np.array(labels)).to(classes.device)
        return confusion_counts(classes, truth, self.num_labels, self.ignore_index).cpu()

    def _add_class(self, position: int, logits: Tensor, label: int) -> ImageScore:
        truth = torch.tensor([label], device=logits.device)
        predicted = largest_class(logits)
        self.counts["whole", "original"] += confusion_counts(
            predicted, truth, self.num_labels, self.ignore_index
        ).cpu()
        return ImageScore(
            position, functional.cross_entropy(logits.float(), truth).item(), float((predicted == truth).item())
        )


def _image_score(position: int, table: Tensor) -> ImageScore | None:
    """`None` of an image without a valid pixel."""
    scores = scores_from_counts(table)
    if np.isnan(scores["mean_iou"]):
        return None
    return ImageScore(position, 1 - scores["mean_iou"], scores["accuracy"])
