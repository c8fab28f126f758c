"""Numbers that are not finite: which of them stop a run, when, and what is said and kept."""

import logging
import math

import pytest
import torch
from safetensors.torch import load_file

from lrsegformer.errors import NotFiniteError
from lrsegformer.training.finite import FiniteChecks

TASKS = ("segmentation", "classification")


def weights(trainer):
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


def spoil_gradient(trainer, value, name, at_step=1):
    """From this optimizer step on the gradient of a parameter is this value."""
    parameter = trainer.model.get_parameter(name)
    parameter.register_hook(lambda gradient: gradient + (value if trainer.state.global_step + 1 >= at_step else 0))


def deferred(trainer):
    """As on a device for which each look would be a wait."""
    trainer._finite = FiniteChecks(trainer.args, at_once=False)
    return trainer


@pytest.mark.each_value
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_gradient_stops_the_run_before_the_step(make_trainer, task, value):
    trainer = make_trainer(task, lambda_lip=0.0)
    name = "decode_head.linear_fuse.weight" if task == "segmentation" else "classifier.weight"
    before = weights(trainer)
    trainer.model.get_parameter(name).register_hook(lambda gradient: gradient + value)
    with pytest.raises(NotFiniteError, match=f"step 1: the gradient of {name}.* is not finite: lower --learning_rate"):
        trainer.train()
    after = weights(trainer)
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items() if "batch_norm" not in key)


def test_gradients_that_are_finite_but_whose_norm_is_not(make_trainer):
    """Clipping would divide infinity by infinity, and AdamW would square them."""
    trainer = make_trainer(max_grad_norm=1.0, lambda_lip=0.0)
    trainer.model.decode_head.classifier.weight.register_hook(lambda gradient: gradient + 1e25)
    with pytest.raises(NotFiniteError, match="gradient of decode_head.classifier.weight is not finite") as caught:
        trainer.train()
    assert "--max_grad_norm" not in str(caught.value), "it is on already"


def test_a_large_weight_of_the_penalty_is_named(make_trainer):
    with pytest.raises(
        NotFiniteError, match=r"step 1: the gradient of .* is not finite: lower --lambda_lip \(1e\+30\)"
    ):
        make_trainer(lambda_lip=1e30).train()
    with pytest.raises(NotFiniteError, match=r"step 1: the Lipschitz penalty is not finite: lower --lambda_lip"):
        make_trainer(lambda_lip=3e38).train()
    with pytest.raises(NotFiniteError, match="evaluation after step 0: the Lipschitz penalty is not finite"):
        make_trainer(lambda_lip=3e38).evaluate()


@pytest.mark.each_value
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("at_once", [True, False])
def test_logits(make_trainer, task, at_once):
    def spoilt(**options):
        trainer = make_trainer(task, **options)
        with torch.no_grad():
            head = trainer.model.decode_head if task == "segmentation" else trainer.model
            head.classifier.bias[1] = math.inf
        return trainer if at_once else deferred(trainer)

    with pytest.raises(NotFiniteError, match="^step 1: the logits are not finite"):
        spoilt().train()
    for call in ("evaluate", "predict"):
        trainer = spoilt()
        arguments = [trainer.eval_dataset] if call == "predict" else []
        with pytest.raises(NotFiniteError, match="^evaluation after step 0: the logits are not finite"):
            getattr(trainer, call)(*arguments)
    with pytest.raises(NotFiniteError, match="^step 1: the logits are not finite"):
        spoilt(adversarial_steps=1, adversarial_eps=4.0).train()


