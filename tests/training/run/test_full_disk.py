"""A disk that takes nothing more: one line, the last checkpoint whole, and the run goes on once there is room."""

import os
import resource
import subprocess
from pathlib import Path

import pytest

from lrsegformer.training.run.checkpoints import last_whole_checkpoint
from lrsegformer.training.trainer import LRSegformerTrainer
from tests.stops import Moment
from tests.training.run.small_runs import RUN, assert_equal_runs, finish, run_training

WORDS = [*RUN, "--strategy", "stable_softplus", "--save_total_limit", "9", "--save_steps", "1"]


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
    assert run_training("segmentation", [*WORDS, "--output_dir", str(run)], tmp_path / "log").status == 2
    whole = sorted(run.glob("checkpoint-*"))
    assert whole and len(whole) < 7
    assert_explained(tmp_path / "log", run, len(whole) + 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "room", "file"),
    [
        ("save_model", 64, "model.safetensors"),
        ("_save_optimizer_and_scheduler", 64, "optimizer.pt"),
        # All of its tensors but the last fit, as what the writer buffers does.
        ("_save_optimizer_and_scheduler", -8, "optimizer.pt"),
        ("_save_rng_state", 0, "rng_state.pth"),
    ],
    ids=["weights", "optimizer", "end-of-the-optimizer", "random-state"],
)
def test_a_disk_that_fills_up_in_a_file(tmp_path, small_disk, function, room, file):
    """Another program takes the room while the file is written; once it is there again the run goes on exactly."""
    disk, log, whole = small_disk(160000), tmp_path / "log", tmp_path / "whole"
    run, ballast = disk / "run", disk / "ballast"

    def fill() -> None:
        left = os.statvfs(disk)
        kilobytes = room if room >= 0 else (run / "checkpoint-1" / file).stat().st_size // 1024 + room
        ballast.write_bytes(bytes(left.f_bavail * left.f_frsize - 1024 * kilobytes))

    words = [*WORDS, "--output_dir", str(run)]
    stop = Moment((LRSegformerTrainer, function), 2, fill)
    assert run_training("segmentation", words, log, stop).status == 2, log.read_text()[-3000:]
    assert ballast.stat().st_size > 0
    assert_explained(log, run, 2)
    ballast.unlink()
    finish("segmentation", words, log)
    assert run_training("segmentation", [*WORDS, "--output_dir", str(whole)], log).status == 0
    assert_equal_runs(run, whole)


@pytest.mark.parametrize("function", ["save_model", "_save_optimizer_and_scheduler", "_save_rng_state"])
def test_a_file_that_the_disk_does_not_take_leaves_the_last_checkpoint(tmp_path, function):
    def limit(kilobytes: int = 4) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024 * kilobytes, resource.RLIM_INFINITY))

    run, log = tmp_path / "run", tmp_path / "log"
    stop = Moment((LRSegformerTrainer, function), 2, limit)
    assert run_training("segmentation", [*WORDS, "--output_dir", str(run)], log, stop).status == 2
    assert_explained(log, run, 2)
