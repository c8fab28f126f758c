"""Rows, summaries, tables and pictures from cells that are written by hand, so that every number is known."""

import csv
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from lrsegformer.evaluation.picture_parts import read_parts
from lrsegformer.robustness.bench.arguments import RobustnessArguments
from lrsegformer.robustness.conditions import Condition
from lrsegformer.robustness.metrics.counting import (
    SparseTable,
    cell_scores,
    from_json,
    image_tables,
    stacked,
    summed,
    to_json,
    worst_per_image,
)
from lrsegformer.robustness.report.curves import radius_curves, save_robustness_curves, severity_curves
from lrsegformer.robustness.report.files import write_report
from lrsegformer.robustness.report.rows import corruption_rows, masking_rows, result_rows
from lrsegformer.robustness.report.sheets import Sample, save_sheet

CLEAN, GRADIENTS = Condition("clean"), Condition("gradients")


def attack(name, radius, norm="linf", **options):
    return Condition("attack", name, norm=norm, radius=radius, steps=20, restarts=1, **options)


def make_cell(model, condition, right, **more):
    """A cell of two classes with 10 references each: so many of each right."""
    counts = [[0, 0, right], [0, 1, 10 - right], [1, 1, right], [1, 0, 10 - right]]
    return {
        "key": f"{model} {condition.label}",
        "model": model,
        "input": "short side 64 (long side at most 2048)",
        "condition": dict(vars(condition)),
        "num_labels": 2,
        "class_names": ["sky", "road|lane"],
        "images": 5,
        "of": 100,
        "subset": "0123456789abcdef",
        "seed": 3,
        "seconds": 1.25,
        "device": "cpu",
        "processes": 1,
        "versions": {"torch": "2.9"},
        "warnings": [],
        "counts": [entry for entry in counts if entry[2]],
        **more,
    }


def make_measured(model, condition, measured):
    """A cell that counts nothing."""
    cell = make_cell(model, condition, 0, measured=measured)
    del cell["counts"], cell["warnings"]
    return cell


def make_context(task="segmentation", **more):
    inputs = {"baseline": {"size": "short side 64 (long side at most 2048)", "subset": "0123456789abcdef"}}
    context = {"task": task, "dataset": "pictures", "images": 5, "of": 100, "inputs": inputs, "seed": 3}
    return {**context, "class_names": ["sky", "road|lane"], "versions": {}, "score_at": "original", **more}


@pytest.fixture
def cells():
    made = []
    for model, loss in (("baseline", 3), ("ours", 1)):
        made += [
            make_cell(model, CLEAN, 9),
            make_measured(model, GRADIENTS, {"small_gradient_share": 0.75 if model == "ours" else 0.0}),
            make_cell(model, attack("pgd", 0.5), 9 - loss),
            make_cell(model, attack("pgd", 2.0), 9 - 2 * loss),
            make_cell(model, attack("apgd", 2.0), 3),
            make_cell(model, Condition("corruption", "fog", severity=1), 8),
            make_cell(model, Condition("corruption", "snow", severity=1), 6, warnings=["it was cold"]),
        ]
    return made


def test_tables_survive_json_and_count_no_void():
    labels = torch.tensor([[[0, 1], [255, -100]], [[1, 1], [0, 255]]])
    predictions = torch.tensor([[[0, 0], [1, 1]], [[1, 1], [1, 0]]])
    tables = image_tables(predictions, labels, 2, 255)
    assert summed(tables, 2).tolist() == [[1, 1], [1, 2]] and summed(tables, 2).dtype == torch.int64
    assert [table.accuracy(2) for table in tables] == [0.5, 2 / 3]
    assert torch.equal(from_json(json.loads(json.dumps(to_json(summed(tables, 2)))), 2), summed(tables, 2))
    assert from_json([], 2).tolist() == [[0, 0], [0, 0]]
    # In classification class 255 is a class like any other.
    assert to_json(summed(image_tables(torch.tensor([255]), torch.tensor([255]), 1000, None), 1000)) == [[255, 255, 1]]
    assert SparseTable(np.array([]), np.array([], dtype=np.int64)).accuracy(2) == 1.0


def test_worst_candidate_of_each_image():
    def table(right, wrong):
        return SparseTable(np.array([0, 1]), np.array([right, wrong]))

    images = [[table(5, 5), table(6, 4)], [table(9, 1), table(2, 8)], [table(3, 7), table(3, 7)]]
    assert worst_per_image(images, 2).tolist() == [[5 + 2 + 3, 5 + 8 + 7], [0, 0]]
    assert stacked(images, 2).shape == (3, 2, 2, 2) and stacked(images, 2)[1, 1].tolist() == [[2, 8], [0, 0]]


