"""Options of the data through the command line, to the files of a run."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from lrsegformer.cli.finetune import main
from lrsegformer.evaluation.scores import confusion_counts, scores_from_counts


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
