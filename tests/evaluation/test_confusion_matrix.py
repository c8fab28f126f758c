"""The confusion matrix as a metric of `evaluate`: streaming, offline, safe from reducing labels twice."""

import copy
import pickle
import subprocess
import sys

import evaluate
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lrsegformer.errors import InputError
from lrsegformer.evaluation import ConfusionMatrix, confusion_counts, scores_from_counts


@pytest.fixture
def maps():
    rng = np.random.default_rng(0)
    references = rng.integers(0, 5, (6, 8, 9))
    predictions = np.where(rng.random(references.shape) < 0.6, references, rng.integers(0, 5, references.shape))
    return predictions.astype(np.uint8), np.where(rng.random(references.shape) < 0.1, 255, references).astype(np.uint8)


def expected_of(predictions, references, num_labels=5):
    return scores_from_counts(confusion_counts(torch.tensor(predictions), torch.tensor(references), num_labels))


@pytest.mark.parametrize("prediction_type", [np.uint8, np.int16, np.int32, np.int64])
@pytest.mark.parametrize("reference_type", [np.uint8, np.int16, np.int64])
@pytest.mark.parametrize(("num_labels", "ignore_index"), [(150, 255), (256, None), (300, -100), (300, 1000)])
def test_counts_equal_a_plain_loop(prediction_type, reference_type, num_labels, ignore_index):
    rng = np.random.default_rng(0)
    largest = min(num_labels, 1 + np.iinfo(reference_type).max, 1 + np.iinfo(prediction_type).max)
    references, predictions = rng.integers(0, largest, (2, 3, 20, 30))
    if ignore_index is not None and np.iinfo(reference_type).min <= ignore_index <= np.iinfo(reference_type).max:
        references[0, :4] = ignore_index
    if reference_type is not np.uint8:
        references[1, 0] = -1
    expected = np.zeros((num_labels, num_labels), dtype=np.int64)
    for reference, prediction in zip(references.ravel().tolist(), predictions.ravel().tolist(), strict=True):
        if reference >= 0 and reference != ignore_index:
            expected[reference, prediction] += 1
    metric = ConfusionMatrix(num_labels, ignore_index)
    for part in (slice(0, 1), slice(1, 3)):
        metric.add_batch(
            predictions=predictions[part].astype(prediction_type), references=references[part].astype(reference_type)
        )
    assert metric.counts.dtype == torch.int64
    assert np.array_equal(metric.counts.numpy(), expected)


def test_it_is_a_metric_of_evaluate(maps):
    metric = ConfusionMatrix(5)
    assert isinstance(metric, evaluate.Metric)
    assert metric.name == "confusion_matrix"
    assert "predictions" in repr(metric)
    assert metric.compute(predictions=maps[0], references=maps[1]) == expected_of(*maps)


