"""`lrsegformer evaluate`: its scores against the Trainer's and against single predictions, its files, bad input."""

import csv
import json
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from lrsegformer import LRSegformerTrainer, LRSegformerTrainingArguments
from lrsegformer.cli import evaluate
from lrsegformer.data import DataArguments, load_data
from lrsegformer.data.dataset import collate
from lrsegformer.data.processor import load_processor
from lrsegformer.data.transforms import EvaluationTransform
from lrsegformer.evaluation import scores_from_counts
from lrsegformer.hub.sections import current_sections
from lrsegformer.inference import Predictor
from lrsegformer.models.loading import load_model
from tests.inference.conftest import noise

NAMES = ("sky", "road", "tree", "car", "_other")
SIZES = ((80, 64), (80, 64), (70, 100), (64, 64))
KEYS = ("mean_iou", "overall_accuracy", "accuracy", "precision", "recall", "f1", "matthews_correlation")


@pytest.fixture
def run(exit_status):
    """`run(*words)`: the exit status of a command line (0 where it ends by itself)."""
    return partial(exit_status, evaluate.main)


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    """A segmentation folder: images of three sizes with masks of five classes and void (255)."""
    root = tmp_path_factory.mktemp("scenes")
    for split in ("training", "validation"):
        for number, (width, height) in enumerate(SIZES):
            for kind in ("images", "annotations"):
                (root / kind / split).mkdir(parents=True, exist_ok=True)
            noise(width, height, number).save(root / "images" / split / f"{number}.png")
            mask = np.random.default_rng(number).integers(0, 6, (height // 8 + 1, width // 8 + 1))
            mask = np.where(mask == 5, 255, mask).repeat(8, 0).repeat(8, 1)[:height, :width]
            Image.fromarray(mask.astype(np.uint8)).save(root / "annotations" / split / f"{number}.png")
    return root


@pytest.fixture(scope="session")
def class_folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("class_folders")
    for split in ("train", "validation"):
        for number, name in enumerate(NAMES):
            (root / split / name).mkdir(parents=True)
            for copy in range(2):
                noise(50 + number, 40, 10 * number + copy).save(root / split / name / f"{copy}.png")
    return root


def report_of(folder):
    return json.loads((folder / "evaluation.json").read_text())


def by_the_trainer(model, scenes, size, tmp_path):
    """What `Trainer.evaluate` reports of the saved model."""
    splits = load_data(
        DataArguments(dataset=str(scenes), class_names=",".join(NAMES)), "segmentation", 0, [0] * 3, [1] * 3
    )
    transform = EvaluationTransform(load_processor(str(model)), resize_labels=size == "resized")
    arguments = LRSegformerTrainingArguments(
        output_dir=str(tmp_path / "trainer"), per_device_eval_batch_size=1, use_cpu=True, disable_tqdm=True
    )
    trainer = LRSegformerTrainer(
        load_model("segmentation", str(model)),
        arguments,
        eval_dataset=splits.validation.with_transform(transform),
        data_collator=collate,
    )
    return trainer.evaluate()


@pytest.mark.parametrize("name", ["ours", "certified"])
def test_whole_is_what_the_trainer_reports(run, saved_models, scenes, tmp_path, name):
    words = (saved_models / name, "--dataset", scenes, "--class_names", ",".join(NAMES), "--output_dir", "out")
    assert run(*words) == 0
    scores = report_of(tmp_path / "out")["protocols"]["whole"]
    assert scores["original"] != scores["resized"]
    for size in ("original", "resized"):
        expected = by_the_trainer(saved_models / name, scenes, size, tmp_path)
        assert {key: scores[size][key] for key in KEYS} == {key: expected[f"eval_{key}"] for key in KEYS}
        assert scores[size]["per_category_iou"] == expected["eval_per_category_iou"]


def test_the_other_protocols_count_what_the_predictor_predicts(run, saved_models, scenes, tmp_path):
    model, options = saved_models / "stock", ("--window", "48", "--stride", "32")
    words = ("--dataset", scenes, "--class_names", ",".join(NAMES), "--output_dir", "out")
    assert (
        run(model, *words, "--protocols", "slide", "multi_scale_flip", *options, "--dataloader_num_workers", "1") == 0
    )
    report = report_of(tmp_path / "out")
    assert report["settings"]["slide"] == {"window": 48, "stride": 32}
    for protocol, settings in (("slide", {"window": 48, "stride": 32}), ("multi_scale_flip", {})):
        predictor = Predictor.from_pretrained(model, protocol=protocol, **settings)
        expected = np.zeros((5, 5), dtype=np.int64)
        for number in range(len(SIZES)):
            truth = np.asarray(Image.open(scenes / "annotations" / "validation" / f"{number}.png"))
            classes = predictor(scenes / "images" / "validation" / f"{number}.png").classes
            np.add.at(expected, (truth[truth < 255], classes[truth < 255]), 1)
        with open(tmp_path / "out" / f"confusion_matrix_{protocol}.csv", newline="") as text:
            header, *rows = csv.reader(text)
        assert tuple(header[1:]) == NAMES and tuple(row[0] for row in rows) == NAMES
        counts = np.array([row[1:] for row in rows], dtype=np.int64)
        # Batches of other sizes round otherwise: of 22,000 pixels one with two equal classes may fall to another.
        assert np.abs(counts - expected).sum() <= 4 and counts.sum() == expected.sum()
        scores = report["protocols"][protocol]["original"]
        assert scores["mean_iou"] == scores_from_counts(counts)["mean_iou"]
        assert (tmp_path / "out" / f"confusion_matrix_{protocol}.png").is_file()


def test_protocols_that_are_scored_later_are_added(run, saved_models, scenes, tmp_path, capsys):
    words = ("--dataset", scenes, "--class_names", ",".join(NAMES), "--output_dir", "out", "--worst", "0")
    assert run(saved_models / "ours", *words) == 0
    first = report_of(tmp_path / "out")
    assert set(first) >= {"model", "task", "dataset", "split", "num_images", "protocols", "versions"}
    assert (first["model"], first["task"], first["split"], first["num_images"]) == (
        "ours",
        "segmentation",
        "validation",
        4,
    )
    assert not (tmp_path / "out" / "worst.png").exists()
    assert run(saved_models / "ours", *words, "--protocols", "slide", "--window", "48") == 0
    second = report_of(tmp_path / "out")
    assert list(second["protocols"]) == ["whole", "slide"] and second["settings"]["slide"]["window"] == 48
    assert second["protocols"]["whole"] == first["protocols"]["whole"]
    printed = capsys.readouterr().out
    assert "slide, resized" in printed and "Results: out" in printed
    # Another model, and other images, do not go over them.
    assert run(saved_models / "stock", *words) == 2
    assert "holds the evaluation of another model, weights: give another folder" in capsys.readouterr().err
    assert run(saved_models / "ours", *words, "--max_eval_samples", "2") == 2
    assert "holds the evaluation of another num_images" in capsys.readouterr().err
    assert report_of(tmp_path / "out") == second


def test_the_sheet_shows_the_worst_images(run, saved_models, scenes, tmp_path, monkeypatch):
    from lrsegformer.inference import evaluate as module

    shown = []
    monkeypatch.setattr(module, "save_worst", lambda *words: shown.append(words) or words[-1].touch())
    words = ("--dataset", scenes, "--class_names", ",".join(NAMES), "--output_dir", "out", "--worst", "3")
    assert run(saved_models / "ours", *words) == 0
    predictor = Predictor.from_pretrained(saved_models / "ours")
    scores = []
    for number in range(len(SIZES)):
        truth = np.asarray(Image.open(scenes / "annotations" / "validation" / f"{number}.png"))
        classes = predictor(scenes / "images" / "validation" / f"{number}.png").classes[truth < 255]
        counts = np.zeros((5, 5), dtype=np.int64)
        np.add.at(counts, (truth[truth < 255], classes), 1)
        scores.append(scores_from_counts(counts))
    order = sorted(range(len(SIZES)), key=lambda number: scores[number]["mean_iou"])[:3]
    worst = shown[0][2]
    assert [image.position for image in worst] == order
    assert [1 - image.badness for image in worst] == pytest.approx([scores[number]["mean_iou"] for number in order])
    assert [image.accuracy for image in worst] == pytest.approx([scores[number]["accuracy"] for number in order])


def test_classification(run, saved_models, class_folders, tmp_path):
    model = saved_models / "classifier"
    words = ("--dataset", class_folders, "--output_dir", "out", "--class_names", ",".join(sorted(NAMES)))
    renamed = tmp_path / "model"  # class folders are sorted by name
    shutil.copytree(model, renamed)
    config = json.loads((renamed / "config.json").read_text())
    config["id2label"] = {str(place): name for place, name in enumerate(sorted(NAMES))}
    config["label2id"] = {name: place for place, name in enumerate(sorted(NAMES))}
    (renamed / "config.json").write_text(json.dumps(config))
    assert run(renamed, *words[:4]) == 0
    predictor = Predictor.from_pretrained(renamed)
    files = sorted((class_folders / "validation").rglob("*.png"))
    right = [predictor(file).name == file.parent.name for file in files]
    report = report_of(tmp_path / "out")
    assert list(report["protocols"]) == ["whole"] and list(report["protocols"]["whole"]) == ["original"]
    assert report["protocols"]["whole"]["original"]["accuracy"] == np.mean(right)
    with Image.open(tmp_path / "out" / "worst.png") as sheet:
        assert sheet.width > 1200  # four in a row
    assert (tmp_path / "out" / "confusion_matrix_whole.png").is_file()


def test_a_run_is_scored_on_its_own_data(run, segmentation_run, tmp_path, capsys):
    """Without a data set: what its `all_results.json` says, digit for digit, and a copy of the file beside it."""
    folder = tmp_path / "run"
    shutil.copytree(segmentation_run[0], folder, ignore=shutil.ignore_patterns("*.png", "optimizer.pt"))
    assert run(folder, "--output_dir", "out", "--worst", "2") == 0
    results = json.loads((folder / "all_results.json").read_text())
    scores = report_of(tmp_path / "out")["protocols"]["whole"]["original"]
    assert {key: scores[key] for key in KEYS} == {key: results[f"eval_{key}"] for key in KEYS}
    assert report_of(folder) == report_of(tmp_path / "out")
    assert f"evaluation.json in {folder}" in capsys.readouterr().out
    shown = [line.strip("| ").split(" | ") for line in current_sections(folder)["evaluation"].splitlines()[4:]]
    assert shown[0][:3] == ["protocol", "scored at size", "Mean IoU"]
    assert shown[2][:3] == ["whole image", "the annotations' own", f"{scores['mean_iou']:.4f}"]
    with Image.open(tmp_path / "out" / "worst.png") as sheet:
        assert sheet.height > 2 * 300
    # Fewer images are not the run's own; neither is a checkpoint on the way.
    (folder / "evaluation.json").unlink()
    assert run(folder, "--output_dir", "fewer", "--max_eval_samples", "2") == 0
    assert report_of(tmp_path / "fewer")["num_images"] == 2
    assert run(folder / "checkpoint-2", "--worst", "0") == 0
    assert (tmp_path / "reports" / "evaluation" / "run-checkpoint-2" / "evaluation.json").is_file()
    assert not (folder / "evaluation.json").exists()


BAD = [
    (["{ours}"], "MODEL {ours} is no folder of a run, whose data set would be known: give --dataset"),
    (["{ours}", "--dataset", "missing/at/all"], "--dataset missing/at/all: no such folder"),
    (["nowhere/at/all", "--dataset", "{scenes}"], "MODEL nowhere/at/all: no such folder"),
    (["--dataset", "{scenes}"], "MODEL"),
    (["{ours}", "--dataset", "{scenes}", "--protocols", "half"], "--protocols"),
    (["{ours}", "--dataset", "{scenes}", "--window", "64"], "--window 64 is of the protocol slide"),
    (["{ours}", "--dataset", "{scenes}", "--worst", "-1"], "--worst is -1"),
    (["{ours}", "--dataset", "{scenes}", "--batch_size", "0"], "--batch_size is 0"),
    (["{ours}", "--dataset", "{scenes}", "--score_at", "resized"], "--score_at"),
    (["{ours}", "--dataset", "{scenes}", "--class_names", "a,b,c,d,e,f"], "has 5 classes, and the data set"),
    (["{ours}", "--dataset", "{scenes}", "--class_names", "road,sky,tree,car,_other"], "in another order"),
    (["{ours}", "--dataset", "{scenes}", "--class_names", "{names}", "--output_dir", "file"], "file is a file"),
    (["{classifier}", "--dataset", "{folders}", "--protocols", "slide"], "--protocols slide is for segmentation"),
    (["torn"], "run.yaml is not a mapping from option names to values"),
]


@pytest.mark.parametrize(("words", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_bad_input_ends_in_one_line(run, saved_models, scenes, class_folders, tmp_path, capsys, words, message):
    (tmp_path / "file").touch()
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "run.yaml").write_text("- 1")
    before = sorted(tmp_path.rglob("*"))
    known = {name: saved_models / name for name in ("ours", "classifier")}
    known |= {"scenes": scenes, "folders": class_folders, "names": ",".join(NAMES)}
    assert run(*(word.format(**known) for word in words)) == 2
    errors = capsys.readouterr().err
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and message.format(**known) in lines[0], errors
    assert "Traceback" not in errors and "usage:" not in errors
    assert sorted(tmp_path.rglob("*")) == before


def test_processes_and_batches_give_the_same(saved_models, scenes):
    """The sums do not hang on how images are put into batches."""
    from lrsegformer.inference.protocol import Protocol
    from lrsegformer.inference.scoring import ProtocolInputs, score

    splits = load_data(
        DataArguments(dataset=str(scenes), class_names=",".join(NAMES)), "segmentation", 0, [0] * 3, [1] * 3
    )
    predictor, protocols = Predictor.from_pretrained(saved_models / "ours", device=torch.device("cpu")), [Protocol()]
    dataset = splits.validation.with_transform(ProtocolInputs(predictor.processor, protocols))
    one, four = (score(predictor, dataset, protocols, 255, size, 0) for size in (1, 4))
    assert [image.position for image in four.images] == [image.position for image in one.images] == [0, 1, 2, 3]
    for key, counts in one.counts.items():
        assert np.abs(counts - four.counts[key]).sum() <= 4
