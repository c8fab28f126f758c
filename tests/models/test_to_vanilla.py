"""Export to the stock classes: equal logits, stock types, nothing of ours left."""

import pytest
import torch
from transformers import SegformerConfig, SegformerForImageClassification, SegformerForSemanticSegmentation

from lrsegformer import (
    STRATEGIES,
    LRSegformerForSemanticSegmentation,
)

NAMES = {"id2label": {0: "sky", 1: "road", 2: "car"}, "label2id": {"sky": 0, "road": 1, "car": 2}}
CASES = [(strategy, scope) for strategy in (None, *STRATEGIES) for scope in ("projections", "head")]


def assert_equal_logits(stock, model, pixels):
    with torch.no_grad():
        actual, expected = stock(pixels).logits, model(pixels).logits
    assert (actual - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.one_in(3)
@pytest.mark.parametrize(("strategy", "scope"), CASES)
def test_segmentation_export_has_equal_logits(make_model, strategy, scope, tmp_path):
    model = make_model(strategy, scope)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    stock = model.to_vanilla()
    assert type(stock) is SegformerForSemanticSegmentation and type(stock.config) is SegformerConfig
    assert not stock.training
    pixels = torch.randn(2, 3, 72, 100)
    assert_equal_logits(stock, model, pixels)
    stock.save_pretrained(tmp_path)
    again, info = SegformerForSemanticSegmentation.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert_equal_logits(again, model, pixels)
    with torch.no_grad():
        for parameter in stock.parameters():
            parameter.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items()), "copies, not views"


@pytest.mark.parametrize("strategy", [None, *STRATEGIES])
def test_classification_export_has_equal_logits(make_model, strategy):
    model = make_model(strategy, task="classification")
    stock = model.to_vanilla()
    assert type(stock) is SegformerForImageClassification
    assert_equal_logits(stock, model, torch.randn(2, 3, 64, 64))


def test_exported_configuration_is_stock_and_keeps_the_labels(make_model):
    config = make_model("stable_softplus", num_labels=3, **NAMES).to_vanilla().config
    values = config.to_dict()
    assert values["model_type"] == "segformer"
    assert not any("lipschitz" in name or name == "penalty_reduction" for name in values)
    assert config.id2label == {0: "sky", 1: "road", 2: "car"} and config.label2id == NAMES["label2id"]
    assert list(config.hidden_sizes) == [8, 8, 16, 16] and config.decoder_hidden_size == 12


def test_export_keeps_dtype_and_mode(make_model):
    model = make_model("orthogonal").train().bfloat16()
    stock = model.to_vanilla()
    assert stock.training and stock.dtype == torch.bfloat16
    double = make_model("orthogonal").double()
    pixels = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(double.to_vanilla()(pixels).logits, double(pixels).logits, rtol=1e-5, atol=1e-6)


def test_exported_file_starts_another_strategy(make_model, tmp_path):
    """The way from one strategy to another that the error about replaced strategies names."""
    model = make_model("spectral_norm")
    model.to_vanilla().save_pretrained(tmp_path)
    other = LRSegformerForSemanticSegmentation.from_pretrained(tmp_path, lipschitz_strategy="geometric_mean").eval()
    assert_equal_logits(other, model, torch.randn(1, 3, 64, 64))