def test_compute_starts_anew_and_adds_what_it_is_given(maps):
    predictions, references = maps
    metric = ConfusionMatrix(5)
    metric.add_batch(predictions=predictions[:2], references=references[:2])
    assert metric.compute(predictions=predictions[2:], references=references[2:]) == expected_of(*maps)
    assert metric.counts.sum() == 0
    assert np.isnan(metric.compute()["mean_iou"])


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_scores_do_not_depend_on_the_split_into_batches(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    references, predictions = rng.integers(0, 4, (7, 5)), rng.integers(0, 4, (7, 5))
    cuts = sorted(data.draw(st.lists(st.integers(0, 7), max_size=4)))
    whole, split = ConfusionMatrix(4), ConfusionMatrix(4)
    whole.add_batch(predictions=predictions, references=references)
    for start, end in zip([0, *cuts], [*cuts, 7], strict=True):
        split.add_batch(predictions=predictions[start:end], references=references[start:end])
    assert torch.equal(whole.counts, split.counts)


@pytest.mark.parametrize(
    "convert",
    [
        lambda maps: maps,
        lambda maps: maps.tolist(),
        lambda maps: list(maps),
        lambda maps: torch.from_numpy(maps),
        lambda maps: list(torch.from_numpy(maps)),
        lambda maps: [Image.fromarray(one) for one in maps],
        lambda maps: maps.astype(np.uint16),
        lambda maps: np.asfortranarray(maps),
        lambda maps: maps[:, ::-1][:, ::-1],
    ],
    ids=["array", "nested", "arrays", "tensor", "tensors", "images", "uint16", "fortran", "reversed"],
)
def test_containers(maps, convert):
    metric = ConfusionMatrix(5)
    for predictions, references in [(convert(maps[0]), convert(maps[1])), (convert(maps[0]), maps[1])]:
        assert metric.compute(predictions=predictions, references=references) == expected_of(*maps)
    assert metric.compute(predictions=maps[0][:1], references=convert(maps[1][:1])) == expected_of(
        maps[0][:1], maps[1][:1]
    )


def test_maps_of_different_sizes_and_single_examples(maps):
    predictions, references = maps
    ragged = [(predictions[0], references[0]), (predictions[1, :3], references[1, :3])]
    metric, one_by_one = ConfusionMatrix(5), ConfusionMatrix(5)
    metric.add_batch(predictions=[p for p, _ in ragged], references=[r for _, r in ragged])
    for prediction, reference in ragged:
        one_by_one.add(prediction=prediction, reference=reference)
    assert torch.equal(metric.counts, one_by_one.counts)
    with pytest.raises(InputError, match="do not match"):
        metric.add_batch(predictions=[predictions[0]], references=[references[0, :3]])
    with pytest.raises(InputError, match="do not match"):
        metric.add_batch(predictions=list(predictions), references=list(references[:2]))


def test_class_numbers_of_images():
    metric = ConfusionMatrix(1000, ignore_index=None, task="classification")
    metric.add_batch(predictions=[255, 3, 999], references=torch.tensor([255, 3, 999]))
    metric.add(prediction=np.int64(7), reference=8)
    assert metric.compute()["accuracy"] == 0.75
    with pytest.raises(InputError, match="integers"):
        metric.add_batch(predictions=[0.5, 1.0], references=[0, 1])
    metric.add_batch(predictions=[], references=[])
    assert metric.counts.sum() == 0


def test_combine_calls_it_like_any_metric(maps):
    predictions, references = maps
    combined = evaluate.combine({"first": ConfusionMatrix(5), "second": ConfusionMatrix(5)})
    combined.add_batch(predictions=predictions[:3], references=references[:3])
    for prediction, reference in zip(predictions[3:], references[3:], strict=True):
        combined.add(prediction=prediction, reference=reference)
    scores = combined.compute()
    assert scores["first_mean_iou"] == scores["second_mean_iou"] == expected_of(*maps)["mean_iou"]


def test_an_evaluator_takes_it():
    """The scoring step of an evaluator; its preparation of pipelines asks for TensorFlow classes that are gone."""
    from datasets import Dataset

    metric_inputs = {
        "references": Dataset.from_dict({"label": [0, 1, 1, 1]})["label"],
        "predictions": [1, 1, 1, 1],
    }
    evaluator = evaluate.evaluator("image-classification")
    metric = evaluator.prepare_metric(ConfusionMatrix(2, task="classification"))
    assert evaluator.compute_metric(metric=metric, metric_inputs=metric_inputs)["accuracy"] == 0.75


def test_labels_cannot_be_reduced_a_second_time():
    """The call of the stock example scripts: labels reduced by the data set, then again, with class 0 ignored."""
    references = np.array([[0, 1, 2, 255]])
    metric = ConfusionMatrix(3)
    with pytest.raises(InputError, match="reduced once"):
        metric.compute(predictions=references, references=references, reduce_labels=True)
    with pytest.raises(InputError, match="ignore_index=0"):
        metric.compute(predictions=references, references=references, ignore_index=0)
    with pytest.raises(InputError, match="is one of the 3 classes"):
        ConfusionMatrix(3, ignore_index=0)
    scores = metric.compute(
        predictions=references, references=references, num_labels=3, ignore_index=255, reduce_labels=False
    )
    assert scores["mean_iou"] == scores["overall_accuracy"] == 1.0


def test_a_wrong_batch_leaves_the_counts_alone():
    metric = ConfusionMatrix(3)
    with pytest.raises(InputError, match="outside the 3 classes"):
        metric.add_batch(predictions=[np.array([0]), np.array([0])], references=[np.array([0]), np.array([3])])
    assert metric.counts.sum() == 0
    with pytest.raises(InputError, match="both"):
        metric.add_batch(predictions=[0])
    with pytest.raises(InputError, match="sample_weight"):
        metric.add_batch(predictions=[0], references=[0], sample_weight=[1])


def test_counts_of_several_processes_add_up(maps):
    metric = ConfusionMatrix(5)
    for part in (slice(0, 2), slice(2, 6)):
        metric.add_counts(confusion_counts(torch.tensor(maps[0][part]), torch.tensor(maps[1][part]), 5))
    assert metric.compute() == expected_of(*maps)
    with pytest.raises(InputError, match="shape"):
        metric.add_counts(torch.zeros(4, 4, dtype=torch.int64))
    with pytest.raises(InputError, match="integers"):
        metric.add_counts(np.zeros((5, 5)))


def test_copies_and_pickles_are_independent():
    metric = ConfusionMatrix(2)
    metric.add(prediction=1, reference=1)
    for twin in (copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))):
        twin.add(prediction=1, reference=0)
        assert twin.compute()["accuracy"] == 0.5
    assert metric.compute()["accuracy"] == 1.0


@pytest.mark.slow
def test_nothing_heavy_is_imported_early_and_nothing_is_written_or_fetched(tmp_path):
    script = (
        "import socket, sys\n"
        "def refuse(*arguments): raise AssertionError('network')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "import lrsegformer.evaluation, lrsegformer.hub.card\n"
        "heavy = {'evaluate', 'datasets', 'matplotlib', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "metric = lrsegformer.evaluation.ConfusionMatrix(2)\n"
        "metric.add_batch(predictions=[0, 1], references=[0, 1])\n"
        "assert metric.compute()['mean_iou'] == 1.0\n"
    )
    environment = {
        "HF_HOME": str(tmp_path / "hub"),
        "HOME": str(tmp_path),
        "PYTHONPATH": ":".join(filter(None, sys.path)),
    }
    subprocess.run([sys.executable, "-c", script], check=True, env=environment, cwd=tmp_path)
    written = [path for path in tmp_path.rglob("*") if path.suffix in (".arrow", ".lock") or "metrics" in path.parts]
    assert written == []


def test_real_masks_scored_against_themselves(real_data):
    """ADE20K's encoding, reduced once: a perfect prediction scores 1, void pixels left out."""
    metric = ConfusionMatrix(150)
    void = 0
    for path in sorted((real_data / "ade20k_150_pairs" / "annotations").rglob("*.png")):
        raw = np.asarray(Image.open(path))
        reduced = np.where(raw == 0, 255, raw - 1).astype(np.uint8)
        void += int((raw == 0).sum())
        metric.add(prediction=np.where(raw == 0, 149, reduced).astype(np.uint8), reference=reduced)
    assert void > 0
    scores = metric.compute()
    assert scores["mean_iou"] == scores["matthews_correlation"] == scores["f1"] == 1.0
