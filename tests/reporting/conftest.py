"""Folders as runs, bench and certificates leave them, written by hand so that every number is known."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from lrsegformer.data.arguments import DataArguments
from lrsegformer.robustness.bench.arguments import RobustnessArguments
from lrsegformer.robustness.certificates.pictures import CertifiedPicture, save_certified_picture
from lrsegformer.robustness.conditions import Condition
from lrsegformer.robustness.report.files import write_report
from lrsegformer.robustness.report.sheets import Sample, save_sheet
from lrsegformer.training.run.run_config import write_run_config

# Whatever a name holds, it has to come out as text.
CLASSES = ("<script>alert('class')</script>", "road & lane")
MIOU = {"baseline": {1: 0.60, 2: 0.64}, "orthogonal": {1: 0.50, 2: 0.58}}


def make_run(folder: Path, strategy: str, seed: int, mean_iou: float, **options) -> Path:
    """What a finished run leaves, the model apart."""
    folder.mkdir(parents=True)
    is_baseline = strategy == "baseline"
    bound = {"norm": "per-pixel l2", "bound": 1.0 + seed / 10, "guaranteed": not is_baseline, "note": ""}
    layer = {"name": "decode_head.linear_fuse", "norm": "l2", "bound": 1.0, "guaranteed": True, "limited": True}
    results = {
        "eval_mean_iou": mean_iou,
        "eval_overall_accuracy": 0.9,
        "eval_f1": 0.6 + seed / 10,
        "eval_loss": 0.5,
        "eval_loss_task": 0.5,
        "task": "segmentation",
        "dataset": "digits",
        "score_at": "original",
        "input_size": "short side 64",
        "validation_images": {"scored": 5, "of": 100},
        "classes": list(CLASSES),
        "constant_answer": {"class": CLASSES[0], "mean_iou": 0.1, "overall_accuracy": 0.2},
        "lipschitz": {
            "strategy": None if is_baseline else strategy,
            "scope": "head",
            "layers": [] if is_baseline else [layer],
            "head": bound if not is_baseline else {**bound, "bound": None},
        },
        "parameters": 1_500_000,
    }
    log = [
        {"step": step, "loss": 2.0 / step, "loss_task": 1.0 / step, "eval_mean_iou": mean_iou - 0.1 / step}
        | ({} if is_baseline else {"lipschitz/linear_fuse": 1.0, "lipschitz/head": 1.0 + seed / step})
        for step in (10, 20)
    ]
    log.append({"step": 20, "train_runtime": 40.0, "train_samples_per_second": 8.0})
    (folder / "all_results.json").write_text(json.dumps(results))
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    told = {"dataset": "digits", "output_dir": str(folder), "seed": seed, **options}
    (folder / "run.yaml").write_text(yaml.safe_dump(told if is_baseline else {**told, "strategy": strategy}))
    return folder


def make_cell(model: str, condition: Condition, right: int, **more) -> dict:
    """A cell of two classes with ten pixels each, of which so many are right."""
    counts = [[0, 0, right], [0, 1, 10 - right], [1, 1, right], [1, 0, 10 - right]]
    return {
        **{"key": f"{model} {condition.label}", "model": model, "input": "short side 64", "num_labels": 2},
        **{"condition": dict(vars(condition)), "class_names": list(CLASSES), "images": 5, "of": 100},
        **{"subset": "0123456789abcdef", "seed": 3, "seconds": 1.0, "device": "cpu", "processes": 1},
        **{"versions": {"torch": "2.9"}, "warnings": [], "counts": [entry for entry in counts if entry[2]], **more},
    }


def make_bench(folder: Path, models: list[Path]) -> None:
    """A report of the bench on some runs: clean, PGD at two radii with sheets, a corruption at two severities."""
    cells = []
    for number, model in enumerate(models):
        right = 9 - number % 2
        cells.append(make_cell(model.name, Condition("clean"), right))
        for radius, lost in ((1.0, 2), (4.0, 4)):
            condition = Condition("attack", "pgd", norm="linf", radius=radius, steps=5, restarts=1)
            sheet = f"sheet-{number}-{radius:g}.png"
            cells.append(make_cell(model.name, condition, right - lost, sheet=sheet))
            save_sheet([make_sample(), make_sample()], "a sheet", CLASSES, folder / "sheets" / sheet)
        for severity in (1, 3):
            condition = Condition("corruption", "fog", severity=severity)
            cells.append(make_cell(model.name, condition, right - severity))
    context = {
        **{"task": "segmentation", "dataset": "digits", "images": 5, "of": 100, "inputs": {}, "seed": 3},
        **{"class_names": list(CLASSES), "versions": {}, "score_at": "original"},
    }
    context["inputs"] = {model.name: {"size": "short side 64", "subset": "0123456789abcdef"} for model in models}
    context["bounds"] = dict.fromkeys((model.name for model in models), None)
    options = [RobustnessArguments(models=[str(model) for model in models]), DataArguments(dataset="digits")]
    write_report(folder, cells, context, {}, [])
    write_run_config(folder, "robustness", *options)


def make_sample() -> Sample:
    image, classes = np.full((16, 24, 3), 90, np.uint8), np.zeros((16, 24), np.int64)
    return Sample(image, image + np.uint8(20), classes, classes, classes + 1)


def make_certificates(folder: Path, models: list[Path]) -> None:
    """A report of certificates on some runs: two radii, an attack beside them, pictures."""
    (folder / "pictures").mkdir(parents=True)
    row = {
        **{"method": "proven", "reach": "network", "norm": "l2", "probability": 1.0, "clean_accuracy": 0.9},
        **{"clean_mean_iou": 0.8, "attacked": {"pgd": {"accuracy": 0.7, "mean_iou": 0.55}}, "certified_share": 0.95},
        **{"certified_accuracy": 0.6, "certified_mean_iou": 0.45678},
    }
    smoothed = {**row, "method": "smoothing", "reach": "smoothed network", "probability": 0.999, "attacked": {}}
    rows, described = [], {}
    for model in models:
        rows += [{**row, "model": model.name, "radius": radius} for radius in (36 / 255, 72 / 255)]
        rows.append({**smoothed, "model": model.name, "radius": 0.17})
        names = [f"{model.name}-l2-{position}.png" for position in range(2)]
        for position, name in enumerate(names):
            sample = make_sample()
            radii = np.linspace(0, 0.2, sample.truth.size, dtype=np.float32).reshape(sample.truth.shape)
            picture = CertifiedPicture(position, sample.clean, sample.truth, sample.before, radii)
            save_certified_picture(picture, "a picture", "l2", [0.1], CLASSES, folder / "pictures" / name)
        described[model.name] = {
            **{"reach": "network", "pictures": names, "seconds": {"certificates": 0.5}},
            "curves": {"l2": [[0.1, 0.7], [0.2, 0.5]]},
        }
    content = {
        **{"report": "certificates", "task": "segmentation", "dataset": "digits", "images": 5, "of": 100, "seed": 3},
        **{"score_at": "original", "models": described, "rows": rows, "class_names": list(CLASSES)},
    }
    (folder / "results.json").write_text(json.dumps(content))
    (folder / "run.yaml").write_text(yaml.safe_dump({"models": [str(model) for model in models], "steps": 20}))


@pytest.fixture
def write_run() -> Callable[..., Path]:
    return make_run


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    """`runs/` of two strategies with two seeds each, and `reports/` of them. Not to be changed."""
    root = tmp_path_factory.mktemp("world")
    runs = [
        make_run(root / "runs" / f"{strategy}-<b>{seed}", strategy, seed, mean_iou)
        for strategy, seeds in MIOU.items()
        for seed, mean_iou in seeds.items()
    ]
    make_bench(root / "reports" / "robustness", runs)
    make_certificates(root / "reports" / "certificates", runs[2:])
    return root
