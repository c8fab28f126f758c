"""Shifted data: Hub copies and folders, masks in other classes, and splits by a file list."""

import io
import json

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from lrsegformer.data import hub
from lrsegformer.data.arguments import DataArguments
from lrsegformer.data.loading import load_data
from lrsegformer.data.processor import build_processor
from lrsegformer.data.transforms import EvaluationTransform
from lrsegformer.errors import InputError
from lrsegformer.robustness.shift.corruptions import CorruptedDataset
from lrsegformer.robustness.shift.data_sets import (
    IMAGENET_SHIFTS,
    ModelInput,
    imagenet_c_folders,
    load_class_folder,
    load_imagenet_shift,
    map_classes,
)
from lrsegformer.robustness.shift.file_list import listed_images
from lrsegformer.robustness.shift.label_maps import ClassMap

ANIMALS = ("cat", "dog", "cow", "hen")
STATISTICS = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def model_input(*names):
    return ModelInput(names, EvaluationTransform(build_processor("classification", 32, *STATISTICS)))


def put(path, value=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((40, 40, 3), value, np.uint8)).save(path)


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path):
    """Two classes by wnid, three images."""
    for name in ("n00000003/a.png", "n00000003/b.png", "n00000007/c.png"):
        put(tmp_path / "set" / name)
    return tmp_path / "set"


@pytest.fixture
def segmentation(tmp_path):
    """Two images with masks of the classes 0 to 2; 255 is void."""
    for split in ("train", "val"):
        for stem in ("one", "two"):
            put(tmp_path / split / f"{stem}.png")
            mask = np.repeat(np.array([0, 1, 2, 255], np.uint8), 10)[None].repeat(40, axis=0)
            (tmp_path / f"{split}_masks").mkdir(exist_ok=True)
            Image.fromarray(mask).save(tmp_path / f"{split}_masks" / f"{stem}.png")
    arguments = DataArguments(
        train_images=str(tmp_path / "train"),
        train_masks=str(tmp_path / "train_masks"),
        validation_images=str(tmp_path / "val"),
        validation_masks=str(tmp_path / "val_masks"),
        class_names="road,car,sky",
    )
    return load_data(arguments, "segmentation", 0, *STATISTICS).validation


def test_masks_get_the_classes_of_the_model(segmentation, tmp_path):
    mapping = write(tmp_path / "map.csv", "road,hen\ncar,cat\nsky,ignore\n")
    mapped = map_classes(segmentation, mapping, ANIMALS, "data")
    assert mapped.label_space.names == ANIMALS and len(mapped) == 2
    assert mapped[0]["labels"][0].tolist() == [3] * 10 + [0] * 10 + [255] * 20
    assert torch.equal(mapped[0]["pixel_values"], segmentation[0]["pixel_values"])


def test_masks_of_a_model_with_more_than_255_classes(segmentation, tmp_path):
    mapping = write(tmp_path / "map.csv", "road,255\ncar,299\nsky,ignore\n")
    mapped = map_classes(segmentation, mapping, [f"name {index}" for index in range(300)], "data")
    assert mapped.label_space.ignore_index == -100
    assert mapped[0]["labels"][0].tolist() == [255] * 10 + [299] * 10 + [-100] * 20


def test_real_masks_in_other_classes(real_data, tmp_path):
    camvid = real_data / "camvid"
    arguments = DataArguments(
        train_images=str(camvid / "train"),
        train_masks=str(camvid / "trainannot"),
        validation_images=str(camvid / "val"),
        validation_masks=str(camvid / "valannot"),
        ignore_label=11,
        class_names="Sky,Building,Pole,Road,Pavement,Tree,Sign,Fence,Car,Pedestrian,Bicyclist",
    )
    splits = load_data(arguments, "segmentation", 0, *STATISTICS)
    lines = ["Road,ground", "Pavement,ground"] + [
        f"{name},other" for name in splits.label_space.names if name not in ("Road", "Pavement", "Sky")
    ]
    mapping = write(tmp_path / "map.csv", "\n".join([*lines, "Sky,ignore"]))
    mapped = map_classes(splits.validation, mapping, ("ground", "other"), "CamVid")
    old, new = splits.validation[3]["labels"], mapped[3]["labels"]
    assert torch.equal(new == 0, (old == 3) | (old == 4)) and torch.equal(new == 255, (old == 0) | (old == 255))
    stems = [image.stem for image, _ in splits.validation.source.pairs]
    chosen = listed_images(mapped, write(tmp_path / "list.txt", f"# a drive\n{stems[9]}\n\n{stems[3]}\n"))
    assert len(chosen) == 2 and torch.equal(chosen[1]["labels"], new)


