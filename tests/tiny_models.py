"""Models, ours and stock, so small that a step takes milliseconds, and with other weights than the initial ones."""

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


# For what takes seconds a stage, as tracing does.
TWO_STAGES = {
    "num_encoder_blocks": 2,
    "depths": (1, 1),
    "sr_ratios": (2, 1),
    "hidden_sizes": (8, 16),
    "patch_sizes": (7, 3),
    "strides": (4, 2),
    "num_attention_heads": (1, 2),
    "mlp_ratios": (1, 1),
}
