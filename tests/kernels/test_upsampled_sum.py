"""The upsampled sum, in chunks and whole, against convolution, `F.interpolate` and their autograd."""

import pytest
import torch
from torch.nn import functional

from lrsegformer.kernels.upsampled_sum import UpsampledSum, upsampled_sum

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-14}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=[1, 70, 2**19], ids=lambda elements: f"chunk={elements}")
def chunks(request, monkeypatch) -> None:
    """A channel at a time, one or two, and all of an image; in blocks of five rows and columns but for the last."""
    monkeypatch.setattr("lrsegformer.kernels.upsampled_sum.CHUNK_ELEMENTS", request.param)
    if request.param < 100:
        monkeypatch.setattr("lrsegformer.kernels.upsampled_sum.BLOCK_COLUMNS", 5)


SCALES = [
    [(8, 8), (4, 4), (2, 2), (1, 1)],
    [(7, 9), (4, 5), (2, 3), (1, 2)],
    [(5, 6), (5, 6), (7, 3)],
    [(4, 3), (2, 2)],
]


def summands(sizes, dtype=torch.float64, batch: int = 2) -> list[torch.Tensor]:
    """A matrix, the finest maps and the coarser ones."""
    finest, *coarser = sizes
    shapes = [(3, 5), (batch, 5, *finest), *((batch, 3, *size) for size in coarser)]
    return [torch.randn(*shape, dtype=dtype) for shape in shapes]


def plain_sum(matrix: torch.Tensor, finest: torch.Tensor, *coarser: torch.Tensor) -> torch.Tensor:
    product = functional.conv2d(finest, matrix[:, :, None, None])
    return product + sum(
        functional.interpolate(each, finest.shape[2:], mode="bilinear", align_corners=False) for each in coarser
    )


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("sizes", SCALES)
def test_sum_and_its_gradients(sizes, dtype, layout):
    matrix, *maps = summands(sizes, dtype)
    inputs = [matrix, *(each.to(memory_format=layout) for each in maps)]
    inputs = [each.requires_grad_() for each in inputs]
    kept = [each.detach().clone() for each in inputs]
    actual, expected = upsampled_sum(*inputs), plain_sum(*inputs)
    cotangent = torch.randn_like(expected)
    assert actual.shape == expected.shape and actual.dtype == dtype and actual.is_contiguous()
    torch.testing.assert_close(actual, expected, rtol=0, atol=20 * TOLERANCE[dtype])
    for one, other in zip(
        torch.autograd.grad(actual, inputs, cotangent), torch.autograd.grad(expected, inputs, cotangent), strict=True
    ):
        # A coarse map's gradient sums many entries.
        torch.testing.assert_close(one, other, rtol=0, atol=20 * TOLERANCE[dtype] * max(1, other.abs().max()))
    assert all(torch.equal(*pair) for pair in zip(inputs, kept, strict=True)), "an input was overwritten"
    with torch.no_grad():
        assert torch.equal(upsampled_sum(*inputs), actual)


def test_may_be_overwritten():
    inputs = [each.requires_grad_() for each in summands([(6, 5), (3, 3), (2, 1)])]
    actual = torch.autograd.grad(upsampled_sum(*inputs).relu_().square().sum(), inputs)
    expected = torch.autograd.grad(plain_sum(*inputs).relu().square().sum(), inputs)
    for pair in zip(actual, expected, strict=True):
        torch.testing.assert_close(*pair, rtol=0, atol=1e-12)


# As SCALES and smaller: whole factors, others, a map of the same size and one that is larger, two scales.
@pytest.mark.parametrize(
    "sizes", [[(4, 4), (2, 2), (1, 1)], [(3, 4), (2, 3), (1, 2)], [(2, 3), (2, 3), (3, 2)], SCALES[3]]
)
def test_is_differentiable_twice(sizes):
    inputs = [each.requires_grad_() for each in summands(sizes, batch=1)]
    assert torch.autograd.gradcheck(UpsampledSum.apply, inputs)
    # Squared, because the second derivative of a linear map is zero.
    assert torch.autograd.gradgradcheck(lambda *each: UpsampledSum.apply(*each).square(), inputs)


def test_under_function_transforms():
    inputs = summands([(3, 4), (2, 2), (1, 3)])
    arguments = tuple(range(len(inputs)))
    actual = torch.func.jacrev(UpsampledSum.apply, arguments)(*inputs)
    expected = torch.func.jacrev(plain_sum, arguments)(*inputs)
    for pair in zip(actual, expected, strict=True):
        torch.testing.assert_close(*pair, rtol=0, atol=1e-13)
    matrix, *maps = inputs
    stacked = [torch.stack([each, 2 * each]) for each in maps]
    in_dims = (None, *(0 for _ in maps))
    actual = torch.func.vmap(UpsampledSum.apply, in_dims)(matrix, *stacked)[1]
    torch.testing.assert_close(actual, 2 * plain_sum(*inputs))


def test_many_cotangents_at_once():
    inputs = [each.requires_grad_() for each in summands([(6, 5), (3, 3), (2, 1)])]
    total = upsampled_sum(*inputs)
    cotangents = torch.randn(3, *total.shape, dtype=total.dtype)
    together = torch.autograd.grad(total, inputs, cotangents, retain_graph=True, is_grads_batched=True)
    for position, cotangent in enumerate(cotangents):
        alone = torch.autograd.grad(total, inputs, cotangent, retain_graph=True)
        for one, other in zip(together, alone, strict=True):
            torch.testing.assert_close(one[position], other, rtol=0, atol=1e-12)
