"""What is found below folders, and what is said of files that cannot be used."""

import json
import shutil

import pytest

from lrsegformer.errors import InputError
from lrsegformer.reporting.reading.collection import collect
from lrsegformer.reporting.reading.reports import read_report
from lrsegformer.reporting.reading.runs import read_run
from lrsegformer.reporting.reading.sources import Source


def test_every_file_is_found_once_and_called_from_the_given_folder_on(world):
    collection = collect([world / "runs", world / "reports", world / "reports" / "robustness"])
    assert [source.shown for source in collection.sources] == [
        "runs/baseline-<b>1/all_results.json",
        "runs/baseline-<b>2/all_results.json",
        "runs/orthogonal-<b>1/all_results.json",
        "runs/orthogonal-<b>2/all_results.json",
        "reports/certificates/results.json",
        "reports/robustness/results.json",
    ]
    assert [source.number for source in collection.sources] == [1, 2, 3, 4, 5, 6]
    assert collection.left_out == []
    assert {run.task for run in collection.runs} == {"segmentation"}
    assert [run.seed for run in collection.runs] == [1, 2, 1, 2]
    assert collection.where == "runs, reports, robustness"


def test_radii_come_in_one_unit(world):
    bench = next(report for report in collect([world / "reports"]).reports if not report.certified)
    assert sorted({row.radius for row in bench.measured if row.radius}) == [1 / 255, 4 / 255]
    assert bench.names["baseline-<b>1"].endswith("runs/baseline-<b>1")


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("all_results.json", '{"eval_mean_iou": 0.5,', "is no JSON (line 1: "),
        ("all_results.json", "[1, 2]", "is not of the form that this version writes"),
        ("all_results.json", '{"epoch": 1}', "holds no scores"),
        ("results.json", '{"rows": []}', "lacks 'task'"),
        ("results.json", '{"rows": [', "is no JSON"),
        ("results.json", b"\xff\xfe\x00", "it is no text in UTF-8"),
        ("results.json", "[" * 100_000, "nested too deeply"),
        ("evaluation.json", '{"model": "m", "task": "segmentation", "dataset": "d"}', "lacks 'protocols'"),
        ("evaluation.json", '{"model": "m", "task": "t", "dataset": "d", "protocols": 3}', "is not of the form"),
        ("matrix.json", '[{"name": "cell"}]', "lacks 'status'"),
        ("matrix.json", "3", "is not of the form"),
    ],
)
def test_a_broken_file_costs_one_line_and_no_more(world, tmp_path, name, text, line):
    shutil.copytree(world / "runs" / "baseline-<b>1", tmp_path / "all" / "good")
    broken = tmp_path / "all" / "broken" / name
    broken.parent.mkdir()
    broken.write_bytes(text if isinstance(text, bytes) else text.encode())
    collection = collect([tmp_path / "all"])
    assert len(collection.runs) == 1
    (told,) = collection.left_out
    assert told.startswith(f"all/broken/{name}: ") and line in told and "\n" not in told
    assert broken.name not in [source.path.name for source in collection.sources if "broken" in source.shown]


def test_an_unfinished_run_is_named(world, tmp_path):
    shutil.copytree(world / "runs" / "baseline-<b>1", tmp_path / "all" / "good")
    shutil.copytree(world / "runs" / "baseline-<b>2", tmp_path / "all" / "going")
    (tmp_path / "all" / "going" / "all_results.json").unlink()
    assert collect([tmp_path / "all"]).left_out == ["all/going: begun, without scores yet; left out"]


def test_checkpoints_are_passed_over(world, tmp_path):
    run = tmp_path / "all" / "run"
    shutil.copytree(world / "runs" / "baseline-<b>1", run)
    shutil.copytree(world / "runs" / "baseline-<b>2", run / "checkpoint-10")
    assert len(collect([tmp_path / "all"]).runs) == 1


def test_what_lies_beside_a_run_may_be_missing(world, tmp_path):
    run = tmp_path / "all" / "run"
    shutil.copytree(world / "runs" / "orthogonal-<b>2", run)
    (run / "trainer_state.json").write_text("{")
    (run / "run.yaml").write_text("a: [")
    collection = collect([tmp_path / "all"])
    assert collection.runs[0].log == [] and collection.runs[0].scores["mean_iou"] == 0.58
    assert [line.partition(": ")[2] for line in collection.left_out] == [
        "no readable run.yaml beside it, so its options and seed are unknown",
        "no readable trainer_state.json beside it, so there are no curves and times of it",
    ]


@pytest.mark.parametrize("kind", ["missing", "file", "empty"])
def test_nothing_to_read_is_one_line(tmp_path, kind):
    path = tmp_path / "runs"
    if kind == "file":
        path.write_text("")
    elif kind == "empty":
        path.mkdir()
    with pytest.raises(InputError) as error:
        collect([path])
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert {"missing": "no such folder", "file": "is a file", "empty": "no finished run"}[kind] in str(error.value)


def test_what_training_writes_is_read(segmentation_run):
    folder, _ = segmentation_run
    path = folder / "all_results.json"
    run, missing = read_run(Source(1, path, "run", 0.0), json.loads(path.read_text()))
    assert missing == []
    assert (run.task, run.dataset, run.strategy, run.scope) == (
        "segmentation",
        "digits",
        "stable_softplus",
        "head",
    )
    assert 0 <= run.scores["mean_iou"] <= 1 and run.weights > 1000 and run.weights_bytes > 4 * run.weights - 1000
    assert any("lipschitz/head" in record for record in run.log)
    # From before a run recorded them.
    older = {name: value for name, value in run.results.items() if name not in ("task", "dataset", "parameters")}
    again, _ = read_run(Source(1, path, "run", 0.0), older)
    assert (again.task, again.dataset) == (run.task, run.dataset)
    assert again.weights == pytest.approx(run.weights, abs=10)


def test_reports_without_their_options_are_read(world, tmp_path):
    path = tmp_path / "results.json"
    content = json.loads((world / "reports" / "robustness" / "results.json").read_text())
    report = read_report(Source(1, path, "report", 0.0), content)
    assert report.names == {} and len(report.labels) == 4
