"""Classes at full resolution: exactly what upsampling everything and taking the argmax gives."""

import math

import pytest
import torch
import torch.nn.functional as F

from lrsegformer.errors import InputError, NotFiniteError
from lrsegformer.evaluation import largest_class, predict_classes


def interpolate_then_argmax(logits, size):
    return F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False).argmax(1)


@pytest.mark.parametrize("size", [(32, 40), (64, 80), (61, 97), (5, 3), (8, 10), (1, 1), (128, 7)])
@pytest.mark.parametrize("batch", [1, 3])
def test_equals_interpolate_then_argmax(size, batch):
    logits = torch.randn(batch, 19, 8, 10, generator=torch.Generator().manual_seed(sum(size)))
    classes = predict_classes(logits, size)
    assert classes.dtype == torch.uint8
    # Where processors round otherwise two classes may change places, but only where they are equal to rounding.
    exact = F.interpolate(logits.double(), size=size, mode="bilinear", align_corners=False)
    largest = exact.topk(2, dim=1).values
    is_sure = largest[:, 0] - largest[:, 1] > 1e-5
    assert is_sure.double().mean() > 0.99
    assert torch.equal(classes.long()[is_sure], interpolate_then_argmax(logits, size)[is_sure])
    assert (exact.amax(1) - exact.gather(1, classes.long()[:, None])[:, 0]).max() < 1e-5


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_layouts_and_half_precision(memory_format, dtype):
    logits = torch.randn(2, 7, 9, 6, generator=torch.Generator().manual_seed(1)).to(dtype)
    logits = logits.contiguous(memory_format=memory_format)
    assert torch.equal(predict_classes(logits, (37, 50)).long(), interpolate_then_argmax(logits, (37, 50)))


def test_ties_go_to_the_lowest_class():
    logits = torch.zeros(1, 4, 2, 2)
    logits[:, 2:] = 1.0
    assert (predict_classes(logits, (6, 6)) == 2).all()


def test_many_classes_need_a_wider_type():
    logits = torch.zeros(1, 300, 2, 2)
    logits[:, 299] = 1.0
    classes = predict_classes(logits, (4, 4))
    assert classes.dtype == torch.int16
    assert (classes == 299).all()
    assert predict_classes(torch.zeros(1, 256, 1, 1), (1, 1)).dtype == torch.uint8


def test_one_class_and_no_gradient():
    classes = predict_classes(torch.zeros(1, 1, 2, 2, requires_grad=True), (4, 4))
    assert not classes.requires_grad
    assert (classes == 0).all()


def test_the_upsampled_logits_are_never_held(largest_allocation):
    logits = torch.randn(1, 64, 32, 32)
    upsampled = 64 * 512 * 512 * logits.element_size()
    assert largest_allocation(lambda: predict_classes(logits, (512, 512))) < upsampled / 16
    assert largest_allocation(lambda: interpolate_then_argmax(logits, (512, 512))) > upsampled / 2


def test_where_another_class_wins_the_two_are_equal_to_rounding():
    logits = torch.randn(2, 150, 33, 47, generator=torch.Generator().manual_seed(2))
    size = (211, 300)
    classes = predict_classes(logits, size).long()[:, None]
    exact = F.interpolate(logits.double(), size=size, mode="bilinear", align_corners=False)
    behind = exact.amax(1, keepdim=True) - exact.gather(1, classes)
    assert behind.max() < 1e-5
    assert (behind == 0).float().mean() > 0.9999


def test_other_shapes_are_refused():
    with pytest.raises(InputError, match="height, width"):
        predict_classes(torch.zeros(3, 4, 4), (8, 8))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("shape", [(3, 5, 4, 6), (3, 5)])
def test_logits_that_are_not_finite_name_no_class(value, shape):
    logits = torch.zeros(shape)
    logits[1, 2] = value
    with pytest.raises(NotFiniteError, match="logits of image 1 of the batch are not finite"):
        predict_classes(logits, (8, 12)) if logits.ndim == 4 else largest_class(logits)


def test_the_class_of_an_image_is_that_of_its_largest_logit():
    logits = torch.randn(9, 7, generator=torch.Generator().manual_seed(0))
    assert torch.equal(largest_class(logits), logits.argmax(dim=1))
    # The largest float32 are numbers.
    assert (predict_classes(torch.full((1, 3, 2, 2), torch.finfo(torch.float32).max), (2, 2)) == 0).all()
