"""A run that is asked to end by a signal saves a checkpoint first."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch
from transformers import TrainerCallback

from lrsegformer.errors import Stopped
from lrsegformer.training.trainer import LRSegformerTrainer

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# A launcher hands on what its whole group has got already: within this time of the first a signal is no second one.
ECHO_SECONDS = 1.0


class _EvaluationLeft(Exception):
    """An evaluation in training was given up; the run that goes on does it again."""


def train_until_stopped(trainer: LRSegformerTrainer, checkpoint: str | None) -> None:
    """
    Train; at SIGINT (Ctrl-C) or SIGTERM save a checkpoint between two steps, and leave.

    A step is finished; a checkpoint that is being saved is finished; an evaluation is given up. The run that goes on
    from the checkpoint is the one that was not stopped. A second signal, a second after the first, leaves at once.
    Several processes leave after the same step, whichever of them got the signal.

    Raises:
        [`~lrsegformer.errors.Stopped`]: after a signal, with the checkpoint.
    """
    stop = StopRequest(trainer)
    trainer.add_callback(stop)
    try:
        with stop.listening():
            try:
                trainer.train(resume_from_checkpoint=checkpoint)
            except _EvaluationLeft:
                if trainer.state.global_step > 0:
                    trainer.save_now()
                stop.leave()
            if stop.came_after_the_last_save():
                stop.leave()
    finally:
        trainer.remove_callback(stop)


class StopRequest(TrainerCallback):
    """
    Whether a signal has asked this run to end, in the one process that got it or another.

    Args:
        trainer: whose processes agree.
    """

    def __init__(self, trainer: LRSegformerTrainer):
        self._trainer = trainer
        self._signal = 0
        self._at = 0.0
        self._agreed = 0
        self._pending: torch.Tensor | None = None
        self._arrived: torch.Event | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Takes the signals; what took them before has them again afterwards. Only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._note) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def leave(self) -> None:
        """End training; the checkpoint of this step is saved."""
        trained = self._trainer.state.global_step > 0
        raise Stopped(
            self._agreed or self._signal, f"{self._checkpoint()} is saved" if trained else "nothing was trained"
        )

    def came_after_the_last_save(self) -> bool:
        """
        Whether a signal came when training was over, and there is a checkpoint of its last step. Where there is none
        the run goes on to its end: what is left to do takes less than what would be lost.
        """
        args = self._trainer.args
        if args.world_size > 1:
            self._ask(args.device)
        self._agree(args.world_size)
        return bool(self._agreed) and self._checkpoint().is_dir()

    def _checkpoint(self) -> Path:
        return Path(self._trainer.args.output_dir) / f"checkpoint-{self._trainer.state.global_step}"

    def on_step_begin(self, args, state, control, **kwargs):
        """Ask the others. The answer is looked at after the step: waiting for it now would keep the device idle."""
        if args.world_size > 1:
            self._ask(args.device)

    def on_step_end(self, args, state, control, **kwargs):
        self._agree(args.world_size)
        if self._agreed and not control.should_evaluate:  # Of an evaluation that is due the first batch is the end.
            control.should_save = True

    def on_prediction_step(self, args, state, control, **kwargs):
        if not self._agreed and args.world_size > 1:
            self._ask(args.device)
        self._agree(args.world_size)
        if self._agreed:
            raise _EvaluationLeft

    def on_save(self, args, state, control, **kwargs):
        self._agree(args.world_size)
        if self._agreed:
            self.leave()

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self._signal:
            self._signal, self._at = number, now
            if self._trainer.is_world_process_zero():
                # Not through the progress bar or a logger, which the signal may have interrupted while it wrote.
                words = "a checkpoint is saved after this step; a second signal leaves at once."
                os.write(sys.stderr.fileno(), f"\n{signal.Signals(number).name}: {words}\n".encode())
        elif now - self._at > ECHO_SECONDS:
            raise Stopped(number, "left at once, without a checkpoint of this step")

    def _ask(self, device: torch.device) -> None:
        requested = torch.tensor([self._signal], device=device)
        torch.distributed.all_reduce(requested, torch.distributed.ReduceOp.MAX)
        self._pending = requested.to("cpu", non_blocking=True)
        if device.type != "cpu":
            self._arrived = torch.Event(device)
            self._arrived.record()

    def _agree(self, world_size: int) -> None:
        if world_size == 1:
            self._agreed = self._signal
        elif self._pending is not None:
            if self._arrived is not None:
                self._arrived.synchronize()
            self._agreed, self._pending = int(self._pending), None
