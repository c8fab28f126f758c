"""Parameter groups of the recipe."""

import pytest
import torch
from transformers import SegformerForSemanticSegmentation

from lrsegformer import STRATEGIES
from lrsegformer.training.optimizer import parameter_groups


def group_of(groups):
    """Parameter id to group; fails where a parameter is in two."""
    table = {}
    for group in groups:
        for parameter in group["params"]:
            assert id(parameter) not in table
            table[id(parameter)] = group
    return table


@pytest.mark.each_value
@pytest.mark.parametrize("task", ["segmentation", "classification"])
@pytest.mark.parametrize("strategy", [None, *STRATEGIES])
def test_groups(make_model, task, strategy):
    model = make_model(task, strategy)
    table = group_of(parameter_groups(model, 1e-4, 10.0, 0.02, 0.01))
    assert set(table) == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    for name, parameter in model.named_parameters():
        group = table[id(parameter)]
        in_head = name.startswith(("decode_head.", "classifier."))
        rate = 0.02 if name.endswith(".c") else 1e-3 if in_head else 1e-4
        assert group["lr"] == pytest.approx(rate), name
        decays = "norm" not in name and not name.endswith(".c")
        assert group["weight_decay"] == (0.01 if decays else 0.0), name
    constants = [name for name, _ in model.named_parameters() if name.endswith(".c")]
    assert bool(constants) == (strategy in ("stable_softplus", "geometric_mean"))


def test_biases_decay_and_norms_do_not(make_model):
    model = make_model()
    table = group_of(parameter_groups(model, 1e-4, 10.0, 0.02, 0.01))
    parameters = dict(model.named_parameters())
    biases = [name for name in parameters if name.endswith(".bias") and "norm" not in name]
    norms = [name for name in parameters if "norm" in name]
    assert len(biases) > 20 and "decode_head.classifier.bias" in biases
    assert len(norms) > 20 and "decode_head.batch_norm.weight" in norms
    assert {table[id(parameters[name])]["weight_decay"] for name in biases} == {0.01}
    assert {table[id(parameters[name])]["weight_decay"] for name in norms} == {0.0}


def test_frozen_parameters_are_left_out(make_model):
    model = make_model()
    model.segformer.requires_grad_(False)
    groups = parameter_groups(model, 1e-4, 10.0, 0.02, 0.01)
    assert {group["name"] for group in groups} == {"head", "head_no_decay", "constants"}


def test_names_of_a_wrapped_and_of_a_stock_model(make_model):
    stock = SegformerForSemanticSegmentation(make_model(strategy=None).config)
    for model in (stock, torch.nn.ModuleDict({"module": stock})):
        rates = {group["name"]: group["lr"] for group in parameter_groups(model, 1.0, 10.0, 0.02, 0.01)}
        assert rates == {"encoder": 1.0, "encoder_no_decay": 1.0, "head": 10.0, "head_no_decay": 10.0}


def test_trainer_uses_the_groups(make_trainer):
    trainer = make_trainer(
        learning_rate=1e-4, head_learning_rate_multiplier=2.0, constants_learning_rate=3e-2, weight_decay=0.05
    )
    trainer.create_optimizer()
    shown = {(group["name"], group["lr"], group["weight_decay"]) for group in trainer.optimizer.param_groups}
    assert shown == {
        ("encoder", 1e-4, 0.05),
        ("encoder_no_decay", 1e-4, 0.0),
        ("head", 2e-4, 0.05),
        ("head_no_decay", 2e-4, 0.0),
        ("constants", 3e-2, 0.0),
    }