def test_accuracy_and_miou_of_an_attack_have_their_own_tables():
    cell = make_cell("m", attack("sea", 1.0), 5, iou_counts=[[0, 0, 2], [0, 1, 8], [1, 1, 10]])
    scores = cell_scores(cell, "segmentation")
    assert scores["accuracy"] == 0.5
    assert scores["per_category_iou"] == [2 / 10, 10 / 18] and scores["mean_iou"] == pytest.approx((0.2 + 10 / 18) / 2)


def test_rows_hold_scores_and_what_they_hang_on(cells):
    rows = result_rows(cells, "segmentation", [0.5, 2.0])
    labels = "clean pgd-linf-0.5 pgd-linf-2 apgd-linf-2 fog-1 snow-1".split()
    assert [row["condition"] for row in rows] == 2 * labels
    assert rows[1]["accuracy"] == 0.6 and rows[1]["mean_iou"] == pytest.approx(6 / 14)
    for name in (
        "input",
        "seed",
        "subset",
        "radius",
        "norm",
        "steps",
        "restarts",
        "versions",
        "seconds",
        "images",
        "of",
    ):
        assert all(name in row for row in rows), name


def test_minimum_norm_attack_is_read_off_at_every_radius():
    cell = make_cell("m", attack("fmn", None, "l2"), 0, distances=[0.0, 0.3, 0.7, None])
    rows = result_rows([make_cell("m", CLEAN, 9), cell], "classification", [0.5, 1.0])
    assert [(row["condition"], row["accuracy"]) for row in rows[1:]] == [("fmn-l2-0.5", 0.5), ("fmn-l2-1", 0.25)]


def test_minimum_norm_attack_on_maps_counts_the_images_within_the_radius():
    # Of two images with 10 pixels of each class the attack turns all; one at radius 0.5, the other at 2.
    right, wrong = [[0, 3], [10, 10]], [[1, 2], [10, 10]]
    cell = make_cell(
        "m",
        attack("alma_prox", None),
        0,
        distances=[0.5, 2.0, None],
        image_tables=[[right, wrong], [right, wrong], [right, right]],
    )
    rows = result_rows([make_cell("m", CLEAN, 9), cell], "segmentation", [0.25, 0.5, 4.0])[1:]
    assert [row["condition"] for row in rows] == [f"alma_prox-linf-{radius}" for radius in ("0.25", "0.5", "4")]
    assert [row["accuracy"] for row in rows] == pytest.approx([1, 2 / 3, 1 / 3])
    # 20 right and 10 wrong pixels of each class: 20 of a union of 40.
    assert [row["mean_iou"] for row in rows] == pytest.approx([1, 20 / 40, 10 / 50])


def test_masked_gradients_are_flagged(cells):
    rows = result_rows(cells, "segmentation", [])
    baseline, ours = masking_rows(cells, rows)
    # baseline: 0.3 under both attacks; ours: 0.7 under PGD, 0.3 under APGD.
    assert baseline["flags"] == [] and baseline["largest_gap"] == 0.0
    assert ours["largest_gap"] == pytest.approx(0.4)
    assert len(ours["flags"]) == 2 and "small gradients: see" in ours["flags"][0] and "75.0 %" in ours["flags"][0]
    assert "apgd leaves 40.0 points less accuracy than PGD at linf 2" in ours["flags"][1]
    weak = [cell for cell in cells if cell["condition"]["name"] != "apgd"]
    assert masking_rows(weak, result_rows(weak, "segmentation", []))[0]["largest_gap"] is None


def test_gap_of_one_point_is_no_flag():
    def flags(right):
        pgd, apgd = (make_cell("m", attack(name, 1.0), 0) for name in ("pgd", "apgd"))
        pgd["counts"], apgd["counts"] = [[0, 0, 500], [0, 1, 500]], [[0, 0, right], [0, 1, 1000 - right]]
        gradients = make_measured("m", GRADIENTS, {"small_gradient_share": 0.5})
        cells = [make_cell("m", CLEAN, 9), gradients, pgd, apgd]
        return masking_rows(cells, result_rows(cells, "classification", []))[0]["flags"]

    assert flags(491) == [] and flags(510) == [] and len(flags(489)) == 1
    # 0.5 - 0.49 is more than 0.01 in floating point.
    assert flags(490) == []


