"""The bench scores each model on the inputs that its own saved processor makes, and every table names them."""

import csv
import dataclasses
import json

import pytest
from transformers import ConvNextImageProcessorPil, SegformerImageProcessorPil

from lrsegformer.cli.finetune import main
from lrsegformer.data.processor import build_processor
from lrsegformer.errors import InputError
from lrsegformer.robustness.bench import bench
from lrsegformer.robustness.bench.arguments import BenchDataArguments, RobustnessArguments

pytestmark = pytest.mark.usefixtures("blank_pictures")

SEED = 5
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DATA = BenchDataArguments(dataset="digits", image_size=64, max_eval_samples=4)
RUN = (
    f"--dataset digits --image_size 64 --architecture tiny --use_cpu --seed {SEED} --max_train_samples 8 "
    "--max_eval_samples 4 --max_steps 4 --total_batch_size 4 --learning_rate 1e-3 --save_strategy no "
    "--eval_strategy no --dataloader_num_workers 0 --disable_tqdm true"
).split()


def score(folder, models, data=DATA, **options):
    arguments = RobustnessArguments(models=[str(model) for model in models], output_dir=str(folder), seed=SEED)
    return bench.run_bench(dataclasses.replace(arguments, **options), data)


def clean_rows(report):
    return {row["model"]: row for row in report["rows"] if row["kind"] == "clean"}


@pytest.mark.one_in(2)
@pytest.mark.parametrize(("task", "sizes"), [("segmentation", (48, 90)), ("classification", (48, 80))])
def test_each_model_is_scored_as_in_its_run(tmp_path, task, sizes):
    """Models of several sizes in one report: each has the scores that its run reported."""
    runs = {}
    for size in sizes:
        folder = tmp_path / f"run{size}"
        main(task, [*RUN, "--eval_size", str(size), "--output_dir", str(folder)])
        runs[folder.name] = json.loads((folder / "all_results.json").read_text())
    report = score(tmp_path / "report", [tmp_path / name for name in runs])
    rows = clean_rows(report)
    for name, results in runs.items():
        # The bench merges the head: pixels with two classes equal to rounding may fall to another.
        assert rows[name]["accuracy"] == pytest.approx(results["eval_accuracy"], abs=2e-4)
        if task == "segmentation":
            assert rows[name]["mean_iou"] == pytest.approx(results["eval_mean_iou"], abs=1e-3)
        assert rows[name]["input"] == report["inputs"][name]["size"] == results["input_size"]
    assert len({one["subset"] for one in report["inputs"].values()}) == len(sizes)
    text = (tmp_path / "report" / "results.md").read_text()
    lines = list(csv.DictReader((tmp_path / "report" / "results.csv").open()))
    for name, results in runs.items():
        assert f"| {name} | {results['input_size']} | {report['inputs'][name]['subset']} |" in text
        assert {line["input"] for line in lines if line["model"] == name} == {results["input_size"]}
    assert "models of different inputs are attacked at different resolutions" in text


def saved(model, processor, folder):
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_every_condition_has_the_models_inputs(make_model, tmp_path, monkeypatch):
    model = make_model(num_labels=11)
    folders = [
        saved(model, SegformerImageProcessorPil(size={"height": 32, "width": 40}), tmp_path / "squeezed"),
        saved(model, build_processor("segmentation", 48, MEAN, STD), tmp_path / "fitted"),
    ]
    sizes = {}

    def look(run, condition):
        item = run.data.subset.dataset[0]
        assert 0 <= item["pixel_values"].min() and item["pixel_values"].max() <= 1
        sizes.setdefault(condition.label, []).append(tuple(item["pixel_values"].shape[1:]))
        return measure(run, condition)

    measure = bench.measure
    monkeypatch.setattr(bench, "measure", look)
    options = {"attacks": ["fgsm"], "eps": [1.0], "corruptions": ["fog"], "severities": [1], "reliability": True}
    pytest.importorskip("imagecorruptions", reason="the extra `robustness` is not installed")
    report = score(tmp_path / "report", folders, **options)
    labels = ("clean", "gradients", "fgsm-linf-1", "fog-1", "train", "reliability")
    assert sizes == dict.fromkeys(labels, [(32, 40), (48, 48)])
    assert {row["input"] for row in report["rows"]} == {"40x32", "short side 48 (long side at most 2048)"}
    # Cells that are finished are found again, those without the words of an earlier version among them.
    cells = tmp_path / "report" / "cells.jsonl"
    kept = [json.loads(line) for line in cells.read_text().splitlines()]
    cells.write_text("".join(json.dumps({**cell, "input": None}) + "\n" for cell in kept))
    sizes.clear()
    again = score(tmp_path / "report", folders, **options)
    assert not sizes and [row["input"] for row in again["rows"]] == [row["input"] for row in report["rows"]]


def test_one_size_for_all_is_an_option(make_model, make_stock, tmp_path):
    folders = [
        saved(make_model(num_labels=11), SegformerImageProcessorPil(), tmp_path / "ours"),
        saved(make_stock(num_labels=11), build_processor("segmentation", 48, MEAN, STD), tmp_path / "stock"),
    ]
    report = score(tmp_path / "report", folders, dataclasses.replace(DATA, eval_size=40))
    assert {row["input"] for row in report["rows"]} == {"short side 40 (long side at most 2048)"}
    assert len({one["subset"] for one in report["inputs"].values()}) == 1
    assert "different resolutions" not in (tmp_path / "report" / "results.md").read_text()


def test_processors_of_other_classes(make_stock, tmp_path):
    """A classifier from the Hub may come with any class of processor."""
    model = make_stock("classification", num_labels=10)
    folders = [
        saved(model, ConvNextImageProcessorPil(size={"shortest_edge": 56}), tmp_path / "cropped"),
        saved(model, SegformerImageProcessorPil(size={"height": 48, "width": 48}), tmp_path / "squares"),
    ]
    rows = clean_rows(score(tmp_path / "report", folders))
    assert rows["cropped"]["input"] == "short side 56" and rows["squares"]["input"] == "48x48"


def test_the_side_of_training_crops_says_nothing_here():
    with pytest.raises(InputError, match="--image_size 64 is the side of training crops, .* or give --eval_size"):
        BenchDataArguments(dataset="folder", image_size=64)
