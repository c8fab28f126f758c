"""The model card: metadata that the Hub understands, and bounds that are not mixed up with estimates."""

from configparser import ConfigParser
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import ModelCard

import lrsegformer
from lrsegformer.hub import write_model_card
from lrsegformer.hub.card import TEMPLATE
from lrsegformer.hub.tables import evaluation_section

REPORT = {
    "strategy": "stable_softplus",
    "scope": "head",
    "layers": [
        {"name": "decode_head.linear_fuse", "norm": "linf", "bound": 1.2345678, "exact": 1.1, "guaranteed": True},
        {"name": "decode_head.classifier", "norm": "l2", "bound": 7.7777, "exact": 7.7, "guaranteed": False},
    ],
    "head": {
        "norm": "linf",
        "bound": 2.25,
        "product_of_bounds": 3.5,
        "guaranteed": True,
        "note": "From stage features.",
        "norms": {
            "per_pixel_l2": {"to_relu_bound": 1, "bound": 4.123456, "product_of_norms": 5.123456, "limited": False},
            "linf": {"to_relu_bound": 1, "bound": 2.25, "product_of_norms": 3.25, "limited": True},
        },
    },
}


def card_of(folder, **changes):
    options = {
        "config": SimpleNamespace(
            lipschitz_strategy="stable_softplus",
            penalty_of="layers",
            penalty_reduction="geometric_mean",
            id2label={0: "a|b", 1: "road"},
        ),
        "task": "segmentation",
        "base_model": "nvidia/mit-b0",
        "dataset_name": "ADE20K",
        "dataset_hub_id": "merve/scene_parse_150",
        "metrics": {
            "eval_mean_iou": 0.375,
            "eval_overall_accuracy": 0.75,
            "eval_f1": float("nan"),
            "eval_runtime": 12.0,
            "eval_per_category_iou": [0.5, float("nan")],
            "eval_per_category_accuracy": [0.25, float("nan")],
        },
        "lipschitz_report": REPORT,
        "hyperparameters": {"learning_rate": 6e-05},
        "scored": "Scored on 4 of the 26 images of the validation split.",
        "versions": {"torch": "2.13.0"},
        "command": "accelerate launch scripts/finetune_seg.py --strategy stable_softplus",
    }
    folder.mkdir(exist_ok=True)
    path = write_model_card(folder, **{**options, **changes})
    assert path == folder / "README.md"
    return ModelCard.load(path)


def rows_of(card, start):
    line = next(line for line in card.text.splitlines() if line.startswith(start))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_metadata(tmp_path):
    data = card_of(tmp_path / "my-model").data
    assert data.library_name == "transformers"
    assert data.pipeline_tag == "image-segmentation"
    assert data.base_model == "nvidia/mit-b0"
    assert data.datasets == ["merve/scene_parse_150"]
    assert {"lrsegformer", "lipschitz", "strategy:stable_softplus"} <= set(data.tags)
    assert data.license == "other"
    assert data.license_link == "https://github.com/NVlabs/SegFormer/blob/master/LICENSE"
    assert data.model_name == "my-model"
    results = {result.metric_type: result for result in data.eval_results}
    assert set(results) == {"mean_iou", "overall_accuracy"}, "neither nan nor timings are results"
    assert results["mean_iou"].metric_value == 0.375
    assert results["mean_iou"].dataset_type == "merve/scene_parse_150"
    assert results["mean_iou"].task_type == "image-segmentation"


def test_from_scratch_is_free_and_has_no_base(tmp_path):
    card = card_of(tmp_path, base_model=None, dataset_hub_id=None, dataset_name="digits")
    assert card.data.license == "apache-2.0"
    assert card.data.base_model is None
    assert card.data.datasets is None
    assert "trained from scratch" in card.text
    assert "NVIDIA" not in card.text


def test_a_local_base_is_named_without_its_path(tmp_path):
    base = tmp_path / "somewhere" / "standin-mit-b0"
    base.mkdir(parents=True)
    card = card_of(tmp_path / "model", base_model=str(base))
    assert card.data.base_model is None
    assert card.data.license == "other"
    assert "standin-mit-b0" in card.text
    assert str(tmp_path) not in card.content


def test_bounds_and_estimates_keep_to_their_columns(tmp_path):
    card = card_of(tmp_path)
    header = rows_of(card, "| map")
    guaranteed, estimate = header.index("guaranteed bound"), header.index("estimate (no guarantee)")
    fuse, classifier = rows_of(card, "| `decode_head.linear_fuse`"), rows_of(card, "| `decode_head.classifier`")
    assert (fuse[guaranteed], fuse[estimate]) == ("1.2346", "")
    assert (classifier[guaranteed], classifier[estimate]) == ("none", "7.7777")
    assert rows_of(card, "| **head** |")[guaranteed] == "2.25"
    assert rows_of(card, "| **head**, product of")[guaranteed] == "3.5"
    assert rows_of(card, "| per-pixel l2 |") == ["per-pixel l2", "4.1235", "no", "5.1235"]
    assert rows_of(card, "| linf |") == ["linf", "2.25", "yes", "3.25"]
    assert "What a bound does not promise" in card.text


