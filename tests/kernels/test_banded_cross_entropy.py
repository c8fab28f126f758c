"""The banded loss: interpolate and cross entropy for all sizes, weights and smoothing; and an operator of torch."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from lrsegformer.kernels import bilinear
from lrsegformer.kernels.banded_cross_entropy import upsampled_cross_entropy
from lrsegformer.losses import segmentation_loss
from lrsegformer.losses.segmentation import total_weight

IGNORED = ["none", "some", "some negative", "rows", "all", "all negative", "all but one"]


def reference(
    logits: torch.Tensor,
    labels: torch.Tensor,
    class_weights: torch.Tensor | None = None,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """torch's own functions on the upsampled logits; 0 where no label is valid."""
    upsampled = functional.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False)
    valid = (labels >= 0) & (labels != 255)
    if not valid.any():
        return 0 * logits.sum()
    if logits.shape[1] > 1:
        targets = labels.long().masked_fill(~valid, -100)
        return functional.cross_entropy(upsampled, targets, weight=class_weights, label_smoothing=label_smoothing)
    targets = labels[valid].to(logits.dtype) * (1 - label_smoothing) + label_smoothing / 2
    losses = functional.binary_cross_entropy_with_logits(upsampled[:, 0][valid], targets, reduction="none")
    weights = torch.ones_like(losses) if class_weights is None else class_weights[0].expand_as(losses)
    return (losses * weights).sum() / weights.sum()


def make_case(
    classes: int, size, label_size, batch: int = 1, ignored: str = "some", dtype: torch.dtype = torch.float64
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(classes + 7 * sum(size) + 31 * sum(label_size))
    logits = 3 * torch.randn(batch, classes, *size, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, max(classes, 2), (batch, *label_size), generator=generator)
    value = -100 if "negative" in ignored else 255
    if ignored.startswith("some"):
        labels[torch.rand(labels.shape, generator=generator) < 0.4] = value
    elif ignored == "rows":
        labels[:, ::2] = value
    elif ignored == "all but one":
        labels.view(-1)[1:] = value
    elif ignored.startswith("all"):
        labels.fill_(value)
    return logits.to(dtype).requires_grad_(), labels


def reach(logits: torch.Tensor, labels: torch.Tensor, class_weights: torch.Tensor | None) -> float:
    """
    The largest total share that the pixels around a logit have in the mean.

    A gradient is a sum of differences (probability - target) times those shares, and inherits the rounding of the
    probability even where the difference is small.
    """
    valid = (labels >= 0) & (labels != 255)
    weights = torch.ones(logits.shape[1]) if class_weights is None else class_weights
    shares = weights.double()[labels.clamp(0, logits.shape[1] - 1)] * valid
    source = torch.zeros_like(logits[:, :1], dtype=torch.float64, requires_grad=True)
    upsampled = functional.interpolate(source, labels.shape[-2:], mode="bilinear", align_corners=False)
    total = (upsampled[:, 0] * shares / shares.sum().clamp_min(1e-300)).sum()
    return torch.autograd.grad(total, source)[0].max().item()


def assert_equals_reference(logits: torch.Tensor, labels: torch.Tensor, *options) -> None:
    """Loss to 1e-6 and gradient to 1e-5 of its largest entry in float32, of the true values; 1e-12 in float64."""
    exact = logits.detach().double().requires_grad_()
    weights = options[0] if options else None
    expected = reference(exact, labels, None if weights is None else weights.double(), *options[1:])
    (expected_gradient,) = torch.autograd.grad(expected, exact)
    loss = segmentation_loss(logits, labels, 255, *options)
    (gradient,) = torch.autograd.grad(loss, logits)
    of_loss, of_gradient = (1e-6, 1e-5) if logits.dtype == torch.float32 else (1e-13, 1e-12)
    # The loss is a difference of numbers of the size of the logits, and cannot be nearer than their rounding.
    size = max(expected.item(), 1.0)
    assert loss.dtype == logits.dtype and abs(loss.item() - expected.item()) <= of_loss * size
    assert gradient.dtype == logits.dtype and gradient.shape == logits.shape
    rounding = 4 * torch.finfo(logits.dtype).eps * reach(logits, labels, weights)
    difference = (gradient - expected_gradient).abs().max().item()
    assert difference <= of_gradient * expected_gradient.abs().max().item() + rounding


logit_sizes = st.tuples(st.integers(1, 12), st.integers(1, 12))
label_sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))


