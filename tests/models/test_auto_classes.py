"""`import lrsegformer` makes the models known to Auto classes and pipelines."""

import json

import pytest
import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForSemanticSegmentation,
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
    SegformerImageProcessorPil,
    SegformerModel,
    pipeline,
)

from lrsegformer import (
    STRATEGIES,
    LRSegformerConfig,
    LRSegformerForImageClassification,
    LRSegformerForSemanticSegmentation,
)


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


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_auto_model_gives_the_backbone(folders, task, images, tmp_path):
    """As for a stock folder: the encoder alone, every tensor of it from the file, and back."""
    whole = AutoModelForSemanticSegmentation if task == "segmentation" else AutoModelForImageClassification
    expected = whole.from_pretrained(folders[task]).segformer
    backbone, info = AutoModel.from_pretrained(folders[task], output_loading_info=True)
    assert isinstance(backbone, SegformerModel) and not info["missing_keys"] and not info["mismatched_keys"]
    state, loaded = expected.state_dict(), backbone.state_dict()
    assert list(state) == list(loaded) and all(torch.equal(state[name], loaded[name]) for name in state)
    assert torch.equal(backbone(images).last_hidden_state, expected(images).last_hidden_state)
    backbone.save_pretrained(tmp_path / "backbone")
    again, info = AutoModel.from_pretrained(tmp_path / "backbone", output_loading_info=True)
    assert type(again) is type(backbone) and not any(info.values())
    assert all(torch.equal(state[name], tensor) for name, tensor in again.state_dict().items())


@pytest.mark.parametrize("scope", ["head", "projections"])
@pytest.mark.parametrize("strategy", [None, *STRATEGIES])
def test_auto_model_from_a_configuration(make_model, strategy, scope):
    config = make_model(strategy, scope).config
    assert isinstance(AutoModel.from_config(config), SegformerModel)
    assert type(AutoModelForSemanticSegmentation.from_config(config)) is LRSegformerForSemanticSegmentation
    if scope == "head":
        assert type(AutoModelForImageClassification.from_config(config)) is LRSegformerForImageClassification


@pytest.mark.parametrize("ours", [LRSegformerForSemanticSegmentation, LRSegformerForImageClassification])
def test_a_saved_backbone_starts_both_tasks(folders, tmp_path, ours):
    backbone = AutoModel.from_pretrained(folders["segmentation"])
    backbone.save_pretrained(tmp_path)
    stock = SegformerForSemanticSegmentation if "Semantic" in ours.__name__ else SegformerForImageClassification
    for model_class in (ours, stock):
        model, info = model_class.from_pretrained(tmp_path, output_loading_info=True)
        assert all(name.startswith(("decode_head.", "classifier.")) for name in info["missing_keys"])
        loaded = model.segformer.state_dict()
        assert all(torch.equal(tensor, loaded[name]) for name, tensor in backbone.state_dict().items())


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_feature_extraction_pipeline(folders, task, error_lines):
    extract = pipeline("image-feature-extraction", model=str(folders[task]), device="cpu")
    features = extract([Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")])
    assert len(features) == 2 and features[0] != features[1]
    assert not error_lines


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


def pictures(count: int) -> list[Image.Image]:
    """Images of different sizes."""
    return [Image.effect_noise((40 + 9 * index, 30 + 5 * index), 80).convert("RGB") for index in range(count)]


@pytest.mark.one_in(3)
@pytest.mark.each_value("task")
@pytest.mark.parametrize("batch_size", [1, 2, 3])
@pytest.mark.parametrize("strategy", [None, *STRATEGIES])
@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_pipelines_in_batches_give_what_single_images_give(make_model, tmp_path, task, strategy, batch_size):
    make_model(strategy, task=task).save_pretrained(tmp_path)
    SegformerImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(tmp_path)
    run = pipeline(f"image-{task}", model=str(tmp_path), device="cpu")
    images = pictures(5)
    singles, batched = [run(image) for image in images], run(images, batch_size=batch_size)
    assert len(batched) == 5
    generated = list(run((image for image in images), batch_size=batch_size))
    for single, *several in zip(singles, batched, generated, strict=True):
        for result in several:
            assert [part["label"] for part in result] == [part["label"] for part in single]
            if task == "classification":
                assert [part["score"] for part in result] == pytest.approx([p["score"] for p in single], rel=1e-5)
            else:
                assert all(a["mask"].tobytes() == b["mask"].tobytes() for a, b in zip(result, single, strict=True))
