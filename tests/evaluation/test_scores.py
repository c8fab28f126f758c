"""Scores against independent definitions: evaluate's mean_iou written out anew, and scikit-learn."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lrsegformer.errors import InputError
from lrsegformer.evaluation import confusion_counts, scores_from_counts

SCALARS = ("accuracy", "precision", "recall", "f1", "matthews_correlation")
SEGMENTATION_SCALARS = ("mean_iou", "mean_accuracy", "overall_accuracy", *SCALARS)


def scores_of(predictions, references, num_labels, ignore_index=255, task="segmentation"):
    predictions, references = torch.as_tensor(predictions), torch.as_tensor(references)
    return scores_from_counts(confusion_counts(predictions, references, num_labels, ignore_index), task)


def mean_iou_by_definition(predictions, references, num_labels, ignore_index):
    """Areas of one class at a time, by comparing maps; no table of pairs anywhere."""
    valid = (references != ignore_index) & (references >= 0)
    predictions, references = predictions[valid], references[valid]
    iou, accuracy = [], []
    right = labelled = 0
    for label in range(num_labels):
        predicted, true = predictions == label, references == label
        intersection, union = (predicted & true).sum(), (predicted | true).sum()
        iou.append(intersection / union if union else math.nan)
        accuracy.append(intersection / true.sum() if true.sum() else math.nan)
        right, labelled = right + intersection, labelled + true.sum()
    return {
        "mean_iou": np.nanmean(iou),
        "mean_accuracy": np.nanmean(accuracy),
        "overall_accuracy": right / labelled,
        "per_category_iou": iou,
        "per_category_accuracy": accuracy,
    }


def random_maps(seed, num_labels, size=400):
    """Maps that agree now and then, with void pixels and classes that never occur."""
    rng = np.random.default_rng(seed)
    occurring = rng.choice(num_labels, size=rng.integers(1, num_labels + 1), replace=False)
    references, predictions = rng.choice(occurring, size), rng.choice(occurring, size)
    predictions = np.where(rng.random(size) < 0.5, references, predictions)
    references = np.where(rng.random(size) < 0.2, 255, references)
    references = np.where(rng.random(size) < 0.1, -100, references)
    return predictions, references


@pytest.mark.parametrize("seed", range(30))
def test_random_maps_agree_with_the_definition_of_mean_iou(seed):
    num_labels = 1 + seed % 13
    predictions, references = random_maps(seed, num_labels)
    scores = scores_of(predictions, references, num_labels)
    for key, expected in mean_iou_by_definition(predictions, references, num_labels, 255).items():
        np.testing.assert_allclose(scores[key], expected, rtol=1e-12, err_msg=key)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("task", ["segmentation", "classification"])
@pytest.mark.parametrize("seed", range(15))
def test_random_maps_agree_with_scikit_learn(seed, task):
    metrics = pytest.importorskip("sklearn.metrics")
    num_labels = 2 + seed % 9
    predictions, references = random_maps(seed, num_labels)
    scores = scores_of(predictions, references, num_labels, task=task)
    valid = (references >= 0) & (references != 255)
    truth, predicted = references[valid], predictions[valid]
    macro = {"average": "macro", "zero_division": 0}
    assert scores["accuracy"] == pytest.approx(metrics.accuracy_score(truth, predicted), rel=1e-12)
    assert scores["precision"] == pytest.approx(metrics.precision_score(truth, predicted, **macro), rel=1e-12)
    assert scores["recall"] == pytest.approx(metrics.recall_score(truth, predicted, **macro), rel=1e-12)
    assert scores["f1"] == pytest.approx(metrics.f1_score(truth, predicted, **macro), rel=1e-12)
    if len(np.unique(truth)) > 1:
        expected = metrics.matthews_corrcoef(truth, predicted)
        assert scores["matthews_correlation"] == pytest.approx(expected, rel=1e-9, abs=1e-12)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 6) | st.just(255) | st.just(-100), min_size=1, max_size=40))
def test_a_perfect_prediction_scores_exactly_one(labels):
    references = torch.tensor(labels)
    scores = scores_of(references.clamp(0, 6), references, 7)
    for key in SEGMENTATION_SCALARS:
        if (references >= 0).logical_and(references != 255).any():
            assert scores[key] == 1.0, key
        else:
            assert math.isnan(scores[key]), key


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_scores_stay_in_range_and_do_not_depend_on_class_numbering(data):
    num_labels = data.draw(st.integers(1, 6))
    cell = st.integers(0, 5) | st.integers(0, 10**12)
    rows = st.lists(cell, min_size=num_labels, max_size=num_labels)
    table = np.array(data.draw(st.lists(rows, min_size=num_labels, max_size=num_labels)), dtype=np.int64)
    table[0, 0] += 1
    order = data.draw(st.permutations(range(num_labels)))
    scores, renumbered = scores_from_counts(table), scores_from_counts(table[np.ix_(order, order)])
    for key in SEGMENTATION_SCALARS:
        assert (-1 if key == "matthews_correlation" else 0) - 1e-12 <= scores[key] <= 1 + 1e-12
        assert renumbered[key] == pytest.approx(scores[key], rel=1e-9, abs=1e-12), key
    iou, accuracy = np.array(scores["per_category_iou"]), np.array(scores["per_category_accuracy"])
    assert not (iou > accuracy).any()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_ignored_pixels_change_nothing_whatever_was_predicted_there(data):
    size = data.draw(st.integers(1, 30))
    references = torch.tensor(data.draw(st.lists(st.integers(0, 3), min_size=size, max_size=size)))
    predictions = torch.tensor(data.draw(st.lists(st.integers(0, 3), min_size=size, max_size=size)))
    junk = torch.tensor(data.draw(st.lists(st.integers(-300, 300), min_size=8, max_size=8)))
    ignored = torch.tensor(data.draw(st.lists(st.sampled_from([255, -100, -1]), min_size=8, max_size=8)))
    expected = confusion_counts(predictions, references, 4)
    assert expected.sum() == size
    assert torch.equal(confusion_counts(torch.cat([predictions, junk]), torch.cat([references, ignored]), 4), expected)


@pytest.mark.parametrize("prediction_dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize("reference_dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize("ignore_index", [255, 200, 150, -1, None])
def test_every_integer_type_counts_alike(prediction_dtype, reference_dtype, ignore_index):
    generator = torch.Generator().manual_seed(0)
    predictions = torch.randint(0, 150, (2, 9, 7), generator=generator)
    references = torch.randint(0, 150, (2, 9, 7), generator=generator)
    if ignore_index is not None and ignore_index >= 0:
        references[0, :2] = ignore_index
    expected = torch.zeros(150, 150, dtype=torch.int64)
    for reference, prediction in zip(references.flatten().tolist(), predictions.flatten().tolist(), strict=True):
        if reference < 150:
            expected[reference, prediction] += 1
    counts = confusion_counts(predictions.to(prediction_dtype), references.to(reference_dtype), 150, ignore_index)
    assert counts.dtype == torch.int64
    assert torch.equal(counts, expected)


def test_absent_classes_do_not_count():
    # Class 2 never occurs; class 1 is predicted once but never true.
    scores = scores_of([0, 0, 0, 1], [0, 0, 0, 0], 3)
    assert scores["per_category_iou"][:2] == [0.75, 0.0]
    assert math.isnan(scores["per_category_iou"][2])
    assert scores["mean_iou"] == 0.375
    assert scores["per_category_accuracy"][0] == 0.75
    assert math.isnan(scores["per_category_accuracy"][1])
    assert scores["mean_accuracy"] == 0.75
    assert scores["precision"] == 0.5
    assert scores["recall"] == 0.375


def test_nothing_valid_is_nan_and_not_zero():
    scores = scores_of([0, 1], [255, -100], 2)
    assert all(math.isnan(scores[key]) for key in SEGMENTATION_SCALARS)
    assert all(math.isnan(value) for value in scores["per_category_iou"] + scores["per_category_accuracy"])


def test_a_constant_prediction_has_no_correlation():
    assert scores_of([1, 1, 1, 1], [0, 1, 1, 2], 3)["matthews_correlation"] == 0.0


def test_counts_larger_than_an_int64_square():
    """The correlation multiplies totals: 2,000 images of a megapixel pass 2**63."""
    table = np.array([[3, 1], [1, 3]]) * 10**9
    assert scores_from_counts(table)["matthews_correlation"] == pytest.approx(0.5, rel=1e-12)


def test_classification_has_its_five_scores():
    assert set(scores_of([0, 1], [0, 1], 2, task="classification")) == set(SCALARS)
    with pytest.raises(InputError, match="detection"):
        scores_of([0], [0], 2, task="detection")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_values_outside_the_classes_are_refused(dtype):
    with pytest.raises(InputError, match=r"references hold the value 7, outside the 5 classes"):
        confusion_counts(torch.tensor([1, 2], dtype=dtype), torch.tensor([1, 7], dtype=dtype), 5)
    with pytest.raises(InputError, match=r"references hold the value 5, outside the 5 classes"):
        confusion_counts(torch.tensor([1, 2], dtype=dtype), torch.tensor([1, 5], dtype=dtype), 5)
    with pytest.raises(InputError, match=r"predictions hold the value 5"):
        confusion_counts(torch.tensor([1, 5], dtype=dtype), torch.tensor([1, 1], dtype=dtype), 5)
    with pytest.raises(InputError, match=r"predictions hold the value -100"):
        confusion_counts(torch.tensor([-100]), torch.tensor([1]), 5)


def test_an_ignore_index_that_is_a_class_is_refused():
    for num_labels, ignore_index in [(150, 0), (1000, 255), (256, 255)]:
        with pytest.raises(InputError, match="is one of the"):
            confusion_counts(torch.tensor([1]), torch.tensor([1]), num_labels, ignore_index)
    assert confusion_counts(torch.tensor([255]), torch.tensor([255]), 1000, None)[255, 255] == 1


def test_inputs_that_are_no_class_maps_are_refused():
    with pytest.raises(InputError, match="do not match"):
        confusion_counts(torch.zeros(2, 3, dtype=torch.uint8), torch.zeros(3, 2, dtype=torch.uint8), 2)
    with pytest.raises(InputError, match="argmax"):
        confusion_counts(torch.zeros(2), torch.zeros(2, dtype=torch.uint8), 2)
    with pytest.raises(InputError, match="at least one class"):
        confusion_counts(torch.tensor([1]), torch.tensor([1]), 0)
