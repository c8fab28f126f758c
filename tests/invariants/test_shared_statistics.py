"""What several processes report is what the saved model scores: also where each has seen other batches."""

import json
from pathlib import Path

import pytest

from lrsegformer.models.loading import load_model
from tests.invariants import statistics_runner as runner
from tests.ranks import run_two_ranks

RUNNER = Path(runner.__file__)


@pytest.fixture(scope="module")
def two_processes(made_once) -> Path:
    return made_once("statistics", lambda folder: run_two_ranks(RUNNER, str(folder), log=folder / "log.txt"))


@pytest.mark.parametrize("name", ["plain", "averaged"])
def test_two_processes_score_the_model_that_is_saved(two_processes, tmp_path, name):
    saved = runner.scores(runner.make_trainer(tmp_path, load_model("segmentation", str(two_processes / name)), None))
    for rank in range(2):
        found = json.loads((two_processes / f"{name}-{rank}.json").read_text())
        assert found["eval_loss"] == pytest.approx(saved["eval_loss"], rel=1e-6)
        assert {**found, "eval_loss": None} == {**saved, "eval_loss": None}
