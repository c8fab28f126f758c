"""Numbers that are not finite, through the command lines: one line, exit status 2, and the checkpoints before them."""

import json
import math

import pytest
from safetensors.torch import load_file

from lrsegformer.cli.finetune import main
from lrsegformer.training.trainer import LRSegformerTrainer

TASKS = ("segmentation", "classification")
RUN = (
    "--dataset digits --max_train_samples 8 --max_eval_samples 2 --architecture tiny --use_cpu --image_size 32 "
    "--total_batch_size 2 --dataloader_num_workers 0 --disable_tqdm True --strategy stable_softplus --max_steps 6 "
    "--save_steps 1 --save_total_limit 2 --eval_steps 1 --warmup_steps 0 --output_dir out"
).split()


def assert_words(line, *words):
    assert all(str(word) in line for word in words), line


def saved(folder):
    """The weights of a run, by the folder that they lie in."""
    return {file.parent.name: load_file(file) for file in folder.rglob("model.safetensors")}


@pytest.mark.each_value
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("rate", ["1e9", "1e30"])
def test_a_learning_rate_that_is_too_high(explain, tmp_path, task, rate):
    line = explain(*RUN, "--learning_rate", rate, task=task)
    assert_words(line, "after step 1: the logits are not finite", f"--learning_rate ({float(rate):g})")
    assert ("--max_grad_norm" in line) == (task == "segmentation"), "the recipe of classification clips already"
    assert not saved(tmp_path)
    line = explain(*RUN, "--learning_rate", rate, "--eval_strategy", "no", "--output_dir", "other", task=task)
    assert_words(line, "step 2: the logits are not finite", "The last checkpoint is kept: other/checkpoint-1")
    assert all(tensor.isfinite().all() for tensors in saved(tmp_path).values() for tensor in tensors.values())


@pytest.mark.parametrize("task", TASKS)
def test_a_weight_of_the_penalty_that_is_too_high(explain, tmp_path, task):
    assert_words(
        explain(*RUN, "--lambda_lip", "1e38", task=task), "step 1", "Lipschitz penalty", "--lambda_lip (1e+38)"
    )
    line = explain(*RUN, "--lambda_lip", "1e30", "--output_dir", "other", task=task)
    assert_words(line, "step 1", "gradient of", "--lambda_lip (1e+30)")
    assert not saved(tmp_path)


@pytest.mark.parametrize(
    "option",
    "lambda_lip learning_rate head_learning_rate_multiplier weight_decay max_grad_norm warmup_steps adam_epsilon "
    "label_smoothing_factor adversarial_eps num_train_epochs logging_steps eval_steps save_steps".split(),
)
@pytest.mark.parametrize("value", ["nan", "inf", "-1"])
def test_options_that_are_no_number_to_compute_with(explain, option, value):
    assert_words(explain(*RUN, f"--{option}", value), f"--{option} is")


def test_a_run_that_goes_astray_keeps_its_last_good_checkpoint_and_goes_on_from_it(explain, tmp_path, monkeypatch):
    def spoilt(trainer, outputs, *others):
        return outputs["loss"] * (math.nan if trainer.state.global_step == 3 and trainer.model.training else 1)

    with monkeypatch.context() as patches:
        patches.setattr(LRSegformerTrainer, "task_loss", spoilt)
        line = explain(*RUN)
    assert_words(line, "step 4: the task loss is not finite", "The last checkpoint is kept: out/checkpoint-3")
    tensors = saved(tmp_path)
    assert tensors.keys() == {"checkpoint-2", "checkpoint-3"}
    assert all(tensor.isfinite().all() for name in tensors for tensor in tensors[name].values())
    main("segmentation", [*RUN, "--resume_from_checkpoint"])
    assert json.loads((tmp_path / "out" / "trainer_state.json").read_text())["global_step"] == 6
