"""Attack objectives: values and gradients of the plain formulas on the interpolated logits, in float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from lrsegformer.attacks.objectives.pixels import (
    PixelObjective,
    balanced_masked_cross_entropy,
    cospgd,
    counted_pixels,
    cross_entropy,
    jensen_shannon,
    masked_cross_entropy,
    segpgd,
)
from lrsegformer.attacks.objectives.table import OBJECTIVES
from lrsegformer.evaluation import predict_classes
from lrsegformer.losses import segmentation_loss

PIXEL_OBJECTIVES = [name for name, objective in OBJECTIVES.items() if isinstance(objective, PixelObjective)]


def a_case(size=(5, 6), label_size=(20, 27), num_labels=4, batch=3, seed=0, dtype=torch.float64, scale=3.0):
    """Logits and labels of which about a fifth are ignored; the last image has no pixel that counts."""
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(batch, num_labels, *size, generator=generator, dtype=dtype)
    labels = torch.randint(0, num_labels, (batch, *label_size), generator=generator)
    chance = torch.rand(labels.shape, generator=generator)
    labels[chance < 0.1] = 255
    labels[chance > 0.9] = -100
    labels[-1] = 255
    return logits.requires_grad_(), labels


def plain(name, logits, labels, step, steps, targeted):
    """The objective as its paper writes it, of one image at a time, on the interpolated logits."""
    upsampled = F.interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=False)
    values = []
    for image, label in zip(upsampled, labels, strict=True):
        valid = (label != 255) & (label >= 0)
        scores, target = image[:, valid].T, label[valid]
        if not len(target):
            values.append(scores.sum() * 0)
            continue
        losses = F.cross_entropy(scores, target, reduction="none")
        right = scores.argmax(1) == target
        probabilities, one_hot = scores.softmax(1), F.one_hot(target, scores.shape[1]).double()
        if name == "cross_entropy":
            weights = torch.ones_like(losses)
        elif name == "segpgd":
            decay = torch.full_like(losses, (step - 1) / (2 * steps))
            weights = torch.where(~right if targeted else right, 1 - decay, decay)
        elif name == "cospgd":
            cosine = F.cosine_similarity(probabilities, one_hot, dim=1).detach()
            weights = 1 - cosine if targeted else cosine
        elif name == "jensen_shannon":
            mean = (probabilities + one_hot) / 2
            of_softmax = (probabilities * (probabilities / mean).log()).sum(1)
            of_label = -mean.gather(1, target[:, None])[:, 0].log()
            values.append(((of_softmax + of_label) / 2).mean())
            continue
        else:
            weights = (~right if targeted else right).double()
            if name.startswith("balanced"):
                counts = torch.bincount(target, minlength=scores.shape[1])
                weights = weights * len(target) / (counts[target] * (counts > 0).sum())
        values.append((weights * losses).mean())
    values = torch.stack(values)
    return -values if targeted else values


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("name", PIXEL_OBJECTIVES)
@pytest.mark.parametrize("sizes", [((5, 6), (20, 27)), ((8, 8), (8, 8)), ((9, 7), (4, 5))])
def test_values_and_gradients_are_those_of_the_plain_formula(name, targeted, sizes):
    logits, labels = a_case(*sizes)
    factors = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    values = OBJECTIVES[name](logits, labels, step=4, steps=5, targeted=targeted)
    expected = plain(name, logits, labels, 4, 5, targeted)
    torch.testing.assert_close(values, expected, atol=1e-12, rtol=1e-10)
    assert values[-1] == 0
    (gradient,) = torch.autograd.grad((factors * values).sum(), logits)
    (expected_gradient,) = torch.autograd.grad((factors * expected).sum(), logits)
    torch.testing.assert_close(gradient, expected_gradient, atol=1e-12, rtol=1e-9)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("name", PIXEL_OBJECTIVES)
def test_many_bands_and_slabs_give_what_one_does(name, monkeypatch):
    logits, labels = a_case((6, 5), (45, 33))
    whole = OBJECTIVES[name](logits, labels, 2, 3)
    (gradient,) = torch.autograd.grad(whole.sum(), logits)
    monkeypatch.setattr("lrsegformer.kernels.bilinear.BAND_ENTRIES_ON_CPU", 4 * 33 * 2)
    monkeypatch.setattr("lrsegformer.kernels.bilinear.FEWEST_ROWS", 1)
    in_bands = OBJECTIVES[name](logits, labels, 2, 3)
    torch.testing.assert_close(in_bands, whole, atol=1e-13, rtol=1e-12)
    torch.testing.assert_close(torch.autograd.grad(in_bands.sum(), logits)[0], gradient, atol=1e-13, rtol=1e-11)


@given(st.integers(0, 10**6), st.sampled_from(PIXEL_OBJECTIVES), st.booleans())
def test_right_pixels_are_those_of_the_reported_prediction(seed, name, targeted):
    # Few different logits, so that there are ties.
    logits, labels = a_case(seed=seed, dtype=torch.float32)
    logits = logits.detach().round()
    _, right = OBJECTIVES[name].values_and_right(logits, labels, targeted=targeted)
    valid = (labels != 255) & (labels >= 0)
    predicted = predict_classes(logits, tuple(labels.shape[1:])).long()
    assert torch.equal(right, ((predicted == labels) & valid).flatten(1).sum(1))


def test_cross_entropy_is_the_training_loss_image_by_image():
    logits, labels = a_case(dtype=torch.float32)
    losses = torch.stack([segmentation_loss(logits[[row]], labels[[row]]) for row in range(3)])
    torch.testing.assert_close(cross_entropy(logits, labels), losses)


@pytest.mark.parametrize("name", PIXEL_OBJECTIVES)
@pytest.mark.parametrize("targeted", [False, True])
def test_ignored_pixels_never_enter(name, targeted):
    logits, labels = a_case((8, 8), (8, 8))
    ignored = (labels == 255) | (labels < 0)
    values, right = OBJECTIVES[name].values_and_right(logits, labels, 2, 3, targeted)
    (gradient,) = torch.autograd.grad(values.sum(), logits)
    assert (gradient.transpose(0, 1)[:, ignored] == 0).all()
    noise = 50 * torch.randn(logits.shape, generator=torch.Generator().manual_seed(1), dtype=logits.dtype)
    changed = (logits + noise * ignored[:, None]).detach().requires_grad_()
    other_values, other_right = OBJECTIVES[name].values_and_right(changed, labels, 2, 3, targeted)
    (other_gradient,) = torch.autograd.grad(other_values.sum(), changed)
    assert torch.equal(values, other_values) and torch.equal(right, other_right)
    assert torch.equal(gradient, other_gradient)


def test_above_255_classes_255_is_a_class():
    labels = torch.tensor([[[255, -100], [3, 255]]])
    for num_labels, counted in [(4, 1), (300, 3)]:
        logits = torch.randn(1, num_labels, 2, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
        values, right = cross_entropy.values_and_right(logits, labels)
        valid = counted_pixels(labels, num_labels)
        assert valid.sum() == counted
        losses = F.cross_entropy(logits, torch.where(valid, labels, -100), reduction="none", ignore_index=-100)
        torch.testing.assert_close(values[0], losses.sum() / counted)
        (gradient,) = torch.autograd.grad(values.sum(), logits)
        assert torch.equal((gradient != 0).any(dim=1), valid)


@pytest.mark.parametrize("targeted", [False, True])
def test_weights_are_those_of_the_authors_package(targeted):
    package = pytest.importorskip("cospgd", reason="the package cospgd of the extra robustness is not installed")
    for step, steps in [(1, 10), (4, 10), (10, 10)]:
        logits, labels = a_case((9, 7), (9, 7))
        # The package takes ignored pixels as 255 with a loss of 0, and only one image's mean at a time.
        labels[labels < 0] = 255
        logits, labels = logits[:1].detach().requires_grad_(), labels[:1]
        losses = F.cross_entropy(logits, labels, ignore_index=255, reduction="none")
        share = (labels != 255).double().mean()
        sign = -1 if targeted else 1
        by_segpgd = package.functions.segpgd_scale(logits, labels, losses, step - 1, steps, targeted)
        by_cospgd = package.functions.cospgd_scale(logits, labels, losses, logits.shape[1], targeted).mean()
        for objective, of_package in [(segpgd, by_segpgd), (cospgd, by_cospgd)]:
            expected = sign * of_package / share
            values = objective(logits, labels, step, steps, targeted)
            torch.testing.assert_close(values[0], expected, atol=1e-12, rtol=1e-9)
            (gradient,) = torch.autograd.grad(values.sum(), logits)
            (expected_gradient,) = torch.autograd.grad(expected, logits, retain_graph=True)
            torch.testing.assert_close(gradient, expected_gradient, atol=1e-12, rtol=1e-9)


def test_segpgd_moves_from_right_pixels_to_all():
    logits = torch.tensor([4.0, -4.0])[None, :, None, None].expand(1, 2, 1, 2)
    right, wrong = torch.zeros(1, 1, 2, dtype=torch.long), torch.ones(1, 1, 2, dtype=torch.long)
    for step, share in [(1, 0.0), (6, 0.25), (11, 0.5)]:
        torch.testing.assert_close(segpgd(logits, right, step, 10), (1 - share) * cross_entropy(logits, right))
        torch.testing.assert_close(segpgd(logits, wrong, step, 10), share * cross_entropy(logits, wrong))


def test_jensen_shannon_is_bounded_and_fades_on_wrong_pixels():
    logits = torch.tensor([[60.0, 0.0], [0.0, 60.0], [0.0, 0.0]])[:, :, None, None].requires_grad_()
    labels = torch.zeros(3, 1, 1, dtype=torch.long)
    values = jensen_shannon(logits, labels)
    expected = [0.0, math.log(2), math.log(2) + (0.5 * math.log(0.5) - 1.5 * math.log(1.5)) / 2]
    torch.testing.assert_close(values, torch.tensor(expected))
    (gradient,) = torch.autograd.grad(values.sum(), logits)
    assert gradient[:2].abs().max() < 1e-6 < gradient[2].abs().max()


@pytest.mark.parametrize("name", PIXEL_OBJECTIVES)
def test_a_confident_model_does_not_lose_the_gradient_to_rounding(name):
    # In float32 the softmax of the label is 1 at these margins, and its cross entropy as usually computed is 0.
    exact = torch.tensor([[30.0, 0.0, 1.0], [0.0, 25.0, 3.0]], dtype=torch.float64)[:, :, None, None]
    labels = torch.tensor([0, 1])[:, None, None]
    results = []
    for logits in (exact.requires_grad_(), exact.detach().float().requires_grad_()):
        values = OBJECTIVES[name](logits, labels)
        results.append((values.double(), torch.autograd.grad(values.sum(), logits)[0].double()))
    (values, gradient), (rounded, rounded_gradient) = results
    assert (values > 0).all()
    torch.testing.assert_close(rounded, values, atol=0, rtol=1e-4)
    torch.testing.assert_close(rounded_gradient, gradient, atol=0, rtol=1e-4)
    assert (F.cross_entropy(exact[:, :, 0, 0].float(), labels[:, 0, 0], reduction="none") < 1e-10).any()


def test_masks_leave_what_is_lost_alone_and_balance_makes_classes_equal():
    # One pixel of class 1, three of class 0, all right and all with the same loss; then one of class 0 is lost.
    logits = torch.zeros(1, 2, 1, 4, dtype=torch.float64)
    logits[0, 0, 0, :3] = logits[0, 1, 0, 3] = 1.0
    labels = torch.tensor([[[0, 0, 0, 1]]])
    loss = math.log(1 + math.exp(-1))
    assert masked_cross_entropy(logits, labels).item() == pytest.approx(loss)
    assert balanced_masked_cross_entropy(logits, labels).item() == pytest.approx(loss)
    logits[0, :, 0, 0] = torch.tensor([0.0, 5.0])
    assert masked_cross_entropy(logits, labels).item() == pytest.approx(loss * 3 / 4)
    assert balanced_masked_cross_entropy(logits, labels).item() == pytest.approx(loss * (1 / 2 + 1 / 2 * 2 / 3))


@pytest.mark.parametrize("targeted", [False, True])
def test_classification_is_one_pixel_an_image_and_255_is_a_class(targeted):
    logits = torch.randn(6, 300, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.tensor([255, 0, 299, 5, 17, 100])
    sign = -1 if targeted else 1
    values, right = cross_entropy.values_and_right(logits, labels, targeted=targeted)
    expected = sign * F.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(values, expected)
    assert torch.equal(right, (logits.argmax(1) == labels).long())
    gradients = [torch.autograd.grad(part.sum(), logits)[0] for part in (values, expected)]
    torch.testing.assert_close(*gradients)


def test_the_upsampled_logits_are_never_held(largest_allocation):
    logits = torch.randn(1, 150, 16, 16, requires_grad=True)
    labels = torch.randint(0, 150, (1, 384, 384))
    upsampled = 150 * 384 * 384 * logits.element_size()
    for objective in (cospgd, jensen_shannon):
        largest = largest_allocation(lambda objective=objective: objective(logits, labels).sum().backward())
        assert largest < upsampled / 16


def test_half_precision_is_summed_in_float32():
    logits, labels = a_case(dtype=torch.float32)
    half = logits.detach().half().requires_grad_()
    values = cross_entropy(half, labels)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values, cross_entropy(half.float(), labels))
    assert torch.autograd.grad(values.sum(), half)[0].dtype == torch.float16
