"""A run that is asked to stop saves and leaves, and the command that it prints finishes it."""

import re
import signal

import pytest
from safetensors.torch import load_file

from lrsegformer.training.trainer import LRSegformerTrainer
from tests.stops import Moment, send
from tests.training.run.small_runs import RUN, assert_equal_tensors, finish, run_training, what_came_of


@pytest.mark.parametrize(
    ("number", "moment", "call", "saved"),
    [
        pytest.param(signal.SIGTERM, "training_step", 5, 3, marks=pytest.mark.slow),
        (signal.SIGINT, "prediction_step", 1, 3),
        pytest.param(signal.SIGTERM, "save_model", 1, 2, marks=pytest.mark.slow),
    ],
    ids=["in-a-step", "in-an-evaluation", "in-a-save"],
)
def test_a_run_that_is_asked_to_stop_saves_and_leaves(tmp_path, number, moment, call, saved):
    words = [*RUN, "--strategy", "orthogonal"]
    whole = tmp_path / "whole"
    assert run_training("classification", [*words, "--output_dir", str(whole)], tmp_path / "whole.log").status == 0
    folder, log = tmp_path / "stopped", tmp_path / "stopped.log"
    words = [*words, "--output_dir", str(folder)]
    stop = Moment((LRSegformerTrainer, moment), call, send(number))
    assert run_training("classification", words, log, stop).status == 128 + number, log.read_text()[-3000:]
    (line,) = re.findall("^stopped: .*$", log.read_text(), re.MULTILINE)
    assert f"{folder}/checkpoint-{saved} is saved; continue with: lrsegformer finetune-cla" in line
    assert line.endswith("--resume_from_checkpoint") and (folder / f"checkpoint-{saved}").is_dir()
    finish("classification", words, log)
    left, right = what_came_of(folder), what_came_of(whole)
    assert left["logs"] == right["logs"] and left["results"] == right["results"]
    assert_equal_tensors(*(load_file(run / "model.safetensors") for run in (folder, whole)))
