"""`robustness` and `certify`, killed at any moment and given again, come to the report of one that was not killed."""

import json
import os
import random
import re
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from lrsegformer.cli import certify, robustness
from lrsegformer.robustness.bench import bench
from lrsegformer.robustness.bench.cells import CellFile
from lrsegformer.robustness.certificates import files as certificate_files
from lrsegformer.robustness.certificates import run as certificates
from tests.stops import Ended, Moment, run_command, send
from tests.training.run.small_runs import RUN, run_training

MODELS = ["--models", "trained", "other", "--dataset", "digits", "--max_eval_samples", "4", "--image_size", "32"]
ATTACKS = ["--attacks", "pgd", "--steps", "2", "--batch_size", "2"]
CELL, KEEPING = (bench, "measure"), (CellFile, "append")
# A command, its options, what it may be doing, and where and at which call it is killed, one after the other.
COMMANDS = {
    "robustness": (
        robustness.main,
        [*MODELS, *ATTACKS, "--eps", "1", "4", "--corruptions", "fog", "--severities", "3"],
        {"cell": CELL, "keeping": KEEPING, "report": (bench, "write_report"), "card": (bench, "keep_robustness")},
        [(CELL, 2), (KEEPING, 1), ((bench, "save_sheet"), 2), ((bench, "write_report"), 1)]
        + [((bench, "keep_robustness"), 1), (CELL, 2), ((bench, "write_report"), 2)],
    ),
    "certify": (
        certify.main,
        [*MODELS, *ATTACKS, "--norms", "l2", "--radii", "0.1", "0.5", "--pictures", "2"]
        + ["--smoothing", "--n0", "5", "--n", "50"],
        {
            "cell": CELL,
            "smoothing": (certificates, "smooth"),
            "keeping": KEEPING,
            "certificates": (certificates, "certify"),
            "report": (certificates, "write_certificates"),
            "card": (certificates, "keep_certificates"),
        },
        [(CELL, 2), ((certificates, "certify"), 1), ((certificates, "smooth"), 1), (KEEPING, 1)]
        + [((certificate_files, "save_certified_picture"), 1), ((certificates, "write_certificates"), 1)]
        + [((certificate_files, "save_certified_curves"), 1), ((certificates, "keep_certificates"), 1)],
    ),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with two runs of a step, of which one has certificates of the network."""
    folder = tmp_path_factory.mktemp("runs")
    for name, words in {
        "trained": ["--strategy", "orthogonal", "--scope", "certified"],
        "other": ["--strategy", "stable_softplus"],
    }.items():
        short = [*RUN, *words, "--max_steps", "1", "--eval_strategy", "no", "--output_dir", str(folder / name)]
        assert run_training("segmentation", short, folder / "log").status == 0, (folder / "log").read_text()[-3000:]
        shutil.rmtree(folder / name / "checkpoint-1")
    return folder


def run(name: str, folder: Path, stop: Moment | None = None) -> Ended:
    """The command, in a folder with the models."""
    main, words, stages, _ = COMMANDS[name]
    words = [*words, "--output_dir", "report"]

    def command() -> None:
        os.chdir(folder)
        main(words)

    return run_command(command, ["lrsegformer", name, *words], folder / "log", stop, stages)


def without_times(value):
    if isinstance(value, dict):
        return {name: without_times(each) for name, each in value.items() if name not in ("seconds", "finished")}
    return [without_times(each) for each in value] if isinstance(value, list) else value


def what_came_of(folder: Path) -> dict[str, object]:
    """Every file below a folder, without the seconds that something took."""
    found = {}
    for path in sorted(folder.rglob("*")):
        content = path.read_bytes() if path.is_file() else None
        if path.name == "cells.jsonl":
            content = [without_times(json.loads(line)) for line in content.decode().splitlines()]
        elif path.suffix == ".json":
            content = without_times(json.loads(content))
        elif path.suffix in (".md", ".csv"):
            content = re.sub(r"\b\d+\.\d( s\b| \|)|\b\d+\.\d+(?=,cpu)", "SECONDS", content.decode())
        found[str(path.relative_to(folder))] = content
    found.pop("log")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_killed_again_and_again_comes_to_the_same(tmp_path, trained, name):
    """In one folder everywhere in turn, in another at random moments."""
    whole, everywhere, anywhere = (tmp_path / each for each in ("whole", "everywhere", "anywhere"))
    for folder in (whole, everywhere, anywhere):
        shutil.copytree(trained, folder)
    began = time.monotonic()
    assert run(name, whole).status == 0, (whole / "log").read_text()[-3000:]
    seconds = time.monotonic() - began
    _, _, stages, moments = COMMANDS[name]
    struck = []
    for function, call in moments:
        struck += [run(name, everywhere, Moment(function, call, send(signal.SIGKILL)))]
        assert struck[-1].status == -signal.SIGKILL, f"no call {call} of {function}"
    chance, begin = random.Random(name), (bench if name == "robustness" else certificates, "claim_by_mark")
    for _ in range(4):
        struck += [run(name, anywhere, Moment(begin, 1, send(signal.SIGKILL), chance.uniform(0.0, seconds / 2)))]
        assert struck[-1].status in (0, -signal.SIGKILL)
    doing = Counter(ended.doing or "between" for ended in struck if ended.status)
    print(f"{name}: {doing.total()} kills, {dict(doing)}")
    assert set(stages) <= set(doing)
    expected = what_came_of(whole)
    for folder in (everywhere, anywhere):
        assert run(name, folder).status == 0, (folder / "log").read_text()[-3000:]
        found = what_came_of(folder)
        assert found.keys() == expected.keys()
        for file in expected:
            assert found[file] == expected[file], file
