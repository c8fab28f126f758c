"""Adversarial training: what the batch becomes, what it leaves alone, and what it costs."""

import math
from contextlib import nullcontext

import pytest
import torch
from transformers import SegformerForSemanticSegmentation
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from lrsegformer.training.adversarial.perturbation import (
    AdversarialTraining,
    eval_mode,
    uniform_noise,
)
from tests.training.adversarial.passes import Passes, first_batch

TASKS = ("segmentation", "classification")
MEAN = torch.tensor(IMAGENET_DEFAULT_MEAN)[:, None, None]
STD = torch.tensor(IMAGENET_DEFAULT_STD)[:, None, None]
ON = {"adversarial_steps": 2, "adversarial_eps": 4.0}


def training_logs(trainer):
    return [log for log in trainer.state.log_history if "loss" in log]


def pixels(normalised):
    return normalised.double() * STD + MEAN


@pytest.mark.parametrize("task", TASKS)
def test_off_by_default_is_the_plain_loss_to_the_bit(make_trainer, task):
    trainer = make_trainer(task)
    assert trainer.args.adversarial_steps == 0 and trainer.args.adversarial_eps == 0
    batch = first_batch(trainer)
    passes = Passes(trainer.model)
    trainer.model.train()
    torch.manual_seed(3)
    loss = trainer.compute_loss(trainer.model, batch)
    torch.manual_seed(3)
    outputs = trainer.model(**batch)
    assert torch.equal(loss, outputs.loss + outputs.lipschitz_penalty * trainer.args.lambda_lip)
    assert len(passes.images) == 2 and torch.equal(passes.images[0], batch["pixel_values"])
    trainer.train()
    assert not any(name.startswith("adversarial") for log in training_logs(trainer) for name in log)


@pytest.mark.each_value
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("eps", [0.5, 8.0])
def test_the_perturbation_is_in_the_ball_and_in_the_box(make_trainer, task, steps, eps):
    trainer = make_trainer(task, adversarial_steps=steps, adversarial_eps=eps)
    batch = first_batch(trainer)
    passes = Passes(trainer.model)
    trainer.model.train()
    trainer.compute_loss(trainer.model, batch)
    assert passes.modes == [False] * steps + [True]
    clean, trained_on = pixels(batch["pixel_values"]), pixels(passes.images[-1])
    distance = (trained_on - clean).abs()
    assert distance.max() <= eps / 255 + 1e-6 and distance.max() > 0.9 * eps / 255
    assert trained_on.min() >= -1e-6 and trained_on.max() <= 1 + 1e-6
    for images in passes.images[:-1]:
        assert (pixels(images) - clean).abs().max() <= eps / 255 + 1e-6


