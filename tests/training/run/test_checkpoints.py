"""The last checkpoint of a run that can be continued from."""

import logging
from pathlib import Path

import pytest

from lrsegformer.errors import InputError
from lrsegformer.training.run.checkpoints import checkpoint_to_resume, last_whole_checkpoint


def make_checkpoint(run: Path, step: int | str, state: str | None = "{}") -> Path:
    folder = run / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    if state is not None:
        (folder / "trainer_state.json").write_text(state)
    return folder


def test_the_last_is_the_one_of_the_most_steps(tmp_path):
    assert last_whole_checkpoint(tmp_path / "none") is None and last_whole_checkpoint(tmp_path) is None
    make_checkpoint(tmp_path, 900)
    newest = make_checkpoint(tmp_path, 1000)
    make_checkpoint(tmp_path, "best")
    assert last_whole_checkpoint(tmp_path) == newest


@pytest.mark.parametrize("state", [None, "", '{"global_step": 1'])
def test_one_that_a_kill_cut_short_is_passed_over(tmp_path, caplog, state):
    make_checkpoint(tmp_path, 10)
    make_checkpoint(tmp_path, 20, state)
    with caplog.at_level(logging.WARNING):
        assert checkpoint_to_resume(str(tmp_path), "true") == str(tmp_path / "checkpoint-10")
    assert "checkpoint-20 was not written to its end" in caplog.text


def test_without_a_whole_one_there_is_nothing_to_continue(tmp_path):
    make_checkpoint(tmp_path, 20, None)
    with pytest.raises(InputError, match="holds no checkpoint"):
        checkpoint_to_resume(str(tmp_path), "true")


def test_the_trainer_writes_its_state_last(segmentation_run):
    """What the rule hangs on."""
    folder = segmentation_run[0] / "checkpoint-4"
    times = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert max(times, key=times.get) == "trainer_state.json", times
