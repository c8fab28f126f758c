"""Numbers that are not finite, through the command lines: one line, exit status 2, and the checkpoints before them."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from lrsegformer.cli.finetune import main
from lrsegformer.training.trainer import LRSegformerTrainer

pytestmark = pytest.mark.usefixtures("blank_pictures")

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


# Each strategy and scope once, and adversarial training.
KINDS = [
    ("segmentation", "--strategy stable_softplus --scope head"),
    ("segmentation", "--strategy geometric_mean --scope network"),
    ("segmentation", "--strategy spectral_norm --scope head --adversarial_steps 1 --adversarial_eps 2"),
    ("segmentation", "--strategy orthogonal --scope certified"),
    ("segmentation", "--strategy jacobian_norm --scope projections"),
    ("classification", "--strategy geometric_mean --scope head --adversarial_steps 1 --adversarial_eps 2"),
    ("classification", "--strategy stable_softplus --scope network"),
    ("classification", "--strategy none"),
]


def spoil_loss(trainer):
    loss = trainer.task_loss
    trainer.task_loss = lambda *given: loss(*given) * (math.nan if trainer.model.training else 1)
    return "the task loss is not finite", None


def spoil_penalty(trainer):
    forward = trainer.model.forward

    def spoilt(*given, **named):
        outputs = forward(*given, **named)
        outputs["lipschitz_penalty"] = outputs["logits"].sum() * math.inf
        return outputs

    trainer.model.forward = spoilt
    return "the Lipschitz penalty is not finite", None


def spoil_gradient(trainer):
    name, parameter = list(trainer.model.named_parameters())[-1]
    parameter.register_hook(lambda gradient: gradient * math.inf)
    return "the gradient of ", name


def spoil_weight(trainer):
    """As a step may: from a gradient that is finite."""
    name, parameter = next(
        (name, each) for name, each in trainer.model.named_parameters() if name.endswith((".c", "classifier.bias"))
    )
    create = trainer.create_optimizer

    def created(*given):
        def spoil(*_):
            with torch.no_grad():
                parameter.view(-1)[0] = math.nan

        optimizer = create(*given)
        optimizer.register_step_post_hook(spoil)
        return optimizer

    trainer.create_optimizer = created
    return "the new value of ", name


@pytest.mark.one_in(2)
@pytest.mark.each_value
@pytest.mark.parametrize("task, options", KINDS, ids=[" ".join(kind) for kind in KINDS])
@pytest.mark.parametrize("spoil", [spoil_loss, spoil_penalty, spoil_gradient, spoil_weight])
def test_each_kind_of_number_by_its_name(explain, tmp_path, monkeypatch, task, options, spoil):
    said, train = [], LRSegformerTrainer.train

    def spoilt(trainer, *given, **named):
        said.extend(spoil(trainer))
        return train(trainer, *given, **named)

    monkeypatch.setattr(LRSegformerTrainer, "train", spoilt)
    line = explain(*RUN, *options.split(), task=task)
    what, name = said
    assert_words(line, "step 1: ", what + (name or ""), "lower --")
    assert not saved(tmp_path)


def test_a_step_that_makes_constants_infinite(explain, tmp_path):
    """By a rate that any gradient times it is too large for; the last step of a run, too."""
    line = explain(*RUN, "--constants_learning_rate", "3e38", "--max_steps", "1", "--weight_decay", "0")
    assert_words(line, "step 1: the new value of decode_head.", ".c ", "is not finite: lower --learning_rate")
    assert not saved(tmp_path)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("what", ["weights", "average"])
def test_a_checkpoint_that_is_not_finite_is_passed_over_or_refused(explain, tmp_path, what):
    short = [*RUN, "--eval_strategy", "no", "--max_steps", "2"]
    main("segmentation", short)
    checkpoint = tmp_path / "out" / "checkpoint-2"
    if what == "weights":
        tensors = load_file(checkpoint / "model.safetensors")
        tensors["decode_head.linear_fuse.c"].fill_(math.nan)
        save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})
        words = ("model.safetensors", "decode_head.linear_fuse.c")
    else:
        state = torch.load(checkpoint / "optimizer.pt", weights_only=True)
        state["state"][3]["exp_avg_sq"].view(-1)[0] = math.inf
        torch.save(state, checkpoint / "optimizer.pt")
        words = ("the optimizer's exp_avg_sq of ",)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.is_file()}
    line = explain(*short, "--max_steps", "3", "--resume_from_checkpoint", "out/checkpoint-2")
    assert_words(line, "out/checkpoint-2", "not finite (in ", *words)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.is_file()}
    if what == "weights":  # The newest that is whole is another.
        main("segmentation", [*short, "--max_steps", "3", "--resume_from_checkpoint"])
        assert json.loads((tmp_path / "out" / "trainer_state.json").read_text())["global_step"] == 3


def test_the_best_model_is_not_put_back_where_it_is_not_finite(explain, tmp_path, monkeypatch):
    """A file of the best checkpoint that has been spoilt meanwhile."""
    load = LRSegformerTrainer._load_best_model

    def spoilt(trainer):
        file = tmp_path / trainer.state.best_model_checkpoint / "model.safetensors"
        tensors = load_file(file)
        tensors["decode_head.classifier.bias"].fill_(math.inf)
        save_file(tensors, file, metadata={"format": "pt"})
        load(trainer)

    monkeypatch.setattr(LRSegformerTrainer, "_load_best_model", spoilt)
    line = explain(*RUN, "--load_best_model_at_end", "True", "--metric_for_best_model", "mean_iou")
    assert_words(line, "not finite (in decode_head.classifier.bias)")
    assert not (tmp_path / "out" / "model.safetensors").exists()
