"""Dividing the samples of a step over processes and accumulation."""

import pytest

from lrsegformer.errors import InputError
from lrsegformer.training.batch_size import split_total_batch_size


@pytest.mark.parametrize(
    ("given", "world_size", "expected"),
    [
        ((None, None, None), 1, (16, 16, 1)),
        ((None, None, None), 4, (16, 4, 1)),
        ((32, None, None), 2, (32, 16, 1)),
        ((None, 2, None), 1, (2, 2, 1)),
        ((None, 2, None), 4, (8, 2, 1)),
        ((16, 2, None), 4, (16, 2, 2)),
        ((None, None, 4), 2, (16, 2, 4)),
        ((24, None, 3), 2, (24, 4, 3)),
        ((None, 3, 5), 2, (30, 3, 5)),
        ((30, 3, 5), 2, (30, 3, 5)),
    ],
)
def test_split(given, world_size, expected):
    total, per_device, accumulation = split_total_batch_size(*given, world_size)
    assert (total, per_device, accumulation) == expected
    assert total == per_device * accumulation * world_size


@pytest.mark.parametrize(
    ("given", "world_size", "words"),
    [
        ((10, None, None), 4, ("--total_batch_size 10", "4 processes", "multiple of 4")),
        ((16, 3, None), 1, ("--total_batch_size 16", "--per_device_train_batch_size 3", "multiple of 3")),
        ((16, None, 3), 1, ("--gradient_accumulation_steps 3", "multiple of 3")),
        ((16, 4, 2), 1, ("--total_batch_size 16", "--per_device_train_batch_size 4", "= 8")),
        ((0, None, None), 1, ("--total_batch_size is 0",)),
        ((None, -2, None), 1, ("--per_device_train_batch_size is -2",)),
        ((None, 2, 0), 1, ("--gradient_accumulation_steps is 0",)),
    ],
)
def test_numbers_that_do_not_divide_name_the_options(given, world_size, words):
    with pytest.raises(InputError) as error:
        split_total_batch_size(*given, world_size)
    message = str(error.value)
    assert all(word in message for word in words), message
    assert "\n" not in message
