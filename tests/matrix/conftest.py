"""A plan of cells whose commands are a few lines of Python, which do as they are told."""

import sys
from collections.abc import Callable

import pytest

from lrsegformer.matrix.planning import Cell, Length, Plan, Step

# Counts its calls in a file of its output folder, and leaves what a run leaves. `--resume_from_checkpoint` is noted.
_COMMAND = """
import json, os, pathlib, sys, time, zipfile
words = sys.argv[1:]
folder = pathlib.Path(words[words.index("--output_dir") + 1])
folder.mkdir(parents=True, exist_ok=True)
with open(folder / "calls.log", "a") as file:
    file.write(" ".join(words) + "\\n")
resumed = "--resume_from_checkpoint" in words
deed = words[words.index("--do") + 1]
if deed == "fail" or (deed == "fail_once" and len(open(folder / "calls.log").readlines()) == 1):
    sys.exit("error: it was told to fail")
if deed == "die_once" and not resumed:
    checkpoint = folder / "checkpoint-2"
    checkpoint.mkdir()
    (checkpoint / "trainer_state.json").write_text("{}")
    header = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
    (checkpoint / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"0")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        with zipfile.ZipFile(checkpoint / name, "w") as archive:
            archive.writestr("data.pkl", "")
    os.kill(os.getpid(), 9)
if deed == "wait":
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        sys.exit("stopped: told to")
score = float(words[words.index("--score") + 1])
(folder / "config.json").write_text("{}")
(folder / "all_results.json").write_text(json.dumps({"eval_accuracy": score}))
"""


@pytest.fixture
def launch() -> Callable[[str, list[str]], list[str]]:
    """What starts the stand-in for a command."""
    return lambda command, words: [sys.executable, "-S", "-c", _COMMAND, *words]


@pytest.fixture
def make_cell() -> Callable[..., Cell]:
    """`make_cell(seed=0, do="train", score=0.5, **then)`: a cell; of `then` each name has what its step does."""

    def make(seed: int = 0, do: str = "train", score: float = 0.5, **then: str) -> Cell:
        coordinates = {"task": "classification", "variant": "baseline", "seed": seed}
        coordinates |= dict.fromkeys(("strategy", "scope", "lambda_lip", "variation"))
        steps = [Step("train", "finetune-cls", ("--do", do, "--score", str(score), "--seed", str(seed)))]
        steps += [Step(name, "robustness", ("--do", deed, "--score", "0")) for name, deed in then.items()]
        return Cell(coordinates, tuple(steps), Length(10, 0.0, "no", 0.0))

    return make


@pytest.fixture
def make_plan(make_cell) -> Callable[..., Plan]:
    """`make_plan(*cells)`: their plan."""
    return lambda *cells: Plan(cells, {})
