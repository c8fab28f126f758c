"""Checkpoints of FSDP2 on two processes: those that are not whole are judged and passed over, and a run goes on."""

import shutil
import signal
from pathlib import Path

import pytest
from safetensors.torch import load_file

from lrsegformer.training.run.checkpoints import fault_of_checkpoint, last_whole_checkpoint
from tests.ranks import run_two_ranks
from tests.training.run.small_runs import RUN, assert_equal_tensors, what_came_of

WORDS = [*RUN, "--strategy", "stable_softplus", "--save_total_limit", "9"]
# Its first argument says at which call of a function both processes are killed.
PROGRAM = """
import os, signal, sys
from lrsegformer.cli.finetune import main
from lrsegformer.training.trainer import LRSegformerTrainer
from tests.sharding import shard_on_the_cpu
from tests.stops import Moment, act_at, send

function, call = sys.argv.pop(1).split(",")
act_at(Moment((LRSegformerTrainer, function), int(call), send(signal.SIGKILL)))
shard_on_the_cpu()
main("segmentation")
"""
NEVER = "log,1000"


@pytest.fixture(scope="module")
def whole(program, made_once) -> Path:
    """A run of two processes that nobody kills."""

    def make(folder: Path) -> None:
        run_two_ranks(program, NEVER, *WORDS, "--output_dir", str(folder / "run"), log=folder / "log")

    return made_once("whole-sharded", make) / "run"


@pytest.mark.slow
def test_a_killed_run_goes_on_exactly(tmp_path, program, whole):
    run, log = tmp_path / "run", tmp_path / "log"
    words = [*WORDS, "--output_dir", str(run)]
    run_two_ranks(program, "_save_rng_state,2", *words, log=log, status=-signal.SIGKILL)
    assert [path.name for path in run.glob("checkpoint-*")] == ["checkpoint-2"]
    assert (run / "unfinished" / "checkpoint-4").is_dir()
    run_two_ranks(program, NEVER, *words, "--resume_from_checkpoint", log=log)
    found, expected = what_came_of(run), what_came_of(whole)
    for part in expected:
        assert found[part] == expected[part], part
    assert_equal_tensors(*(load_file(each / "model.safetensors") for each in (run, whole)))


@pytest.mark.slow
def test_what_is_not_whole_is_passed_over(tmp_path, whole):
    assert fault_of_checkpoint(whole / "checkpoint-2") is None
    for number, name in enumerate(["pytorch_model_fsdp.bin", "optimizer.bin", "scheduler.pt", "rng_state_1.pth"]):
        for keep in (None, 0.0, 0.5, 0.9999):
            run = tmp_path / f"{number}-{keep}"
            shutil.copytree(whole, run)
            file = run / "checkpoint-7" / name
            content = file.read_bytes()
            if keep is None:
                file.unlink()
            else:
                file.write_bytes(content[: int(len(content) * keep)])
            assert name in fault_of_checkpoint(run / "checkpoint-7")
            assert last_whole_checkpoint(run) == run / "checkpoint-6"
            shutil.rmtree(run)
