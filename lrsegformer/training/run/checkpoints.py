"""The checkpoints in a run's folder: which of them are whole, and which one a run goes on from."""

import json
from pathlib import Path

from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import logging

from lrsegformer.errors import InputError
from lrsegformer.training.run.run_config import RUN_CONFIG_FILE, holds_run

logger = logging.get_logger(__name__)


def checkpoint_to_resume(output_dir: str, requested: str | None) -> str | None:
    """
    The checkpoint to continue from, or `None` for a new run.

    Raises:
        [`~lrsegformer.errors.InputError`]: where the folder holds another run and no continuation was asked for, or a
        continuation was and there is nothing to continue.
    """
    folder = Path(output_dir)
    if requested is None or requested.lower() == "false":
        if holds_run(folder):
            raise InputError(
                f"--output_dir {output_dir} holds another run: give another folder, or continue that run with "
                "--resume_from_checkpoint."
            )
        return None
    if requested.lower() != "true":
        if not Path(requested).is_dir():
            raise InputError(f"--resume_from_checkpoint {requested}: no such folder.")
        return requested
    last = last_whole_checkpoint(folder)
    _warn_of_unfinished_checkpoint(folder, last)
    if last is None and (folder / RUN_CONFIG_FILE).is_file() and not (folder / "config.json").is_file():
        logger.warning(f"{output_dir} holds a run that ended before its first checkpoint: starting it anew.")
        return None
    if last is None:
        raise InputError(
            f"--resume_from_checkpoint: {output_dir} holds no checkpoint; leave the option out to start anew."
        )
    return str(last)


def last_whole_checkpoint(folder: str | Path) -> Path | None:
    """
    The last checkpoint of a run that was written to its end; `None` where there is none.

    The Trainer writes its own state last: where a process was killed while it saved, that file is missing or cut
    short.
    """
    by_step = {path.name.rpartition("-")[2]: path for path in Path(folder).glob("checkpoint-*")}
    for step in sorted(filter(str.isdecimal, by_step), key=int, reverse=True):
        try:
            json.loads((by_step[step] / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        return by_step[step]
    return None


def _warn_of_unfinished_checkpoint(folder: Path, last: Path | None) -> None:
    newest = get_last_checkpoint(str(folder)) if folder.is_dir() else None
    if newest is not None and (last is None or Path(newest) != last):
        logger.warning(f"{newest} was not written to its end, and is passed over.")
