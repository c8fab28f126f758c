"""The bench as a whole, on tiny models and the built-in digits: its numbers are those of a direct computation."""

import dataclasses
import itertools
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional
from transformers import SegformerImageProcessorPil

from lrsegformer.attacks.pgd import pgd
from lrsegformer.attacks.pixel_model import PixelModel
from lrsegformer.attacks.threat import Threat
from lrsegformer.data import load_data
from lrsegformer.errors import InputError
from lrsegformer.evaluation.scores import confusion_counts, scores_from_counts
from lrsegformer.hub.digests import file_digests
from lrsegformer.hub.sections import current_sections
from lrsegformer.robustness.bench import bench
from lrsegformer.robustness.bench.arguments import BenchDataArguments, RobustnessArguments
from lrsegformer.robustness.bench.cells import CellFile
from lrsegformer.robustness.conditions import Condition
from lrsegformer.robustness.shift.corruptions import corrupt, image_seed
from tests.hub.test_card import card_of
from tests.ranks import run_two_ranks

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "robustness.py"
DATA = BenchDataArguments(dataset="digits", image_size=64, max_eval_samples=4)
SEED = 7


@pytest.fixture(scope="module")
def models(make_model, make_stock, tmp_path_factory) -> dict[str, Path]:
    """Checkpoint folders: ours without and with a constraint, and a stock model, each with its own statistics."""
    root = tmp_path_factory.mktemp("models")
    made = {
        "baseline": make_model(num_labels=11),
        "stable_softplus": make_model("stable_softplus", num_labels=11, seed=1),
        "stock": make_stock(num_labels=11, seed=2),
        "classifier": make_model("spectral_norm", task="classification", num_labels=10),
        "five_classes": make_model(num_labels=5),
    }
    for name, model in made.items():
        model.save_pretrained(root / name)
        mean = [0.5, 0.5, 0.5] if name == "stock" else [0.485, 0.456, 0.406]
        SegformerImageProcessorPil(image_mean=mean, size={"height": 64, "width": 64}).save_pretrained(root / name)
    return {name: root / name for name in made}


def make_arguments(models, folder, names=("baseline", "stock"), **options) -> RobustnessArguments:
    options = {"attacks": ["pgd"], "eps": [1.0, 4.0], "steps": 2, "corruptions": ["fog"], "severities": [3], **options}
    return RobustnessArguments(
        models=[str(models[name]) for name in names], output_dir=str(folder), seed=SEED, batch_size=4, **options
    )


@pytest.fixture(scope="module")
def finished(models, tmp_path_factory):
    """A whole run of two models, and its folder."""
    folder = tmp_path_factory.mktemp("reports") / "finished"
    return folder, bench.run_bench(make_arguments(models, folder), DATA)


@pytest.fixture(scope="module")
def images():
    """The four images of the run, their labels, and the pictures that they were made from."""
    splits = load_data(DATA, "segmentation", SEED, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    items = [splits.validation[index] for index in range(4)]
    pixels = torch.stack([item["pixel_values"] for item in items])
    return splits, pixels, torch.stack([item["labels"] for item in items]).long()


@pytest.fixture(scope="module")
def pixel_model(models, make_stock):
    stock = make_stock(num_labels=11, seed=2)
    return PixelModel(stock, SegformerImageProcessorPil.from_pretrained(models["stock"]))


@torch.no_grad()
def direct_tables(pixel_model, pixels, labels):
    """Confusion tables image by image, by torch's own upsampling."""
    logits = pixel_model.model(pixel_values=(pixels - pixel_model.mean) / pixel_model.std).logits
    classes = functional.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False).argmax(dim=1)
    return torch.stack([confusion_counts(one, label, 11) for one, label in zip(classes, labels, strict=True)])


def row_of(report, model, condition):
    (row,) = (row for row in report["rows"] if (row["model"], row["condition"]) == (model, condition))
    return row


def without_time(rows):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def test_clean_scores_are_those_of_a_direct_computation(finished, images, pixel_model):
    _, pixels, labels = images
    expected = scores_from_counts(direct_tables(pixel_model, pixels, labels).sum(dim=0))
    row = row_of(finished[1], "stock", "clean")
    assert row["accuracy"] == expected["accuracy"] and row["mean_iou"] == expected["mean_iou"]
    assert len(finished[1]["rows"]) == 2 * 4 and row["images"] == row["of"] == 4


