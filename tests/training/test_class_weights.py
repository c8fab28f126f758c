"""Class weights: how they are written, what they are counted from, and what they do to the loss of both tasks."""

import json
import logging

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from PIL import Image

from lrsegformer import LRSegformerConfig
from lrsegformer.cli.finetune import main
from lrsegformer.data import LabelSpace
from lrsegformer.data.dataset import ImageDataset
from lrsegformer.data.folders import ClassFolderSource, MaskFolderSource
from lrsegformer.errors import InputError
from lrsegformer.models.loading import build_model
from lrsegformer.training.class_weights import balanced_weights, class_weights, count_labels

pytestmark = pytest.mark.usefixtures("blank_pictures")

TASKS = ("segmentation", "classification")
CLASSES = {"segmentation": 11, "classification": 10}
RUN = (
    "--dataset digits --max_train_samples 12 --max_eval_samples 2 --architecture tiny --use_cpu --image_size 32 "
    "--total_batch_size 2 --dataloader_num_workers 0 --disable_tqdm True --max_steps 1 --eval_strategy no "
    "--save_strategy no --output_dir out"
).split()


@pytest.fixture
def space(digits) -> LabelSpace:
    return digits("classification").label_space


def read(option, space):
    return class_weights(option, None, space, "classification")


def test_ways_to_write_them(space, tmp_path):
    expected = [float(number) for number in range(1, 11)]
    names = dict(zip(space.names, range(1, 11), strict=True))
    forms = ["1,2,3,4,5,6,7,8,9,10", "1, 2,3,4.0,5e0,6,7,8,9,10", json.dumps([*range(1, 11)]), json.dumps(names)]
    assert all(read(form, space) == expected for form in forms)
    file = tmp_path / "weights"
    for form in (*forms, "\n".join(map(str, range(1, 11)))):
        file.write_text(form)
        assert read(str(file), space) == expected


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("1,2", "2 weights for 10 classes"),
        ("a,b", "neither 'balanced'"),
        ("nowhere.json", "neither 'balanced'"),
        ("[1, 2", "neither 'balanced'"),
        ("-1" + ",1" * 9, "at least 0"),
        ("nan" + ",1" * 9, "finite"),
        ("0" + ",0" * 9, "one above it"),
        ("{}", "classes without a weight"),
        ('{"digit 0": 1, "cat": 2}', "'cat'"),
        (json.dumps(["1"] * 10), "no number"),
    ],
)
def test_what_is_no_weight_is_refused_in_one_line(space, option, words):
    with pytest.raises(InputError, match="--class_weights") as error:
        read(option, space)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_balanced_is_what_scikit_learn_says():
    from sklearn.utils.class_weight import compute_class_weight

    labels = np.repeat([0, 1, 3], [90, 9, 1])
    expected = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=labels)
    found = balanced_weights(np.bincount(labels, minlength=5))
    assert [found[index] for index in (0, 1, 3)] == pytest.approx(expected.tolist())
    assert found[2] == found[4] == 1, "no label has them"


@pytest.mark.parametrize("task", TASKS)
def test_labels_are_counted(digits, task):
    splits = digits(task)
    counts = count_labels(splits.train, splits.label_space, task)
    assert counts.sum() == 12 if task == "classification" else counts.argmax() == 0
    assert len(counts) == CLASSES[task]


def test_whole_numbers_are_weights():
    config = LRSegformerConfig(num_labels=2, semantic_loss_class_weights=[1, 2])
    assert LRSegformerConfig(**json.loads(config.to_json_string())).semantic_loss_class_weights == [1, 2]
    with pytest.raises(InputError, match="semantic_loss_class_weights"):
        LRSegformerConfig(num_labels=2, semantic_loss_class_weights=[1, -2])


def test_loss_of_classification():
    weights = [1, 5, 0]
    names = {index: str(index) for index in range(3)}
    model = build_model("classification", "tiny", id2label=names, semantic_loss_class_weights=weights).eval()
    pixels, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 1])
    outputs = model(pixels, labels=labels)
    expected = F.cross_entropy(outputs.logits, labels, weight=torch.tensor(weights, dtype=torch.float32))
    assert outputs.loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_weighted_classification_does_not_depend_on_the_split(make_trainer, make_model):
    losses = []
    for per_device in (4, 1):
        model = make_model("classification", None)
        model.config.semantic_loss_class_weights = [0.5 * (index + 1) for index in range(10)]
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        trainer = make_trainer("classification", model=model, per_device_train_batch_size=per_device, max_steps=1)
        trainer.train()
        losses.append(trainer.state.log_history[0]["loss_task"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_smoothing_and_weights_exclude_each_other_in_classification(make_trainer, make_model):
    model = make_model("classification", None)
    model.config.semantic_loss_class_weights = [1.0] * 10
    with pytest.raises(InputError, match="--class_weights with --label_smoothing_factor"):
        make_trainer("classification", model=model, label_smoothing_factor=0.1)


@pytest.mark.parametrize("task", TASKS)
def test_through_the_command_line(tmp_path, monkeypatch, caplog, task):
    monkeypatch.chdir(tmp_path)
    with caplog.at_level(logging.INFO):
        main(task, [*RUN, "--class_weights", "balanced"])
    assert "Class weights: " in caplog.text
    assert yaml.safe_load((tmp_path / "out" / "run.yaml").read_text())["class_weights"] == "balanced"
    weights = json.loads((tmp_path / "out" / "config.json").read_text())["semantic_loss_class_weights"]
    assert len(weights) == CLASSES[task] and len(set(weights)) > 1


def test_counting_opens_no_image(tmp_path):
    for name, value in (("a", 0), ("b", 1), ("c", 1)):
        for folder in ("images", "masks", f"classes/{value}"):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 5), value, dtype=np.uint8)).save(tmp_path / "masks" / f"{name}.png")
        for folder in ("images", f"classes/{value}"):
            (tmp_path / folder / f"{name}.png").write_bytes(b"no image")
    space = LabelSpace(("zero", "one"))
    sources = {
        "segmentation": MaskFolderSource(tmp_path / "images", tmp_path / "masks"),
        "classification": ClassFolderSource(tmp_path / "classes"),
    }
    for task, source in sources.items():
        dataset = ImageDataset(source, space, None, seed=0, indices=[0, 2])
        assert count_labels(dataset, space, task).tolist() == ([20, 20] if task == "segmentation" else [1, 1])


@pytest.mark.parametrize("task", TASKS)
def test_built_in_labels_are_those_of_the_items(digits, task):
    splits = digits(task)
    targets = [splits.validation.source[int(index)].target for index in splits.validation.indices]
    expected = np.bincount(np.concatenate([np.ravel(target) for target in targets]), minlength=CLASSES[task])
    assert count_labels(splits.validation, splits.label_space, task).tolist() == expected.tolist()
