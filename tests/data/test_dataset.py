"""The torch data set: randomness per item, epochs that reach workers, and batches."""

import pickle

import numpy as np
import pytest
import torch

from lrsegformer.data.dataset import ImageDataset, collate
from lrsegformer.data.digits import load_digit_images
from lrsegformer.data.processor import build_processor
from lrsegformer.data.transforms import EvaluationTransform, SegmentationTrainTransform
from lrsegformer.errors import InputError

STATISTICS = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def make_dataset(task="segmentation", **options):
    source = load_digit_images(task, 12, 4, 32, 0)
    return ImageDataset(source.train, source.label_space, SegmentationTrainTransform(32, *STATISTICS), 7, **options)


def equal(one, other):
    return torch.equal(one["pixel_values"], other["pixel_values"]) and torch.equal(one["labels"], other["labels"])


def test_items_repeat_and_epochs_differ():
    dataset, twin = make_dataset(), make_dataset()
    first = dataset[3]
    dataset[5]
    assert equal(first, dataset[3]) and equal(first, twin[3])
    dataset.set_epoch(1)
    assert not equal(first, dataset[3])
    dataset.set_epoch(0)
    assert equal(first, dataset[3])


def test_indices_choose_examples():
    assert len(make_dataset(indices=[5, 2])) == 2
    with pytest.raises(IndexError):
        make_dataset(indices=[5, 2])[2]


def test_pickles():
    dataset = make_dataset()
    dataset.set_epoch(4)
    assert equal(pickle.loads(pickle.dumps(dataset))[1], dataset[1])


# A spawned worker imports everything anew, which takes seconds.
@pytest.mark.parametrize(("context", "workers"), [("fork", 2), pytest.param("spawn", 1, marks=pytest.mark.slow)])
def test_persistent_workers_see_the_epoch_and_draw_the_same(context, workers):
    dataset = make_dataset()
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_size=4,
        num_workers=workers,
        collate_fn=collate,
        persistent_workers=True,
        multiprocessing_context=context,
    )
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        expected = collate([dataset[index] for index in range(12)])
        batches = list(loader)
        assert torch.equal(torch.cat([batch["pixel_values"] for batch in batches]), expected["pixel_values"])
        assert torch.equal(torch.cat([batch["labels"] for batch in batches]), expected["labels"])


def test_an_error_in_a_worker_ends_with_its_one_line():
    dataset = make_dataset()
    dataset.label_space = type(dataset.label_space)(("only", "two"))
    loader = torch.utils.data.DataLoader(dataset, num_workers=1, collate_fn=collate)
    batches = iter(loader)
    with pytest.raises(InputError) as caught:
        next(batches)
    batches._shutdown_workers()  # Left to the collection of the traceback that holds it, that takes five seconds.
    assert "digits train image 0: mask value" in str(caught.value).strip().splitlines()[-1]


def test_batches_of_masks_and_of_classes():
    batch = collate([make_dataset()[index] for index in range(3)])
    assert batch["pixel_values"].shape == (3, 3, 32, 32)
    assert batch["labels"].shape == (3, 32, 32) and batch["labels"].dtype == torch.uint8
    classes = collate([{"pixel_values": torch.zeros(3, 4, 4), "labels": 2}] * 2)
    assert classes["labels"].tolist() == [2, 2] and classes["labels"].dtype == torch.int64


def test_different_sizes_name_the_option():
    items = [{"pixel_values": torch.zeros(3, 32, width), "labels": torch.zeros(32, width)} for width in (32, 64)]
    with pytest.raises(InputError, match="--per_device_eval_batch_size 1"):
        collate(items)


def test_evaluation_ignores_the_epoch():
    source = load_digit_images("segmentation", 4, 4, 32, 0)
    transform = EvaluationTransform(build_processor("segmentation", 32, *STATISTICS))
    dataset = ImageDataset(source.validation, source.label_space, transform, 0)
    first = dataset[0]
    dataset.set_epoch(9)
    assert equal(first, dataset[0])
    assert np.array_equal(first["labels"].numpy(), source.validation[0].target)