def test_class_folders_of_a_subset(folder, tmp_path):
    synsets = write(tmp_path / "synsets.txt", "".join(f"n0000000{index}\n" for index in range(9)))
    model = model_input(*(f"name {index}" for index in range(9)))
    shifted = load_class_folder("mine", folder, model, synsets=synsets)
    assert shifted.class_map == ClassMap((3, 7), 9) and len(shifted.dataset) == 3
    assert [shifted.dataset[index]["labels"] for index in range(3)] == [0, 0, 1]
    assert shifted.dataset[0]["pixel_values"].shape == (3, 32, 32)
    assert shifted.dataset.label_space.names == ("n00000003", "n00000007")


def test_ignored_classes_leave_the_set(folder, tmp_path):
    put(folder / "n00000005" / "d.png")
    mapping = write(tmp_path / "map.csv", "n00000003,dog\nn00000005,ignore\nn00000007,hen\n")
    shifted = load_class_folder("mine", folder, model_input(*ANIMALS), mapping=mapping)
    assert shifted.class_map.indices == (1, 3)
    assert [shifted.dataset[index]["labels"] for index in range(len(shifted.dataset))] == [0, 0, 1]
    write(mapping, "n00000003,dog\nn00000005,dog\nn00000007,hen\n")
    with pytest.raises(InputError, match="2 classes of the data set are class 1 of the model"):
        load_class_folder("mine", folder, model_input(*ANIMALS), mapping=mapping)


@pytest.mark.parametrize(
    ("text", "message"),
    [("n00000003\nn00000003\n", "1 different wnids in 2 lines"), ("cat\nn00000003\n", "'cat' is no wnid")],
)
def test_wrong_synset_files(folder, tmp_path, text, message):
    synsets = write(tmp_path / "synsets.txt", text)
    with pytest.raises(InputError, match=message):
        load_class_folder("mine", folder, model_input("a", "b"), synsets=synsets)
    write(synsets, "n00000001\nn00000003\n")
    with pytest.raises(InputError, match="'n00000007' is not in .*synsets.txt"):
        load_class_folder("mine", folder, model_input("a", "b"), synsets=synsets)


def test_imagenet_c_folders(tmp_path, folder):
    for corruption, severity in (("fog", 1), ("fog", 5), ("snow", 2)):
        for wnid in ("n00000003", "n00000007"):
            put(tmp_path / "c" / corruption / str(severity) / wnid / "a.png")
    cells = imagenet_c_folders(tmp_path / "c")
    assert list(cells) == [("fog", 1), ("fog", 5), ("snow", 2)]
    assert len(load_class_folder("fog 5", cells["fog", 5], model_input("a", "b")).dataset) == 2
    with pytest.raises(InputError, match="fetch ImageNet-C from https://zenodo.org/records/2235448"):
        imagenet_c_folders(folder)


def test_real_imagenet_folders(real_data):
    root = real_data / "imagenet1k_sample"
    wnids = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
    shifted = load_class_folder("sample", root, model_input(*wnids))
    assert shifted.class_map.indices == tuple(range(100)) == tuple(shifted.dataset[i]["labels"] for i in range(100))
    assert CorruptedDataset(shifted.dataset, "fog", 1).label_space == shifted.dataset.label_space


