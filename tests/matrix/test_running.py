"""Cells are run once, go on after a kill, and do not take each other down."""

import json
import os
import signal
import threading
from pathlib import Path

import pytest

from lrsegformer.errors import InputError
from lrsegformer.matrix.ledger import Ledger, sole_owner
from lrsegformer.matrix.running import run_plan, steps_to_run

BASELINE = "classification-baseline-seed{}".format


@pytest.fixture
def run(launch, make_plan, tmp_path):
    """`run(*cells, **options)`: the outcome, with the folder's lines in `run.said`."""

    def call(*cells, **options):
        call.said = []
        return run_plan(make_plan(*cells), tmp_path / "out", launch, call.said.append, **options)

    call.folder = tmp_path / "out"
    return call


def calls(folder: Path) -> list[str]:
    return (folder / "calls.log").read_text().splitlines()


def entries(folder: Path) -> dict[str, dict]:
    return {entry["name"]: entry for entry in json.loads((folder / "matrix.json").read_text())}


def test_what_is_finished_is_not_run_again(run, make_cell):
    cells = [make_cell(0, robust="test"), make_cell(1)]
    assert run(*cells).is_complete and run(*cells).is_complete and run.said == []
    (call,) = calls(run.folder / BASELINE(0))
    assert call.endswith(f"--seed 0 --output_dir {run.folder / BASELINE(0)}")
    (call,) = calls(run.folder / BASELINE(0) / "robust")
    assert call.startswith(f"--models {run.folder / BASELINE(0)} --do test")
    entry = entries(run.folder)[BASELINE(0)]
    assert (entry["status"], entry["error"], entry["folder"]) == ("done", None, BASELINE(0))
    assert entry["seconds"] == pytest.approx(sum(step["seconds"] for step in entry["steps"].values()), abs=2e-3)


def test_a_failed_cell_leaves_the_others_and_is_tried_again_on_request(run, make_cell):
    cells = [make_cell(0, "fail_once", robust="test"), make_cell(1, robust="fail"), make_cell(2)]
    outcome = run(*cells)
    assert outcome.done == [BASELINE(2)] and not outcome.pending
    assert outcome.failed == {
        BASELINE(0): "train: it was told to fail",
        BASELINE(1): "robust: it was told to fail",
    }
    assert not (run.folder / BASELINE(0) / "robust").exists()

    assert run(*cells).failed == outcome.failed and run.said == []
    again = run(*cells, retry_failed=True)
    assert again.done == [BASELINE(0), BASELINE(2)] and list(again.failed) == [BASELINE(1)]
    assert len(calls(run.folder / BASELINE(1))) == 1 and len(calls(run.folder / BASELINE(1) / "robust")) == 2


def test_a_killed_cell_goes_on_from_its_checkpoint(run, make_cell):
    outcome = run(make_cell(0, "die_once"), make_cell(1))
    assert outcome.done == [BASELINE(1)] and "SIGKILL" in outcome.pending[BASELINE(0)] and not outcome.failed
    assert run(make_cell(0, "die_once"), make_cell(1)).is_complete
    first, second = calls(run.folder / BASELINE(0))
    assert second == f"{first} --resume_from_checkpoint"
    assert entries(run.folder)[BASELINE(0)]["steps"]["train"]["attempts"] == 2


def test_an_attempt_without_a_whole_checkpoint_is_begun_anew(run, make_cell):
    run(make_cell(0, "die_once"))
    folder = run.folder / BASELINE(0)
    (folder / "checkpoint-2" / "trainer_state.json").write_text('{"cut')
    (folder / "config.json").write_text("{}")
    outcome = run(make_cell(0, "die_once"))  # It dies once more, as nothing tells it that it has lived.
    assert list(outcome.pending) == [BASELINE(0)]
    assert not any("resume" in call for call in calls(folder)) and not (folder / "config.json").exists()
    assert (folder / "train.log").exists()


def test_other_options_of_a_begun_cell_are_refused_before_anything_runs(run, make_cell):
    run(make_cell(0))
    with pytest.raises(InputError, match=f"{BASELINE(0)} was begun with other options .--score 0.5.*--score 0.7"):
        run(make_cell(1), make_cell(0, score=0.7))
    assert not (run.folder / BASELINE(1)).exists() and list(entries(run.folder)) == [BASELINE(0)]


