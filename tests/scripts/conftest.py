"""Small folders of images and masks, to be spoilt one way each."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lrsegformer.cli.finetune import main

TINY = (
    "--architecture tiny --use_cpu --image_size 32 --total_batch_size 2 --max_steps 1 --eval_strategy no "
    "--save_strategy no --dataloader_num_workers 0 --disable_tqdm True"
).split()


@pytest.fixture
def pairs(tmp_path) -> Path:
    """Images and annotations of 40 x 40, classes 0 and 1, four to train and two to validate."""
    root = tmp_path / "pairs"
    for split, count in (("training", 4), ("validation", 2)):
        for kind in ("images", "annotations"):
            (root / kind / split).mkdir(parents=True)
        for index in range(count):
            pixels = np.full((40, 40, 3), 40 * index, dtype=np.uint8)
            Image.fromarray(pixels).save(root / "images" / split / f"{index}.png")
            Image.fromarray(pixels[..., 0] % 2 + np.eye(40, dtype=np.uint8)).save(
                root / "annotations" / split / f"{index}.png"
            )
    return root


@pytest.fixture
def explain(tmp_path, monkeypatch, capsys) -> Callable[..., str]:
    """Run a command line that has to fail with one clear line; gives that line."""
    monkeypatch.chdir(tmp_path)

    def run(*options: str, task: str = "segmentation") -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main(task, list(options))
        assert stop.value.code == 2
        errors = capsys.readouterr().err
        lines = [line for line in errors.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1 and "Traceback" not in errors, errors
        assert errors.splitlines()[-1] == lines[0], "the line stands last"
        return lines[0]

    return run


@pytest.fixture
def tiny() -> list[str]:
    """Options of a run of one step."""
    return TINY