def test_summary_of_corruptions(cells):
    rows = result_rows(cells, "segmentation", [])
    summary = {(row["model"], row["score"]): row for row in corruption_rows(rows, "segmentation", 2)}
    accuracy = summary["ours", "pixel accuracy"]
    assert accuracy["mean"] == pytest.approx(0.7) and accuracy["retention"] == pytest.approx(0.7 / 0.9)
    assert summary["ours", "mIoU"]["mean"] == pytest.approx((8 / 12 + 6 / 14) / 2)
    assert accuracy["mce"] is None


def test_folders_of_imagenet_c_are_summed_up_by_themselves(cells):
    folders = [
        make_cell("ours", Condition("shifted", f"imagenet-c/{name}", severity=severity), right)
        for name, severity, right in (("fog", 1, 8), ("fog", 2, 6), ("snow", 1, 4), ("snow", 2, 2))
    ]
    rows = result_rows([*cells, *folders], "classification", [])
    found = [row for row in corruption_rows(rows, "classification", 2) if row["source"] == "imagenet-c"]
    assert [(row["model"], row["mean"], row["mce"]) for row in found] == [("ours", pytest.approx(0.5), None)]
    assert found[0]["per_corruption"] == pytest.approx({"fog": 0.7, "snow": 0.3})
    points = severity_curves(rows, "accuracy")["ours", "imagenet-c"]
    assert points == [(0.0, 0.9), (1.0, pytest.approx(0.6)), (2.0, pytest.approx(0.4))]


def test_curves_begin_at_the_clean_score(cells, tmp_path):
    rows = result_rows(cells, "segmentation", [])
    curves = radius_curves(rows[::-1], "accuracy", "linf")
    assert curves["baseline", "pgd"] == [(0.0, 0.9), (0.5, 0.6), (2.0, 0.3)]
    assert curves["ours", "apgd"] == [(0.0, 0.9), (2.0, 0.3)] and len(curves) == 4
    ((start, end),) = [severity_curves(rows[:6], "accuracy")["baseline", "corruptions"]]
    assert start == (0.0, 0.9) and end == (1.0, pytest.approx(0.7))
    save_robustness_curves(rows, {"mean_iou": "mIoU", "accuracy": "accuracy"}, tmp_path / "curves.png")
    save_robustness_curves(rows[:1], {"accuracy": "accuracy"}, tmp_path / "clean.png")
    per_pixel = [{**row, "norm": row["norm"] and "per_pixel_l2"} for row in rows]
    save_robustness_curves(per_pixel, {"accuracy": "accuracy"}, tmp_path / "per_pixel.png")
    for name in ("curves.png", "clean.png", "per_pixel.png"):
        assert np.asarray(Image.open(tmp_path / name).convert("L")).std() > 0


def test_report_files(cells, tmp_path):
    bounds = {
        "baseline": None,
        "ours": {
            "strategy": "orthogonal",
            "norm": "l2",
            "bound": 1.23456789,
            "guaranteed": True,
            "note": "To logits.",
        },
    }
    reliability = {"expected_calibration_error": 0.125, "overconfidence": -0.5, "small_object_iou": None}
    reliability |= {"num_small_objects": 0, "area_share": 1 / 300}
    reliability |= {"local_lipschitz_estimate_median": 2.5, "local_lipschitz_estimate_largest": 7.5}
    cells = [
        *cells,
        make_cell("ours", Condition("train"), 10),
        make_measured("ours", Condition("reliability"), reliability),
    ]
    arguments = RobustnessArguments(
        models=["a", "b"], attacks=["pgd", "apgd"], eps=[0.5, 2.0], output_dir=str(tmp_path), seed=3
    )
    report = write_report(
        tmp_path,
        cells,
        make_context(bounds=bounds),
        {"0a": ["/x/y/a.png", "/x/z/b.png"], "1b": ["row 1"]},
        arguments.eps,
    )
    assert json.loads((tmp_path / "results.json").read_text()) == report
    text = (tmp_path / "results.md").read_text()
    assert "a seeded subset of 5 of 100 validation images (seed 3)" in text
    assert "| baseline | short side 64 (long side at most 2048) | 0123456789abcdef |" in text
    assert "| pgd linf 0.5/255 | 42.86 | 60.00 | 66.67 | 80.00 |" in text
    assert "| ours | orthogonal | l2 | 1.2346 | yes |" in text
    assert "- ours, snow-1: it was cold" in text and "- A: torch 2.9" in text
    assert text.index("(estimates") < text.index("7.5") < text.index("## Proven bounds") < text.index("1.2346")
    assert "1.2346" not in text[: text.index("## Proven bounds")], "bounds stand apart from estimates"
    assert (tmp_path / "subsets" / "0a.txt").read_text() == "y/a.png\nz/b.png\n"
    assert (tmp_path / "subsets" / "1b.txt").read_text() == "row 1\n"
    assert not list(tmp_path.rglob("*.part"))

    rows = list(csv.DictReader(open(tmp_path / "results.csv")))
    assert len(rows) == len(report["rows"]) == 13
    for row, expected in zip(rows, report["rows"], strict=True):
        assert float(row["mean_iou"]) == expected["mean_iou"] and row["model"] == expected["model"]
        assert row["versions"] == "torch=2.9" and row["subset"] == "0123456789abcdef"
    classes = list(csv.DictReader(open(tmp_path / "per_class.csv")))
    first = next(row for row in classes if row["condition"] == "pgd-linf-0.5")
    assert (first["class"], first["reference"], float(first["accuracy"])) == ("sky", "10", 0.6)
    assert float(first["iou"]) == pytest.approx(6 / 14) and len(classes) == 2 * 13


