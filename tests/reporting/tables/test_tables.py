"""Numbers of the tables, from files in which they are known."""

import json
import os
import shutil
import statistics

import pytest

from lrsegformer.reporting.groups import arenas_of
from lrsegformer.reporting.reading.collection import collect
from lrsegformer.reporting.tables.cost import cost_table
from lrsegformer.reporting.tables.guarantees import bound_tables, certified_tables
from lrsegformer.reporting.tables.overview import overview_table
from lrsegformer.reporting.tables.perturbed import attack_tables, corruption_tables, radius_text
from lrsegformer.reporting.tables.scores import clean_tables, generalisation_table


@pytest.fixture(scope="module")
def collection(world):
    return collect([world / "runs", world / "reports"])


@pytest.fixture(scope="module")
def arena(collection):
    (arena,) = arenas_of(collection)
    return arena


def cells_of(table, row=0):
    return {column.title: cell for column, cell in zip(table.columns, table.rows[row], strict=True)}


def test_clean_scores_are_means_over_seeds_with_their_spread_and_files(arena, collection):
    (table,) = clean_tables(arena, collection)
    cell = cells_of(table)["mIoU"]
    assert (cell.text, cell.spread) == ("62.00", f"{100 * statistics.stdev([0.60, 0.64]):.2f}")
    assert cell.order == pytest.approx(0.62) and cell.sources == (1, 2)
    assert "baseline-<b>1, seed 1: 60.00 (runs/baseline-<b>1/all_results.json)" in cell.detail
    assert cells_of(table)["n"].text == "2"
    assert cells_of(table, 2)["model"].text == "always “<script>alert('class')</script>”"
    assert cells_of(table, 2)["F1"].text == "–"


def test_evaluations_stand_by_protocol_and_size(tmp_path, write_run):
    runs = [write_run(tmp_path / "runs" / f"one-{seed}", "orthogonal", seed, 0.5) for seed in (1, 2)]
    for run, mean_iou, folder in zip(runs, (0.4, 0.6), (runs[0], tmp_path / "runs" / "evaluations"), strict=True):
        folder.mkdir(exist_ok=True)
        scores = {"original": {"mean_iou": mean_iou, "per_category_iou": [0.1, 0.2]}}
        content = {"model": str(run), "task": "segmentation", "dataset": "digits", "num_images": 5}
        content |= {"split": "validation", "protocols": {"whole": scores, "slide": scores}, "versions": {}}
        (folder / "evaluation.json").write_text(json.dumps(content))
    collection = collect([tmp_path / "runs"])
    (arena,) = arenas_of(collection)
    assert len(arena.groups) == 1
    table = clean_tables(arena, collection)[1]
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["orthogonal", "2", "whole", "original", "5", "50.00"],
        ["orthogonal", "2", "slide", "original", "5", "50.00"],
    ]
    assert table.rows[0][-1].spread == "14.14" and len(table.rows[0][-1].sources) == 2


def test_one_seed_has_no_spread(world, write_run, tmp_path):
    write_run(tmp_path / "runs" / "one", "orthogonal", 1, 0.5)
    collection = collect([tmp_path / "runs"])
    (arena,) = arenas_of(collection)
    cell = cells_of(clean_tables(arena, collection)[0])["mIoU"]
    assert (cell.text, cell.spread) == ("50.00", "")


def test_attacks_stand_beside_the_clean_score_of_the_same_images(arena):
    bench = [table for table in attack_tables(arena) if "linf" in table.caption]
    table = next(table for table in bench if table.caption.startswith("pixel accuracy"))
    cells = cells_of(table)
    # Seeds are 9 and 8 of 10 right when clean; PGD takes 2 and 4.
    assert (cells["clean"].text, cells["pgd 1/255"].text, cells["pgd 4/255"].text) == ("85.00", "65.00", "45.00")
    assert cells["pgd 1/255"].spread == f"{100 * statistics.stdev([0.7, 0.6]):.2f}"
    assert table.folded and not bench[0].folded
    assert table.setting == "5 of 100 images of digits (seed 3), scored at original size, 5 steps"
    assert all(column.kind != "proven" for table in bench for column in table.columns)


def test_attacks_beside_certificates_count_too(arena):
    table = next(table for table in attack_tables(arena) if " l2" in table.caption and not table.folded)
    assert cells_of(table)["pgd 36/255"].text == "55.00" and cells_of(table)["clean"].text == "80.00"


