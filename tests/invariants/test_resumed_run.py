"""Rule 7 of the design, through the command line: a continued run ends where the uninterrupted one does."""

import json
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file

from lrsegformer.cli.finetune import main

pytestmark = pytest.mark.usefixtures("blank_pictures")

CLOCKS = ("runtime", "per_second", "flos")


@pytest.fixture(scope="module")
def resumed_run(segmentation_run, tmp_path_factory):
    """The run as it was after two of its four steps, continued in another process by its own configuration alone."""
    folder = tmp_path_factory.mktemp("resumed") / "run"
    folder.mkdir()
    shutil.copytree(segmentation_run[0] / "checkpoint-2", folder / "checkpoint-2")
    shutil.copy(segmentation_run[0] / "run.yaml", folder / "run.yaml")
    options = ["--config", str(folder / "run.yaml"), "--output_dir", str(folder), "--resume_from_checkpoint"]
    main("segmentation", [*options, "--report_to", "none"])
    return folder


def test_weights(segmentation_run, resumed_run):
    expected, found = (load_file(folder / "model.safetensors") for folder in (segmentation_run[0], resumed_run))
    assert found.keys() == expected.keys() and len(expected) > 100
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []
    saved = load_file(segmentation_run[0] / "checkpoint-2" / "model.safetensors")
    assert any(not torch.equal(saved[name], expected[name]) for name in expected), "steps 3 and 4 trained something"


def test_log_and_scores(segmentation_run, resumed_run):
    logs = []
    for folder in (segmentation_run[0], resumed_run):
        history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
        logs.append(
            [
                {name: value for name, value in log.items() if not any(clock in name for clock in CLOCKS)}
                for log in history
                if "train_loss" not in log
            ]
        )
    assert logs[0] == logs[1]
    for log in logs[0]:
        if "loss" in log:
            assert log["loss"] == pytest.approx(log["loss_task"] + log["loss_lipschitz"], rel=1e-5)
    scores = [json.loads((folder / "all_results.json").read_text()) for folder in (segmentation_run[0], resumed_run)]
    assert scores[0]["eval_per_category_iou"] == scores[1]["eval_per_category_iou"]


def test_configuration_of_the_run_is_kept(segmentation_run, resumed_run):
    first, kept = (yaml.safe_load((folder / "run.yaml").read_text()) for folder in (segmentation_run[0], resumed_run))
    assert first == kept
