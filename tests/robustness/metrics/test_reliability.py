"""Calibration from sums, the slope of maps with a known norm, and the gap."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from lrsegformer.errors import InputError
from lrsegformer.evaluation import predict_classes
from lrsegformer.robustness.metrics.local_lipschitz import local_lipschitz_estimate
from lrsegformer.robustness.metrics.reliability import CalibrationBins, train_validation_gap


def plain_ece(probabilities, labels, num_bins):
    """Mean over bins of |accuracy - confidence|, from all predictions at once; `probabilities` is (n, classes)."""
    confidences, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    error = 0.0
    for lower, upper in zip(np.arange(num_bins) / num_bins, np.arange(1, num_bins + 1) / num_bins, strict=True):
        inside = (confidences > lower) & (confidences <= upper)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidences[inside].mean())
    return error


@given(
    seed=st.integers(0, 2**32 - 1),
    batch=st.integers(1, 3),
    num_labels=st.integers(2, 6),
    source=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    num_bins=st.sampled_from([1, 10, 15]),
)
def test_ece_of_pixels_equals_a_computation_on_all_of_them(seed, batch, num_labels, source, size, num_bins):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(batch, num_labels, *source, generator=generator)
    labels = torch.randint(0, num_labels, (batch, *size), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = 255
    labels[torch.rand(labels.shape, generator=generator) < 0.1] = -100
    valid = (labels >= 0) & (labels != 255)
    bins = CalibrationBins(ignore_index=255, num_bins=num_bins)
    bins.add_batch(logits[:1], labels[:1].to(torch.int16))
    bins.add_batch(logits[1:], labels[1:])
    scores = bins.compute()
    if not valid.any():
        assert scores["num_predictions"] == 0 and math.isnan(scores["expected_calibration_error"])
        return
    upsampled = functional.interpolate(logits.double(), size=size, mode="bilinear", align_corners=False)
    probabilities = upsampled.softmax(dim=1).permute(0, 2, 3, 1)[valid].numpy()
    true = labels[valid].numpy()
    assert scores["num_predictions"] == len(true) == sum(scores["bin_counts"])
    assert scores["expected_calibration_error"] == pytest.approx(plain_ece(probabilities, true, num_bins), abs=1e-5)
    assert scores["accuracy"] == pytest.approx((probabilities.argmax(axis=1) == true).mean())
    assert scores["mean_confidence"] == pytest.approx(probabilities.max(axis=1).mean(), abs=1e-5)


@pytest.mark.parametrize("segmentation", [False, True])
def test_a_calibrated_sample_has_no_error(segmentation):
    generator = torch.Generator().manual_seed(3)
    logits = 2 * torch.randn(200_000, 4, generator=generator)
    labels = torch.multinomial(logits.softmax(dim=1), 1, generator=generator)[:, 0]
    bins, sharpened = CalibrationBins(), CalibrationBins()
    if segmentation:
        logits, labels = logits.T.reshape(1, 4, 400, 500), labels.view(1, 400, 500)
    bins.add_batch(logits, labels)
    sharpened.add_batch(3 * logits, labels)
    # 15 bins of 200 000 draws: the error that chance leaves is about sqrt(15 / 200 000) / 2.
    assert bins.compute()["expected_calibration_error"] < 0.006
    assert abs(bins.compute()["overconfidence"]) < 0.004
    assert sharpened.compute()["expected_calibration_error"] > 0.1
    assert sharpened.compute()["overconfidence"] > 0.1


def test_bins_by_hand():
    bins = CalibrationBins(num_bins=2)
    # Confidence 1/2 belongs to the lower bin, and a class called 255 counts where nothing is ignored.
    bins.add_batch(torch.tensor([[0.0, 0.0], [9.0, 0.0]]), torch.tensor([0, 1]))
    scores = bins.compute()
    high = 1 / (1 + math.exp(-9))
    assert scores["bin_counts"] == [1, 1] and scores["bin_accuracies"] == [1.0, 0.0]
    assert scores["expected_calibration_error"] == pytest.approx((0.5 + high) / 2)
    twin = CalibrationBins(num_bins=2)
    twin.add_sums(bins.sums)
    assert twin.compute() == scores
    many = CalibrationBins()
    many.add_batch(torch.eye(300)[[255]] * 50, torch.tensor([255]))
    assert many.compute()["accuracy"] == 1.0


def test_memory_does_not_grow_with_the_pixels(largest_allocation):
    bins = CalibrationBins(ignore_index=255)
    logits = torch.randn(1, 150, 32, 32)

    def count(side):
        labels = torch.zeros(1, side, side, dtype=torch.uint8)
        return largest_allocation(lambda: bins.add_batch(logits, labels))

    # All upsampled logits would be 150 x 512 x 512 x 4 bytes = 157 MB.
    assert count(512) < 8 * 2**20
    assert bins.sums.shape == (3, 15) and bins.compute()["num_predictions"] == 512**2


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(2, 4, 4).long(), "do not fit"),
        (torch.zeros(2, 3, 4, 4), torch.zeros(1, 4, 4).long(), "do not fit"),
        (torch.full((1, 3), math.nan), torch.zeros(1).long(), "not finite"),
        (torch.full((1, 3, 2, 2), math.inf), torch.zeros(1, 4, 4).long(), "not finite"),
        (torch.zeros(2, 300), torch.zeros(2).long(), "ignore_index 255 is one of the 300 classes"),
    ],
)
def test_bad_logits_get_one_line(logits, labels, message):
    with pytest.raises(InputError, match=message) as caught:
        CalibrationBins(ignore_index=255).add_batch(logits, labels)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: CalibrationBins(num_bins=0), "num_bins is 0"),
        (lambda: CalibrationBins().add_sums(torch.zeros(3, 4)), "these bins need"),
        (lambda: local_lipschitz_estimate(torch.neg, torch.zeros(1, 2), radius=0.0), "radius 0.0"),
        (lambda: local_lipschitz_estimate(torch.neg, torch.zeros(1, 2), iterations=0), "0 iterations"),
    ],
)
def test_bad_input_gets_one_line(call, message):
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 12), columns=st.integers(1, 12))
def test_the_estimate_of_a_linear_map_is_its_norm(seed, rows, columns):
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(rows, columns, dtype=torch.float64, generator=generator)
    inputs = torch.rand(3, columns, dtype=torch.float64, generator=generator)
    norm = float(torch.linalg.matrix_norm(matrix, 2))
    estimate = local_lipschitz_estimate(lambda points: points @ matrix.T + 1, inputs, iterations=150)
    assert estimate.shape == (3,) and (estimate <= norm * (1 + 1e-9)).all()
    assert (estimate >= 0.99 * norm).all()


def test_the_estimate_depends_on_each_sample_alone():
    def bend(points):
        return torch.sin(3 * points.flatten(1)) @ torch.linspace(-1, 1, 48 * 5).view(48, 5).to(points)

    inputs = torch.rand(4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    together = local_lipschitz_estimate(bend, inputs)
    alone = torch.cat([local_lipschitz_estimate(bend, image[None]) for image in inputs])
    assert torch.allclose(together, alone, rtol=1e-5)
    exact = [
        float(torch.linalg.matrix_norm(torch.autograd.functional.jacobian(bend, image[None]).view(5, 48), 2))
        for image in inputs
    ]
    # At a small radius the slopes are those of the Jacobian.
    assert local_lipschitz_estimate(bend, inputs.double(), iterations=50, radius=1e-4).tolist() == pytest.approx(
        exact, rel=0.01
    )
    assert (together <= 3 * torch.linalg.matrix_norm(torch.linspace(-1, 1, 240).view(48, 5), 2) * 1.0001).all()


def test_a_flat_map_has_slope_zero():
    estimate = local_lipschitz_estimate(lambda points: 0 * points, torch.rand(2, 3, 8, 8))
    assert estimate.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_a_model_is_measured_and_left_as_it_was(make_model, task):
    model = make_model("stable_softplus", task=task)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    few, many = (
        local_lipschitz_estimate(lambda batch: model(pixel_values=batch).logits, images, iterations)
        for iterations in (1, 15)
    )
    assert (many >= few).all() and (many > 1.5 * few).any() and torch.isfinite(many).all()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_calibration_and_predictions_agree_on_a_model(make_model):
    model = make_model()
    with torch.no_grad():
        logits = model(pixel_values=torch.rand(2, 3, 64, 64)).logits
    labels = predict_classes(logits, (50, 70)).long()
    bins = CalibrationBins(ignore_index=255)
    bins.add_batch(logits, labels)
    assert bins.compute()["accuracy"] == 1.0


def test_gap():
    train = {"mean_iou": 0.75, "per_category_iou": [0.5, 1.0], "only_here": 1.0}
    assert train_validation_gap(train, {"mean_iou": 0.5, "per_category_iou": [0.5, 0.5]}) == {"mean_iou": 0.25}
