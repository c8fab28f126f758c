"""ReLU with dropout: the function, its gradient, and what is random about it."""

import pytest
import torch
from torch.nn import functional

from lrsegformer.models.relu_dropout import relu_dropout


def test_without_dropout_it_is_relu():
    inputs = torch.randn(3, 5)
    assert torch.equal(relu_dropout(inputs, 0.0), functional.relu(inputs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_kept_elements_are_scaled_relu_and_the_share_is_right(dtype, probability):
    inputs = torch.randn(1000, 1001, dtype=torch.float32).to(dtype)
    outputs = relu_dropout(inputs, probability)
    assert outputs.dtype == dtype and outputs.shape == inputs.shape
    positive = inputs > 0
    kept = outputs != 0
    assert not (kept & ~positive).any()
    scale = 2**16 / (2**16 - round(probability * 2**16))
    torch.testing.assert_close(outputs[kept], inputs[kept] * scale)
    count = int(positive.sum())
    share = kept.sum().item() / count
    assert abs(share - (1 - probability)) < 6 * (probability * (1 - probability) / count) ** 0.5 + 2**-16


def test_neighbours_are_independent():
    """Four elements share a random integer; none of its parts tells anything of another."""
    kept = (relu_dropout(torch.ones(4_000_000), 0.5) > 0).view(-1, 4).double() * 2 - 1
    correlation = kept.T @ kept / len(kept)
    assert (correlation - torch.eye(4)).abs().max() < 6 / len(kept) ** 0.5
    assert kept.mean(dim=0).abs().max() < 6 / len(kept) ** 0.5


def test_gradient_is_that_of_the_mask_that_was_drawn():
    inputs = torch.randn(4, 7, dtype=torch.float64, requires_grad=True)

    def seeded(inputs: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(3)
        return relu_dropout(inputs, 0.4)

    assert torch.autograd.gradcheck(seeded, (inputs,))
    assert torch.autograd.gradgradcheck(seeded, (inputs,))


def test_the_generator_decides():
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(relu_dropout(torch.ones(101), 0.5))
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
