"""What the fuzzers run: real command lines, up to where training would start."""

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lrsegformer.cli import main as command
from lrsegformer.cli import matrix
from lrsegformer.cli.predict import SOME_UNREADABLE_STATUS
from lrsegformer.training.run import finetune
from tests.cli.conftest import world  # noqa: F401  (the same models as the tables of bad input have)


class TrainingStarts(BaseException):
    """All that comes before has been taken."""


@pytest.fixture
def outcome(tmp_path, monkeypatch, capsys, caplog) -> Callable[[list[str]], str]:
    """
    `outcome(words)`: how a command line ends: `"starts"`, `"ends"`, `"unreadable"` (what `predict` says of images), or
    the line that refuses it. Anything else fails.
    """

    def start(*given, **named):
        raise TrainingStarts

    def refuse_to_run(*given, **named):
        raise TrainingStarts

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(finetune, "train_until_stopped", start)
    monkeypatch.setattr(matrix, "_judge_elsewhere", matrix.judge)
    monkeypatch.setattr("lrsegformer.matrix.running.run_plan", refuse_to_run)
    monkeypatch.setattr("lrsegformer.matrix.preview.preview", refuse_to_run)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def run(words: list[str]) -> str:
        capsys.readouterr()
        try:
            command.main(words)
        except TrainingStarts:
            return "starts"
        except SystemExit as stop:
            errors = capsys.readouterr().err
            if stop.code == SOME_UNREADABLE_STATUS and words[0] == "predict":
                assert errors.endswith(" could not be read: see unreadable.txt there.\n"), errors
                return "unreadable"
            lines = [line for line in errors.split("\n") if line.startswith("error: ")]
            assert stop.code == 2 and len(lines) == 1 and errors.endswith(f"{lines[0]}\n"), errors
            assert "Traceback" not in errors and len(lines[0]) < 3000, errors
            return lines[0]
        finally:  # Half a character, which no report of a worker can hold, may be in it.
            capsys.readouterr()
            caplog.clear()
        return "ends"

    return run


@pytest.fixture
def place(tmp_path) -> Callable[[], Path]:
    """`place()`: a fresh folder for each example, in place of the last one's: there are thousands."""
    count = itertools.count()
    made: list[Path] = []

    def make() -> Path:
        while made:
            shutil.rmtree(made.pop())
        folder = tmp_path / f"example-{next(count)}"
        folder.mkdir()
        made.append(folder)
        return folder

    return make
