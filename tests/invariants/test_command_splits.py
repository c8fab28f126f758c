"""Rule 5 of the design, through the command line: what a run gives does not depend on how its batch is split."""

import json
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification, AutoModelForSemanticSegmentation
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from lrsegformer import STRATEGIES
from lrsegformer.data import DataArguments, load_data
from tests.invariants import command_runner as runner
from tests.ranks import run_two_ranks

RUNNER = Path(runner.__file__)
# Task, strategy, scope, steps of adversarial training, precision.
IN_SECONDS = ("segmentation-orthogonal-network-0-float64",)
ATTACKED = ("segmentation-stable_softplus-head-2-float64", "classification-stable_softplus-head-1-float64")
REST = tuple(
    case
    for task in ("segmentation", "classification")
    for scope in ("projections", "head", "network", "certified")
    for strategy in STRATEGIES
    if (case := f"{task}-{strategy}-{scope}-0-float64") not in IN_SECONDS
    and not (scope == "certified" and strategy == "stable_softplus")
    and not (scope == "projections" and task == "classification")
)
SLOW = (
    *ATTACKED,
    *REST,
    "segmentation-stable_softplus-head-0-float32",
    "classification-geometric_mean-certified-0-float32",
)
CASES = [*IN_SECONDS, *(pytest.param(case, marks=pytest.mark.slow) for case in SLOW)]
# Adversarial training and the penalty on the network's Jacobian, which is the one under both of these scopes, refuse
# sharded models, and say so.
DIFFERENCES = tuple(case for case in REST if re.search("-jacobian_norm-(network|certified)-", case))
WHOLE_ALONE = (*ATTACKED, *DIFFERENCES)
SHARDED = [case for case in CASES if getattr(case, "values", [case])[0] not in WHOLE_ALONE]
STEPS_TAKEN = 2
LOSSES = ("loss", "loss_task", "loss_lipschitz", "grad_norm")
MODELS = {"segmentation": AutoModelForSemanticSegmentation, "classification": AutoModelForImageClassification}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Callable[[str], Path]:
    """`whole(case)`: the run of all 8 images at once."""
    return lru_cache(lambda case: runner.run(case, 8, 1, tmp_path_factory.mktemp("whole") / case))


@pytest.fixture(scope="module")
def two_processes(made_once) -> Callable[[str, str], Path]:
    """`two_processes(kind, case)`: the run of 2 processes x 2 images x accumulation 2, averaged or sharded."""

    def of(kind: str, case: str) -> Path:
        among = IN_SECONDS if case in IN_SECONDS else SLOW
        asked = [each for each in among if kind == "ddp" or each not in WHOLE_ALONE]
        run = lambda folder: run_two_ranks(RUNNER, str(folder), "2", "2", kind, *asked, log=folder / "log.txt")  # noqa: E731
        return made_once(f"command_{kind}_{'few' if among is IN_SECONDS else 'many'}", run) / case

    return of


def logs_of(folder: Path) -> list[dict]:
    history = json.loads((folder / "run" / "trainer_state.json").read_text())["log_history"]
    return [{name: log[name] for name in LOSSES} for log in history if "loss" in log]


def movement_of(folder: Path) -> dict[str, torch.Tensor]:
    """What the steps changed: by plain gradient descent, the gradients times the rate."""
    start, end = (load_file(folder / name / "model.safetensors") for name in ("start", "run"))
    assert start.keys() == end.keys()
    return {name: end[name].double() - start[name].double() for name in end}


def resolution_of(folder: Path) -> dict[str, float]:
    """How far the rounding of the weights themselves, once a step, can move an entry of each tensor."""
    weights = load_file(folder / "run" / "model.safetensors")
    return {name: float(STEPS_TAKEN * np.spacing(tensor.abs().max().numpy())) for name, tensor in weights.items()}


def assert_same(found: Path, expected: Path) -> None:
    for one, other in zip(logs_of(found), logs_of(expected), strict=True):
        assert one == pytest.approx(other, rel=1e-6)
    moved, as_expected, resolution = movement_of(found), movement_of(expected), resolution_of(expected)
    assert moved.keys() == as_expected.keys()
    sizes = {name: change.abs().max().item() for name, change in as_expected.items()}
    largest = max(sizes.values())
    assert largest > 0
    exact = expected.name.endswith("float64")
    # Below it a tensor's gradient is rounding, which differences divide by their step.
    smallest = 1e-7 if expected.name in DIFFERENCES else 1e-9
    for name, size in sizes.items():
        # float32 rounds each tensor's gradient by a share of what it is summed from; float64 leaves the split alone.
        limit = max(size, smallest * largest) if exact else largest
        assert (moved[name] - as_expected[name]).abs().max() < 1e-6 * limit + resolution[name], name
    one, other = (json.loads((folder / "run" / "all_results.json").read_text()) for folder in (found, expected))
    scores = [name for name in other if name.startswith("eval_") and not re.search("loss|runtime|per_second", name)]
    assert len(scores) > 4
    assert {name: one[name] for name in scores} == {name: other[name] for name in scores}, "counts are integers"
    for name in ("eval_loss", "eval_loss_task", "eval_loss_lipschitz"):
        assert one[name] == pytest.approx(other[name], rel=1e-6)


