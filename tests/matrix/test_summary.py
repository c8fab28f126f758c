"""Tables of known numbers: which results are read, how they are averaged, and that no kinds are mixed."""

import csv
import json
import statistics
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrsegformer.errors import InputError
from lrsegformer.matrix.measures import cell_measures
from lrsegformer.matrix.summary import average, write_summary

TRAINED = {
    "eval_mean_iou": 0.5,
    "eval_overall_accuracy": 0.75,
    "lipschitz": {
        "head": {"bound": 2.0, "guaranteed": True, "norm": "of the features"},
        "network": {"bound": None, "guaranteed": False},
    },
}
ROBUSTNESS = {
    "rows": [
        {"kind": "clean", "condition": "clean", "mean_iou": 0.5},
        {"kind": "attack", "condition": "pgd-linf-1", "mean_iou": 0.25},
        {"kind": "corruption", "condition": "fog-3", "mean_iou": 0.375},
    ],
    "corruption_summary": [{"score": "mIoU", "source": "in memory", "mean": 0.375}],
    "reliability": [{"model": "m", "expected_calibration_error": 0.125, "train_validation_gap": {"mean_iou": 0.0625}}],
}
CERTIFIED = {
    "rows": [
        {
            **{"method": "proven", "reach": "network", "norm": "l2", "radius": 36 / 255},
            **{"certified_mean_iou": 0.125, "certified_accuracy": 0.5, "attacked": {"pgd": {"mean_iou": 0.25}}},
        },
        {
            **{"method": "smoothing", "reach": "smoothed network", "norm": "l2", "radius": 0.5},
            **{"certified_mean_iou": 0.0625, "certified_accuracy": None, "attacked": {}},
        },
        {"method": "none", "reach": None, "norm": "l2", "radius": 1.0, "attacked": {}},
    ]
}
EVALUATED = {"protocols": {"whole": {"original": {"mean_iou": 0.5}}, "slide": {"original": {"mean_iou": 0.75}}}}


def entry(folder: Path, seed: int, status: str = "done", strategy: str | None = None, **files: dict) -> dict:
    """An entry of `matrix.json`, and what its steps have left."""
    name = f"segmentation-{strategy or 'baseline'}-seed{seed}"
    commands = {"train": "all_results.json", "robustness": "results.json", "certify": "results.json"}
    commands["evaluate"] = "evaluation.json"
    for step, content in files.items():
        file = folder / name / ("" if step == "train" else step) / commands[step]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content))
    coordinates = {"task": "segmentation", "variant": "baseline", "strategy": strategy, "scope": None}
    coordinates |= {"lambda_lip": None, "variation": None, "seed": seed}
    steps = {step: {"command": step, "status": status} for step in files}
    return {"name": name, "folder": name, "status": status, "error": "why", "steps": steps, **coordinates}


