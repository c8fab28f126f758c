"""A run that is killed, or asked to stop, and goes on by the same command, is the run that was not stopped."""

import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lrsegformer.choices import SCOPES
from lrsegformer.layers.registry import STRATEGIES
from lrsegformer.training.run.checkpoints import last_whole_checkpoint

RUN = (
    "--dataset digits --architecture tiny --use_cpu --image_size 32 --max_train_samples 10 --max_eval_samples 3 "
    "--total_batch_size 4 --per_device_train_batch_size 2 --max_steps 7 --save_steps 2 --eval_steps 3 "
    "--logging_steps 3 --save_total_limit 2 --dataloader_num_workers 0 --learning_rate 1e-3 --seed 3 "
    "--disable_tqdm True"
).split()
WAYS = {
    "steps": [],
    "epochs": ["--save_strategy", "steps", "--eval_strategy", "epoch", "--logging_strategy", "epoch"],
    "workers": ["--dataloader_num_workers", "1"],
    "adversarial": ["--adversarial_steps", "2", "--adversarial_eps", "4"],
    "best": ["--load_best_model_at_end", "--metric_for_best_model", "mean_iou", "--save_steps", "3"],
}
# Of what is measured, not learned. FLOPs are counted by how often the Trainer asks.
CLOCKS = ("runtime", "per_second", "adversarial/seconds")
# By which functions of the Trainer a moment is chosen: in a step, in an evaluation, at the places of a save.
MOMENTS = ("training_step", "prediction_step", "save_model", "_save_optimizer_and_scheduler", "_save_rng_state", "log")


def at_call(moment: str, call: int, act: Callable[[], None], delay: float = 0.0) -> None:
    """Act at the so-manieth call of a function of the Trainer, or some seconds after it began."""
    from lrsegformer import LRSegformerTrainer

    function, calls = getattr(LRSegformerTrainer, moment), [0]

    def counted(*args, **kwargs):
        calls[0] += 1
        if calls[0] == call:
            if delay > 0:
                threading.Timer(delay, act).start()
            else:
                act()
        return function(*args, **kwargs)

    setattr(LRSegformerTrainer, moment, counted)


