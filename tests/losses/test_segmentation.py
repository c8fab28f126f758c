"""The full-resolution loss, against interpolate and cross entropy written out."""

import pytest
import torch
from torch.nn import functional
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from lrsegformer.errors import InputError
from lrsegformer.losses import segmentation_loss, valid_pixels


def case(classes: int = 4, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(classes)
    logits = torch.randn(batch, classes, 5, 7, generator=generator).requires_grad_()
    return logits, torch.randint(0, classes, (batch, 20, 27), generator=generator)


def reference(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    upsampled = functional.interpolate(logits.double(), labels.shape[-2:], mode="bilinear", align_corners=False)
    log_probabilities = upsampled.log_softmax(1)
    losses = [
        -log_probabilities[index, label, row, column]
        for index, row, column in (labels >= 0).logical_and(labels != 255).nonzero().tolist()
        for label in [int(labels[index, row, column])]
    ]
    return torch.stack(losses).mean()


def test_equals_upsampled_cross_entropy_and_its_gradient():
    logits, labels = case()
    labels[0, :3] = 255
    labels[1, :, :2] = -100
    loss = segmentation_loss(logits, labels)
    (gradient,) = torch.autograd.grad(loss, logits)
    expected = reference(logits, labels)
    (expected_gradient,) = torch.autograd.grad(expected, logits)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-7)


def test_ignored_pixels_never_count():
    logits, labels = case()
    ignored = torch.rand(labels.shape) < 0.3
    losses = [segmentation_loss(logits, labels.masked_fill(ignored, value)).item() for value in (255, -100, -1)]
    assert losses[0] == losses[1] == losses[2] != segmentation_loss(logits, labels).item()
    other = labels.masked_fill(ignored, 3)
    assert segmentation_loss(logits, other, ignore_index=3).item() == pytest.approx(
        reference(logits, other.masked_fill(other == 3, 255)).item(), rel=1e-6
    )
    assert not valid_pixels(torch.tensor([255, -100, -1]), 255).any() and valid_pixels(torch.tensor([0, 7]), 255).all()


@pytest.mark.parametrize("classes", [1, 4])
@pytest.mark.parametrize("value", [255, -100])
def test_nothing_valid_is_zero_with_zero_gradients(classes, value):
    logits, labels = case(classes)
    loss = segmentation_loss(logits, torch.full_like(labels, value))
    loss.backward()
    assert loss.item() == 0 and torch.equal(logits.grad, torch.zeros_like(logits))


def test_stock_loss_is_not_a_number_where_nothing_is_valid():
    """The trap that the zero is there for."""
    sizes = {"hidden_sizes": (8, 8, 8, 8), "num_attention_heads": (1, 1, 1, 1), "decoder_hidden_size": 8}
    stock = SegformerForSemanticSegmentation(SegformerConfig(**sizes, depths=(1, 1, 1, 1), num_labels=3)).eval()
    assert torch.isnan(stock(torch.randn(1, 3, 32, 32), labels=torch.full((1, 32, 32), 255)).loss)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize("classes", [1, 4])
def test_labels_of_any_integer_dtype(dtype, classes):
    logits, labels = case(classes)
    labels[0, :5] = 255
    labels = labels.clamp(max=255)
    assert segmentation_loss(logits, labels.to(dtype)).item() == segmentation_loss(logits, labels).item()


def test_one_label_is_binary_cross_entropy_over_the_valid_pixels():
    logits, _ = case(1)
    labels = torch.randint(0, 2, (2, 20, 27))
    labels[0, :3] = 255
    labels[1, -2:] = -100
    upsampled = functional.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False).squeeze(1)
    valid = (labels == 0) | (labels == 1)
    expected = functional.binary_cross_entropy_with_logits(upsampled[valid], labels[valid].float())
    assert segmentation_loss(logits, labels).item() == pytest.approx(expected.item(), rel=1e-6)
    assert segmentation_loss(logits, labels.clamp(min=0).byte()).item() != pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_logits_are_summed_in_float32(dtype):
    logits, labels = case()
    loss = segmentation_loss(logits.to(dtype), labels)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(reference(logits.to(dtype), labels).item(), rel=1e-5)
    assert segmentation_loss(logits.double(), labels).dtype == torch.float64