def lines(folder: Path) -> list[dict[str, str]]:
    with open(folder / "summary.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_every_file_of_results_is_read(tmp_path):
    one = entry(tmp_path, 0, train=TRAINED, robustness=ROBUSTNESS, certify=CERTIFIED, evaluate=EVALUATED)
    found = {(m.source, m.condition, m.score, m.kind): m.value for m in cell_measures(tmp_path, one)}
    assert found == {
        ("train", "", "mean_iou", "measured"): 0.5,
        ("train", "", "overall_accuracy", "measured"): 0.75,
        ("train", "of the features", "bound of the head", "proven"): 2.0,
        ("robustness", "clean", "mean_iou", "measured"): 0.5,
        ("robustness", "pgd-linf-1", "mean_iou", "estimated by attack"): 0.25,
        ("robustness", "fog-3", "mean_iou", "measured"): 0.375,
        ("robustness", "mean of corruptions (in memory)", "mean_iou", "measured"): 0.375,
        ("robustness", "reliability", "expected_calibration_error", "measured"): 0.125,
        ("robustness", "reliability", "train_validation_gap of mean_iou", "measured"): 0.0625,
        ("certify", "pgd, l2 36/255", "mean_iou", "estimated by attack"): 0.25,
        ("certify", "certified, l2 36/255", "mean_iou", "proven"): 0.125,
        ("certify", "certified, l2 36/255", "accuracy", "proven"): 0.5,
        ("certify", "certified (smoothed network), l2 127.5/255", "mean_iou", "with probability"): 0.0625,
        ("evaluate", "whole, original", "mean_iou", "measured"): 0.5,
        ("evaluate", "slide, original", "mean_iou", "measured"): 0.75,
    }


def test_an_unfinished_step_and_a_lost_file_have_no_numbers(tmp_path):
    assert cell_measures(tmp_path, entry(tmp_path, 0, "pending", train=TRAINED)) == []
    one = entry(tmp_path, 1, train=TRAINED)
    (tmp_path / one["folder"] / "all_results.json").unlink()
    assert cell_measures(tmp_path, one) == []


def test_a_spoilt_file_is_named(tmp_path):
    one = entry(tmp_path, 0, train=TRAINED)
    (tmp_path / one["folder"] / "all_results.json").write_text("{")
    with pytest.raises(InputError, match=r"all_results\.json cannot be read"):
        write_summary(tmp_path, [one])


def test_mean_spread_and_number_of_seeds(tmp_path):
    scores = {0: 0.2, 1: 0.4, 2: 0.9}
    found = [entry(tmp_path, seed, train={"eval_mean_iou": score}) for seed, score in scores.items()]
    found += [entry(tmp_path, 0, strategy="orthogonal", train={"eval_mean_iou": 0.25})]
    found += [entry(tmp_path, 1, "failed", strategy="orthogonal", train={"eval_mean_iou": 0.75})]
    write_summary(tmp_path, found)
    three, single = lines(tmp_path)
    assert (three["n"], three["seeds"], single["n"], single["spread"]) == ("3", "0 1 2", "1", "")
    assert float(three["mean"]) == pytest.approx(0.5)
    assert float(three["spread"]) == pytest.approx(statistics.stdev(scores.values()))
    text = (tmp_path / "summary.md").read_text()
    assert "| segmentation-baseline | 3 | 0.5 ± 0.36 |" in text and "| segmentation-orthogonal | 1 | 0.25 |" in text
    assert "4 of 5 cells are finished" in text and "| segmentation-orthogonal-seed1 | why |" in text


def test_what_is_not_finished_has_no_rows(tmp_path):
    write_summary(tmp_path, [entry(tmp_path, 0, "pending", train=TRAINED)])
    assert "No cell is finished." in (tmp_path / "summary.md").read_text() and lines(tmp_path) == []
    write_summary(tmp_path, [entry(tmp_path, 0, train=TRAINED), entry(tmp_path, 0, "pending", "orthogonal", train={})])
    text = (tmp_path / "summary.md").read_text()
    assert "| segmentation-baseline | 1 |" in text and "segmentation-orthogonal" not in text


def test_scores_of_fewer_seeds_say_so(tmp_path):
    first = entry(tmp_path, 0, train={"eval_mean_iou": 0.5, "eval_f1": 0.25})
    write_summary(tmp_path, [first, entry(tmp_path, 1, train={"eval_mean_iou": 0.5})])
    assert "| segmentation-baseline | 2 | 0.5 ± 0 | 0.25 (n = 1) |" in (tmp_path / "summary.md").read_text()


def test_proven_numbers_have_columns_of_their_own(tmp_path):
    write_summary(tmp_path, [entry(tmp_path, 0, train=TRAINED, certify=CERTIFIED, robustness=ROBUSTNESS)])
    text = (tmp_path / "summary.md").read_text()
    assert "| configuration | n | mean_iou | overall_accuracy |" in text
    assert "### Proven bounds" in text and "bound of the head, of the features" in text
    assert "certified, l2 36/255 (proven) |" in text and "pgd, l2 36/255 (estimated by attack)" in text
    assert "fog-3" not in text and "fog-3" in (tmp_path / "summary.csv").read_text()


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=6), st.floats(-10, 10))
def test_the_average_moves_with_its_values_and_the_spread_does_not(values, shift):
    before, after = average(values), average([value + shift for value in values])
    assert after.mean == pytest.approx(before.mean + shift, abs=1e-9)
    assert after.spread == pytest.approx(before.spread, abs=1e-9)
    assert min(values) - 1e-9 <= before.mean <= max(values) + 1e-9