def test_names_are_read_as_they_are_written(tmp_path):
    name = "runs/a|b\n*c*"
    cells = [
        make_cell(name, CLEAN, 9),
        make_measured(name, GRADIENTS, {"small_gradient_share": 0.0}),
        make_cell(name, attack("pgd", 0.5), 8, warnings=["<b>\n# all"]),
        make_cell(name, Condition("shifted", "x|y"), 8),
        make_cell(name, Condition("corruption", "fog", severity=1), 8),
    ]
    bound = {"strategy": "orthogonal", "norm": "l2", "bound": 1.0, "guaranteed": True, "note": "To logits."}
    context = make_context("classification", bounds={name: bound}, dataset="my\n# data")
    write_report(tmp_path, cells, context, {}, [])
    text = (tmp_path / "results.md").read_text()
    named = [line for line in text.splitlines() if line.startswith("|") and r"runs/a\|b \*c\*" in line]
    # Three comparisons, two tables of corruptions, gradients, bounds, and four rows of the long table.
    assert len(named) == 3 + 2 + 1 + 1 + 4 and text.count(r"| x\|y |") == 2
    assert name not in text and "on my # data:" in text
    assert r"- runs/a|b \*c\*, pgd-linf-0.5: \<b> # all" in text and r"- runs/a|b \*c\*: To logits." in text


def test_report_of_clean_images_alone(tmp_path):
    context = make_context("classification", bounds={"ours": None}, images=100)
    write_report(tmp_path, [make_cell("ours", CLEAN, 9)], context, {"0a": ["row 1"]}, [])
    text = (tmp_path / "results.md").read_text()
    assert "all 100 validation images" in text and "| clean | 90.00 |" in text
    assert "Proven" not in text and "Attacks" not in text
    assert not math.isnan(json.loads((tmp_path / "results.json").read_text())["rows"][0]["f1"])


def test_sheets(tmp_path):
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 250, (20, 30, 3), dtype=np.uint8)
    truth = np.zeros((10, 15), dtype=np.int64)
    truth[:5], truth[9] = 1, 255
    after = np.ones((10, 15), dtype=np.uint8)
    save_sheet([Sample(picture, picture + 2, truth, truth % 2, after)], "m, pgd", ["a", "b"], tmp_path / "maps.png")
    save_sheet([Sample(picture, picture, 0, 1, 1)] * 2, "m, pgd", ["a", "b"], tmp_path / "classes.png")
    maps, classes = (np.asarray(Image.open(tmp_path / name)) for name in ("maps.png", "classes.png"))
    assert maps.shape[1] == 2 * classes.shape[1] - 8
    # The change of 2 levels, enlarged 63 times, and no change at all.
    assert (254, 254, 254) in set(map(tuple, maps[:, 620:900].reshape(-1, 3)))
    assert {(128, 128, 128)} == set(map(tuple, classes[60:200, 630:900].reshape(-1, 3)))
    # Void of the truth is grey, and 5/9 of what counts is right after the attack.
    assert (96, 96, 96) in set(map(tuple, maps[:, 930:1200].reshape(-1, 3)))
    # Each picture can be taken out again.
    parts = {part.name: (part, np.asarray(image)) for part, image in read_parts(tmp_path / "maps.png")}
    assert list(parts) == ["clean", "perturbed", "change", "truth", "clean_prediction", "perturbed_prediction"]
    assert {image.shape for _, image in parts.values()} == {(200, 300, 3)}
    np.testing.assert_array_equal(parts["clean"][1][::10, ::10], picture)
    assert parts["perturbed_prediction"][0].caption == "of perturbed: 55.6 % right"
    assert [part.row for part, _ in read_parts(tmp_path / "classes.png")] == [0, 0, 0, 1, 1, 1]