def test_a_failed_cell_that_left_nothing_may_have_other_options(run, make_cell):
    assert run(make_cell(0, "fail")).failed
    assert run(make_cell(0)).is_complete


def test_a_deleted_folder_is_made_again_with_what_follows(run, make_cell):
    import shutil

    cell = make_cell(0, robust="test")
    run(cell)
    shutil.rmtree(run.folder / BASELINE(0) / "robust")
    assert run(cell).is_complete and len(run.said) == 2
    shutil.rmtree(run.folder / BASELINE(0))
    assert run(cell).is_complete and len(run.said) == 4


def test_a_longer_matrix_keeps_what_is_done_and_a_further_step_is_made_up_for(run, make_cell):
    run(make_cell(0))
    assert run(make_cell(1)).done == [BASELINE(1)]
    assert set(entries(run.folder)) == {BASELINE(0), BASELINE(1)}
    assert run(make_cell(0, robust="test"), make_cell(1)).is_complete
    assert len(calls(run.folder / BASELINE(0))) == 1


def test_a_folder_of_something_else_is_refused(run, make_cell):
    (run.folder / BASELINE(0)).mkdir(parents=True)
    (run.folder / BASELINE(0) / "config.json").write_text("{}")
    with pytest.raises(InputError, match="no cell of this matrix"):
        run(make_cell(0))
    assert not (run.folder / "matrix.json").exists()


@pytest.mark.parametrize("content", ["{", "{}", '[{"name": 1}]'])
def test_a_file_that_is_no_ledger_is_refused_and_kept(run, make_cell, content):
    run.folder.mkdir()
    (run.folder / "matrix.json").write_text(content)
    with pytest.raises(InputError, match=r"matrix\.json"):
        run(make_cell(0))
    assert (run.folder / "matrix.json").read_text() == content


def test_a_file_in_place_of_the_folder_is_refused(run, make_cell):
    run.folder.write_text("")
    with pytest.raises(InputError, match="--output_dir"):
        run(make_cell(0))


def test_several_cells_at_a_time(run, make_cell):
    cells = [make_cell(seed) for seed in range(5)]
    assert run(*cells, jobs=3).done == [BASELINE(seed) for seed in range(5)]


def test_a_folder_has_one_owner(tmp_path):
    with sole_owner(tmp_path), pytest.raises(InputError, match=f"worked on by process {os.getpid()} on "):
        with sole_owner(tmp_path):
            pass
    with sole_owner(tmp_path):
        pass


def test_the_owner_dies_with_its_process(tmp_path):
    child = os.fork()
    if child == 0:
        with sole_owner(tmp_path):
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert (tmp_path / "matrix.lock").read_text().startswith(f"process {child} ")
    with sole_owner(tmp_path):
        pass


def test_ctrl_c_stops_the_running_cell_and_begins_no_other(run, make_cell):
    # Where tests run in the background of a shell, the signal is ignored, by what they start, too.
    former = signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupt() -> None:
        log = run.folder / BASELINE(0) / "calls.log"
        while not log.exists():
            pause.wait(0.05)
        signal.raise_signal(signal.SIGINT)

    pause = threading.Event()
    threading.Thread(target=interrupt).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            run(make_cell(0, "wait"), make_cell(1))
    finally:
        signal.signal(signal.SIGINT, former)
    found = entries(run.folder)
    assert "stopped: told to" in (run.folder / BASELINE(0) / "train.log").read_text()
    assert [found[BASELINE(seed)]["status"] for seed in (0, 1)] == ["pending", "pending"]
    assert not (run.folder / BASELINE(1)).exists() and (run.folder / "summary.md").exists()


def test_steps_of_a_cell_whose_training_failed_wait_for_it(make_cell, make_plan, tmp_path):
    ledger = Ledger(tmp_path, make_plan(make_cell(0, robust="test")))
    entry = ledger.entries[BASELINE(0)]
    assert steps_to_run(entry, False) == ["train", "robust"]
    ledger.end(BASELINE(0), "train", "failed", 1.0, "why")
    assert steps_to_run(entry, False) == [] and steps_to_run(entry, True) == ["train", "robust"]
    ledger.end(BASELINE(0), "train", "done", 1.5)
    assert steps_to_run(entry, False) == ["robust"] and (entry["seconds"], entry["error"]) == (2.5, None)
