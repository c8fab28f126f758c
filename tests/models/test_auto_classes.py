"""`import lrsegformer` makes the models known to Auto classes and pipelines."""

import json

import pytest
import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForSemanticSegmentation,
    SegformerImageProcessorPil,
    pipeline,
)

from lrsegformer import LRSegformerConfig, LRSegformerForImageClassification, LRSegformerForSemanticSegmentation


@pytest.fixture(scope="module")
def folders(make_model, tmp_path_factory):
    folders = {}
    for task in ("segmentation", "classification"):
        folders[task] = tmp_path_factory.mktemp(task)
        make_model("stable_softplus", task=task).save_pretrained(folders[task])
        SegformerImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(folders[task])
    return folders


def test_auto_classes_find_the_models(folders):
    assert type(AutoConfig.from_pretrained(folders["segmentation"])) is LRSegformerConfig
    segmentation = AutoModelForSemanticSegmentation.from_pretrained(folders["segmentation"])
    classification = AutoModelForImageClassification.from_pretrained(folders["classification"])
    assert type(segmentation) is LRSegformerForSemanticSegmentation
    assert type(classification) is LRSegformerForImageClassification
    assert segmentation.config.lipschitz_strategy == "stable_softplus"


def test_auto_image_processor_finds_the_processor(folders, tmp_path):
    processor = AutoImageProcessor.from_pretrained(folders["segmentation"])
    assert type(processor) is SegformerImageProcessorPil
    assert json.loads((folders["segmentation"] / "preprocessor_config.json").read_text())["image_processor_type"]
    inputs = processor(Image.new("RGB", (40, 30)), return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 3, 64, 64)


@pytest.mark.parametrize("on_disk", [True, False])
def test_segmentation_pipeline_runs_without_an_error_line(folders, caplog, error_lines, on_disk):
    source = str(folders["segmentation"])
    if on_disk:
        segment = pipeline("image-segmentation", model=source, device="cpu")
    else:
        segment = pipeline(
            "image-segmentation",
            model=LRSegformerForSemanticSegmentation.from_pretrained(source),
            image_processor=AutoImageProcessor.from_pretrained(source),
            device="cpu",
        )
    parts = segment(Image.new("RGB", (40, 30), "red"))
    assert parts and all(part["mask"].size == (40, 30) for part in parts)
    assert not error_lines


def test_classification_pipeline_runs_without_an_error_line(folders, error_lines):
    classify = pipeline("image-classification", model=str(folders["classification"]), device="cpu")
    assert len(classify(Image.new("RGB", (40, 30), "red"))) == 5
    assert not error_lines


def test_pipeline_gives_the_model_its_classes(folders):
    segment = pipeline("image-segmentation", model=str(folders["segmentation"]), device="cpu")
    image = Image.effect_noise((64, 64), 80).convert("RGB")
    pixels = SegformerImageProcessorPil.from_pretrained(folders["segmentation"])(image, return_tensors="pt")
    with torch.no_grad():
        logits = segment.model(**pixels).logits
    classes = torch.nn.functional.interpolate(logits, (64, 64), mode="bilinear").argmax(1).unique().tolist()
    assert [part["label"] for part in segment(image)] == [f"LABEL_{index}" for index in classes]