def test_pixels_at_and_past_the_ends_of_the_range():
    attack = AdversarialTraining(1, 255.0, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    levels = torch.tensor([-0.5, 0.0, 0.3, 1.0, 1.5])
    clean = (levels.expand(2, 3, 1, 5) - MEAN) / STD
    for sign in (-1, 1):
        found = attack.perturb(torch.nn.Identity(), clean, lambda images, sign=sign: sign * images.sum(), 0)
        ends = torch.minimum(levels, torch.tensor(0.0)) if sign < 0 else torch.maximum(levels, torch.tensor(1.0))
        # A radius of the whole range: every pixel of the range is at its end, and none outside is dragged further.
        assert (pixels(found)[..., 1:4] - ends[1:4]).abs().max() < 1e-6
        assert (pixels(found) >= levels.clamp(max=0) - 1e-6).all()
        assert (pixels(found) <= levels.clamp(min=1) + 1e-6).all()


def test_a_linear_loss_has_a_known_maximum():
    std = torch.tensor([0.1, 0.2, 0.4])[:, None, None]
    generator = torch.Generator().manual_seed(0)
    clean = (torch.rand(2, 3, 16, 16, generator=generator) * 0.8 - 0.4) / std
    weights = torch.randn(3, 16, 16, generator=generator)
    moved = {}
    for steps in (1, 3):
        attack = AdversarialTraining(steps, 4.0, [0.5] * 3, [0.1, 0.2, 0.4])
        found = attack.perturb(torch.nn.Identity(), clean, lambda images: (images * weights).sum(), 0)
        moved[steps] = (found - clean) * std * weights.sign() * 255 / 4
    # Several steps cross the whole ball. One of 1.25 eps ends at the corner from a start of at least -0.25 eps.
    assert (moved[3] - 1).abs().max() < 1e-4
    assert (moved[1] > 1 - 1e-4).double().mean() == pytest.approx(5 / 8, abs=0.04)
    assert 0.25 - 1e-4 < moved[1].min() < 0.3 and moved[1].max() < 1 + 1e-4


@pytest.mark.one_in(2)
@pytest.mark.parametrize("task", TASKS)
def test_the_loss_rises(make_trainer, task):
    """On a trained model; each batch, though only the mean has to."""
    trainer = make_trainer(task, max_steps=20, learning_rate=1e-3, warmup_steps=0, adversarial_steps=1,
                           adversarial_eps=1.0)  # fmt: skip
    trainer.train()
    model = trainer.model.eval()
    rises = {1: [], 4: []}
    for batch in trainer.get_train_dataloader():
        batch = {**batch, "labels": batch["labels"].long()}
        clean_loss = model(**batch).loss.item()
        for steps in rises:
            attack = AdversarialTraining(steps, 1.0, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
            images = attack.perturb(
                model,
                batch["pixel_values"],
                lambda images, batch=batch: model(**{**batch, "pixel_values": images}).loss,
                0,
            )
            rises[steps].append(model(**{**batch, "pixel_values": images}).loss.item() - clean_loss)
    assert len(rises[1]) == 3 and min(rises[1]) > 0
    assert sum(rises[4]) > sum(rises[1])


@pytest.mark.parametrize("strategy", [None, "stable_softplus", "jacobian_norm"])
def test_the_attack_leaves_the_model_as_it_was(make_trainer, strategy):
    trainer = make_trainer(strategy=strategy, **ON)
    model, batch = trainer.model.train(), first_batch(trainer)
    model.decode_head.batch_norm.eval()
    modes = [module.training for module in model.modules()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    trainer.adversarial_inputs(model, batch)
    assert [module.training for module in model.modules()] == modes
    after = model.state_dict()
    assert "decode_head.batch_norm.running_mean" in after
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), state), "dropout of the training pass would be another one"


@pytest.mark.parametrize("strategy", [None, "stable_softplus"])
def test_statistics_move_by_the_training_pass_alone(make_trainer, strategy):
    """Running mean, penalty and loss are those of one plain pass on the perturbed images."""
    trainer = make_trainer(strategy=strategy, lambda_lip=0.5, **ON)
    model, batch = trainer.model.train(), first_batch(trainer)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    passes = Passes(model)
    torch.manual_seed(5)
    loss = trainer.compute_loss(model, batch)
    found = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert not torch.equal(found["decode_head.batch_norm.running_mean"], before["decode_head.batch_norm.running_mean"])
    assert found["decode_head.batch_norm.num_batches_tracked"] == 1
    model.load_state_dict(before)
    torch.manual_seed(5)
    outputs = model(pixel_values=passes.images[-1], labels=batch["labels"])
    assert all(torch.equal(found[name], tensor) for name, tensor in model.state_dict().items())
    penalty = outputs.lipschitz_penalty if strategy else 0.0
    assert torch.equal(loss, outputs.loss + penalty * 0.5)


def test_eval_mode_comes_back_after_an_error(make_model):
    model = make_model().train()
    with pytest.raises(RuntimeError, match="inside"), eval_mode(model):
        assert not any(module.training for module in model.modules())
        raise RuntimeError("inside")
    assert all(module.training for module in model.modules())


def test_evaluation_is_of_clean_images(make_trainer):
    trainer = make_trainer(**ON)
    plain = make_trainer()
    plain.model.load_state_dict(trainer.model.state_dict())
    passes = Passes(trainer.model)
    assert trainer.evaluate()["eval_loss"] == plain.evaluate()["eval_loss"]
    assert len(passes.images) == 3


@pytest.mark.parametrize("task", TASKS)
def test_noise_and_result_do_not_depend_on_the_batch(make_trainer, task):
    trainer = make_trainer(task, **ON)
    model, batch = trainer.model.train(), first_batch(trainer)
    noise = uniform_noise(batch["pixel_values"], 7)
    assert -1 <= noise.min() < -0.999 and 0.999 < noise.max() < 1 and noise.mean().abs() < 0.02
    assert noise.std() == pytest.approx(1 / math.sqrt(3), rel=0.02)
    alone = torch.cat([uniform_noise(image[None], 7) for image in batch["pixel_values"]])
    assert torch.equal(noise, alone) and not torch.equal(noise, uniform_noise(batch["pixel_values"], 8))
    whole = trainer.adversarial_inputs(model, batch)["pixel_values"]
    parts = [{name: values[index : index + 1] for name, values in batch.items()} for index in range(4)]
    single = torch.cat([trainer.adversarial_inputs(model, part)["pixel_values"] for part in parts])
    # The signs of gradients next to 0 are rounding.
    assert ((whole - single).abs() > 1e-6).double().mean() < 1e-3


def test_cost_in_the_log(make_trainer):
    trainer = make_trainer(per_device_train_batch_size=1, max_steps=4, logging_steps=2, **ON)
    trainer.train()
    logs = training_logs(trainer)
    assert [log["adversarial/passes"] for log in logs] == [8, 8], "2 steps x 4 accumulated batches"
    assert all(0 < log["adversarial/seconds"] < 60 for log in logs)
    assert all(math.isfinite(log["loss"]) and math.isfinite(log["grad_norm"]) for log in logs)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("strategy", [None, "stable_softplus", "jacobian_norm"])
def test_under_autocast(make_trainer, strategy):
    """Every parameter gets its gradient: no cast weight of the attack's passes is taken for the training pass."""
    gradients = {}
    for options in ({}, ON):
        trainer = make_trainer(strategy=strategy, bf16=True, **options)
        batch = first_batch(trainer)
        model = trainer.accelerator.prepare(trainer.model).train()
        with torch.autocast("cpu", torch.bfloat16) if options else nullcontext():
            loss = trainer.compute_loss(model, batch)
        loss.backward()
        gradients[bool(options)] = {name for name, p in model.named_parameters() if p.grad is not None}
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert gradients[True] == gradients[False] and len(gradients[True]) > 50
    trainer.train()
    assert all(math.isfinite(log["loss"]) for log in training_logs(trainer))


def test_stock_model_with_a_batch_of_void_labels(make_trainer, make_model):
    """Its loss is NaN there; the images stay numbers."""
    model = SegformerForSemanticSegmentation(make_model("segmentation", None).to_vanilla().config)
    trainer = make_trainer(model=model, **ON)
    batch = first_batch(trainer)
    batch["labels"] = torch.full_like(batch["labels"], 255)
    images = trainer.adversarial_inputs(model.train(), batch)["pixel_values"]
    assert images.isfinite().all() and not torch.equal(images, batch["pixel_values"])


def test_label_smoothing_is_part_of_what_is_attacked(make_trainer):
    trainer = make_trainer("classification", label_smoothing_factor=0.9, **ON)
    batch = first_batch(trainer)
    seen = []
    smoother = trainer.label_smoother
    trainer.label_smoother = lambda outputs, labels: seen.append(1) or smoother(outputs, labels)
    trainer.compute_loss(trainer.model.train(), batch)
    assert len(seen) == 3
