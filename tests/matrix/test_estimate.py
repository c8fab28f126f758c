"""Times of known runs, and where an estimate says that it comes from."""

import sys

import pytest

from lrsegformer.matrix.estimate import (
    TIMED_STEPS,
    Trial,
    estimate_step,
    finished_seconds,
    time_trial,
    timing_key,
    whole_run,
)
from lrsegformer.matrix.planning import Length
from lrsegformer.matrix.preview import preview

TRIAL = Trial(seconds_a_step=2.0, seconds_an_image=0.5, others=10.0, images=40, steps_an_epoch=25.0)


@pytest.mark.parametrize(
    ("length", "seconds"),
    [
        (Length(100, 0.0, "no", 0.0), 10 + 100 * 2 + 1 * 20),
        (Length(100, 0.0, "steps", 0.1), 10 + 100 * 2 + 11 * 20),
        (Length(100, 0.0, "steps", 30), 10 + 100 * 2 + 4 * 20),
        (Length(0, 2.0, "epoch", 0.1), 10 + 50 * 2 + 3 * 20),
        (Length(0, 0.5, "no", 0.1, max_eval_samples=10), 10 + 13 * 2 + 1 * 5),
        (Length(100, 0.0, "no", 0.0, max_eval_samples=99), 10 + 100 * 2 + 1 * 20),
    ],
)
def test_a_whole_run(length, seconds):
    assert whole_run(TRIAL, length) == pytest.approx(seconds)


def finished(cell, seconds: float, attempts: int = 1) -> dict:
    step = cell.steps[0]
    record = {"status": "done", "attempts": attempts, "seconds": seconds, "words": list(step.words)}
    return {"name": cell.name, "status": "done", "steps": {"train": record}}


def test_finished_cells_of_other_seeds_are_the_estimate(make_cell):
    cells = [make_cell(seed) for seed in range(4)]
    known = finished_seconds([finished(cells[0], 10.0), finished(cells[1], 20.0), finished(cells[2], 99.0, 2)])
    assert estimate_step(cells[3], cells[3].steps[0], known, {}) == (15.0, "mean of 2 finished")
    other = make_cell(5, score=0.9)
    assert estimate_step(other, other.steps[0], known, {}) == (None, "not known")
    trials = {timing_key("train", other.steps[0].words, other.steps[0].words): TRIAL}
    assert estimate_step(other, other.steps[0], known, trials) == (50.0, f"{TIMED_STEPS} steps timed")


def test_the_time_of_a_follow_up_hangs_on_what_was_trained(make_cell):
    cells = [make_cell(0, robust="test"), make_cell(1, robust="test"), make_cell(1, score=0.9, robust="test")]
    one, same, other = (timing_key("robust", cell.steps[1].words, cell.steps[0].words) for cell in cells)
    assert one == same != other


TIMED = """
import json, pathlib, sys, time
words = sys.argv[1:]
folder = pathlib.Path(words[words.index("--output_dir") + 1])
folder.mkdir(parents=True)
for step in range(8):
    time.sleep(0.05)
    print({'loss': 1.0}, flush=True)
time.sleep(0.2)
(folder / "all_results.json").write_text(json.dumps(
    {"validation_images": {"scored": 4, "of": 200}, "eval_runtime": 0.2}))
(folder / "trainer_state.json").write_text(json.dumps({"global_step": 8, "epoch": 0.5}))
"""


def test_a_trial_counts_steps_from_the_first_on(make_cell, launch):
    seen = []

    def timed(command, words):
        seen.append(words)
        return [sys.executable, "-S", "-c", TIMED, *words]

    trial = time_trial(make_cell(0), timed)
    # A loaded machine may take longer, never less.
    assert 0.04 < trial.seconds_a_step < 5 and trial.others > 0
    assert (trial.seconds_an_image, trial.images, trial.steps_an_epoch) == (0.05, 200, 16.0)
    joined = " ".join(seen[0])
    assert f"--max_steps {TIMED_STEPS}" in joined and "--max_eval_samples 4" in joined
    assert time_trial(make_cell(0, "fail"), launch) == "it was told to fail"


def test_a_preview_says_what_is_known_and_what_is_not(make_cell, make_plan, launch):
    cells = [make_cell(0), make_cell(1), make_cell(2, "fail", robust="test")]
    said: list[str] = []
    preview(make_plan(*cells), {cells[0].name: finished(cells[0], 30.0)}, launch, said.append)
    text = "\n".join(said)
    assert "classification-baseline-seed0: train (done)" in said
    assert "classification-baseline-seed2: train, robust (pending)" in said and "3 cells" in said
    assert "timing 1 of 1, classification-baseline: it was told to fail" in text
    assert "train: mean of 1 finished: 1 times, 30 s in all" in text
    assert said[-1] == "about 30 s, one after another, and 2 steps of which nothing is known"
