"""What tables of bad input are made of: command lines, the files beside them, words of the line that refuses them."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lrsegformer.cli import main as command
from lrsegformer.cli import matrix

TRAIN = "--architecture tiny --use_cpu --image_size 64 --max_steps 2 --total_batch_size 2 --dataloader_num_workers 0"
DIGITS = f"--dataset digits --max_train_samples 4 --max_eval_samples 2 {TRAIN}"
Content = str | bytes | int | Image.Image | Callable[[Path], None]


@dataclass(frozen=True)
class Case:
    """
    One row.

    Attributes:
        name (`str`): of the test.
        line (`str`): the command line; `{world}` stands for the folder of models and data that all cases share.
        words (`tuple[str, ...]`): that the line of the refusal has to hold: what, where, and the remedy.
        files (`dict`): made beside it: text, bytes, a size in bytes (of a file with nothing on the disk), an image, or
            what a function makes of the path.
    """

    name: str
    line: str
    words: tuple[str, ...]
    files: Mapping[str, Content] = field(default_factory=dict)

    def make_files(self, folder: Path) -> None:
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if callable(content):
                content(path)
            elif isinstance(content, int):
                with open(path, "wb") as file:
                    file.truncate(content)
            elif isinstance(content, Image.Image):
                content.save(path)
            else:
                path.write_bytes(content.encode() if isinstance(content, str) else content)


def state_of(folder: Path) -> dict[str, tuple[int, int, str]]:
    """All that lies below a folder: sizes, times and kinds; what any writing changes."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        found[str(path.relative_to(folder))] = (status.st_size, status.st_mtime_ns, oct(status.st_mode))
    return found


def refuse(
    case: Case, folder: Path, world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> str:
    """Run the command line of a case in a folder, and check all that a refusal has to be; gives its line."""
    case.make_files(folder)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(matrix, "_judge_elsewhere", matrix.judge)
    before = state_of(folder), state_of(world)
    capsys.readouterr()
    # Not by format: braces of JSON stand in the lines.
    argv = [word.replace("{world}", str(world)) for word in shlex.split(case.line)]
    with pytest.raises(SystemExit) as stop:
        command.main(argv)
    errors = capsys.readouterr().err
    lines = [line for line in errors.split("\n") if "error: " in line]
    assert stop.value.code == 2 and "Traceback" not in errors, errors
    assert len(lines) == 1 and lines[0].startswith("error: ") and errors.endswith(f"{lines[0]}\n"), errors
    missing = [word for word in case.words if word not in lines[0]]
    assert not missing, f"{missing} not in: {lines[0]}"
    assert (state_of(folder), state_of(world)) == before, "something was written"
    return lines[0]


def link(target: str) -> Callable[[Path], None]:
    """A link to a path, which need not be there."""
    return lambda path: os.symlink(target, path)


def gray(value: int, side: int = 40) -> Image.Image:
    """A mask of one value."""
    return Image.fromarray(np.full((side, side), value, dtype=np.uint8))


def stripes(side: int = 40) -> Image.Image:
    """A mask of the classes 0 and 1."""
    return Image.fromarray((np.indices((side, side)).sum(0) // 8 % 2).astype(np.uint8))


def pairs(count: int = 2, mask: Callable[[], Image.Image] = stripes, root: str = "data") -> dict[str, Content]:
    """Images and masks of both splits of a segmentation data set."""
    files: dict[str, Content] = {}
    for split in ("training", "validation"):
        for number in range(count):
            files[f"{root}/images/{split}/{number}.png"] = Image.new("RGB", (40, 40), (9 * number, 90, 30))
            files[f"{root}/annotations/{split}/{number}.png"] = mask()
    return files


def class_folders(root: str = "data", names: tuple[str, ...] = ("cat", "dog")) -> dict[str, Content]:
    """Images of both splits of a classification data set."""
    return {
        f"{root}/{split}/{name}/{number}.png": Image.new("RGB", (40, 40), (90, 40 * number, 30))
        for split in ("train", "validation")
        for name in names
        for number in range(2)
    }