@given(
    size=logit_sizes,
    label_size=label_sizes,
    classes=st.integers(1, 7),
    batch=st.integers(1, 3),
    ignored=st.sampled_from(IGNORED),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    weighted=st.booleans(),
    label_smoothing=st.sampled_from([0.0, 0.1, 1.0]),
)
def test_any_sizes(size, label_size, classes, batch, ignored, dtype, weighted, label_smoothing):
    logits, labels = make_case(classes, size, label_size, batch, ignored, dtype)
    weights = torch.linspace(0.5, 2.0, classes) if weighted else None
    assert_equals_reference(logits, labels, weights, label_smoothing)


@pytest.mark.parametrize("entries", [1, 60, 300])
@pytest.mark.parametrize("classes", [1, 4])
@pytest.mark.parametrize("label_size", [(33, 50), (6, 7), (3, 2), (1, 90)])
def test_any_bands(monkeypatch, label_size, classes, entries):
    monkeypatch.setattr(bilinear, "BAND_ENTRIES_ON_CPU", entries)
    monkeypatch.setattr(bilinear, "FEWEST_ROWS", 1)
    monkeypatch.setattr(bilinear, "BANDS_OF_SLAB", 2)
    monkeypatch.setattr(bilinear, "BLOCK_COLUMNS", 5)
    weights = torch.linspace(0.5, 2.0, classes)
    for ignored in ("none", "rows"):
        assert_equals_reference(*make_case(classes, (6, 7), label_size, 2, ignored), weights, 0.2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("offset", [-100.0, 0.0, 40.0])
@pytest.mark.parametrize("spreads", [(59.9, 61.0), (300.0, 10.0), (0.0, 1e4)])
def test_any_spread_and_offset_of_the_logits(spreads, offset, dtype):
    """Both ways to keep exponentials finite, in one batch."""
    logits, labels = make_case(5, (6, 7), (23, 30), 2)
    logits = logits.detach()
    lowest, highest = logits.amin(dim=(1, 2, 3), keepdim=True), logits.amax(dim=(1, 2, 3), keepdim=True)
    scales = torch.tensor(spreads, dtype=logits.dtype).view(-1, 1, 1, 1) / (highest - lowest)
    logits = (logits * scales + offset).to(dtype).requires_grad_()
    assert_equals_reference(logits, labels, torch.linspace(0.5, 2.0, 5), 0.1)


@pytest.mark.parametrize("weights", [[1.0, 0.0, 3.0, 0.25], torch.tensor([2, 1, 1, 5]), (1, 1, 1, 1)])
def test_class_weights_of_any_kind(weights):
    logits, labels = make_case(4, (4, 5), (15, 21), 2)
    expected = reference(logits, labels, torch.as_tensor(weights, dtype=logits.dtype))
    actual = segmentation_loss(logits, labels, class_weights=weights)
    assert actual.item() == pytest.approx(expected.item(), rel=1e-13)


def test_weighted_mean_of_a_batch_is_that_of_its_parts():
    logits, labels = make_case(4, (4, 5), (15, 21), 3)
    labels[1] = 255
    options = {"class_weights": torch.tensor([1.0, 0.5, 3.0, 0.25]), "label_smoothing": 0.1}
    parts = list(zip(logits.split(1), labels.split(1), strict=True))
    means = [segmentation_loss(*part, **options) for part in parts]
    shares = [total_weight(part, part != 255, options["class_weights"]) for _, part in parts]
    mean = sum(each * share for each, share in zip(means, shares, strict=True)) / sum(shares)
    torch.testing.assert_close(segmentation_loss(logits, labels, **options), mean, rtol=1e-12, atol=0)


def test_valid_pixels_of_weight_zero_give_zero():
    """torch's own function gives NaN."""
    logits, labels = make_case(3, (4, 5), (8, 10))
    labels.zero_()
    loss = segmentation_loss(logits, labels, class_weights=[0.0, 1.0, 1.0])
    loss.backward()
    assert loss == 0 and not logits.grad.any()


@pytest.mark.parametrize("classes", [1, 4])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.3])
def test_what_lies_under_ignored_pixels_never_counts(classes, label_smoothing):
    logits, labels = make_case(classes, (8, 8), (8, 8), 1, "none")
    labels[:, :4] = 255
    loss = segmentation_loss(logits, labels, label_smoothing=label_smoothing)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert not gradient[:, :, :4].any() and gradient[:, :, 4:].all()
    other = logits.detach().clone()
    other[:, :, :4] = 1e3
    assert segmentation_loss(other, labels, label_smoothing=label_smoothing) == loss


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("classes", [1, 5])
def test_half_precision_is_float32_of_the_same_logits(classes, dtype, layout):
    logits, labels = make_case(classes, (9, 6), (37, 25), 2)
    half = logits.detach().to(dtype).to(memory_format=layout).requires_grad_()
    wide = half.detach().float().requires_grad_()
    losses = [segmentation_loss(each, labels, label_smoothing=0.1) for each in (half, wide)]
    for loss in losses:
        loss.backward()
    assert losses[0].dtype == torch.float32
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-6, atol=0)
    torch.testing.assert_close(half.grad, wide.grad.to(dtype), rtol=2 * torch.finfo(dtype).eps, atol=1e-7)