def test_a_run_gets_its_part_and_its_card_a_section(models, tmp_path):
    run, others = Path(shutil.copytree(models["baseline"], tmp_path / "run|a")), tmp_path / "stock"
    shutil.copytree(models["stock"], others)
    card_of(run)
    options = {"models": [str(run), str(others)], "steps": 1, "eps": [2.0], "severities": [1, 3]}
    arguments = dataclasses.replace(make_arguments(models, tmp_path / "report"), **options)
    report = bench.run_bench(arguments, DATA)
    kept = json.loads((run / "robustness.json").read_text())
    rows = [{**row, "sheet": None} for row in report["rows"] if row["model"] == "run|a"]
    assert [{**row, "sheet": None} for row in kept["rows"]] == rows and len(rows) == 4
    assert kept["files"] == report["inputs"]["run|a"]["files"] == file_digests(run)
    section = current_sections(run)["robustness"]
    shown = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")][2:]
    scores = [[f"{100 * row[name]:.2f}" for name in ("mean_iou", "accuracy")] for row in rows]
    assert [line[0] for line in shown[:2]] == ["clean", "pgd linf 2/255"] and shown[1][1:3] == ["1", "1"]
    assert [line[3:] for line in shown[:2]] == scores[:2]
    means = [f"{50 * (rows[2][name] + rows[3][name]):.2f}" for name in ("mean_iou", "accuracy")]
    assert shown[2:] == [["mean over corruptions (1) and severities (2)", "-", "-", *means]]
    assert (run / "robustness.png").is_file() and str(tmp_path) not in (run / "robustness.json").read_text()
    # A folder without a card of a run is read, not written to.
    assert {path.name for path in others.iterdir()} == {path.name for path in models["stock"].iterdir()}


def test_scores_of_another_input_than_the_saved_one_stay_out_of_the_card(models, tmp_path):
    run = Path(shutil.copytree(models["baseline"], tmp_path / "run"))
    card_of(run)
    arguments = make_arguments(models, tmp_path / "report", attacks=[], eps=[], steps=None)
    bench.run_bench(dataclasses.replace(arguments, models=[str(run)]), dataclasses.replace(DATA, eval_size=32))
    assert not (run / "robustness.json").exists() and current_sections(run) == {}


@pytest.mark.parametrize("eps", [1.0, 4.0])
def test_attack_scores_are_those_of_a_direct_computation(finished, images, pixel_model, eps):
    _, pixels, labels = images
    attacked = pgd(
        pixel_model, pixels, labels, Threat.parse("linf", eps), 2, "cross_entropy", seed=SEED, image_ids=[0, 1, 2, 3]
    ).images
    clean, changed = direct_tables(pixel_model, pixels, labels), direct_tables(pixel_model, attacked, labels)
    candidates = torch.stack([clean, changed], dim=1)
    right = candidates.diagonal(dim1=2, dim2=3).sum(dim=2).min(dim=1).values
    row = row_of(finished[1], "stock", f"pgd-linf-{eps:g}")
    assert row["accuracy"] == int(right.sum()) / labels.numel()
    choices = [candidates[torch.arange(4), list(choice)].sum(dim=0) for choice in itertools.product([0, 1], repeat=4)]
    assert row["mean_iou"] == min(scores_from_counts(table)["mean_iou"] for table in choices)
    assert row["accuracy"] < row_of(finished[1], "stock", "clean")["accuracy"]
    assert (row["steps"], row["restarts"], row["norm"], row["radius"], row["seed"]) == (2, 1, "linf", eps, SEED)


def test_corrupted_scores_are_those_of_a_direct_computation(finished, images, pixel_model):
    splits, _, labels = images
    examples = [splits.validation.source[index] for index in range(4)]
    foggy = [corrupt(example.image, "fog", 3, image_seed(example.name, SEED)) for example in examples]
    sized = [np.asarray(Image.fromarray(pixels).resize((64, 64), Image.Resampling.BILINEAR)) for pixels in foggy]
    pixels = torch.from_numpy(np.stack(sized)).permute(0, 3, 1, 2).float() / 255
    expected = scores_from_counts(direct_tables(pixel_model, pixels, labels).sum(dim=0))
    row = row_of(finished[1], "stock", "fog-3")
    # 1/255 is rounded on another way here: a pixel on the fence may fall to the other side.
    assert abs(row["accuracy"] - expected["accuracy"]) <= 2 / labels.numel()
    assert row["mean_iou"] == pytest.approx(expected["mean_iou"], rel=2e-3)


def test_interrupted_run_goes_on_where_it_stopped(finished, models, tmp_path, monkeypatch):
    calls = []
    measure = bench.measure

    def measure_three(run, condition):
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(condition)
        return measure(run, condition)

    arguments = make_arguments(models, tmp_path)
    monkeypatch.setattr(bench, "measure", measure_three)
    with pytest.raises(KeyboardInterrupt):
        bench.run_bench(arguments, DATA)
    file = tmp_path / "cells.jsonl"
    assert len(file.read_text().splitlines()) == 3
    with open(file, "a") as cells:
        cells.write('{"key": "cut sho')  # as a power cut would leave it

    again = []
    monkeypatch.setattr(bench, "measure", lambda run, condition: again.append(condition) or measure(run, condition))
    report = bench.run_bench(arguments, DATA)
    assert len(again) == 2 * 5 - 3 and not {condition.label for condition in again[:2]} & {one.label for one in calls}
    assert without_time(report["rows"]) == without_time(finished[1]["rows"])
    assert len(CellFile(tmp_path).read()) == 10

    again.clear()
    assert without_time(bench.run_bench(arguments, DATA)["rows"]) == without_time(report["rows"])
    assert not again
    # Other options: what does not hang on them is kept, the rest is computed.
    bench.run_bench(dataclasses.replace(arguments, steps=3, models=arguments.models[:1]), DATA)
    assert [condition.label for condition in again] == ["pgd-linf-1", "pgd-linf-4"]


