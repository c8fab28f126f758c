"""The parts of the certified encoder against what they are made to compute."""

import pytest
import torch
from torch.nn.functional import conv2d

from lrsegformer import LRSegformerConfig
from lrsegformer.models.encoder.attention import EnergyAttention
from lrsegformer.models.encoder.embedding import BlockEmbedding, cosine_rows, pad_to_multiple
from lrsegformer.models.encoder.mix_ffn import ConvexPotentialStep, UnitGainDepthwiseConv, frequency_gain

CONFIG = LRSegformerConfig(lipschitz_strategy="orthogonal", lipschitz_scope="certified")


def dense(kernel, side):
    """The matrix of a convolution of one channel with zero padding."""
    units = torch.eye(side * side, dtype=torch.float64).view(-1, 1, side, side)
    return conv2d(units, kernel[None, None], padding=kernel.shape[-1] // 2).flatten(1).T


@pytest.mark.parametrize("taps", [1, 3, 5])
def test_frequency_gain_bounds_the_convolution(taps):
    """Against singular values of the whole matrix, whose norm grows towards the gain with the size of the map."""
    kernels = torch.randn(20, taps, taps, dtype=torch.float64, generator=torch.Generator().manual_seed(taps))
    gains = frequency_gain(kernels)
    for kernel, gain in zip(kernels, gains, strict=True):
        norms = [torch.linalg.svdvals(dense(kernel, side))[0] for side in (4, 16)]
        assert norms[0] <= norms[1] * (1 + 1e-9) <= gain * (1 + 2e-9)
        assert gain <= norms[1] * 1.2


def test_unit_gain():
    convolution = UnitGainDepthwiseConv(6)
    with torch.no_grad():
        convolution.weight.normal_()
        convolution.weight[0] = 0
    gains = frequency_gain(convolution.kernel()[:, 0].double())
    torch.testing.assert_close(gains[1:], torch.ones(5, dtype=torch.float64), rtol=1e-6, atol=1e-6)
    assert gains[0] == 0


@pytest.mark.parametrize("depthwise", [False, True])
def test_a_step_is_a_step_down_its_function(depthwise):
    """`x - grad f(x)`, by autograd, of `f(x) = sum(relu(W x + b)^2) / beta`."""
    step = ConvexPotentialStep(CONFIG, 12, depthwise)
    with torch.no_grad():
        for parameter in step.parameters():
            parameter.normal_()
    inputs = torch.randn(1, 12, 5, 4, requires_grad=True)
    matrix, bound = step.matrix.maps()
    hidden = torch.einsum("oc,bchw->bohw", matrix, inputs)
    if depthwise:
        hidden = conv2d(hidden, step.dwconv.kernel(), padding=1, groups=len(step.bias))
    value = (hidden + step.bias[:, None, None]).relu().square().sum() / bound.square()
    (gradient,) = torch.autograd.grad(value, inputs)
    torch.testing.assert_close(step(inputs), inputs - gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("block", [1, 2])
def test_energy_attention_is_a_step_down_its_energy(block):
    attention = EnergyAttention(CONFIG, 6, heads=2, block=block)
    with torch.no_grad():
        attention.matrix.linear.weight.normal_()
        attention.log_distance.copy_(torch.tensor([0.3, -0.5]))
    inputs = torch.randn(1, 6, 4, 6, dtype=torch.float32, requires_grad=True)
    matrix, bound = attention.matrix.maps()
    queries = torch.einsum("oc,bchw->bohw", matrix, inputs)
    keys = torch.nn.functional.avg_pool2d(queries, block).flatten(2).unflatten(1, (2, 3))
    apart = (queries.flatten(2).unflatten(1, (2, 3))[..., :, None] - keys[..., None, :]).square().sum(dim=2)
    distances = attention.log_distance.exp()[:, None, None]
    energy = (distances**2 * (1 + apart / distances**2).sqrt()).sum()
    (gradient,) = torch.autograd.grad(energy, inputs)
    beta = 2 * keys.shape[-1] * bound.square()
    torch.testing.assert_close(attention(inputs), inputs - 2 / beta * gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rows, channels, block", [(8, 3, 4), (48, 3, 4), (60, 3, 4), (10, 5, 2)])
def test_cosine_rows(rows, channels, block):
    columns = channels * block**2
    table = cosine_rows(rows, columns, block)[:columns]
    torch.testing.assert_close(table @ table.T, torch.eye(len(table), dtype=torch.float64))
    # The first rows are the channels' means, times the side of a block.
    means = table[:channels].view(channels, channels, -1)
    torch.testing.assert_close(means, torch.eye(channels, dtype=torch.float64)[..., None].expand_as(means) / block)


def test_an_embedding_keeps_smooth_images():
    """Blocks of one colour lose nothing, though three of four channels are dropped."""
    embedding = BlockEmbedding(CONFIG, 3, 12, block=4)
    embedding.start_from_frequencies()
    image = torch.randn(1, 3, 2, 3).repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    torch.testing.assert_close(embedding(image).norm(), image.norm(), rtol=1e-5, atol=1e-5)


def test_padding():
    assert pad_to_multiple(torch.ones(1, 3, 33, 64), 32).shape == (1, 3, 64, 64)
    assert pad_to_multiple(torch.ones(1, 3, 33, 64), 32).sum() == 3 * 33 * 64
