"""What a run says of its length."""

import logging
from types import SimpleNamespace

import pytest

from lrsegformer.training import progress
from lrsegformer.training.progress import TimeEstimate, readable_time


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.4, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (3600, "1 h 0 min"), (7384, "2 h 3 min")]
)
def test_readable_time(seconds, shown):
    assert readable_time(seconds) == shown


def test_time_left_is_estimated_once_from_the_steps_after_the_first(monkeypatch, caplog):
    clock = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: clock[0])
    estimate, state = TimeEstimate(), SimpleNamespace(global_step=30, max_steps=150, is_world_process_zero=True)
    with caplog.at_level(logging.INFO, logger="lrsegformer.training.progress"):
        estimate.on_train_begin(None, state, None)
        for step in range(31, 90):
            # The first steps are slow and do not count.
            clock[0] += 9.0 if step <= 35 else 0.5
            state.global_step = step
            estimate.on_step_end(None, state, None)
    assert [record.message for record in caplog.records] == [
        "0.50 s a step: about 50 s of training left, evaluation not counted."
    ]