@pytest.mark.parametrize("grad_enabled", [False, True])
def test_no_gradient_is_computed_where_none_is_needed(monkeypatch, grad_enabled):
    logits, labels = make_case(3, (4, 5), (13, 9), dtype=torch.float32)
    expected = segmentation_loss(logits, labels)

    def refuse(*arguments):
        raise AssertionError("a gradient was computed")

    monkeypatch.setattr(bilinear.BandedUpsampling, "_finish_slab", refuse)
    with torch.set_grad_enabled(grad_enabled):
        loss = segmentation_loss(logits.detach() if grad_enabled else logits, labels)
    assert torch.equal(loss, expected.detach()) and not loss.requires_grad
    with pytest.raises(AssertionError, match="a gradient was computed"):
        segmentation_loss(logits, labels)
    valid = labels != 255
    _, gradient = upsampled_cross_entropy(logits.detach(), labels, valid, valid.sum(), None, 0.0, None, False)
    assert gradient.numel() == 0


@pytest.mark.parametrize("size_of_logits", [1.0, 100.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_margins_are_added_after_upsampling(smoothing, size_of_logits):
    """Loss and gradient of `F.cross_entropy` of the upsampled logits, each pixel's plus the row of its label."""
    logits, labels = make_case(4, (5, 6), (17, 23), 2, dtype=torch.float64)
    logits = (size_of_logits * logits.detach()).requires_grad_()
    margins = 5 * torch.rand(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    loss = segmentation_loss(logits, labels, 255, None, smoothing, margins)
    upsampled = functional.interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=False)
    lead = margins[labels.long().clamp(0, 3)].permute(0, 3, 1, 2)
    ignored = torch.where(labels == 255, -100, labels.long())
    expected = functional.cross_entropy(upsampled + lead, ignored, label_smoothing=smoothing)
    torch.testing.assert_close(loss, expected)
    found, wanted = (torch.autograd.grad(each, logits)[0] for each in (loss, expected))
    torch.testing.assert_close(found, wanted)


@pytest.mark.each_value
@pytest.mark.parametrize("with_gradient", [False, True])
@pytest.mark.parametrize(("classes", "weighted"), [(1, False), (4, False), (4, True)])
def test_operator_passes_torchs_own_checks(classes, weighted, with_gradient):
    logits, labels = make_case(classes, (3, 4), (7, 9), 2, "none")
    logits = logits.detach().requires_grad_(with_gradient)
    weights = torch.linspace(0.5, 2.0, classes, dtype=logits.dtype) if weighted else None
    valid = labels != 1
    divisor = total_weight(labels, valid, weights)
    margins = torch.rand(classes, classes, dtype=logits.dtype) if weighted else None
    arguments = (logits, labels, valid, divisor, weights, 0.1, margins, with_gradient)
    torch.library.opcheck(upsampled_cross_entropy, arguments)


@pytest.mark.parametrize("classes", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_compiled_without_a_graph_break(classes):
    torch.compiler.reset()
    compiled = torch.compile(segmentation_loss, fullgraph=True, backend="aot_eager")
    # The second size makes the sizes symbols.
    for label_size in ((21, 30), (17, 26)):
        logits, labels = make_case(classes, (5, 7), label_size, 2, dtype=torch.float32)
        weights = torch.linspace(0.5, 2.0, classes)
        results = []
        for function in (segmentation_loss, compiled):
            loss = function(logits, labels, 255, weights, 0.1)
            results.append((loss, *torch.autograd.grad(loss, logits)))
        torch.testing.assert_close(results[1], results[0], rtol=0, atol=0)
