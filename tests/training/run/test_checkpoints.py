"""Which checkpoint a run goes on from: judged before it is used, and never one that is not whole."""

import json
import logging
import shutil
from pathlib import Path

import pytest

from lrsegformer.cli.finetune import main
from lrsegformer.errors import InputError
from lrsegformer.training.run.checkpoints import checkpoint_to_resume, fault_of_checkpoint, last_whole_checkpoint
from tests.conftest import SEGMENTATION_RUN

pytestmark = pytest.mark.usefixtures("blank_pictures")


def cut(name: str, keep: float = 0.5):
    def harm(folder: Path) -> None:
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: int(len(whole) * keep)])

    return harm


def lose(name: str):
    return lambda folder: (folder / name).unlink()


def write(name: str, content: bytes):
    return lambda folder: (folder / name).write_bytes(content)


# What is done to a whole checkpoint, and what is said of it.
FAULTS = {
    "empty-folder": (lambda folder: [path.unlink() for path in folder.iterdir()], "has no trainer_state.json"),
    "no-state": (lose("trainer_state.json"), "has no trainer_state.json"),
    "half-state": (cut("trainer_state.json"), "trainer_state.json that cannot be read"),
    "state-a-list": (write("trainer_state.json", b"[]"), "trainer_state.json that cannot be read"),
    "state-null": (write("trainer_state.json", b"null"), "trainer_state.json that cannot be read"),
    "state-of-another-kind": (write("trainer_state.json", b'{"a": 1}'), "trainer_state.json that cannot be read"),
    "no-weights": (lose("model.safetensors"), "has no model.safetensors"),
    "half-weights": (cut("model.safetensors"), "model.safetensors that is cut short"),
    "weights-without-the-last-byte": (cut("model.safetensors", 0.99999), "model.safetensors that is cut short"),
    "empty-weights": (cut("model.safetensors", 0), "has an empty model.safetensors"),
    "half-header": (cut("model.safetensors", 0.001), "model.safetensors that is cut short"),
    "weights-of-zeros": (write("model.safetensors", bytes(1000)), "no file of safetensors"),
    "weights-of-text": (write("model.safetensors", b"<!DOCTYPE html><html>" * 9), "no file of safetensors"),
    "no-optimizer": (lose("optimizer.pt"), "has no optimizer.pt"),
    "half-optimizer": (cut("optimizer.pt"), "optimizer.pt that is cut short"),
    "empty-optimizer": (cut("optimizer.pt", 0), "optimizer.pt that is cut short"),
    "no-scheduler": (lose("scheduler.pt"), "has no scheduler.pt"),
    "half-scheduler": (cut("scheduler.pt"), "scheduler.pt that is cut short"),
    "no-random-state": (lose("rng_state.pth"), "has no rng_state.pth"),
    "half-random-state": (cut("rng_state.pth"), "rng_state.pth that is cut short"),
}


@pytest.fixture
def run(segmentation_run, tmp_path) -> Path:
    """A copy of a run with its checkpoints of the steps 2 and 4, but without what it left at its end."""
    folder = tmp_path / "run"
    for step in (2, 4):
        shutil.copytree(segmentation_run[0] / f"checkpoint-{step}", folder / f"checkpoint-{step}")
    return folder


def test_the_last_is_the_one_of_the_most_steps(run, tmp_path):
    assert last_whole_checkpoint(tmp_path / "none") is None
    (run / "checkpoint-best").mkdir()
    shutil.copytree(run / "checkpoint-4", run / "checkpoint-1000")
    shutil.copytree(run / "checkpoint-4", run / "checkpoint-999")
    assert last_whole_checkpoint(run) == run / "checkpoint-1000"


@pytest.mark.parametrize("fault", FAULTS)
def test_one_that_is_not_whole_is_passed_over_with_its_reason(run, caplog, fault):
    harm, said = FAULTS[fault]
    harm(run / "checkpoint-4")
    assert said in fault_of_checkpoint(run / "checkpoint-4")
    with caplog.at_level(logging.WARNING):
        assert checkpoint_to_resume(str(run), "true") == str(run / "checkpoint-2")
    (line,) = caplog.messages
    assert f"{run}/checkpoint-4 has" in line and said in line and "passed over" in line and "\n" not in line
    with pytest.raises(InputError, match="checkpoint-4 has.*: give another checkpoint"):
        checkpoint_to_resume(str(run), str(run / "checkpoint-4"))


def test_without_a_whole_one_there_is_nothing_to_continue(run):
    for step in (2, 4):
        lose("optimizer.pt")(run / f"checkpoint-{step}")
    with pytest.raises(InputError, match="holds no checkpoint that is whole"):
        checkpoint_to_resume(str(run), "true")


def test_a_checkpoint_of_two_processes_needs_the_random_states_of_both(run, caplog):
    checkpoint = run / "checkpoint-4"
    sums = json.loads((checkpoint / "running_sums_0.json").read_text())
    (checkpoint / "running_sums_0.json").write_text(json.dumps({**sums, "world_size": 2}))
    assert fault_of_checkpoint(checkpoint) == "has no rng_state_0.pth"
    for rank in range(2):
        shutil.copy(checkpoint / "rng_state.pth", checkpoint / f"rng_state_{rank}.pth")
    assert checkpoint_to_resume(str(run), "true", world_size=2) == str(checkpoint) and not caplog.messages
    assert checkpoint_to_resume(str(run), "true", world_size=1) == str(checkpoint)
    assert "was saved by 2 process(es), and this run has 1" in caplog.messages[0]


@pytest.mark.parametrize(
    ("task", "others", "said"),
    [
        ("segmentation", ["--strategy", "orthogonal"], "the strategy: stable_softplus, this run orthogonal"),
        ("segmentation", ["--scope", "network"], "the scope: head, this run network"),
        ("segmentation", ["--architecture", "b0"], "the depths: [1, 1, 1, 1], this run [2, 2, 2, 2]"),
        ("segmentation", ["--lipschitz_options", '{"norm": "l1"}'], "the strategy's options: None, this run"),
        ("classification", [], "the task: segmentation, this run classification"),
    ],
    ids=["strategy", "scope", "architecture", "options", "task"],
)
def test_a_checkpoint_of_another_model_is_refused(run, capsys, task, others, said):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    with pytest.raises(SystemExit) as exit:
        main(task, [*SEGMENTATION_RUN, *others, "--output_dir", str(run), "--resume_from_checkpoint"])
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert exit.value.code == 2 and len(errors) == 1
    assert f"{run}/checkpoint-4 differs in {said}" in errors[0] and "run.yaml" in errors[0]
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_a_whole_checkpoint_holds_nothing_unfinished(segmentation_run):
    assert not (segmentation_run[0] / "unfinished").exists()
    assert all(fault_of_checkpoint(path) is None for path in segmentation_run[0].glob("checkpoint-*"))
