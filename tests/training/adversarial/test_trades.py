"""Adversarial training by TRADES: the loss of clean images and the divergence of the perturbed ones."""

import pytest
import torch
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from lrsegformer.errors import InputError
from lrsegformer.losses import consistency_loss
from lrsegformer.training.adversarial.perturbation import AdversarialTraining
from tests.training.adversarial.passes import Passes, first_batch

TASKS = ("segmentation", "classification")
MEAN, STD = (torch.tensor(values)[:, None, None] for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
ON = {"adversarial_steps": 2, "adversarial_eps": 4.0, "adversarial_loss": "trades"}


@pytest.mark.parametrize("task", TASKS)
def test_loss_is_the_sum_of_its_parts(make_trainer, task):
    """Against passes by hand with the same dropout, on the images that the trainer has found."""
    trainer = make_trainer(task, trades_beta=3.0, lambda_lip=0.5, **ON)
    model, batch = trainer.model.train(), first_batch(trainer)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    passes = Passes(model)
    torch.manual_seed(5)
    loss = trainer.compute_loss(model, batch)
    assert passes.modes == [False] * 3 + [True] * 2, "clean and two steps; then training on clean and perturbed"
    found = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    clean, perturbed = passes.images[-2:]
    assert torch.equal(clean, batch["pixel_values"])
    distance = ((perturbed - clean) * STD).abs().max() * 255
    assert 3.6 < distance <= 4 + 1e-3
    model.load_state_dict(before)
    torch.manual_seed(5)
    outputs = model(**batch)
    torch.manual_seed(5)
    other = model(pixel_values=perturbed)
    apart = consistency_loss(outputs.logits, other.logits, batch["labels"])
    assert apart > 0
    expected = outputs.loss + 0.5 * outputs.lipschitz_penalty + 3 * apart
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert all(torch.equal(found[name], tensor) for name, tensor in model.state_dict().items()), "statistics, too"


@pytest.mark.parametrize("task", TASKS)
def test_the_log_has_the_parts(make_trainer, task):
    trainer = make_trainer(task, **ON)
    trainer.train()
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert len(logs) == 2
    for log in logs:
        assert log["loss_consistency"] > 0 and log["loss_task"] > 0
        parts = log["loss_task"] + log["loss_lipschitz"] + log["loss_consistency"]
        assert log["loss"] == pytest.approx(parts, rel=1e-5)
    assert "eval_loss_consistency" not in trainer.evaluate()


@pytest.mark.parametrize("task", TASKS)
def test_images_that_stay_are_apart_by_nothing(make_trainer, task, monkeypatch):
    """Dropout is on, and the same in both passes."""
    monkeypatch.setattr(AdversarialTraining, "perturb", lambda self, model, images, *others: images)
    trainer = make_trainer(task, **ON)
    model, batch = trainer.model.train(), first_batch(trainer)
    state = torch.get_rng_state()
    _, outputs, apart = trainer.adversarial_outputs(model, batch)
    assert apart.item() == 0
    torch.set_rng_state(state)
    assert torch.equal(model(**batch).logits, outputs.logits)


def test_the_attack_raises_the_divergence_from_beside_the_image(make_trainer):
    trainer = make_trainer(adversarial_steps=3, adversarial_eps=4.0, adversarial_loss="trades")
    model, batch = trainer.model.train(), first_batch(trainer)
    passes = Passes(model)
    images = trainer.adversarial_inputs(model, batch)["pixel_values"]
    assert ((passes.images[1] - batch["pixel_values"]) * STD).abs().max() <= 1e-3 + 1e-6
    model.eval()
    clean = model(pixel_values=batch["pixel_values"]).logits
    noise = batch["pixel_values"] + (torch.randint(0, 2, images.shape) * 2 - 1) * (4 / 255 / STD)
    found, of_noise = (
        consistency_loss(clean, model(pixel_values=each).logits, batch["labels"]).item() for each in (images, noise)
    )
    assert found > 2 * of_noise > 0


def test_only_what_it_can_compare(make_trainer, make_model):
    for options in ({"problem_type": "multi_label_classification"}, {"problem_type": "regression"}):
        model = make_model("classification", **options)
        with pytest.raises(InputError, match="--adversarial_loss trades .*cross_entropy"):
            make_trainer("classification", model=model, **ON)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"adversarial_loss": "kl"}, "--adversarial_loss is kl"),
        ({"adversarial_loss": "trades"}, "--adversarial_loss trades needs an attack"),
        ({"trades_beta": 2.0}, "--trades_beta is 2.0 but --adversarial_loss is cross_entropy"),
    ],
)
def test_options_that_contradict_each_other(make_arguments, options, message):
    with pytest.raises(InputError, match=message):
        make_arguments(**options)


def test_nothing_of_it_without_the_option(make_trainer):
    trainer = make_trainer(adversarial_steps=1, adversarial_eps=4.0)
    trainer.train()
    assert not any("loss_consistency" in log for log in trainer.state.log_history)


@pytest.mark.one_in(2)
@pytest.mark.each_value
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    ("strategy", "options"),
    [
        (None, {}),
        ("orthogonal", {}),
        ("jacobian_norm", {}),
        ("jacobian_norm", {"lipschitz_options": {"jacobian": "network"}}),
        ("geometric_mean", {"lipschitz_scope": "network"}),
        ("geometric_mean", {"lipschitz_scope": "certified"}),
    ],
    ids=str,
)
def test_it_goes_with_every_penalty(make_trainer, make_model, task, strategy, options):
    """Statistics move between the passes, and what was computed with them is differentiated afterwards."""
    trainer = make_trainer(task, model=make_model(task, strategy, **options), **ON)
    trainer.train()
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert len(logs) == 2 and all(log["loss_consistency"] > 0 and log["grad_norm"] > 0 for log in logs)


def test_statistics_are_the_models_own_after_a_penalty(make_model):
    model = make_model("segmentation", "jacobian_norm", lipschitz_options={"jacobian": "network"}).train()
    kept = model.decode_head.batch_norm.running_mean
    model(torch.randn(2, 3, 32, 32)).lipschitz_penalty.backward()
    assert model.decode_head.batch_norm.running_mean is kept and kept.any()
