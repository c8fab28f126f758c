"""Fine-tuning runs of seconds in processes of their own, and whether two of them came to the same."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from lrsegformer.training.run import finetune
from lrsegformer.training.trainer import LRSegformerTrainer
from tests.stops import Ended, Moment, run_command

RUN = (
    "--dataset digits --architecture tiny --use_cpu --image_size 32 --max_train_samples 10 --max_eval_samples 3 "
    "--total_batch_size 4 --per_device_train_batch_size 2 --max_steps 7 --save_steps 2 --eval_steps 3 "
    "--logging_steps 3 --save_total_limit 2 --dataloader_num_workers 0 --learning_rate 1e-3 --seed 3 "
    "--disable_tqdm True"
).split()
STAGES = {
    "step": (LRSegformerTrainer, "training_step"),
    "evaluation": (LRSegformerTrainer, "evaluate"),
    "save": (LRSegformerTrainer, "_save_checkpoint"),
    "outputs": (finetune, "write_run_outputs"),
}
# Of what is measured, not learned. FLOPs are counted by how often the Trainer asks.
CLOCKS = ("runtime", "per_second", "adversarial/seconds")


def run_training(task: str, words: list[str], log: Path, stop: Moment | None = None) -> Ended:
    """The fine-tuning command in a process of its own."""
    from lrsegformer.cli.finetune import main

    line = ["lrsegformer", f"finetune-{task[:3]}", *words]
    return run_command(lambda: main(task, words), line, log, stop, STAGES)


def finish(task: str, words: list[str], log: Path) -> None:
    """Go on by the same command."""
    ended = run_training(task, [*words, "--resume_from_checkpoint"], log)
    assert ended.status == 0, log.read_text()[-3000:]


def without_clocks(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if not any(clock in name for clock in CLOCKS)}


def what_came_of(folder: Path) -> dict[str, Any]:
    """Everything of a finished run that may not depend on a stop."""
    state = json.loads((folder / "trainer_state.json").read_text())
    results = json.loads((folder / "all_results.json").read_text())
    best = state["best_model_checkpoint"]
    return {
        "logs": [without_clocks(log) for log in state["log_history"]],
        "results": without_clocks(results),
        "state": [state[name] for name in ("global_step", "epoch", "best_metric", "best_global_step", "total_flos")],
        "best": None if best is None else Path(best).name,
        "checkpoints": sorted(path.name for path in folder.glob("checkpoint-*")),
        "files": sorted(path.name for path in folder.iterdir()),
    }


def assert_equal_runs(found: Path, expected: Path) -> None:
    """Parameters, states of the optimizer, losses, scores, logs and files, to the last bit."""
    left, right = what_came_of(found), what_came_of(expected)
    for part in right:
        assert left[part] == right[part], part
    for name in ("model.safetensors", f"{right['checkpoints'][-1]}/model.safetensors"):
        assert_equal_tensors(load_file(found / name), load_file(expected / name))
    optimizers = [
        torch.load(run / right["checkpoints"][-1] / "optimizer.pt", weights_only=True)["state"]
        for run in (found, expected)
    ]
    assert optimizers[1]
    for each, tensors in optimizers[1].items():
        assert_equal_tensors(optimizers[0][each], tensors)


def assert_equal_tensors(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert not [key for key in expected if not torch.equal(found[key], expected[key])]