def test_corruptions_keep_a_share_of_the_clean_score(arena):
    (table,) = corruption_tables(arena)
    iou = {right: right / (20 - right) for right in range(1, 10)}
    clean = [iou[9], iou[8]]
    mean = [(iou[8] + iou[6]) / 2, (iou[7] + iou[5]) / 2]
    cells = cells_of(table)
    assert cells["mean"].order == pytest.approx(statistics.fmean(mean))
    kept = [one / whole for one, whole in zip(mean, clean, strict=True)]
    assert cells["kept"].order == pytest.approx(statistics.fmean(kept))


def test_certified_scores_have_columns_of_their_own_and_are_rounded_down(arena):
    tables = [table for table in certified_tables(arena) if not table.folded]
    proven, smoothed = tables
    kinds = {column.title: column.kind for column in proven.columns}
    assert kinds["certified"] == "proven" and kinds["clean"] == kinds["under pgd"] == "measured"
    assert cells_of(proven)["certified"].text == "45.67"
    assert [row[2].text for row in proven.rows] == ["36/255", "72/255"]
    assert {column.kind for column in smoothed.columns} == {"model", "text", "measured", "probable"}
    assert "probability 0.999" in smoothed.notes[0]


def test_the_bound_of_a_group_holds_for_each_seed_and_estimates_are_apart(arena):
    (table,) = bound_tables(arena)
    assert len(table.rows) == 1  # The baseline has no guarantee, and so no row.
    assert cells_of(table)["head"].text == "1.2" and cells_of(table)["head"].order == 1.2
    assert {column.kind for column in table.columns} == {"model", "text", "proven"}


def test_generalisation_shows_what_was_logged(arena):
    table = generalisation_table(arena)
    assert [column.title for column in table.columns] == ["model", "loss, training", "loss, validation", "loss, gap"]
    assert [cell.text for cell in table.rows[0][1:]] == ["0.05", "0.5", "0.45"]


def test_a_loss_for_certificates_is_not_set_against_another(tmp_path, write_run):
    write_run(tmp_path / "runs" / "adversarial", "orthogonal", 1, 0.5, adversarial_steps=1)
    (arena,) = arenas_of(collect([tmp_path / "runs"]))
    assert generalisation_table(arena) is None


def test_cost_has_the_columns_that_are_recorded(arena):
    table = cost_table(arena)
    cells = cells_of(table)
    assert cells["seconds a step"].text == "2" and cells["parameters, M"].text == "1.5"
    assert cells["ms an image, scored"].text == "200"
    assert "peak GPU memory, GB" not in cells
    assert cells_of(table, 1)["ms an image, certified"].text == "100"


def test_the_overview_has_a_number_of_each_kind(arena):
    table = overview_table(arena)
    assert [(column.title, column.kind) for column in table.columns] == [
        ("model", "model"),
        ("n", "text"),
        ("clean", "measured"),
        ("corrupted", "measured"),
        ("attacked l2 36/255", "measured"),
        ("attacked linf 1/255", "measured"),
        ("certified l2 36/255", "proven"),
    ]
    assert [cell.text for cell in table.rows[0]][-1] == "–"
    assert table.rows[1][-1].text == "45.67"


def test_a_newer_file_of_the_same_condition_counts(world, tmp_path):
    shutil.copytree(world, tmp_path / "world")
    bench = tmp_path / "world" / "reports" / "robustness"
    shutil.copytree(bench, bench.with_name("older"))
    path = bench.with_name("older") / "results.json"
    content = json.loads(path.read_text())
    for row in content["rows"]:
        row["accuracy"] = 0.01
    path.write_text(json.dumps(content))
    os.utime(path, (0, 0))
    (arena,) = arenas_of(collect([tmp_path / "world"]))
    table = next(one for one in attack_tables(arena) if one.caption.startswith("pixel accuracy under attack, linf"))
    assert cells_of(table)["pgd 1/255"].text == "65.00"


@pytest.mark.parametrize(
    ("norm", "radius", "text"),
    [("linf", 0.5 / 255, "0.5/255"), ("l2", 36 / 255, "36/255"), ("l2", 0.25, "0.25"), ("linf", 8 / 255, "8/255")],
)
def test_radii_are_told_in_the_unit_of_their_norm(norm, radius, text):
    assert radius_text(norm, radius) == text
