"""Two processes of which one is asked to stop agree, save one checkpoint, leave, and go on exactly."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ranks import run_two_ranks
from tests.training.run.small_runs import RUN, assert_equal_runs

ROOT = Path(__file__).resolve().parents[3]
WORDS = [*RUN, "--strategy", "stable_softplus", "--save_total_limit", "9"]
# Its first argument says which process gets or passes on a signal, in which function, at which of its calls.
PROGRAM = """
import os, signal, sys
from lrsegformer.cli.finetune import main
from lrsegformer.training.trainer import LRSegformerTrainer
from tests.stops import Moment, act_at

rank, function, call, number, whom = sys.argv.pop(1).split(",")
if os.environ["RANK"] == rank:
    process = os.getppid() if whom == "launcher" else os.getpid()
    act_at(Moment((LRSegformerTrainer, function), int(call), lambda: os.kill(process, int(number))))
main("segmentation")
"""
NEVER = "none,log,0,0,none"


@pytest.fixture(scope="module")
def whole(program, made_once) -> Path:
    """A run of two processes that nobody stops."""
    return made_once(
        "whole-of-two", lambda folder: run_two_ranks(program, NEVER, *WORDS, "--output_dir", str(folder / "run"),
                                                     log=folder / "log")
    ) / "run"  # fmt: skip


def assert_stopped_and_goes_on(program: Path, whole: Path, run: Path, log: Path, saved: int) -> None:
    (line,) = re.findall("^stopped: .*$", log.read_text(), re.MULTILINE)
    assert line == (
        f"stopped: {run}/checkpoint-{saved} is saved; continue with: the same command and --resume_from_checkpoint"
    )
    assert "Traceback" not in log.read_text().partition("stopped: ")[0], "what a launcher adds comes after it"
    assert sorted(path.name for path in run.glob("checkpoint-*")) == [f"checkpoint-{step}" for step in saved_by(saved)]
    assert (run / f"checkpoint-{saved}" / "rng_state_1.pth").is_file() and not (run / "unfinished").exists()
    run_two_ranks(program, NEVER, *WORDS, "--output_dir", str(run), "--resume_from_checkpoint", log=log)
    for step in {saved} - {2, 4, 6, 7}:
        (run / f"checkpoint-{step}").rename(run.with_name(f"checkpoint-{step}"))
    assert_equal_runs(run, whole)


def saved_by(step: int) -> list[int]:
    """The steps of the checkpoints of a run that saves every second step, and was stopped at one."""
    return sorted({*range(2, step, 2), step})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stop", "saved"),
    [
        # The signal comes after its step has asked, so that the next one hears of it.
        (f"1,training_step,1,{signal.SIGTERM:d},self", 2),
        (f"1,prediction_step,1,{signal.SIGINT:d},self", 3),
        (f"0,save_model,1,{signal.SIGTERM:d},self", 3),
    ],
    ids=["in-a-step", "in-an-evaluation", "in-a-save"],
)
def test_all_leave_with_one(tmp_path, program, whole, stop, saved):
    run, log = tmp_path / "run", tmp_path / "log"
    number = int(stop.split(",")[3])
    run_two_ranks(program, stop, *WORDS, "--output_dir", str(run), log=log, status=128 + number)
    assert_stopped_and_goes_on(program, whole, run, log, saved)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "number"), [("torch.distributed.run", signal.SIGTERM), ("accelerate.commands.launch", signal.SIGINT)]
)
def test_a_launcher_hands_the_signal_on(tmp_path, program, whole, launcher, number):
    run, log = tmp_path / "run", tmp_path / "log"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    options = {
        "torch.distributed.run": ["--nproc_per_node", "2", "--master_port", port],
        "accelerate.commands.launch": ["--multi_gpu", "--num_processes", "2", "--main_process_port", port],
    }
    stop = f"0,prediction_step,1,{number:d},launcher"
    with open(log, "wb") as file:
        ended = subprocess.run(
            [sys.executable, "-m", launcher, *options[launcher], str(program), stop, *WORDS, "--output_dir", str(run)],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
            stdout=file,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            timeout=300,
            check=False,
        )
    assert ended.returncode != 0
    assert_stopped_and_goes_on(program, whole, run, log, 3)
