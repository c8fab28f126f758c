"""Loss, penalty and log of the Trainer."""

import logging
import math

import pytest
import torch
from transformers import SegformerForImageClassification, SegformerForSemanticSegmentation

from lrsegformer import STRATEGIES, LRSegformerTrainer
from lrsegformer.errors import InputError

TASKS = ("segmentation", "classification")
WITH_PENALTY = ("stable_softplus", "geometric_mean", "jacobian_norm")


def training_logs(trainer):
    return [log for log in trainer.state.log_history if "loss" in log]


@pytest.mark.each_value
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("strategy", [None, *STRATEGIES])
def test_two_steps_with_each_strategy(make_trainer, task, strategy):
    trainer = make_trainer(
        task, strategy, lambda_lip=0.5, learning_rate=1e-3, warmup_steps=0, per_device_train_batch_size=2
    )
    before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
    trainer.train()

    logs = training_logs(trainer)
    assert len(logs) == 2
    for log in logs:
        assert math.isfinite(log["loss"])
        assert log["loss"] == pytest.approx(log["loss_task"] + log["loss_lipschitz"], rel=1e-5)
        assert log["loss_task"] > 0
        assert (log["loss_lipschitz"] > 0) == (strategy in WITH_PENALTY)
    layers = {name.removeprefix("decode_head.") for name in trainer.model.constrained_layers()}
    logged = {name.removeprefix("lipschitz/") for name in logs[-1] if name.startswith("lipschitz/")}
    assert logged == (layers | {"head"} if layers else set())
    assert len(layers) == (0 if strategy is None else 6 if task == "segmentation" else 1)

    for name, parameter in trainer.model.named_parameters():
        # Centring subtracts what a projection's bias adds, exactly; plain BatchNorm leaves rounding for a gradient.
        centred_away = strategy is not None and "linear_projections" in name and name.endswith("bias")
        assert torch.equal(parameter, before[name]) == centred_away, f"{name}: whether it moved"


def test_bounds_in_the_log_are_the_layers(make_trainer):
    trainer = make_trainer(learning_rate=1e-3, warmup_steps=0)
    trainer.train()
    log = training_logs(trainer)[-1]
    report = trainer.model.lipschitz_report()
    expected = {layer["name"].removeprefix("decode_head."): layer["bound"] for layer in report["layers"]}
    logged = {name.removeprefix("lipschitz/"): value for name, value in log.items() if name.startswith("lipschitz/")}
    assert logged == pytest.approx({**expected, "head": report["head"]["bound"]})


def test_scope_projections_logs_no_bound_of_the_head(make_trainer, make_model):
    trainer = make_trainer(model=make_model(lipschitz_scope="projections"))
    trainer.train()
    assert sum(name.startswith("lipschitz/") for name in training_logs(trainer)[-1]) == 4
    assert "lipschitz/head" not in training_logs(trainer)[-1]


def test_penalty_has_its_weight(make_trainer, make_model):
    penalty = make_model().train()(torch.zeros(2, 3, 32, 32)).lipschitz_penalty.item()
    for weight in (0.0, 0.1, 2.0):
        trainer = make_trainer(lambda_lip=weight, max_steps=1)
        trainer.train()
        assert training_logs(trainer)[0]["loss_lipschitz"] == pytest.approx(weight * penalty, rel=1e-5)


def test_penalty_lowers_every_constant(make_trainer):
    bounds = {}
    for weight in (0.0, 10.0):
        trainer = make_trainer(lambda_lip=weight, constants_learning_rate=0.1, max_steps=4, warmup_steps=0)
        layers = trainer.model.constrained_layers()
        start = {name: layer.constant().item() for name, layer in layers.items()}
        trainer.train()
        bounds[weight] = trainer.model.lipschitz_report()["head"]["bound"]
    assert len(layers) == 6
    for name, layer in layers.items():
        # AdamW moves c by about its rate a step: 0.1, 0.075, 0.05, 0.025, and each of these constants as much.
        assert layer.constant().item() < start[name] - 0.2, name
    assert bounds[10.0] < bounds[0.0]


def test_logged_loss_is_the_mean_since_the_last_log(make_trainer):
    each = make_trainer(max_steps=4, logging_steps=1, learning_rate=1e-3)
    each.train()
    pairs = make_trainer(max_steps=4, logging_steps=2, learning_rate=1e-3)
    pairs.train()
    for name in ("loss", "loss_task", "loss_lipschitz"):
        values = [log[name] for log in training_logs(each)]
        means = [sum(values[:2]) / 2, sum(values[2:]) / 2]
        assert [log[name] for log in training_logs(pairs)] == pytest.approx(means, rel=1e-5)


