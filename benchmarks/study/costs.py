"""
Time and memory of a training step of the study's arms, as one JSON file (docs/study.md).

    python benchmarks/study/costs.py --recipe recipes/study/screening.yaml --output docs/study/costs.json

Arms that differ in a weight or a radius alone take the same step, and the first of them stands for all. Each arm runs
in a process of its own, through the command line; the arms take turns, round by round. The time is the processor's, so
that other processes count little; the memory is the most that the process has held, less the most that it had held
before the first step.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import yaml
from transformers import TrainerCallback

BASELINE = "baseline"
STEPS, WARM_UP = 14, 4
# What changes numbers and not the work.
SIZES = ("lambda_lip", "adversarial_eps", "weight_decay", "label_smoothing_factor")
SHORT = {"max_steps": STEPS, "max_eval_samples": 2, "report_to": "none"}
MEGABYTE = 1024


class Clock(TrainerCallback):
    """Notes seconds of the processor and kilobytes where each step ends, in place of the run's own clock."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.kilobytes: list[int] = []

    def on_train_begin(self, *arguments: Any, **named: Any) -> None:
        self._note()

    def on_step_end(self, *arguments: Any, **named: Any) -> None:
        self._note()

    def on_train_end(self, *arguments: Any, **named: Any) -> None:
        steps = [after - before for before, after in zip(self.seconds, self.seconds[1:], strict=False)][WARM_UP:]
        held = self.kilobytes[-1] - self.kilobytes[0]
        print("CLOCK", json.dumps({"seconds": steps, "megabytes": held / MEGABYTE}), flush=True)

    def _note(self) -> None:
        self.seconds.append(time.process_time())
        self.kilobytes.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def distinct_arms(recipe: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Arms of which no two take the same step; the baseline is the first."""
    arms, seen = {}, set()
    for name, options in {BASELINE: {"strategy": "none"}, **recipe["cells"]}.items():
        kind = tuple(sorted((key, str(value)) for key, value in options.items() if key not in (*SIZES, "max_steps")))
        if kind not in seen:
            seen.add(kind)
            arms[name] = options
    return arms


def words_of(options: dict[str, Any]) -> list[str]:
    return [word for key, value in options.items() for word in (f"--{key}", str(value))]


def measure(task: str, options: dict[str, Any]) -> dict[str, Any]:
    """The clock of one short run, in a process of its own."""
    with TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--run", task, *words_of({**options, "output_dir": folder})]
        process = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    (line,) = [line for line in process.stdout.splitlines() if line.startswith("CLOCK")] or [None]
    if line is None:
        raise SystemExit(f"{' '.join(command)}\n{process.stderr[-2000:]}")
    return json.loads(line.partition(" ")[2])


def run(task: str, words: list[str]) -> None:
    """A training run with the clock in it."""
    from lrsegformer.cli.finetune import main as finetune_main
    from lrsegformer.training.run import finetune

    with mock.patch.object(finetune, "TimeEstimate", Clock):
        finetune_main(task, words)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, required=True, help="matrix file whose arms are measured")
    parser.add_argument("--rounds", type=int, default=3, help="runs of every arm")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args()
    recipe = yaml.safe_load(arguments.recipe.read_text(encoding="utf-8"))
    arms, (task,) = distinct_arms(recipe), recipe["tasks"]
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in arms}
    for number in range(arguments.rounds):
        for name, options in arms.items():
            found[name].append(measure(task, {**recipe["common"], **options, **SHORT}))
            print(f"round {number + 1}, {name}: {statistics.median(found[name][-1]['seconds']):.3f} s", flush=True)
    rows = [
        {
            "arm": name,
            "seconds": [round(statistics.median(one["seconds"]), 4) for one in rounds],
            "megabytes": [round(one["megabytes"], 1) for one in rounds],
        }
        for name, rounds in found.items()
    ]
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "lrsegformer")}
    head = json.dumps({"machine": platform.machine(), "threads": 1, "versions": versions})
    lines = ",\n".join(json.dumps(row) for row in rows)
    arguments.output.write_text(f'{{"measured": {head},\n"arms": [\n{lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        run(sys.argv[2], sys.argv[3:])
    else:
        main()
