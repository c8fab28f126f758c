"""A whole run of each task: everything that lies in its folder."""

import contextlib
import io
import json
import logging
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForSemanticSegmentation,
)

from lrsegformer import LRSegformerForImageClassification, LRSegformerForSemanticSegmentation, LRSegformerTrainer
from lrsegformer.cli.finetune import command_without_folders, main, parse_arguments
from lrsegformer.data import open_image
from lrsegformer.data.processor import load_processor
from lrsegformer.data.transforms import EvaluationTransform
from lrsegformer.evaluation import predict_classes

CLASSIFICATION_RUN = (
    "--dataset digits --architecture tiny --strategy orthogonal --use_cpu --image_size 32 --max_train_samples 10 "
    "--max_eval_samples 5 --total_batch_size 4 --per_device_train_batch_size 2 --num_train_epochs 2 "
    "--logging_steps 1 --dataloader_num_workers 0 --lambda_lip 0.7 --learning_rate 6e-5"
).split()
MODELS = {
    "segmentation": (LRSegformerForSemanticSegmentation, AutoModelForSemanticSegmentation, "image-segmentation"),
    "classification": (LRSegformerForImageClassification, AutoModelForImageClassification, "image-classification"),
}


@pytest.fixture(scope="module")
def classification_run(tmp_path_factory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("classification") / "run"
    output, errors = io.StringIO(), io.StringIO()
    handler = logging.StreamHandler(errors)
    logging.getLogger("lrsegformer").addHandler(handler)
    with contextlib.redirect_stdout(output):
        main("classification", [*CLASSIFICATION_RUN, "--output_dir", str(folder)])
    logging.getLogger("lrsegformer").removeHandler(handler)
    return folder, output.getvalue() + errors.getvalue()


@pytest.fixture(params=["segmentation", "classification"])
def run(request, segmentation_run, classification_run) -> tuple[str, Path, str]:
    """Task, folder of its run, and what the run said."""
    if request.param == "segmentation":
        return "segmentation", *segmentation_run
    return "classification", *classification_run


def test_model_and_processor_load(run):
    task, folder, _ = run
    own_class, auto_class, _ = MODELS[task]
    model, again = own_class.from_pretrained(folder), auto_class.from_pretrained(folder)
    assert type(again) is own_class
    state = again.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    names = ["background"] if task == "segmentation" else []
    assert list(model.config.id2label.values()) == [*names, *(f"digit {digit}" for digit in range(10))]
    processor = AutoImageProcessor.from_pretrained(folder)
    inputs = processor(images=Image.new("RGB", (100, 80)), return_tensors="pt")
    assert model(**inputs).logits.shape[1] == model.config.num_labels


def test_results(run):
    task, folder, _ = run
    # No NaN, which is no JSON.
    results = json.loads((folder / "all_results.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert 0 <= results["eval_accuracy"] <= 1 and math.isfinite(results["eval_loss"])
    assert len(results["classes"]) == (11 if task == "segmentation" else 10)
    assert results["score_at"] == ("original" if task == "segmentation" else None)
    if task == "segmentation":
        assert len(results["eval_per_category_iou"]) == 11
        assert results["constant_answer"]["class"] == "background"
        assert results["constant_answer"]["mean_iou"] < 0.2 < results["constant_answer"]["overall_accuracy"]
    else:
        assert results["constant_answer"]["accuracy"] == 0.2
    assert results["lipschitz"]["head"]["guaranteed"] and results["lipschitz"]["head"]["bound"] > 0
    assert {"torch", "transformers", "lrsegformer"} <= results["versions"].keys()


def test_pictures(run):
    _, folder, _ = run
    for name in ("curves.png", "bounds.png", "samples.png"):
        with Image.open(folder / name) as picture:
            picture.load()
            assert picture.format == "PNG" and min(picture.size) > 200
            assert len(picture.convert("RGB").getcolors(1 << 24)) > 20


def test_configuration_is_taken_back(run):
    task, folder, _ = run
    config = yaml.safe_load((folder / "run.yaml").read_text())
    assert config["dataset"] == "digits" and config["architecture"] == "tiny"
    model, data, training = parse_arguments(task, ["--config", str(folder / "run.yaml")])
    assert training.total_batch_size == 4 and training.per_device_train_batch_size == 2
    if task == "classification":
        # The dataclass's default, but not the recipe's.
        assert training.learning_rate == 6e-5 and training.num_train_epochs == 2 and training.max_steps == -1
        assert model.strategy == "orthogonal" and data.image_size == 32


def test_card(run):
    task, folder, _ = run
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "transformers" and card.data.pipeline_tag == MODELS[task][2]
    strategy = "stable_softplus" if task == "segmentation" else "orthogonal"
    assert {"lrsegformer", f"strategy:{strategy}"} <= set(card.data.tags)
    scores = {result.metric_type: result.metric_value for result in card.data.eval_results}
    results = json.loads((folder / "all_results.json").read_text())
    main_score = "mean_iou" if task == "segmentation" else "accuracy"
    assert scores[main_score] == pytest.approx(results[f"eval_{main_score}"], abs=1e-4)


def test_the_cards_code_sees_a_turned_photograph_as_evaluation_does(
    run, turned_photograph, tmp_path, monkeypatch, capsys
):
    task, folder, _ = run
    code = ModelCard.load(folder / "README.md").text.split("```python\n")[1].split("```")[0]
    turned_photograph(tmp_path / "image.jpg")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(code.replace('source = "."', f"source = {str(folder)!r}"), "README.md", "exec"), names)
    image = open_image(tmp_path / "image.jpg")
    assert image.size == (70, 90)
    target = np.zeros((90, 70), np.uint8) if task == "segmentation" else 0
    item = EvaluationTransform(load_processor(str(folder)))(image, target, np.random.default_rng(0))
    with torch.no_grad():
        logits = MODELS[task][0].from_pretrained(folder)(item["pixel_values"][None]).logits
    assert torch.equal(names["logits"], logits)
    if task == "segmentation":
        assert torch.equal(names["classes"], predict_classes(logits, (90, 70))[0])
    else:
        assert capsys.readouterr().out.strip() == f"digit {logits.argmax()}"


def test_what_the_run_says(run):
    task, folder, said = run
    images = "12 training and 4 validation" if task == "segmentation" else "10 training and 5 validation"
    assert images in said
    # 10 images in 5 batches of 2: the third step of an epoch has one batch.
    steps = "4 steps of 4 images (2 a device x 2 accumulation x 1 processes), 1.3 epochs"
    assert (steps if task == "segmentation" else "6 steps of 4 images") in said
    assert "for the encoder" in said and "for the head" in said
    assert re.search(r"^score +model", said, flags=re.MULTILINE)
    assert "Bound of the head" in said and str(folder) in said and "bounds.png" in said
    assert ("has no effect" in said) == (task == "classification")


def test_steps_of_the_plan_are_the_steps_taken(run):
    task, folder, _ = run
    state = json.loads((folder / "trainer_state.json").read_text())
    assert state["global_step"] == state["max_steps"] == (4 if task == "segmentation" else 6)


def test_tensorboard_has_the_parts_of_the_loss(segmentation_run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    files = segmentation_run[0].rglob("events.out.tfevents.*")
    scalars = {name for file in files for name in EventAccumulator(str(file)).Reload().Tags()["scalars"]}
    assert {"train/loss", "train/loss_task", "train/loss_lipschitz", "train/lipschitz/classifier"} <= scalars
    assert {"eval/mean_iou", "eval/loss_task"} <= scalars


def test_push_sends_the_card_of_the_run(classification_run, make_arguments, monkeypatch):
    """The stock Trainer writes its draft over the card before it uploads the folder."""
    folder, _ = classification_run
    card = (folder / "README.md").read_text()
    sent = []

    class Hub:
        def upload_folder(self, folder_path, **options):
            sent.append((Path(folder_path) / "README.md").read_text())

    monkeypatch.setattr("transformers.trainer.hf_api", Hub)
    trainer = LRSegformerTrainer(
        model=LRSegformerForImageClassification.from_pretrained(folder), args=make_arguments(output_dir=str(folder))
    )
    trainer.hub_model_id = "someone/model"
    trainer.push_to_hub()
    assert sent == [card]


def test_a_folder_without_a_card_gets_the_draft(make_trainer, tmp_path):
    trainer = make_trainer()
    for _ in range(2):
        trainer.create_model_card(model_name="draft")
        assert "generated_from_trainer" in (tmp_path / "run" / "README.md").read_text()


def test_card_shows_a_command_to_paste_without_the_token():
    argv = [
        "scripts/x.py",
        "--lipschitz_options",
        '{"norm": "l1"}',
        "--hub_token",
        "hf_secret",
        "--hub-token=hf_secret",
    ]
    shown = command_without_folders([*argv, "--dataset", "/home/someone/camvid"])
    assert "hf_secret" not in shown and '\'{"norm": "l1"}\'' in shown
    assert "home" not in shown and shown.endswith("--dataset camvid")
