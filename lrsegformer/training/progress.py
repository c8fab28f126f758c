"""Callbacks of a run: the epoch for its data, and an estimate of its length after the first steps."""

import time

from transformers import TrainerCallback
from transformers.utils import logging

logger = logging.get_logger(__name__)

# The first steps warm caches and worker processes up.
WARMUP_STEPS = 5
MEASURED_STEPS = 15


def readable_time(seconds: float) -> str:
    """Seconds as hours, minutes and seconds, without leading zero units."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minute} min"
    return f"{minute} min {second} s" if minute else f"{second} s"


class EpochOfData(TrainerCallback):
    """
    Tell the training data set which epoch it is, so that augmentation differs from epoch to epoch.

    accelerate passes the epoch to a data set only where its sampler does not take it, which the Trainer's does.
    """

    def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs):
        dataset = getattr(train_dataloader, "dataset", None)
        if hasattr(dataset, "set_epoch"):
            dataset.set_epoch(int(state.epoch or 0))


class TimeEstimate(TrainerCallback):
    """Say once, after 20 steps, how long the rest of the run will take."""

    def on_train_begin(self, args, state, control, **kwargs):
        self._first_step = state.global_step
        self._started = None

    def on_step_end(self, args, state, control, **kwargs):
        done = state.global_step - self._first_step
        if done == WARMUP_STEPS:
            self._started = time.perf_counter()
        elif done == WARMUP_STEPS + MEASURED_STEPS and state.is_world_process_zero:
            seconds_a_step = (time.perf_counter() - self._started) / MEASURED_STEPS
            rest = seconds_a_step * (state.max_steps - state.global_step)
            if rest > 0:
                logger.info(
                    f"{seconds_a_step:.2f} s a step: about {readable_time(rest)} of training left, "
                    "evaluation not counted."
                )
