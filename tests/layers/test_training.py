"""Gradients and training: derivatives that are right and finite, parameters that move, bounds that survive it all."""

import copy
import pickle
from typing import NamedTuple

import pytest
import torch
from torch import nn

from lrsegformer.layers import LipschitzLinear

OPTIMIZERS = {
    "AdamW": lambda groups: torch.optim.AdamW(groups, lr=0.05),
    "SGD": lambda groups: torch.optim.SGD(groups, lr=0.01, momentum=0.9),
}


class Trained(NamedTuple):
    layer: LipschitzLinear
    before: dict[str, torch.Tensor]
    losses: list[float]


@pytest.fixture(params=list(OPTIMIZERS))
def trained(variant, request) -> Trained:
    """50 steps with weight decay 0.01 towards a map that is far larger than the constants allow."""
    layer = variant.build()
    before = {name: parameter.detach().clone() for name, parameter in layer.named_parameters()}
    groups = [
        {"params": [layer.weight, layer.bias], "weight_decay": 0.01},
        # Without decay a constant moves by its gradient alone.
        {"params": [layer.c] if layer.learns_constant else [], "weight_decay": 0.0},
    ]
    optimizer = OPTIMIZERS[request.param]([group for group in groups if group["params"]])
    inputs = torch.randn(16, 5)
    targets = inputs @ (3 * torch.randn(5, 6)) + 1
    losses = []
    for _ in range(50):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(layer(inputs), targets)
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
    return Trained(layer, before, losses)


def test_training_lowers_the_loss_and_moves_every_parameter(trained):
    assert trained.losses[-1] < trained.losses[0]
    for name, parameter in trained.layer.named_parameters():
        assert not torch.equal(parameter, trained.before[name]), name


def test_bound_survives_training_copying_saving_and_casting(variant, trained, assert_bounded):
    layer = trained.layer
    expected, bound = layer.effective_weight(), layer.lipschitz_bound()
    assert_bounded(layer)
    reloaded = variant.build(seed=9)
    reloaded.load_state_dict(layer.state_dict(), strict=True)
    for copied in (copy.deepcopy(layer), reloaded, pickle.loads(pickle.dumps(layer))):
        assert torch.equal(copied.effective_weight(), expected)
        assert torch.equal(copied.lipschitz_bound(), bound)
        assert repr(copied) == repr(layer)
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        assert_bounded(copy.deepcopy(layer).to(dtype))


def test_a_weight_overwritten_in_eval_mode_is_bounded_at_once(variant, assert_bounded, raw_matrix):
    """No step in training mode is needed to refresh saved vectors: there are none."""
    layer = variant.build().eval()
    layer(torch.randn(2, 5))
    with torch.no_grad():
        layer.weight.copy_(raw_matrix("times 1e3", (6, 5)))
    assert_bounded(layer)
    in_eval_mode = layer.effective_weight()
    assert torch.equal(layer.train().effective_weight(), in_eval_mode)


def largest_gradient(layer: nn.Module) -> float:
    """The largest absolute entry; a gradient that is not finite fails the test."""
    gradients = [parameter.grad for parameter in layer.parameters() if parameter.grad is not None]
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    return max(gradient.abs().max().item() for gradient in gradients)


@pytest.mark.one_in(4)
def test_gradients_are_finite_and_a_step_stays_bounded(variant, kind, raw_matrix, assert_bounded):
    for shape in [(6, 6), (3, 8), (8, 3), (1, 4), (4, 1)]:
        layer = variant.build(*shape)
        with torch.no_grad():
            layer.weight.copy_(raw_matrix(kind, shape))
        (layer.effective_weight() * torch.randn(shape)).sum().backward()
        # At a zero matrix spectral_norm divides by 1e-12.
        assert largest_gradient(layer) < 1e13, shape
        optimizer = torch.optim.AdamW(layer.parameters(), lr=0.01)
        for _ in range(2):
            optimizer.zero_grad()
            (layer(torch.randn(4, shape[1])).square().sum() + layer.lipschitz_bound()).backward()
            assert all(parameter.grad is not None for parameter in layer.parameters())
            assert largest_gradient(layer) < float("inf"), shape
            nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
            optimizer.step()
            assert_bounded(layer)


class EffectiveWeightAndBound(nn.Module):
    """Effective weight and bound as the outputs of a forward pass."""

    def __init__(self, layer: LipschitzLinear):
        super().__init__()
        self.layer = layer

    def forward(self, row_scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.layer.effective_weight(row_scale), self.layer.lipschitz_bound(row_scale)


def gapped_matrix(shape: tuple[int, int]) -> torch.Tensor:
    """Singular values 4, 1.2, 0.4: above every constant at the start, and apart, so that power iteration converges."""
    left, _, right = torch.linalg.svd(torch.randn(shape, dtype=torch.float64), full_matrices=False)
    return left @ torch.diag(torch.tensor([4.0, 1.2, 0.4], dtype=torch.float64)) @ right


@pytest.mark.parametrize("shape", [(4, 3), (3, 4), (3, 3)], ids=str)
def test_gradients_are_the_derivatives(variant, shape):
    """`torch.autograd.gradcheck`, with the constraint active, with respect to weight, constant and row scale."""
    module = EffectiveWeightAndBound(variant.build(*shape).double())
    torch.manual_seed(1)
    weight = gapped_matrix(shape).requires_grad_()
    row_scale = (1 + 0.1 * torch.rand(shape[0], dtype=torch.float64)).requires_grad_()
    constant = module.layer.c.detach().clone().requires_grad_() if hasattr(module.layer, "c") else None

    def effective_weight_and_bound(weight, row_scale, constant=None):
        tensors = {"layer.weight": weight} | ({} if constant is None else {"layer.c": constant})
        return torch.func.functional_call(module, tensors, (row_scale,))

    inputs = (weight, row_scale) if constant is None else (weight, row_scale, constant)
    assert torch.autograd.gradcheck(effective_weight_and_bound, inputs)