@pytest.mark.one_in(2)
@pytest.mark.parametrize("boundary", ["log", "save", "evaluation", "end"])
def test_on_a_device_the_run_stops_where_it_waits_anyway(make_trainer, tmp_path, boundary):
    """And names the step and the parameter of the beginning, not of the end."""
    late = {"logging_steps": 5} if boundary == "log" else {"logging_steps": 99}
    late |= {"save_strategy": "steps", "save_steps": 1 if boundary == "log" else 4} if boundary in "log save" else {}
    late |= {"eval_strategy": "steps", "eval_steps": 5} if boundary == "evaluation" else {}
    trainer = deferred(make_trainer(max_steps=6, logging_first_step=False, **late))
    spoil_gradient(trainer, math.nan, "decode_head.classifier.bias", at_step=3)
    with pytest.raises(NotFiniteError, match=r"^step 3: the gradient of decode_head.classifier.bias is not finite"):
        trainer.train()
    assert trainer.state.global_step == {"log": 3, "save": 4, "evaluation": 5, "end": 6}[boundary]
    kept = sorted(folder.name for folder in (tmp_path / "run").glob("checkpoint-*"))
    assert kept == (["checkpoint-1", "checkpoint-2"] if boundary == "log" else [])
    assert all(tensor.isfinite().all() for name in kept for tensor in load_file(
        tmp_path / "run" / name / "model.safetensors"
    ).values())  # fmt: skip


def test_of_several_parts_the_cause_is_named(make_trainer):
    trainer = deferred(make_trainer(max_steps=3, logging_steps=3, learning_rate=1e9, warmup_steps=0))
    with pytest.raises(NotFiniteError, match="^step 2: the logits are not finite"):
        trainer.train()


def test_a_model_that_is_not_finite_is_not_saved(make_trainer, tmp_path):
    trainer = make_trainer()
    trainer.model.decode_head.batch_norm.running_mean[0] = math.nan
    with pytest.raises(NotFiniteError, match="step 0: decode_head.batch_norm.running_mean of the model is not finite"):
        trainer.save_model()
    assert not list((tmp_path / "run").glob("*.safetensors"))


class Scaler(torch.amp.GradScaler):
    """The scaling of float16 training, on a CPU."""

    def __init__(self, scale):
        super().__init__("cpu", init_scale=scale, growth_interval=1000)


def test_the_first_steps_of_float16_training_are_left_out_as_ever(make_trainer, caplog):
    trainer = make_trainer(max_steps=8, learning_rate=1e-3)
    trainer.accelerator.scaler = Scaler(2.0**127)
    with caplog.at_level(logging.ERROR):
        trainer.train()
    assert trainer.state.global_step == 8 and trainer.accelerator.scaler.get_scale() < 2.0**126
    assert all(tensor.isfinite().all() for tensor in trainer.model.state_dict().values())


def test_float16_training_that_overflows_at_any_scale_stops(make_trainer):
    trainer = make_trainer(max_steps=8)
    trainer.accelerator.scaler = Scaler(4.0)
    before = weights(trainer)
    trainer.model.decode_head.classifier.weight.register_hook(lambda gradient: gradient + math.nan)
    with pytest.raises(
        NotFiniteError, match=r"step 3: the gradients are not finite at any scale of the loss \(now 0.5"
    ):
        trainer.train()
    assert torch.equal(trainer.model.decode_head.classifier.weight, before["decode_head.classifier.weight"])


def test_losses_are_seen_at_any_scale(make_trainer, monkeypatch):
    trainer = make_trainer()
    trainer.accelerator.scaler = Scaler(4.0)
    monkeypatch.setattr(trainer, "task_loss", lambda outputs, *others: outputs["loss"] * math.nan)
    with pytest.raises(NotFiniteError, match="step 1: the task loss is not finite"):
        trainer.train()


def test_nothing_is_waited_for_in_a_step(make_trainer):
    """On a device no number leaves it between the boundaries."""
    trainer = deferred(make_trainer(max_steps=3, logging_steps=3))
    reads = []

    class Watched(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default):
                reads.append(function)
            return function(*args, **(kwargs or {}))

    batch = {name: value for name, value in next(iter(trainer.get_train_dataloader())).items()}
    model = trainer.model.train()
    loss = trainer.compute_loss(model, batch)
    loss.backward()
    checks = trainer._finite
    with Watched():
        checks.see_losses(1, True, loss.detach()[None], loss.detach(), loss.detach())
        checks.see_gradients(1, model)
        checks.see_gradients(2, model)
    assert not reads
    with Watched():
        checks.check()
    assert reads