def test_other_weights_under_the_same_name_are_computed_anew(models, tmp_path, make_model, monkeypatch):
    folder = tmp_path / "model"
    measured = []
    measure = bench.measure
    monkeypatch.setattr(bench, "measure", lambda run, condition: measured.append(condition) or measure(run, condition))
    for seed in (0, 1, 1):
        make_model(num_labels=11, seed=seed).save_pretrained(folder)
        SegformerImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(folder)
        bench.run_bench(RobustnessArguments(models=[str(folder)], output_dir=str(tmp_path / "report")), DATA)
    assert len(measured) == 2


@pytest.mark.parametrize(
    ("attack", "hangs"), [("pgd", False), ("apgd", False), ("square", True), ("autoattack", True)]
)
def test_cells_of_attacks_that_draw_for_a_whole_batch_hang_on_its_size(finished, models, attack, hangs):
    data = SimpleNamespace(names=("a", "b"))
    found = [
        bench._numbers_hang_on(
            dataclasses.replace(make_arguments(models, finished[0]), batch_size=size),
            Condition("attack", attack),
            data,
        )
        for size in (4, 8)
    ]
    assert (found[0] != found[1]) == hangs


@pytest.mark.slow
def test_two_processes_give_the_results_of_one(models, tmp_path):
    options = f"--models {models['stable_softplus']} --dataset digits --image_size 64 --max_eval_samples 5".split()
    options += "--attacks pgd sea --eps 2 --steps 2 --reliability --batch_size 2".split()
    options += ["--seed", str(SEED), "--output_dir", str(tmp_path / "two")]
    run_two_ranks(SCRIPT, *options, log=tmp_path / "log.txt")
    arguments = make_arguments(
        models, tmp_path / "one", ["stable_softplus"], attacks=["pgd", "sea"], eps=[2.0], corruptions=[]
    )
    arguments = dataclasses.replace(arguments, reliability=True, batch_size=2)
    one = bench.run_bench(arguments, dataclasses.replace(DATA, max_eval_samples=5))
    two = json.loads((tmp_path / "two" / "results.json").read_text())
    assert {row["processes"] for row in two["rows"]} == {2}
    for row in (*one["rows"], *two["rows"]):
        del row["seconds"], row["processes"], row["device"]
    assert one["rows"] == two["rows"] and len(one["rows"]) == 4
    assert one["gradient_masking"] == two["gradient_masking"]
    (one_model,), (two_models,) = one["reliability"], two["reliability"]
    assert one_model["per_category_small_object_iou"] == two_models["per_category_small_object_iou"]
    numbers = {name: value for name, value in one_model.items() if isinstance(value, float | int)}
    assert len(numbers) == 10
    # Sums of confidences are added in another order.
    assert numbers == pytest.approx({name: two_models[name] for name in numbers}, rel=1e-12)


def test_models_that_do_not_fit(models, tmp_path):
    def refuse(names, **options):
        with pytest.raises(InputError) as error:
            bench.run_bench(make_arguments(models, tmp_path / "none", names, **options), DATA)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "5" in refuse(["five_classes"]) and "11" in refuse(["five_classes"])
    assert "--models" in refuse(["baseline", "five_classes"])
    line = refuse(["baseline", "classifier"])
    assert "segmentation" in line and "classification" in line
    line = refuse(["baseline"], attacks=["autoattack"], steps=None)
    assert "autoattack" in line and "classification" in line and "sea" in line
    assert "segpgd" in refuse(["classifier"], attacks=["segpgd"])
    assert not list((tmp_path / "none").glob("*.md"))


def test_backbone_without_a_head_is_refused(models, tmp_path, make_model):
    make_model(num_labels=11).segformer.save_pretrained(tmp_path / "backbone")
    arguments = RobustnessArguments(models=[str(tmp_path / "backbone")], output_dir=str(tmp_path / "report"))
    with pytest.raises(InputError, match="fine-tuned SegFormer"):
        bench.run_bench(arguments, DATA)
    with pytest.raises(InputError, match="nowhere: no such folder"):
        bench.run_bench(dataclasses.replace(arguments, models=["./nowhere"]), DATA)
