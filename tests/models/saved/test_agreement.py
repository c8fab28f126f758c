"""Configurations beside weights: every network's own is taken, and one of other sizes is not."""

import pytest
import torch

from lrsegformer import LRSegformerConfig
from lrsegformer.choices import ARCHITECTURES
from lrsegformer.models.loading import MODEL_CLASSES, build_model
from lrsegformer.models.saved.agreement import fault_of_sizes


def sizes_of(model):
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("task", MODEL_CLASSES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_stock_architectures_fit_their_weights(architecture, task):
    config = LRSegformerConfig(**ARCHITECTURES[architecture], num_labels=3)
    with torch.device("meta"):
        model = MODEL_CLASSES[task](config)
    assert fault_of_sizes(config.to_dict(), sizes_of(model)) is None


@pytest.mark.parametrize("task", MODEL_CLASSES)
@pytest.mark.parametrize("attention", ["energy", "softmax"])
@pytest.mark.parametrize("architecture", ["tiny", "small", "b1"])
def test_certified_networks_fit_their_weights(architecture, attention, task):
    options = {"lipschitz_strategy": "spectral_norm", "lipschitz_scope": "certified", "certified_attention": attention}
    model = build_model(task, architecture, num_labels=3, num_channels=5, strides=(4, 2, 2, 3), **options)
    assert fault_of_sizes(model.config.to_dict(), sizes_of(model)) is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("depths", (1, 1, 1, 999)),
        ("hidden_sizes", (8, 8, 16, 77)),
        ("decoder_hidden_size", 77),
        ("num_channels", 77),
        ("patch_sizes", (7, 3, 3, 77)),
        ("sr_ratios", (8, 4, 77, 1)),
        ("mlp_ratios", (4, 4, 77, 4)),
    ],
)
@pytest.mark.parametrize("strategy", [None, "spectral_norm"])
def test_other_sizes_do_not(make_model, strategy, field, value):
    model = make_model(strategy)
    clause = fault_of_sizes(model.config.to_dict() | {field: value}, sizes_of(model))
    assert clause.startswith(field) and "77" in clause or "999" in clause


@pytest.mark.parametrize(("field", "value"), [("strides", (4, 2, 2, 77)), ("mlp_ratios", (4, 4, 4, 999))])
def test_other_sizes_of_a_certified_network_do_not(make_model, field, value):
    model = make_model("orthogonal", "certified")
    assert fault_of_sizes(model.config.to_dict() | {field: value}, sizes_of(model)) is not None


def test_a_backbone_says_nothing_of_the_head_to_come(make_stock):
    """Its configuration has a width for a decode head that its file has not."""
    backbone = make_stock("classification")
    assert fault_of_sizes(backbone.config.to_dict() | {"decoder_hidden_size": 77}, sizes_of(backbone)) is None
