"""The defaults are the published recipe, and the schedule is what it says."""

import dataclasses
import math
import os

import pytest
import torch

from lrsegformer import LRSegformerTrainingArguments
from lrsegformer.errors import InputError
from lrsegformer.training.arguments import TrainingDefaults


def test_defaults_are_the_published_recipe(tmp_path):
    arguments = LRSegformerTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    assert arguments.learning_rate == 6e-5 and arguments.head_learning_rate_multiplier == 10
    assert arguments.weight_decay == 0.01
    assert (arguments.adam_beta1, arguments.adam_beta2) == (0.9, 0.999)
    assert arguments.total_batch_size == 16 and arguments.max_steps == 160_000
    assert arguments.get_warmup_steps(160_000) == 1500
    assert arguments.optim.value.startswith("adamw_torch")
    assert arguments.lr_scheduler_type.value == "polynomial"
    assert arguments.lr_scheduler_kwargs == {"power": 1.0, "lr_end": 0.0}
    assert arguments.max_grad_norm == 0 and arguments.lambda_lip == 0.1
    assert arguments.bf16 is False and arguments.seed == 42


def test_schedule_is_linear_warmup_then_linear_decay_to_exactly_zero(make_trainer):
    trainer = make_trainer(max_steps=160_000)
    trainer.create_optimizer_and_scheduler(160_000)
    factor = trainer.lr_scheduler.lr_lambdas[0]
    assert factor(0) == 0
    assert factor(750) == 0.5 and factor(1500) == 1
    assert factor(1500 + 158_500 // 2) == pytest.approx(0.5, abs=1e-12)
    assert factor(159_999) == pytest.approx(1 / 158_500, rel=1e-6)
    assert factor(160_000) == 0


def test_rates_end_at_exactly_zero_in_all_groups(make_trainer):
    trainer = make_trainer(max_steps=3, warmup_steps=1, learning_rate=1e-3)
    trainer.train()
    assert {group["lr"] for group in trainer.optimizer.param_groups} == {0.0}
    assert {group["initial_lr"] for group in trainer.optimizer.param_groups} == {1e-3, 1e-2, 0.03}
    assert [log["learning_rate"] for log in trainer.state.log_history if "loss" in log] == pytest.approx(
        [0.0, 1e-3, 5e-4]
    )


@pytest.mark.parametrize(
    ("options", "max_steps", "epochs"),
    [({}, 160_000, 1.0), ({"num_train_epochs": 3.0}, -1, 3.0), ({"max_steps": 7}, 7, 1.0)],
)
def test_steps_or_epochs(tmp_path, options, max_steps, epochs):
    arguments = LRSegformerTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **options)
    assert arguments.max_steps == max_steps and arguments.num_train_epochs == epochs


def test_batch_is_divided_over_processes(tmp_path, monkeypatch):
    # The launcher's variable; nothing is started.
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setattr("transformers.TrainingArguments.__post_init__", lambda self: setattr(self, "_n_gpu", 0))
    monkeypatch.setattr(LRSegformerTrainingArguments, "n_gpu", 0)
    arguments = LRSegformerTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    assert (arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps) == (4, 1)


def test_batch_of_a_device_is_not_accumulated_in_python(tmp_path):
    arguments = LRSegformerTrainingArguments(output_dir=str(tmp_path), use_cpu=True, per_device_train_batch_size=4)
    assert (arguments.total_batch_size, arguments.gradient_accumulation_steps) == (4, 1)
    options = {"per_device_train_batch_size": 4, "total_batch_size": 16}
    arguments = LRSegformerTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **options)
    assert (arguments.total_batch_size, arguments.gradient_accumulation_steps) == (16, 4)


def test_negative_lambda_is_refused(tmp_path):
    with pytest.raises(InputError, match="--lambda_lip is -1"):
        LRSegformerTrainingArguments(output_dir=str(tmp_path), lambda_lip=-1.0)


@pytest.mark.parametrize(("asked", "supported", "expected"), [(None, True, True), (None, False, False)])
def test_bf16_where_the_device_has_it(monkeypatch, asked, supported, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: supported)
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    arguments = object.__new__(LRSegformerTrainingArguments)
    arguments.fp16, arguments.use_cpu = False, False
    assert arguments._prefers_bf16() is expected
    arguments.use_cpu = True
    assert arguments._prefers_bf16() is False
    arguments.use_cpu = False
    monkeypatch.setitem(os.environ, "ACCELERATE_MIXED_PRECISION", "fp16")
    assert arguments._prefers_bf16() is False


def test_help_and_training_share_their_defaults():
    described = {item.name: item.default for item in dataclasses.fields(TrainingDefaults)}
    used = {item.name: item.default for item in dataclasses.fields(LRSegformerTrainingArguments)}
    assert described.items() <= used.items()


@pytest.mark.one_in(2)
@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant_with_warmup", "inverse_sqrt"])
def test_the_options_of_the_recipes_schedule_go_to_no_other(make_trainer, schedule):
    trainer = make_trainer(lr_scheduler_type=schedule)
    trainer.train()
    assert not trainer.args.lr_scheduler_kwargs
    assert make_trainer(lr_scheduler_kwargs={"power": 2.0}).args.lr_scheduler_kwargs == {"power": 2.0}


@pytest.mark.parametrize("name", ["adam_beta1", "adam_beta2"])
@pytest.mark.parametrize("value", [math.nan, math.inf, 1.0, -0.1])
def test_decays_of_adam(make_arguments, name, value):
    with pytest.raises(InputError, match=f"--{name} is {value}"):
        make_arguments(**{name: value})
