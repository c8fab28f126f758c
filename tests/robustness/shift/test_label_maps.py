"""Class maps that are certain or refused, logits of a subset of classes, and mapping files."""

import json

import pytest
import torch

from lrsegformer.data.imagenet import SUBSETS, subset_indices
from lrsegformer.errors import InputError
from lrsegformer.robustness.shift.label_maps import ClassMap, match_classes, read_mapping

ANIMALS = ("cat", "dog", "cow", "hen")


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_predictions_are_restricted_to_the_subset():
    logits = torch.tensor([[9.0, 1.0, 8.0, 2.0], [0.0, 3.0, 9.0, 1.0]], requires_grad=True)
    restricted = ClassMap((3, 1), 4).restrict(logits)
    # Classes 0 and 2 have the largest logits, and are not in the subset.
    assert restricted.tolist() == [[2.0, 1.0], [1.0, 3.0]]
    assert restricted.argmax(dim=1).tolist() == [0, 1]
    restricted.sum().backward()
    assert logits.grad.tolist() == [[0, 1, 0, 1], [0, 1, 0, 1]]
    with pytest.raises(InputError, match="made for 4 classes, but the model has 5"):
        ClassMap((3, 1), 4).restrict(torch.zeros(2, 5))


def test_classes_match_by_what_is_certain(tmp_path):
    assert match_classes(["hen", "cat"], ANIMALS, "x") == (3, 0)
    wnids = ["n00000001", "n00000002", "n00000004", "n00000009"]
    assert match_classes(wnids, ANIMALS, "x") == (0, 1, 2, 3)
    # ImageNet-V2's folders are numbers, which sort as text; integer columns of the Hub are named class_0, class_1, ...
    many = [f"name {index}" for index in range(12)]
    assert match_classes(sorted(str(index) for index in range(12)), many, "x")[:4] == (0, 1, 10, 11)
    assert match_classes([f"class_{index}" for index in range(12)], many, "x") == tuple(range(12))
    synsets = write(tmp_path / "synsets.txt", "".join(f"{wnid} a, b\n" for wnid in wnids))
    assert match_classes(["n00000009", "n00000002"], ANIMALS, "x", synsets) == (3, 1)


def test_wnids_and_the_numbers_of_the_200_class_sets_are_known_to_imagenet_models():
    thousand = [f"name {index}" for index in range(1000)]
    # Tench, goldfish and toilet tissue: the first two classes and the last one.
    assert match_classes(["n15075141", "n01440764", "n01443537"], thousand, "x") == (999, 0, 1)
    for name in SUBSETS:
        numbers = match_classes([f"class_{number}" for number in range(200)], thousand, name)
        assert numbers == subset_indices(name)
        with pytest.raises(InputError, match="give a class-mapping file"):
            match_classes([f"class_{number}" for number in range(199)], thousand, name)
    with pytest.raises(InputError, match="give a class-mapping file"):
        match_classes([f"class_{number}" for number in range(200)], thousand, "objectnet")


@pytest.mark.parametrize(
    ("names", "model_names"),
    [
        (["n00000001", "n00000002"], ANIMALS),  # two of four wnids: which ones is unknown
        (["class_0", "class_1", "class_2"], ANIMALS),  # bare numbers of a subset
        (["cat", "horse"], ANIMALS),
        (["crane", "cat"], ("crane", "cat", "crane")),  # as in ImageNet, where two classes are called crane
    ],
)
def test_classes_that_are_not_certain_are_refused(names, model_names):
    with pytest.raises(InputError, match="data: its .* give a class-mapping file") as caught:
        match_classes(names, model_names, "data")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("map.json", json.dumps({"road": "hen", "1": 0, "sky": "ignore"})),
        ("map.csv", "old,new\nroad,hen\n1,0\n\nsky,ignore\n"),
        ("map.csv", 'sky, "Ignore"\n0,3\ncar, cat'),
    ],
)
def test_mapping_files(tmp_path, file, text):
    path = write(tmp_path / file, text)
    assert read_mapping(path, ("road", "car", "sky"), ANIMALS, "data") == (3, 0, None)


def test_a_name_goes_before_an_index(tmp_path):
    path = write(tmp_path / "map.csv", "10,cat\n2,dog\n0,hen\n")
    assert read_mapping(path, ("0", "10", "2"), ANIMALS, "data") == (3, 0, 1)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("map.csv", "road,hen\ncar,cat\n", "nothing for 1 class.*first 'sky'; add a line"),
        ("map.csv", "road,hen\nroad,cat\n", "'road' of data stands twice"),
        ("map.json", '{"road": "hen", "0": "cat"}', "'road' of data stands twice"),
        ("map.json", '{"road": "hen", "road": "cat"}', "'road' of data stands twice"),
        ("map.csv", "rail,hen\n", "'rail' is no class of data"),
        ("map.csv", "7,hen\n", "'7' is no class of data.*index from 0 to 2"),
        ("map.csv", "road,horse\n", "'horse' is no class of the model"),
        ("map.json", '{"road": 4}', "4 is no class of the model"),
        ("map.json", '{"road": true}', "True is no class of the model"),
        ("map.json", '{"road": -1}', "-1 is no class of the model"),
        ("map.json", '{"road": 1.5}', "1.5 is no class of the model"),
        ("map.json", '{"road": {"a": 1}}', "is no class of the model"),
        ("map.json", '["road"]', "is no JSON object"),
        ("map.json", '{"road": ', "is no JSON"),
        ("map.csv", "road,hen,cat\n", "has 3 columns"),
        ("map.csv", "", "nothing for 3 class"),
        ("map.csv", "road,ignore\ncar,ignore\nsky,ignore\n", "every class of data is ignored"),
    ],
)
def test_mapping_errors_take_one_line(tmp_path, file, text, message):
    path = write(tmp_path / file, text)
    with pytest.raises(InputError, match=message) as caught:
        read_mapping(path, ("road", "car", "sky"), ANIMALS, "data")
    assert "\n" not in str(caught.value) and file in str(caught.value)


def test_a_missing_mapping_file_is_named(tmp_path):
    with pytest.raises(InputError, match="absent.csv: the class mapping cannot be read"):
        read_mapping(tmp_path / "absent.csv", ("a", "b"), ANIMALS, "data")