def rows_of_hub(labels):
    """As the WebDataset copies are read: the picture under its suffix, and the class as a bare number."""
    features = datasets.Features(
        {"jpg": datasets.Image(), "cls": datasets.Value("int64"), "__key__": datasets.Value("string")}
    )
    buffer = io.BytesIO()
    Image.fromarray(np.full((40, 40, 3), 9, np.uint8)).save(buffer, "JPEG")
    picture = {"bytes": buffer.getvalue(), "path": None}
    columns = {"jpg": [picture] * len(labels), "cls": labels, "__key__": [str(label) for label in labels]}
    return datasets.Dataset.from_dict(columns, features=features)


def test_hub_copies(monkeypatch, tmp_path):
    asked = []

    def load(dataset_id, arguments):
        asked.append((dataset_id, arguments.train_split, arguments.validation_split))
        return {"test": rows_of_hub([2, 0, 3, 1])}

    monkeypatch.setattr(hub, "load_splits", load)
    shifted = load_imagenet_shift("imagenet-v2", model_input(*ANIMALS))
    assert asked == [("clip-benchmark/wds_imagenetv2", "test", "test")]
    assert shifted.class_map.indices == (0, 1, 2, 3)
    assert [shifted.dataset[index]["labels"] for index in range(4)] == [2, 0, 3, 1]
    # Four bare numbers among six classes: only the user's file can say which they are.
    model = model_input(*ANIMALS, "owl", "bat")
    with pytest.raises(InputError, match="imagenet-a: its 4 classes .*give a class-mapping file"):
        load_imagenet_shift("imagenet-a", model)
    mapping = write(tmp_path / "a.json", json.dumps({"0": 5, "1": "cat", "2": "ignore", "3": 1}))
    shifted = load_imagenet_shift("imagenet-a", model, mapping=mapping)
    assert shifted.class_map.indices == (5, 0, 1)
    assert [shifted.dataset[index]["labels"] for index in range(3)] == [0, 2, 1]


@pytest.mark.parametrize("name", IMAGENET_SHIFTS)
def test_offline_says_what_to_fetch_and_from_where(monkeypatch, name):
    def fail(*args, **kwargs):
        raise InputError("x/y cannot be loaded from the Hub (no network); check the network, or work offline")

    monkeypatch.setattr(hub, "load_splits", fail)
    with pytest.raises(InputError) as caught:
        load_imagenet_shift(name, model_input(*ANIMALS))
    message = str(caught.value)
    assert message.startswith(f"{name}: x/y cannot be loaded from the Hub (no network); run once where")
    assert f"fetch {IMAGENET_SHIFTS[name].origin}" in message and "\n" not in message


def test_unknown_sets_and_folders(tmp_path):
    with pytest.raises(InputError, match="'imagenet-z' is unknown: choose from imagenet-v2"):
        load_imagenet_shift("imagenet-z", model_input(*ANIMALS))
    with pytest.raises(InputError, match="absent: no such folder"):
        load_imagenet_shift("imagenet-a", model_input(*ANIMALS), folder=tmp_path / "absent")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file list is empty"),
        ("# nothing\n", "the file list is empty"),
        ("three\n", "no images of the data set have the stem 'three'"),
        ("one\ntwo\none\n", "'one' stands twice"),
    ],
)
def test_file_lists_that_do_not_fit(segmentation, tmp_path, text, message):
    with pytest.raises(InputError, match=message) as caught:
        listed_images(segmentation, write(tmp_path / "list.txt", text))
    assert "\n" not in str(caught.value)


def test_file_lists_need_file_names(segmentation, folder, tmp_path):
    file = write(tmp_path / "list.txt", "two\n")
    chosen = listed_images(CorruptedDataset(segmentation, "fog", 1), file)
    assert chosen.indices.tolist() == [1]
    with pytest.raises(InputError, match="absent.txt: the file list cannot be read"):
        listed_images(segmentation, tmp_path / "absent.txt")
    digits = load_data(DataArguments(dataset="digits", max_eval_samples=2), "segmentation", 0, *STATISTICS)
    with pytest.raises(InputError, match="needs images in local folders"):
        listed_images(digits.validation, file)
    put(folder / "n00000007" / "a.png")
    with pytest.raises(InputError, match="2 images of the data set have the stem 'a'"):
        listed_images(load_class_folder("x", folder, model_input("a", "b")).dataset, write(file, "a\n"))
