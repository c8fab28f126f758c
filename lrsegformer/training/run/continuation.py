"""Going on from a checkpoint as if the run had not been stopped."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainingArguments
from transformers.utils import logging

from lrsegformer._compat_trainer import WholeCheckpointMixin
from lrsegformer.errors import InputError
from lrsegformer.training.run.checkpoints import last_whole_checkpoint

logger = logging.get_logger(__name__)


def checkpoint_of(args: TrainingArguments, requested: str | bool | None) -> str | None:
    """
    What `train(resume_from_checkpoint=...)` means: a folder, `True` for the newest whole checkpoint, or none.

    Raises:
        [`~lrsegformer.errors.InputError`]: there is none that is whole.
    """
    if requested is not True:
        return requested or None
    checkpoint = last_whole_checkpoint(args.output_dir, say=args.should_log)
    if checkpoint is None:
        raise InputError(f"resume_from_checkpoint=True: {args.output_dir} holds no checkpoint that is whole.")
    return str(checkpoint)


class Continuation(TrainerCallback):
    """
    Hands the sums and the duties of a checkpoint to the Trainer when training begins, and clears what a killed save
    has left.

    Args:
        trainer: whose run it is.
    """

    def __init__(self, trainer: WholeCheckpointMixin):
        self._trainer = trainer
        self.checkpoint: str | None = None

    @contextmanager
    def without_evaluation_at_start(self) -> Iterator[None]:
        """A run that goes on has had the evaluation of `eval_on_start`."""
        args: Any = self._trainer.args
        wanted = args.eval_on_start
        args.eval_on_start = wanted and self.checkpoint is None
        try:
            yield
        finally:
            args.eval_on_start = wanted

    def on_train_begin(self, args, state, control, **kwargs):
        left = Path(args.output_dir) / self._trainer.UNFINISHED
        if args.should_save and left.is_dir():
            logger.warning(f"{left} holds what a save that was not finished has left: it is removed.")
            shutil.rmtree(left)
        self._trainer.accelerator.wait_for_everyone()
        self._trainer.go_on(self.checkpoint, control)
        return control

    def on_train_end(self, args, state, control, **kwargs):
        # A kill after the last save was before it.
        self._trainer.drop_old_checkpoints(Path(args.output_dir))

    def on_epoch_begin(self, args, state, control, **kwargs):
        self._trainer.epoch_is_open = True

    def on_epoch_end(self, args, state, control, **kwargs):
        self._trainer.epoch_is_open = False