def test_evaluation_has_both_parts_of_the_loss(make_trainer):
    trainer = make_trainer(lambda_lip=0.5)
    scores = trainer.evaluate()
    penalty = trainer.model.train()(torch.zeros(2, 3, 32, 32)).lipschitz_penalty.item()
    assert scores["eval_loss_lipschitz"] == pytest.approx(0.5 * penalty, rel=1e-6)
    assert scores["eval_loss"] == pytest.approx(scores["eval_loss_task"] + scores["eval_loss_lipschitz"], rel=1e-6)
    assert make_trainer(strategy=None).evaluate()["eval_loss_lipschitz"] == 0


class Void(torch.utils.data.Dataset):
    """The training images, with every label of the first ones void."""

    def __init__(self, dataset, count):
        self.dataset, self.count = dataset, count

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        item = self.dataset[index]
        return {**item, "labels": torch.full_like(item["labels"], 255)} if index < self.count else item


@pytest.mark.parametrize("strategy", [None, "stable_softplus", "jacobian_norm"])
def test_batches_without_a_valid_label(make_trainer, digits, caplog, strategy):
    trainer = make_trainer(
        strategy=strategy, train_dataset=Void(digits("segmentation").train, 12), eval_dataset=Void(
            digits("segmentation").validation, 3
        ), learning_rate=1e-3, warmup_steps=0,
    )  # fmt: skip
    with caplog.at_level(logging.WARNING):
        trainer.train()
    for log in training_logs(trainer):
        assert log["loss_task"] == 0 and math.isfinite(log["loss"]) and math.isfinite(log["grad_norm"])
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())
    assert any("ignore label" in record.message for record in caplog.records)
    assert trainer.evaluate()["eval_loss_task"] == pytest.approx(0, abs=1e-6)


def test_no_warning_where_labels_count(make_trainer, digits, caplog):
    trainer = make_trainer(train_dataset=Void(digits("segmentation").train, 0), per_device_train_batch_size=1)
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert not any("ignore label" in record.message for record in caplog.records)


@pytest.mark.parametrize("task", TASKS)
def test_label_smoothing(make_trainer, task):
    losses = {}
    for smoothing in (0.0, 0.5):
        trainer = make_trainer(task, label_smoothing_factor=smoothing, max_steps=1, lambda_lip=0.0)
        batch = next(iter(trainer.get_train_dataloader()))
        with torch.no_grad():
            logits = trainer.model.eval()(batch["pixel_values"]).logits
        labels = batch["labels"].long()
        if task == "segmentation":
            logits = torch.nn.functional.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False)
        expected = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=smoothing, ignore_index=255)
        assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(expected.item(), rel=1e-4)
        trainer.train()
        losses[smoothing] = training_logs(trainer)[0]["loss"]
    assert losses[0.0] != losses[0.5] and all(map(math.isfinite, losses.values()))


def test_label_smoothing_of_a_stock_segmentation_model_is_refused(make_trainer, make_model):
    model = SegformerForSemanticSegmentation(make_model("segmentation", None).to_vanilla().config)
    with pytest.raises(InputError, match="--label_smoothing_factor"):
        make_trainer(model=model, label_smoothing_factor=0.1)


def test_class_weights_do_not_depend_on_the_split(make_trainer, make_model):
    """The share of a part of the batch is its part of the classes' weights, not of the pixels."""
    weights = [0.1 * (position + 1) for position in range(11)]
    losses = []
    for per_device in (4, 1):
        model = make_model("segmentation", None)
        model.config.semantic_loss_class_weights = weights
        _without_chance(model)
        trainer = make_trainer(model=model, per_device_train_batch_size=per_device, max_steps=1)
        trainer.train()
        losses.append(training_logs(trainer)[0]["loss_task"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("task", TASKS)
def test_stock_models_train_and_are_scored(make_trainer, make_model, task):
    """And their loss does not grow with accumulation, as it does in the stock Trainer."""
    stock_class = SegformerForSemanticSegmentation if task == "segmentation" else SegformerForImageClassification
    tensors = make_model(task, None).to_vanilla().state_dict()
    losses = []
    for per_device in (4, 1):
        model = stock_class(make_model(task, None).to_vanilla().config)
        model.load_state_dict(tensors)
        _without_chance(model)
        trainer = make_trainer(task, model=model, per_device_train_batch_size=per_device, max_steps=1)
        trainer.train()
        log = training_logs(trainer)[0]
        assert log["loss"] == pytest.approx(log["loss_task"]) and log["loss_lipschitz"] == 0
        assert not any(name.startswith("lipschitz/") for name in log)
        losses.append(log["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert 0 <= trainer.evaluate()["eval_accuracy"] <= 1


def _without_chance(model):
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
            module.train = lambda mode=True, module=module: module


def test_trainer_without_arguments_has_the_recipe(make_model, digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer = LRSegformerTrainer(model=make_model(), eval_dataset=digits("segmentation").validation)
    assert trainer.args.learning_rate == 6e-5


def test_one_step_trains(make_trainer):
    trainer = make_trainer(max_steps=1)
    trainer.train()
    assert training_logs(trainer)[0]["learning_rate"] == 6e-5 and math.isfinite(training_logs(trainer)[0]["loss"])
