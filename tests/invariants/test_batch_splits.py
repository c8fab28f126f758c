"""Rule 5 of the design: loss, penalty and gradients do not depend on how a batch is split."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.invariants import split_runner as runner
from tests.ranks import run_two_ranks

RUNNER = Path(runner.__file__)
# The first in `make test`; further cases take the way through the command line, in test_command_splits.py.
FEW, MANY = runner.FEW, runner.MANY
CASES = [*FEW, *(pytest.param(case, marks=pytest.mark.slow) for case in MANY)]
LOSSES = ("loss", "loss_task", "loss_lipschitz", "grad_norm")


@pytest.fixture(scope="module")
def two_processes(made_once) -> Callable[[str], Path]:
    """`two_processes(which)`: results of 2 processes x 2 images x accumulation 2, of few or many cases."""

    def of(which: str) -> Path:
        run = lambda folder: run_two_ranks(RUNNER, str(folder), "2", "2", which, log=folder / "log.txt")  # noqa: E731
        return made_once(f"split_{which}", run)

    return of


def assert_same(found, expected):
    for one, other in zip(found["logs"], expected["logs"], strict=True):
        assert {name: one[name] for name in LOSSES} == pytest.approx({name: other[name] for name in LOSSES}, rel=1e-5)
    for one, other in zip(found["gradients"], expected["gradients"], strict=True):
        assert one.keys() == other.keys()
        largest = max(gradient.abs().max() for gradient in other.values())
        for name in other:
            assert (one[name] - other[name]).abs().max() < 1e-5 * largest, name
    assert found["scores"] == expected["scores"], "counts are integers: nothing is rounded"
    assert found["eval_losses"] == pytest.approx(expected["eval_losses"], rel=1e-6)
    assert found["test_loss"] == pytest.approx(expected["eval_losses"]["loss"], rel=1e-6)
    torch.testing.assert_close(found["predicted"], expected["predicted"], rtol=1e-5, atol=1e-5)


def of_ranks(folder: Path, case: tuple) -> list[dict]:
    """What each of the two processes found."""
    ranks = [torch.load(folder / f"{'-'.join(map(str, case))}-{rank}.pt") for rank in range(2)]
    assert [rank["world_size"] for rank in ranks] == [2, 2]
    return ranks


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_accumulation_and_processes(two_processes, tmp_path, case):
    whole = runner.run(*case, 8, 1, str(tmp_path))
    assert whole["world_size"] == 1 and len(whole["logs"]) == 2
    assert all(log["loss_task"] > 0 and log["loss_lipschitz"] > 0 for log in whole["logs"])
    assert whole["eval_losses"]["loss_task"] == pytest.approx(whole["by_hand"], rel=1e-6)
    assert len(whole["predicted"]) == runner.EVALUATED
    assert_same(runner.run(*case, 2, 4, str(tmp_path)), whole)
    for rank in of_ranks(two_processes("few" if case in FEW else "many"), case):
        assert not rank["sharded"]
        assert_same(rank, whole)


@pytest.mark.slow
def test_averaged_weights(two_processes, tmp_path):
    """Every process has the same average, to the bit, and it is that of one process."""
    whole = runner.run(*MANY[0], 8, 1, str(tmp_path), runner.AVERAGED)
    first, second = (torch.load(two_processes("many") / f"averaged-{rank}.pt") for rank in range(2))
    for rank in (first, second):
        assert_same(rank, whole)
    for name, tensor in whole["weights"].items():
        assert torch.equal(first["weights"][name], second["weights"][name]), name
        torch.testing.assert_close(first["weights"][name], tensor, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("case", FEW + MANY, ids=lambda case: "-".join(map(str, case)))
def test_sharded_processes(two_processes, tmp_path, case):
    """With parameters, gradients and optimizer states sharded over the two processes."""
    folder = two_processes("fsdp2")
    if not runner.shards(*case):
        assert not list(folder.glob(f"{'-'.join(map(str, case))}-*.pt"))
        return
    whole = runner.run(*case, 8, 1, str(tmp_path))
    for rank in of_ranks(folder, case):
        assert rank["sharded"]
        assert_same(rank, whole)


@pytest.mark.one_in(2)
@pytest.mark.parametrize(("task", "steps"), [("segmentation", 2), ("classification", 1)])
def test_adversarial_starts_by_position_would_be_another_loss(tmp_path, monkeypatch, task, steps):
    """What the cases with an attack are worth: both the attack and its random starts are far above the tolerance."""
    whole = runner.run(task, "stable_softplus", "head", steps, 8, 1, str(tmp_path))
    with pytest.raises(AssertionError):
        assert_same(runner.run(task, "stable_softplus", "head", 0, 8, 1, str(tmp_path)), whole)
    by_position = "lrsegformer.training.adversarial.perturbation.sample_seeds"
    monkeypatch.setattr(by_position, lambda images: torch.arange(len(images)))
    whole = runner.run(task, "stable_softplus", "head", steps, 8, 1, str(tmp_path))
    with pytest.raises(AssertionError):
        assert_same(runner.run(task, "stable_softplus", "head", steps, 2, 4, str(tmp_path)), whole)


def test_a_mean_of_means_would_be_another_evaluation(tmp_path, monkeypatch):
    """What transformers' own mean over the batches would give."""
    whole = runner.run("segmentation", "stable_softplus", "head", 0, 8, 1, str(tmp_path))
    monkeypatch.setattr("lrsegformer.training.scoring.RunningLoss.add", by_batch)
    split = runner.run("segmentation", "stable_softplus", "head", 0, 2, 4, str(tmp_path))
    assert abs(split["eval_losses"]["loss_task"] / whole["by_hand"] - 1) > 1e-3


def by_batch(self, task_loss, weight, penalty):
    self._sums += torch.stack([task_loss.double(), torch.ones((), dtype=torch.float64)])
    self._penalty = penalty


def test_a_mean_of_means_would_be_another_loss(tmp_path, monkeypatch):
    """What the test above is worth: on these images the common mistake is far outside its tolerance."""

    class MeanOfMeans(runner.LRSegformerTrainer):
        def _shares(self, inputs, totals):
            share = 1 / self.args.gradient_accumulation_steps
            return share, share

    whole = runner.run("segmentation", "stable_softplus", "head", 0, 8, 1, str(tmp_path))
    monkeypatch.setattr(runner, "LRSegformerTrainer", MeanOfMeans)
    split = runner.run("segmentation", "stable_softplus", "head", 0, 2, 4, str(tmp_path))
    tasks = [result["logs"][0]["loss_task"] for result in (split, whole)]
    assert abs(tasks[0] / tasks[1] - 1) > 1e-3
    with pytest.raises(AssertionError):
        assert_same(split, whole)