@torch.no_grad()
def loss_by_hand(case: str, folder: Path) -> float:
    """The mean over the pixels, or images, of the validation split, by torch's own loss, image by image."""
    task = case.split("-")[0]
    arguments = DataArguments(dataset="digits", image_size=runner.SIDE, max_eval_samples=runner.EVALUATED)
    dataset = load_data(arguments, task, 42, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD).validation
    model = MODELS[task].from_pretrained(folder / "run").eval()
    losses = []
    for item in (dataset[index] for index in range(len(dataset))):
        logits = model(item["pixel_values"][None].to(model.dtype)).logits.double()
        labels = torch.as_tensor(item["labels"]).long()[None]
        if labels.ndim > 1:
            logits = torch.nn.functional.interpolate(logits, size=labels.shape[1:], mode="bilinear")
        losses.append(torch.nn.functional.cross_entropy(logits, labels, reduction="none").flatten().numpy())
    assert len(losses) == runner.EVALUATED
    return np.concatenate(losses).mean()


@pytest.mark.parametrize("case", CASES)
def test_accumulation(whole, tmp_path, case):
    expected = whole(case)
    assert len(logs_of(expected)) == runner.STEPS == STEPS_TAKEN
    results = json.loads((expected / "run" / "all_results.json").read_text())
    assert results["eval_loss_task"] == pytest.approx(loss_by_hand(case, expected), rel=1e-6)
    assert_same(runner.run(case, 2, 4, tmp_path / case), expected)


@pytest.mark.parametrize("case", CASES)
def test_two_processes(whole, two_processes, case):
    found = two_processes("ddp", case)
    assert [(found.parent / f"sharded-{rank}").read_text() for rank in range(2)] == ["0", "0"]
    assert_same(found, whole(case))


@pytest.mark.slow
@pytest.mark.parametrize("case", SHARDED)
def test_sharded_processes(whole, two_processes, case):
    found = two_processes("fsdp2", case)
    assert all(int((found.parent / f"sharded-{rank}").read_text()) > 50 for rank in range(2))
    assert_same(found, whole(case))


def test_one_process_speaks(two_processes):
    """Of two that run the same, the log of both has each line of a run as often as there are runs that say it."""
    log = (two_processes("ddp", IN_SECONDS[0]).parent / "log.txt").read_text()
    runs = len(IN_SECONDS)
    assert len(re.findall("16 training and 5 validation images", log)) == runs
    assert len(re.findall("2 a device x 2 accumulation x 2 processes", log)) == runs
    assert len(re.findall("^Outputs: ", log, re.MULTILINE)) == runs
    fixed = [case for case in IN_SECONDS if case.split("-")[1] in ("orthogonal", "spectral_norm")]
    assert len(re.findall("has no effect: strategy", log)) == len(fixed) > 0


SEGMENTATION = "segmentation-stable_softplus-head-0-float32"


@pytest.mark.slow
@pytest.mark.parametrize("case", ATTACKED)
def test_adversarial_starts_by_position_would_be_another_loss(whole, tmp_path, monkeypatch, case):
    """What the cases with an attack are worth: both the attack and its random starts are far above the tolerance."""
    task, strategy, scope, _, precision = case.split("-")
    with pytest.raises(AssertionError):
        assert_same(whole("-".join([task, strategy, scope, "0", precision])), whole(case))
    by_position = "lrsegformer.training.adversarial.perturbation.sample_seeds"
    monkeypatch.setattr(by_position, lambda images: torch.arange(len(images)))
    expected = runner.run(case, 8, 1, tmp_path / "whole" / case)
    with pytest.raises(AssertionError):
        assert_same(runner.run(case, 2, 4, tmp_path / "split" / case), expected)


@pytest.mark.slow
def test_means_of_means_would_be_another_loss(whole, tmp_path, monkeypatch):
    """What the tests above are worth: on these images the common mistakes are far outside their tolerance."""

    def by_batch(self, task_loss, weight, penalty):
        self._sums += torch.stack([task_loss.double(), torch.ones((), dtype=torch.float64)])
        self._penalty = penalty

    share = 1 / 4
    monkeypatch.setattr("lrsegformer.training.trainer.LRSegformerTrainer._shares", lambda *_: (share, share))
    monkeypatch.setattr("lrsegformer.training.scoring.RunningLoss.add", by_batch)
    split, expected = runner.run(SEGMENTATION, 2, 4, tmp_path / SEGMENTATION), whole(SEGMENTATION)
    tasks = [logs_of(folder)[0]["loss_task"] for folder in (split, expected)]
    assert abs(tasks[0] / tasks[1] - 1) > 1e-3
    by_hand = loss_by_hand(SEGMENTATION, split)
    results = json.loads((split / "run" / "all_results.json").read_text())
    assert abs(results["eval_loss_task"] / by_hand - 1) > 1e-4
    with pytest.raises(AssertionError):
        assert_same(split, expected)