def test_whole_batch_is_the_weighted_mean_of_its_parts():
    logits, labels = case(batch=4)
    labels[0, 5:] = 255
    labels[2] = 255
    counts = [valid_pixels(part, 255).sum() for part in labels.split(1)]
    parts = [segmentation_loss(*pair) for pair in zip(logits.split(1), labels.split(1), strict=True)]
    weighted = sum(count * part for count, part in zip(counts, parts, strict=True)) / sum(counts)
    assert segmentation_loss(logits, labels).item() == pytest.approx(weighted.item(), rel=1e-6)


@pytest.mark.parametrize(("classes", "bad"), [(4, 4), (4, 200), (1, 2)])
def test_label_beyond_the_classes_is_named(classes, bad):
    logits, labels = case(classes)
    labels = labels.clamp(max=1)
    labels[1, 7, 8] = bad
    with pytest.raises(InputError, match=rf"label {bad} .* {classes} classes"):
        segmentation_loss(logits, labels)
    segmentation_loss(logits, labels, ignore_index=bad)


@pytest.mark.parametrize("classes", [1, 4])
def test_huge_logits_stay_finite(classes):
    logits, labels = case(classes)
    logits = (logits.detach() * 1e4).requires_grad_()
    labels = labels.clamp(max=1)
    loss = segmentation_loss(logits, labels)
    loss.backward()
    assert torch.isfinite(loss) and loss > 100
    assert torch.isfinite(logits.grad).all() and logits.grad.any()


@pytest.mark.parametrize("classes", [1, 4])
def test_gradient_is_scaled_by_the_incoming_one(classes):
    logits, labels = case(classes)
    labels = labels.clamp(max=1)
    (once,) = torch.autograd.grad(segmentation_loss(logits, labels), logits)
    (thrice,) = torch.autograd.grad(segmentation_loss(logits, labels) * 3, logits)
    assert once.any()
    torch.testing.assert_close(thrice, 3 * once, rtol=1e-6, atol=0)


def test_a_second_derivative_is_refused():
    """The gradient is a constant to autograd: what depends on it would silently have none."""
    logits, labels = case()
    (gradient,) = torch.autograd.grad(segmentation_loss(logits, labels), logits, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable|[Ss]econd|twice"):
        (gradient.square().sum() + logits.sum()).backward()


@pytest.mark.parametrize("classes", [1, 4])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.3])
def test_autocast_does_not_touch_the_sums(classes, label_smoothing):
    logits, labels = case(classes)
    labels = labels.clamp(max=1)
    results = []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            loss = segmentation_loss(logits, labels, label_smoothing=label_smoothing)
        results.append((loss, *torch.autograd.grad(loss, logits)))
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64])
def test_class_weights_of_more_classes_than_the_labels_dtype_holds(dtype):
    logits = torch.randn(1, 300, 3, 4)
    labels, weights = torch.randint(0, 255, (1, 9, 7)), torch.rand(300)
    upsampled = functional.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False)
    expected = functional.cross_entropy(upsampled, labels, weight=weights)
    assert segmentation_loss(logits, labels.to(dtype), class_weights=weights).item() == pytest.approx(
        expected.item(), rel=1e-6
    )


def test_the_upsampled_logits_are_never_held(largest_allocation):
    logits, labels = torch.randn(1, 64, 32, 32, requires_grad=True), torch.randint(0, 64, (1, 512, 512))
    upsampled = 64 * 512 * 512 * logits.element_size()
    assert largest_allocation(lambda: segmentation_loss(logits, labels).backward()) < upsampled / 16
    assert largest_allocation(lambda: reference_in_one_piece(logits, labels).backward()) > upsampled / 2


def reference_in_one_piece(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    upsampled = functional.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False)
    return functional.cross_entropy(upsampled, labels)
