"""What of a run goes to the Hub, and what is said where the Hub refuses it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import ModelCard

from lrsegformer._compat_trainer import ARGUMENTS_FILE, CleanUploadMixin
from lrsegformer.errors import InputError, reason_of
from lrsegformer.hub.sections import drop_outdated_sections, outdated_files

# Patterns of files in a run's folder that name folders of the machine, and what lies in folders of its own.
NOT_UPLOADED = (ARGUMENTS_FILE, "run.yaml", "trainer_state.json", "*/*")
_REASONS = {
    401: "the Hub does not take the token (401): run `hf auth login`, or give --hub_token",
    403: "the token may not write there (403): give one that may, or another --hub_model_id",
}
# The classes of a failed connection belong to whichever HTTP client the Hub's own client uses.
_CLIENTS = ("huggingface_hub", "httpx", "httpx2", "requests")


class RunUploadMixin(CleanUploadMixin):
    """For Trainer subclasses: a push sends the card of the run, true to the weights beside it, and names no folder."""

    def create_model_card(self, *args, **kwargs) -> None:
        """The Trainer's draft, which [`push_to_hub`] asks for, unless the folder holds the card of a finished run."""
        card = Path(self.args.output_dir) / "README.md"
        if not card.is_file() or "lrsegformer" not in (ModelCard.load(card).data.tags or []):
            super().create_model_card(*args, **kwargs)
        elif self.is_world_process_zero():
            drop_outdated_sections(self.args.output_dir)

    def files_left_out(self) -> list[str]:
        """What a push leaves out: subfolders, and files that name this machine's folders or are of other weights."""
        return [*NOT_UPLOADED, *outdated_files(self.args.output_dir)]


@contextmanager
def explained(what_is_kept: str) -> Iterator[None]:
    """
    Turns what the Hub's client raises into one line.

    Args:
        what_is_kept (`str`): the end of the line: what was not lost, and how it goes on.

    Raises:
        [`~lrsegformer.errors.InputError`]: the Hub refused, failed, or was not reached.
    """
    try:
        yield
    except Exception as error:
        cause = _of_hub(error)
        if cause is None:
            raise
        raise InputError(f"--push_to_hub: {_reason(cause)}; {what_is_kept}") from error


def upload_later(repository: str, folder: str) -> str:
    """The command that sends a run's folder by hand."""
    return shlex.join(["hf", "upload", repository, folder, ".", "--exclude", *NOT_UPLOADED])


def _of_hub(error: BaseException | None) -> BaseException | None:
    """The error itself, or what caused it, if it is one of the Hub's client."""
    while error is not None:
        if any(kind.__module__.partition(".")[0] in _CLIENTS for kind in type(error).__mro__):
            return error
        error = error.__cause__
    return None


def _reason(error: BaseException) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in _REASONS:
        return _REASONS[status]
    if status is not None and status >= 500:
        return f"the Hub fails ({status}): try again later"
    return f"the Hub cannot be used ({reason_of(error)})"
