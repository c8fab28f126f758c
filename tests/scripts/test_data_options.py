"""Options of the data through the command line, to the files of a run."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor

from lrsegformer.cli.finetune import main
from lrsegformer.data.examples import open_image
from lrsegformer.data.files.pixels import ImageReading
from lrsegformer.evaluation.scores import confusion_counts, scores_from_counts

pytestmark = pytest.mark.usefixtures("blank_pictures")


@pytest.fixture
def binary(pairs):
    """The folder of pairs, its masks of 0 and 255."""
    for file in (pairs / "annotations").glob("*/*.png"):
        Image.fromarray(np.asarray(Image.open(file)) * 255).save(file)
    return pairs


def test_masks_of_0_and_255_with_two_names_end_in_one_line(explain, binary, tiny):
    line = explain("--dataset", str(binary), "--class_names", "background,lesion", *tiny)
    assert "only 'background' has pixels" in line and "--mask_values 0,255" in line


@pytest.mark.parametrize(
    "options", [["--class_names", "lesion"], ["--class_names", "background,lesion", "--mask_values", "0,255"]]
)
def test_one_class_beside_the_background_trains(binary, tiny, tmp_path, monkeypatch, options):
    monkeypatch.chdir(tmp_path)
    main("segmentation", ["--dataset", str(binary), *options, *tiny, "--output_dir", "out"])
    results = json.loads((tmp_path / "out" / "all_results.json").read_text())
    assert results["classes"] == ["background", "lesion"]
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["id2label"] == {"0": "background", "1": "lesion"}
    assert len(results["eval_per_category_iou"]) == 2 and "lesion" in (tmp_path / "out" / "README.md").read_text()
    truth = torch.tensor([[0, 1], [1, 1]], dtype=torch.uint8)
    assert scores_from_counts(confusion_counts(truth, truth, 2))["mean_iou"] == 1.0


def test_the_scale_of_deep_images_is_saved_with_the_model(pairs, tiny, tmp_path, monkeypatch, caplog):
    ramp = np.arange(40 * 40, dtype=np.uint16).reshape(40, 40) * 2
    for file in (pairs / "images").glob("*/*.png"):
        Image.fromarray(ramp // (1 + int(file.stem))).save(file)
    monkeypatch.chdir(tmp_path)
    main("segmentation", ["--dataset", str(pairs), *tiny, "--output_dir", "out"])
    assert "--image_range 0,4095" in caplog.text
    saved = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    assert saved["image_range"] == [0.0, 4095.0]
    assert "image_range: 0,4095" in (tmp_path / "out" / "run.yaml").read_text()
    assert "values 0 to 4095 scaled to 0 to 255" in (tmp_path / "out" / "README.md").read_text()
    reading = ImageReading.of_processor(AutoImageProcessor.from_pretrained(tmp_path / "out", backend="pil"))
    image = open_image(pairs / "images" / "validation" / "0.png", reading=reading)
    assert np.asarray(image).max() == round(3198 * 255 / 4095)
