"""Tiny models, ours and stock, with weights that leave nothing at its trivial initial value."""

import logging
from collections.abc import Callable

import pytest
import torch
from torch import nn
from transformers import SegformerConfig, SegformerForImageClassification, SegformerForSemanticSegmentation

from lrsegformer import LRSegformerConfig, LRSegformerForImageClassification, LRSegformerForSemanticSegmentation

TINY = {
    "depths": (1, 1, 1, 1),
    "hidden_sizes": (8, 8, 16, 16),
    "num_attention_heads": (1, 1, 2, 2),
    "decoder_hidden_size": 12,
    "num_labels": 5,
    "drop_path_rate": 0.0,
    "classifier_dropout_prob": 0.0,
}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@torch.no_grad()
def stir(model: nn.Module, seed: int = 1) -> nn.Module:
    """Move every parameter and running statistic away from its initial value, as training does."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        # A constant that moves down makes its constraint active.
        spread = -0.3 if name.endswith(".c") else 0.1 * torch.randn(parameter.shape, generator=generator)
        parameter.add_(spread)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(torch.randn(buffer.shape, generator=generator))
        elif name.endswith("running_var"):
            buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    return model


@pytest.fixture(scope="session")
def make_model() -> Callable:
    """`make_model(strategy, scope="head", task="segmentation", stirred=True, **config)`: a model of ours."""

    def make(strategy=None, scope="head", task="segmentation", stirred=True, seed=0, **config):
        torch.manual_seed(seed)
        config = LRSegformerConfig(**{**TINY, **config}, lipschitz_strategy=strategy, lipschitz_scope=scope)
        classes = {
            "segmentation": LRSegformerForSemanticSegmentation,
            "classification": LRSegformerForImageClassification,
        }
        model = classes[task](config).eval()
        return stir(model) if stirred else model

    return make


@pytest.fixture(scope="session")
def make_stock() -> Callable:
    """`make_stock(task="segmentation", **config)`: a stock model."""

    def make(task="segmentation", seed=0, **config):
        torch.manual_seed(seed)
        classes = {
            "segmentation": SegformerForSemanticSegmentation,
            "classification": SegformerForImageClassification,
        }
        return stir(classes[task](SegformerConfig(**{**TINY, **config}))).eval()

    return make


@pytest.fixture(scope="session")
def images() -> torch.Tensor:
    """Two images whose sides are no multiples of 32, so that the scales do not divide each other."""
    return torch.randn(2, 3, 72, 100, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="session")
def labels() -> torch.Tensor:
    """Masks of the images with ignored pixels."""
    labels = torch.randint(0, 5, (2, 72, 100), generator=torch.Generator().manual_seed(6))
    labels[:, :10] = 255
    return labels


@pytest.fixture(scope="session")
def mit_folder(make_stock, tmp_path_factory):
    """A MiT backbone as the Hub has it: saved from the stock image classifier."""
    folder = tmp_path_factory.mktemp("mit")
    make_stock("classification").save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def segformer_folder(make_stock, tmp_path_factory):
    """A stock SegFormer for segmentation as the Hub has it."""
    folder = tmp_path_factory.mktemp("segformer")
    make_stock("segmentation").save_pretrained(folder)
    return folder


@pytest.fixture
def error_lines():
    """What transformers logs as an error during the test."""
    lines: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    collector = Collector(level=logging.ERROR)
    logger = logging.getLogger("transformers")
    logger.addHandler(collector)
    yield lines
    logger.removeHandler(collector)
