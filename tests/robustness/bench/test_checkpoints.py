"""Models of a report: what they are called, and what is found wrong with them before anything is computed."""

import pytest
import torch
from transformers import SegformerImageProcessorPil

from lrsegformer.data.files.pixels import ImageReading
from lrsegformer.data.processor import input_size
from lrsegformer.errors import InputError
from lrsegformer.robustness.bench.checkpoints import (
    Checkpoint,
    check_classes,
    find_checkpoints,
    load_checkpoint,
    scoring_processor,
)


@pytest.fixture
def folder(make_model, tmp_path):
    model = make_model(num_labels=3)
    model.config.id2label = {0: "road", 1: "car", 2: "sky"}
    model.save_pretrained(tmp_path / "run")
    return tmp_path / "run"


def one_line(call, *words):
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message


def test_labels_tell_models_apart(folder, tmp_path):
    for place in ("run/checkpoint-600", "other/checkpoint-600", "other/run"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).symlink_to(folder)
    (tmp_path / "best").symlink_to(folder)
    places = ("run/checkpoint-600", "other/checkpoint-600", "best", "run", "other/run")
    labels = [checkpoint.label for checkpoint in find_checkpoints([str(tmp_path / place) for place in places])]
    assert labels[:3] == ["run/checkpoint-600", "other/checkpoint-600", "best"]
    assert labels[3:] == [str(tmp_path / "run"), str(tmp_path / "other/run")]


def test_classes_in_another_order_are_refused(folder):
    (checkpoint,) = find_checkpoints([str(folder)])
    assert checkpoint.class_names == ("road", "car", "sky") and checkpoint.num_labels == 3
    check_classes(checkpoint, ("road", "car", "sky"), "data")
    check_classes(checkpoint, ("class_0", "class_1", "class_2"), "data")
    swapped = ("road", "sky", "car")
    one_line(lambda: check_classes(checkpoint, swapped, "data"), "another order", "class 1", "--class_names")
    one_line(lambda: check_classes(checkpoint, ("road", "car"), "data"), "3 classes", "2")


def test_what_cannot_be_read(folder, tmp_path):
    (checkpoint,) = find_checkpoints([str(folder)])
    load_checkpoint(checkpoint)
    one_line(lambda: scoring_processor(checkpoint, None), "preprocessor_config.json", "--models")
    saved = SegformerImageProcessorPil(image_mean=[0.1, 0.2, 0.3])
    ImageReading(value_range=(0, 4095)).keep_in(saved)
    saved.save_pretrained(folder)
    for eval_size, size in ((None, "512x512"), (90, "short side 90 (long side at most 2048)")):
        processor = scoring_processor(checkpoint, eval_size)
        assert tuple(processor.image_mean) == (0.1, 0.2, 0.3) and input_size(processor) == size
        assert ImageReading.of_processor(processor).value_range == (0, 4095)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    one_line(lambda: load_checkpoint(checkpoint), "cannot be loaded", str(folder))
    one_line(lambda: find_checkpoints([str(tmp_path / "absent")]), "no such folder", "absent")
    one_line(lambda: find_checkpoints(["./absent"]), "no such folder", "./absent")


def test_weights_that_are_no_numbers(make_model, tmp_path):
    model = make_model(num_labels=3)
    with torch.no_grad():
        model.decode_head.classifier.bias[1] = torch.nan
    model.save_pretrained(tmp_path / "astray")
    checkpoint = Checkpoint(str(tmp_path / "astray"), "astray", "segmentation", ("a", "b", "c"))
    one_line(lambda: load_checkpoint(checkpoint), "astray", "not finite", "classifier.bias")