def send(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def run_command(task: str, words: list[str], log: Path, stop: tuple | None = None) -> int:
    """The status of the fine-tuning command in a process of its own, which a fork spares the imports."""
    from lrsegformer.cli.finetune import main

    child = os.fork()
    if child == 0:
        status = 70
        try:
            with open(log, "ab") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            if stop is not None:
                at_call(*stop)
            sys.argv = ["lrsegformer", f"finetune-{task[:3]}", *words]
            main(task, words)
            status = 0
        except SystemExit as error:
            status = error.code or 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    deadline = time.monotonic() + 240
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            pytest.fail(f"the command hangs: {log.read_text()[-2000:]}")
        time.sleep(0.02)
    return os.waitstatus_to_exitcode(ended[1])


def what_came_of(folder: Path) -> dict:
    """Everything of a finished run that may not depend on a stop."""
    state = json.loads((folder / "trainer_state.json").read_text())
    results = json.loads((folder / "all_results.json").read_text())
    logs = [
        {name: value for name, value in log.items() if not any(clock in name for clock in CLOCKS)}
        for log in state["log_history"]
    ]
    best = state["best_model_checkpoint"]
    return {
        "logs": logs,
        "results": {name: value for name, value in results.items() if not any(clock in name for clock in CLOCKS)},
        "state": [state[name] for name in ("global_step", "epoch", "best_metric", "best_global_step", "total_flos")],
        "best": None if best is None else Path(best).name,
        "checkpoints": sorted(path.name for path in folder.glob("checkpoint-*")),
    }


def assert_equal_runs(found: Path, expected: Path) -> None:
    left, right = what_came_of(found), what_came_of(expected)
    for part in right:
        assert left[part] == right[part], part
    for name in ("model.safetensors", f"{right['checkpoints'][-1]}/model.safetensors"):
        tensors, others = load_file(found / name), load_file(expected / name)
        assert tensors.keys() == others.keys()
        assert not [key for key in others if not torch.equal(tensors[key], others[key])], name


def finish(task: str, words: list[str], log: Path) -> None:
    status = run_command(task, [*words, "--resume_from_checkpoint"], log)
    assert status == 0, log.read_text()[-3000:]


def killed_and_finished(task: str, words: list[str], folder: Path, seed: int, kills: int) -> int:
    """Kill a run so often, at random moments, and go on by the same command; gives how many kills struck."""
    chance, struck, log = random.Random(seed), 0, folder.with_suffix(".log")
    words = [*words, "--output_dir", str(folder)]
    for attempt in range(kills):
        moment = chance.choice(MOMENTS)
        most = {"training_step": 8, "prediction_step": 5, "log": 3}.get(moment, 2)
        stop = (moment, chance.randint(1, most), send(signal.SIGKILL), chance.uniform(0.0, 0.02))
        begun = (folder / "run.yaml").exists()
        resume = ["--resume_from_checkpoint"] if begun else []
        status = run_command(task, [*words, *resume], log, stop)
        assert status in (0, -signal.SIGKILL), log.read_text()[-3000:]
        struck += status != 0
        if status == 0 and attempt < kills:
            break
    if (folder / "run.yaml").exists():
        finish(task, words, log)
    else:
        assert run_command(task, words, log) == 0
    return struck


def test_a_killed_run_goes_on_exactly(tmp_path):
    words = [*RUN, "--strategy", "stable_softplus"]
    assert run_command("segmentation", [*words, "--output_dir", str(tmp_path / "whole")], tmp_path / "whole.log") == 0
    killed, log = tmp_path / "killed", tmp_path / "killed.log"
    words = [*words, "--output_dir", str(killed)]
    status = run_command("segmentation", words, log, ("_save_rng_state", 2, send(signal.SIGKILL)))
    assert status == -signal.SIGKILL and (killed / "unfinished" / "checkpoint-4").is_dir()
    assert [path.name for path in killed.glob("checkpoint-*")] == ["checkpoint-2"]
    finish("segmentation", words, log)
    assert not (killed / "unfinished").exists()
    assert_equal_runs(killed, tmp_path / "whole")


@pytest.mark.parametrize(
    ("number", "moment", "call", "saved"),
    [
        pytest.param(signal.SIGTERM, "training_step", 5, 3, marks=pytest.mark.slow),
        (signal.SIGINT, "prediction_step", 1, 3),
        pytest.param(signal.SIGTERM, "save_model", 1, 2, marks=pytest.mark.slow),
    ],
    ids=["in-a-step", "in-an-evaluation", "in-a-save"],
)
def test_a_run_that_is_asked_to_stop_saves_and_leaves(tmp_path, number, moment, call, saved):
    """And the command that it prints finishes it, as if nothing had been."""
    words = [*RUN, "--strategy", "orthogonal"]
    whole = tmp_path / "whole"
    assert run_command("classification", [*words, "--output_dir", str(whole)], tmp_path / "whole.log") == 0
    folder, log = tmp_path / "stopped", tmp_path / "stopped.log"
    status = run_command("classification", [*words, "--output_dir", str(folder)], log, (moment, call, send(number)))
    assert status == 128 + number, log.read_text()[-3000:]
    (line,) = re.findall("^stopped: .*$", log.read_text(), re.MULTILINE)
    assert f"{folder}/checkpoint-{saved} is saved; continue with: lrsegformer finetune-cla" in line
    assert line.endswith("--resume_from_checkpoint") and (folder / f"checkpoint-{saved}").is_dir()
    finish("classification", [*words, "--output_dir", str(folder)], log)
    left, right = what_came_of(folder), what_came_of(whole)
    assert left["logs"] == right["logs"] and left["results"] == right["results"]
    tensors, others = (load_file(run / "model.safetensors") for run in (folder, whole))
    assert all(torch.equal(tensors[key], others[key]) for key in others)


STRATEGIES_AND_SCOPES = [(None, "head")] + [
    (strategy, scope)
    for strategy in STRATEGIES
    for scope in SCOPES
    if not (strategy == "stable_softplus" and scope == "certified")
]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "way"), list(enumerate(WAYS)), ids=list(WAYS))
@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_kills_at_random_moments(tmp_path, task, number, way):
    """Every strategy and scope once in each task, spread over the ways to train; two kills a run."""
    struck = 0
    for place, (strategy, scope) in enumerate(STRATEGIES_AND_SCOPES):
        if place % len(WAYS) != number:
            continue
        constraint = [] if strategy is None else ["--strategy", strategy, "--scope", scope]
        words, name = [*RUN, *WAYS[way], *constraint], f"{strategy}-{scope}"
        if way == "best" and task == "classification":
            words = ["accuracy" if word == "mean_iou" else word for word in words]
        whole = tmp_path / f"{name}-whole"
        log = tmp_path / f"{name}-whole.log"
        assert run_command(task, [*words, "--output_dir", str(whole)], log) == 0, log.read_text()[-3000:]
        struck += killed_and_finished(task, words, tmp_path / name, seed=100 * place + len(task), kills=2)
        assert_equal_runs(tmp_path / name, whole)
    assert struck >= 4


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, of so many kilobytes; only root may mount one."""
    folder = tmp_path / "disk"

    def mount(kilobytes: int) -> Path:
        folder.mkdir()
        options = ["-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
        if subprocess.run(["mount", *options], capture_output=True).returncode:
            pytest.skip("may not mount a file system")
        return folder

    yield mount
    if folder.is_dir():
        subprocess.run(["umount", str(folder)], capture_output=True)


def assert_explained(log: Path, run: Path, step: int) -> None:
    """One line, nothing half-written, and the checkpoints before it whole."""
    (line,) = [line for line in log.read_text().splitlines() if line.startswith("error: ")]
    assert f"--output_dir {run}: the checkpoint of step {step} cannot be written" in line and "make room" in line
    assert "Traceback" not in log.read_text() and not (run / "unfinished").exists()
    assert last_whole_checkpoint(run) == run / f"checkpoint-{step - 1}"


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, small_disk):
    run = small_disk(24000) / "run"
    words = [*RUN, "--strategy", "stable_softplus", "--save_total_limit", "9", "--save_steps", "1"]
    assert run_command("segmentation", [*words, "--output_dir", str(run)], tmp_path / "log") == 2
    whole = sorted(run.glob("checkpoint-*"))
    assert whole and len(whole) < 7
    assert_explained(tmp_path / "log", run, len(whole) + 1)


@pytest.mark.parametrize("function", ["save_model", "_save_optimizer_and_scheduler", "_save_rng_state"])
def test_a_file_that_the_disk_does_not_take_leaves_the_last_checkpoint(tmp_path, function):
    def limit(kilobytes: int = 4) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024 * kilobytes, resource.RLIM_INFINITY))

    run, log = tmp_path / "run", tmp_path / "log"
    words = [*RUN, "--strategy", "stable_softplus", "--save_total_limit", "9", "--save_steps", "1"]
    assert run_command("segmentation", [*words, "--output_dir", str(run)], log, (function, 2, limit)) == 2
    assert_explained(log, run, 2)
