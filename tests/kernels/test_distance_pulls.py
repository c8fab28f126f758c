"""Pulls between tokens and keys: outputs, gradients and second derivatives are those of the plain operations."""

import pytest
import torch

from lrsegformer.kernels import distance_pulls as module
from lrsegformer.kernels.distance_pulls import distance_pulls, plain_pulls


def tokens(batch=2, heads=3, width=4, queries=10, keys=6, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    shapes = ((batch, heads, width, queries), (batch, heads, width, keys), (heads,))
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


def by_definition(queries, keys, log_distance):
    """Sum by sum, as the docstring writes it."""
    at_queries, at_keys = torch.zeros_like(queries), torch.zeros_like(keys)
    for head, distance in enumerate(log_distance.exp()):
        for i in range(queries.shape[3]):
            for j in range(keys.shape[3]):
                apart = queries[:, head, :, i] - keys[:, head, :, j]
                weight = (1 + apart.square().sum(dim=1, keepdim=True) / distance**2) ** -0.5
                at_queries[:, head, :, i] += weight * apart
                at_keys[:, head, :, j] -= weight * apart
    return at_queries, at_keys


# Chunks of one row and of some; all tokens of a head; several heads at once.
@pytest.mark.parametrize("chunk", [1, 13, 60, 130, 10**6])
def test_values_and_gradients(monkeypatch, chunk):
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", chunk)
    inputs = tokens()
    pulls, plain = distance_pulls(*inputs), plain_pulls(*inputs)
    with torch.no_grad():
        expected = by_definition(*inputs)
    cotangents = [torch.randn_like(pull) for pull in pulls]
    gradients = torch.autograd.grad(pulls, inputs, cotangents)
    of_plain = torch.autograd.grad(plain, inputs, cotangents)
    for found, by_torch, right in zip(pulls, plain, expected, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(by_torch, right, rtol=1e-10, atol=1e-10)
    for found, right in zip(gradients, of_plain, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-9, atol=1e-9)


def test_derivatives_of_both_orders_by_finite_differences():
    inputs = tokens(batch=1, heads=2, width=2, queries=3, keys=2)
    assert torch.autograd.gradcheck(distance_pulls, inputs)
    assert torch.autograd.gradgradcheck(distance_pulls, inputs)
    assert torch.autograd.gradcheck(distance_pulls, inputs, check_batched_grad=True)


def test_under_torch_func():
    inputs = [tensor.detach() for tensor in tokens(batch=1, queries=4, keys=3)]

    def total(queries):
        return distance_pulls(queries, *inputs[1:])[0].sin().sum()

    queries = inputs[0].clone().requires_grad_()
    (expected,) = torch.autograd.grad(total(queries), queries)
    torch.testing.assert_close(torch.func.grad(total)(inputs[0]), expected)


def test_tokens_that_are_keys_get_both_gradients():
    queries, _, log_distance = tokens()
    both = distance_pulls(queries, queries, log_distance)
    (found,) = torch.autograd.grad(both[0].square().sum() + both[1].sin().sum(), queries)
    plain = plain_pulls(queries, queries, log_distance)
    (expected,) = torch.autograd.grad(plain[0].square().sum() + plain[1].sin().sum(), queries)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_alike_tokens_far_from_the_origin_stay_finite():
    """In float32 the squared distance of equal tokens may come out below 0."""
    queries = torch.full((1, 1, 32, 8), 30.0).requires_grad_()
    log_distance = torch.full((1,), -5.0).requires_grad_()
    pulls = distance_pulls(queries, queries.detach().clone(), log_distance)
    gradients = torch.autograd.grad(sum(pull.sum() for pull in pulls), [queries, log_distance])
    assert all(values.isfinite().all() for values in (*pulls, *gradients))
    assert all(pull.abs().max() < 1e-3 for pull in pulls)


def test_only_wanted_gradients_are_asked_for():
    queries, keys, log_distance = tokens()
    at_queries, _ = distance_pulls(queries, keys.detach(), log_distance.detach())
    (gradient,) = torch.autograd.grad(at_queries.sum(), queries, create_graph=True)
    assert torch.autograd.grad(gradient.square().sum(), queries)[0].isfinite().all()


def test_no_matrix_of_weights_is_kept():
    queries, keys, log_distance = tokens(batch=1, heads=1, queries=64, keys=64)
    sizes = []

    def pack(tensor):
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        distance_pulls(queries, keys, log_distance)
    assert max(sizes) < 64 * 64
