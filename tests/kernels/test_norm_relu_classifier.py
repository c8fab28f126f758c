"""ReLU, dropout and classifier in one: the function, its gradients, and what is random about it."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from lrsegformer.kernels.norm_relu_classifier import classify, multiply_pixels


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def relu_dropout(maps: torch.Tensor, probability: float) -> torch.Tensor:
    """`classify` with the identity for its classifier."""
    channels = maps.shape[1]
    identity, nothing = torch.eye(channels, dtype=maps.dtype), torch.zeros(channels, dtype=maps.dtype)
    return classify(maps.clone(), probability, identity, nothing)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("with_bias", [False, True])
def test_product_is_a_convolution(with_bias, layout):
    maps = torch.randn(2, 5, 3, 4, dtype=torch.float64).to(memory_format=layout)
    matrix, bias = torch.randn(7, 5, dtype=torch.float64), torch.randn(7, dtype=torch.float64) if with_bias else None
    expected = functional.conv2d(maps, matrix[:, :, None, None], bias)
    torch.testing.assert_close(multiply_pixels(matrix, maps, bias), expected, rtol=0, atol=1e-14)


def test_without_dropout_it_is_a_convolution_of_the_relu():
    maps, matrix, bias = torch.randn(2, 5, 3, 4), torch.randn(7, 5), torch.randn(7)
    expected = functional.conv2d(functional.relu(maps), matrix[:, :, None, None], bias)
    torch.testing.assert_close(classify(maps.clone(), 0.0, matrix, bias), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_kept_elements_are_scaled_relu_and_the_share_is_right(dtype, probability):
    maps = torch.randn(1, 4, 500, 501, dtype=torch.float32).to(dtype)
    outputs = relu_dropout(maps, probability)
    assert outputs.dtype == dtype and outputs.shape == maps.shape
    positive = maps > 0
    kept = outputs != 0
    assert not (kept & ~positive).any()
    scale = 2**16 / (2**16 - round(probability * 2**16))
    torch.testing.assert_close(outputs[kept], maps[kept] * scale)
    count = int(positive.sum())
    share = kept.sum().item() / count
    assert abs(share - (1 - probability)) < 6 * (probability * (1 - probability) / count) ** 0.5 + 2**-16


def test_neighbours_are_independent():
    """Four elements share a random integer; none of its parts tells anything of another."""
    kept = (relu_dropout(torch.ones(1, 1, 2000, 2000), 0.5) > 0).view(-1, 4).double() * 2 - 1
    correlation = kept.T @ kept / len(kept)
    assert (correlation - torch.eye(4)).abs().max() < 6 / len(kept) ** 0.5
    assert kept.mean(dim=0).abs().max() < 6 / len(kept) ** 0.5


@pytest.fixture(params=[1, 9, 2**19], ids=lambda elements: f"chunk={elements}")
def chunks(request, monkeypatch) -> None:
    monkeypatch.setattr("lrsegformer.kernels.norm_relu_classifier.CHUNK_ELEMENTS", request.param)


def norm_like(stock: nn.BatchNorm2d) -> nn.BatchNorm2d:
    with torch.no_grad():
        for tensor in (stock.weight, stock.bias, stock.running_mean):
            tensor.normal_()
        stock.running_var.uniform_(0.5, 2)
    return stock


@pytest.mark.each_value
@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("probability", [0.0, 0.4])
def test_gradients_are_those_of_the_mask_that_was_drawn(probability, normalised):
    norm = norm_like(nn.BatchNorm2d(3, dtype=torch.float64)) if normalised else None
    shapes = [(2, 3, 1, 4), (2, 3), (2,)]
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    parameters = [] if norm is None else [norm.weight, norm.bias]

    def again(maps: torch.Tensor, classifier: torch.Tensor, bias: torch.Tensor, *_) -> torch.Tensor:
        torch.manual_seed(3)
        return classify(maps, probability, classifier, bias, norm)

    assert torch.autograd.gradcheck(again, (*inputs, *parameters))
    assert torch.autograd.gradgradcheck(again, (*inputs, *parameters))


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("offset", [0.0, 30.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_with_a_norm_it_is_torchs_own_function(dtype, offset):
    maps = (torch.randn(2, 5, 7, 6, dtype=dtype) + offset).requires_grad_()
    classifier, bias = (torch.randn(shape, dtype=dtype, requires_grad=True) for shape in [(4, 5), (4,)])
    ours, stock = norm_like(nn.BatchNorm2d(5, dtype=dtype)), nn.BatchNorm2d(5, dtype=dtype)
    stock.load_state_dict(ours.state_dict())
    actual = classify(maps, 0.0, classifier, bias, ours)
    expected = functional.conv2d(functional.relu(stock(maps)), classifier[:, :, None, None], bias)
    # float32 rounds maps by a part in 2^24 of their offset; the deviation is about 1.
    tolerance = (1e-5 if dtype == torch.float32 else 1e-14) * max(offset, 1)
    torch.testing.assert_close(actual, expected, rtol=0, atol=10 * tolerance)
    cotangent = torch.randn_like(actual)
    pairs = zip(
        torch.autograd.grad(actual, (maps, classifier, bias, ours.weight, ours.bias), cotangent),
        torch.autograd.grad(expected, (maps, classifier, bias, stock.weight, stock.bias), cotangent),
        strict=True,
    )
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=0, atol=10 * tolerance * max(1, other.abs().max()))
    for (name, one), other in zip(ours.state_dict().items(), stock.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=0, msg=name)


def test_norms_of_other_kinds_compute_for_themselves():
    maps, classifier, bias = torch.randn(2, 5, 4, 4), torch.randn(3, 5), torch.randn(3)
    frozen = norm_like(nn.BatchNorm2d(5)).eval()
    norms = [frozen, nn.BatchNorm2d(5, momentum=None), nn.BatchNorm2d(5, affine=False), nn.InstanceNorm2d(5)]
    norms.append(nn.BatchNorm2d(5, track_running_stats=False))
    for norm in norms:
        expected = multiply_pixels(classifier, copy.deepcopy(norm)(maps).relu(), bias)
        torch.testing.assert_close(classify(maps, 0.0, classifier, bias, norm), expected, rtol=0, atol=1e-5)
    half = classify(maps.bfloat16(), 0.0, classifier, bias, nn.BatchNorm2d(5))
    assert half.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="more than 1 value"):
        classify(maps[:1, :, :1, :1], 0.0, classifier, bias, nn.BatchNorm2d(5))


@pytest.mark.parametrize("normalised", [False, True])
def test_inputs_stay_and_gradients_can_be_taken_again(normalised):
    maps, matrix, bias = (torch.randn(shape, requires_grad=True) for shape in [(2, 3, 4, 4), (5, 3), (5,)])
    before = maps.detach().clone()
    loss = classify(maps, 0.3, matrix, bias, nn.BatchNorm2d(3) if normalised else None).square().sum()
    first = torch.autograd.grad(loss, (maps, matrix, bias), retain_graph=True)
    second = torch.autograd.grad(loss, (maps, matrix, bias))
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))
    assert torch.equal(maps, before)


@pytest.mark.parametrize("normalised", [False, True])
def test_many_cotangents_at_once(normalised):
    maps, matrix, bias = (torch.randn(shape, requires_grad=True) for shape in [(2, 3, 4, 4), (5, 3), (5,)])
    logits = classify(maps, 0.3, matrix, bias, nn.BatchNorm2d(3) if normalised else None)
    cotangents = torch.randn(3, *logits.shape)
    inputs = (maps, matrix, bias)
    together = torch.autograd.grad(logits, inputs, cotangents, retain_graph=True, is_grads_batched=True)
    for position, cotangent in enumerate(cotangents):
        alone = torch.autograd.grad(logits, inputs, cotangent, retain_graph=True)
        for one, other in zip(together, alone, strict=True):
            torch.testing.assert_close(one[position], other, rtol=1e-4, atol=1e-5)


def test_a_bfloat16_gradient_is_summed_in_float32(monkeypatch):
    monkeypatch.setattr("lrsegformer.kernels.norm_relu_classifier.CHUNK_ELEMENTS", 64)
    maps, bias = torch.rand(1, 2, 64, 64).bfloat16(), torch.zeros(1)
    matrix = torch.ones(1, 2, requires_grad=True)
    classify(maps, 0.0, matrix, bias).sum().backward()
    torch.testing.assert_close(matrix.grad, maps.double().sum(dim=(0, 2, 3))[None].float(), rtol=4e-3, atol=0)


def test_the_generator_decides():
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(relu_dropout(torch.ones(1, 1, 1, 101), 0.5))
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
