"""A run that is killed at any moment, and goes on by the same command, is the run that was not killed."""

import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from lrsegformer import _compat_trainer
from lrsegformer.choices import SCOPES
from lrsegformer.data import DataArguments, load_data
from lrsegformer.layers.registry import STRATEGIES
from lrsegformer.training.run import finetune
from lrsegformer.training.trainer import LRSegformerTrainer
from tests.stops import Function, Moment, send
from tests.training.run.small_runs import RUN, STAGES, assert_equal_runs, finish, run_training

WAYS = {
    "steps": [],
    "epochs": ["--save_strategy", "steps", "--eval_strategy", "epoch", "--logging_strategy", "epoch"],
    "workers": ["--dataloader_num_workers", "1"],
    "adversarial": ["--adversarial_steps", "2", "--adversarial_eps", "4"],
    "best": ["--load_best_model_at_end", "--metric_for_best_model", "mean_iou", "--save_steps", "3"],
}
# Where each kind of kill may strike, and how many such calls every run has (the last step of an epoch has one batch).
MOMENTS: dict[str, list[tuple[Function, int]]] = {
    "step": [((LRSegformerTrainer, "training_step"), 12)],
    "evaluation": [((LRSegformerTrainer, "prediction_step"), 6)],
    "save": [
        ((LRSegformerTrainer, "save_model"), 3),
        ((LRSegformerTrainer, "_save_optimizer_and_scheduler"), 3),
        ((LRSegformerTrainer, "_save_rng_state"), 3),
        ((_compat_trainer, "write_whole"), 3),
        ((_compat_trainer, "put_in_place"), 3),
        ((_compat_trainer, "remove_folder"), 2),
    ],
    "outputs": [((finetune, "write_run_outputs"), 1)],
}


@pytest.fixture(scope="module", autouse=True)
def imported():
    """What every run imports and draws once, before it is forked."""
    import matplotlib.pyplot  # noqa: F401
    import sklearn.metrics  # noqa: F401

    load_data(DataArguments(dataset="digits", image_size=32), "segmentation", 3, (0.5,) * 3, (0.5,) * 3).train[0]


def cases() -> Iterator[tuple[str, str | None, str]]:
    """Every strategy and scope that there is, in one of the tasks: (task, strategy, scope)."""
    yield "segmentation", None, "head"
    for first, strategy in enumerate(STRATEGIES):
        for second, scope in enumerate(SCOPES):
            if (strategy, scope) != ("stable_softplus", "certified"):
                segments = scope == "projections" or (first + second) % 2 == 0
                yield "segmentation" if segments else "classification", strategy, scope


def killed_and_finished(task: str, words: list[str], folder: Path, kind: str, chance: random.Random, seconds: float):
    """Kill a run in a stage, then what goes on after some of its seconds, and let it end; gives what was struck."""
    words, log, struck = [*words, "--output_dir", str(folder)], folder.with_suffix(".log"), []
    function, most = chance.choice(MOMENTS[kind])
    kills = [
        Moment(function, chance.randint(1, most), send(signal.SIGKILL)),
        Moment((finetune, "train_until_stopped"), 1, send(signal.SIGKILL), chance.uniform(0.05, seconds)),
    ]
    for moment in kills:
        resume = ["--resume_from_checkpoint"] if (folder / "run.yaml").exists() else []
        ended = run_training(task, [*words, *resume], log, moment)
        assert ended.status in (0, -signal.SIGKILL), log.read_text()[-3000:]
        if ended.status:
            struck.append(ended.doing or "between")
    finish(task, words, log)
    return struck


@pytest.mark.parametrize(
    ("function", "call", "whole", "unfinished"),
    [
        ((LRSegformerTrainer, "_save_rng_state"), 2, ["checkpoint-2"], "checkpoint-4"),
        pytest.param(
            (_compat_trainer, "remove_folder"),
            2,
            ["checkpoint-4", "checkpoint-6", "checkpoint-7"],
            None,
            marks=pytest.mark.slow,
        ),
    ],
    ids=["in-a-save", "before-an-old-one-is-removed"],
)
def test_a_killed_run_goes_on_exactly(tmp_path, function, call, whole, unfinished):
    words = [*RUN, "--strategy", "stable_softplus"]
    expected, log = tmp_path / "whole", tmp_path / "log"
    assert run_training("segmentation", [*words, "--output_dir", str(expected)], log).status == 0
    killed = tmp_path / "killed"
    words = [*words, "--output_dir", str(killed)]
    ended = run_training("segmentation", words, log, Moment(function, call, send(signal.SIGKILL)))
    assert ended == (-signal.SIGKILL, "save")
    assert unfinished is None or (killed / "unfinished" / unfinished).is_dir()
    assert sorted(path.name for path in killed.glob("checkpoint-*")) == whole
    finish("segmentation", words, log)
    assert_equal_runs(killed, expected)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "way"), list(enumerate(WAYS)), ids=list(WAYS))
def test_kills_at_random_moments(tmp_path, number, way):
    """Two kills a run: one of each stage in turn, and one at any time."""
    struck, kinds = Counter(), []
    for place, (task, strategy, scope) in enumerate(cases()):
        if place % len(WAYS) != number:
            continue
        constraint = [] if strategy is None else ["--strategy", strategy, "--scope", scope]
        words, name = [*RUN, *WAYS[way], *constraint], f"{strategy}-{scope}"
        if way == "best" and task == "classification":
            words = ["accuracy" if word == "mean_iou" else word for word in words]
        whole, log, began = tmp_path / f"{name}-whole", tmp_path / f"{name}-whole.log", time.monotonic()
        assert run_training(task, [*words, "--output_dir", str(whole)], log).status == 0, log.read_text()[-3000:]
        kinds.append(list(MOMENTS)[len(kinds) % len(MOMENTS)])
        chance, seconds = random.Random(place), time.monotonic() - began
        found = killed_and_finished(task, words, tmp_path / name, kinds[-1], chance, seconds)
        assert found[0] == kinds[-1], f"{name}: the kill in {kinds[-1]} struck {found}"
        struck.update(found)
        assert_equal_runs(tmp_path / name, whole)
    print(f"{way}: {struck.total()} kills, {dict(struck)}")
    assert set(STAGES) <= set(struck) and struck.total() > len(kinds)