def test_a_baseline_claims_nothing(tmp_path):
    norms = {"l2": {"bound": 0.5, "limited": False}}
    head = {"norm": None, "bound": None, "guaranteed": False, "note": "Baseline: no layer is constrained."}
    head |= {"product_of_bounds": None, "norms": norms}
    report = {"strategy": None, "scope": None, "layers": [], "head": head}
    card = card_of(tmp_path, lipschitz_report=report, config=SimpleNamespace(lipschitz_strategy=None, id2label={}))
    assert "strategy:none" in card.data.tags
    assert "unconstrained baseline" in card.text
    assert rows_of(card, "| **head**")[2:4] == ["none", ""]
    assert rows_of(card, "| l2 |") == ["l2", "0.5", "no", ""]


def test_text(tmp_path):
    text = card_of(tmp_path).text
    for expected in (
        "accelerate launch scripts/finetune_seg.py --strategy stable_softplus",
        "| `learning_rate` | `6e-05` |",
        "torch 2.13.0",
        "import lrsegformer",
        "AutoModelForSemanticSegmentation.from_pretrained",
        "| Mean IoU | 0.3750 |",
        r"| a\|b | 0.5000 | 0.2500 |",
        "| road | absent | absent |",
    ):
        assert expected in text
    assert "nan" not in text


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_the_snippet_is_valid_python(tmp_path, task):
    text = card_of(tmp_path, task=task).text
    compile(text.split("```python\n")[1].split("```")[0], "README.md", "exec")


def test_says_what_was_scored(tmp_path):
    text = card_of(tmp_path).text
    assert (
        "Scored on 4 of the 26 images of the validation split. The saved image processor makes these inputs." in text
    )


def test_classification(tmp_path):
    card = card_of(tmp_path, task="classification", metrics={"eval_accuracy": 0.5})
    assert card.data.pipeline_tag == "image-classification"
    assert "AutoModelForImageClassification" in card.text
    assert "Per class" not in card.text
    assert "No scores" in card_of(tmp_path, metrics={}).text


def test_names_are_text_whatever_they_hold(tmp_path):
    """Neither the template's syntax nor a line of their own: names come from files of other people."""
    trap = "{{ 7 * 7 }} {% include '/etc/hostname' %}\n# Heading\n---"
    config = SimpleNamespace(
        lipschitz_strategy="stable_softplus",
        penalty_of="layers",
        penalty_reduction="geometric_mean",
        id2label={0: trap, 1: "road"},
    )
    card = card_of(
        tmp_path,
        dataset_name=trap,
        base_model="nowhere/{% x\n# Heading",
        config=config,
        hyperparameters={trap: trap},
        versions={"torch": "{{ 7 * 7 }}"},
        command="scripts/run.py --class_names '{{ 7 * 7 }}'",
    )
    assert "49" not in card.text and card.text.count("{{ 7 * 7 }}") == 6
    assert "\n# Heading" not in card.text
    assert {result.dataset_name for result in card.data.eval_results} == {" ".join(trap.split())}


def test_the_template_is_part_of_the_package():
    setup = ConfigParser()
    setup.read(Path(__file__).resolve().parents[2] / "setup.cfg", encoding="utf-8")
    listed = setup["options.package_data"]["lrsegformer"].replace(",", " ").split()
    assert TEMPLATE.relative_to(Path(lrsegformer.__file__).parent).as_posix() in listed


def test_the_section_of_an_evaluation():
    scores = {"mean_iou": 0.25, "accuracy": None, "per_category_iou": [0.25]}
    report = {
        "split": "val",
        "dataset": "streets <b>",
        "num_images": 3,
        "of": 5,
        "input": "64x64",
        "protocols": {"slide": {"original": {**scores, "mean_iou": 0.375}}, "whole": {"resized": scores}},
        "settings": {"slide": {"window": 64, "stride": 42}, "whole": {}},
        "versions": {"torch": "2.13.0"},
    }
    text = evaluation_section(report)
    assert "3 of the 5 images of the split val of streets \\<b>, from inputs of 64x64" in text
    assert "| protocol | scored at size | Mean IoU | Accuracy |" in text
    assert "| whole image | the input's | 0.2500 | - |\n| sliding window | the annotations' own | 0.3750 | - |" in text
    assert "Windows of 64 pixels every 42." in text and "mirrored" not in text
