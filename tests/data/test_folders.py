"""Local folders: pairing, layouts, and one clear line for each way they can be wrong."""

import numpy as np
import pytest
from PIL import Image

from lrsegformer.data.arguments import DataArguments
from lrsegformer.data.folders import ClassFolderSource, MaskFolderSource, load_class_folders, load_mask_folders
from lrsegformer.errors import InputError


def put(path, values=None, size=(6, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size) if values is None else Image.fromarray(np.array(values, dtype=np.uint8))
    image.save(path)
    return path


@pytest.fixture
def pairs(tmp_path):
    for split in ("training", "validation"):
        for stem in ("a", "b"):
            put(tmp_path / "images" / split / f"{stem}.jpg")
            put(tmp_path / "annotations" / split / f"{stem}.png", [[0, 1, 2, 2, 1, 255]] * 4)
    return tmp_path


@pytest.fixture
def classes(tmp_path):
    for split in ("train", "val"):
        for name in ("n02", "n01"):
            put(tmp_path / split / name / "images" / "x.JPEG")
    return tmp_path


def test_pairs_by_stem(pairs):
    (pairs / "images" / "training" / "notes.txt").write_text("ignored")
    source = load_mask_folders(DataArguments(dataset=str(pairs)))
    example = source.train[1]
    assert len(source.train) == len(source.validation) == 2
    assert example.image.size == (6, 4)
    assert example.target.shape == (4, 6)
    assert example.name.endswith("b.png")
    assert source.label_space.names == ("class_0", "class_1", "class_2")
    assert not source.label_space.reduce_zero_label


def test_pairs_by_suffix(pairs):
    for file in (pairs / "annotations").glob("*/*.png"):
        put(file.with_name(f"{file.stem}_edges.png"))
        file.rename(file.with_name(f"{file.stem}_labels.png"))
    with pytest.raises(InputError, match="a_edges.png, a_labels.png.*--mask_suffix"):
        load_mask_folders(DataArguments(dataset=str(pairs)))
    source = load_mask_folders(DataArguments(dataset=str(pairs), mask_suffix="_labels"))
    assert [(image.name, mask.name) for image, mask in source.train.pairs] == [
        ("a.jpg", "a_labels.png"),
        ("b.jpg", "b_labels.png"),
    ]


def test_four_folder_options(pairs):
    arguments = DataArguments(
        train_images=str(pairs / "images" / "training"),
        train_masks=str(pairs / "annotations" / "training"),
        validation_images=str(pairs / "images" / "validation"),
        validation_masks=str(pairs / "annotations" / "validation"),
        class_names="sky,road,car",
        ignore_label=7,
    )
    space = load_mask_folders(arguments).label_space
    assert (space.names, space.ignore_label) == (("sky", "road", "car"), 7)
    arguments.train_masks = str(pairs / "nowhere")
    with pytest.raises(InputError, match="--train_masks .*nowhere: no such folder"):
        load_mask_folders(arguments)


def test_the_dataset_may_be_the_parent_of_the_ade20k_folder(tmp_path):
    root = tmp_path / "ADEChallengeData2016"
    for split, stem in (("training", "ADE_train_1"), ("validation", "ADE_val_1")):
        put(root / "images" / split / f"{stem}.jpg")
        put(root / "annotations" / split / f"{stem}.png", [[0, 150, 1, 2, 3, 4]] * 4)
    space = load_mask_folders(DataArguments(dataset=str(tmp_path))).label_space
    assert (space.num_labels, space.reduce_zero_label) == (150, True)


@pytest.mark.parametrize(("gone", "what"), [("annotations", "mask"), ("images", "image")])
def test_one_without_the_other_is_named(pairs, gone, what):
    next((pairs / gone / "training").glob("b.*")).unlink()
    with pytest.raises(InputError, match=rf"1 file\(s\) without {what} .*\(b\.(jpg|png)\)"):
        load_mask_folders(DataArguments(dataset=str(pairs)))


def test_at_most_three_names_are_listed(pairs):
    for stem in "cdefg":
        put(pairs / "images" / "training" / f"{stem}.jpg")
    with pytest.raises(InputError, match=r"5 file\(s\) without mask .*\(c\.jpg, d\.jpg, e\.jpg, \.\.\.\)"):
        MaskFolderSource(pairs / "images" / "training", pairs / "annotations" / "training")


def test_sizes_must_agree(pairs):
    put(pairs / "images" / "training" / "a.jpg", size=(4, 6))
    source = MaskFolderSource(pairs / "images" / "training", pairs / "annotations" / "training")
    with pytest.raises(InputError, match=r"a\.png: the mask is 6x4 but its image .*a\.jpg is 4x6"):
        source[0]


def test_empty_missing_and_double(pairs):
    (pairs / "empty").mkdir()
    with pytest.raises(InputError, match="empty: holds no image files"):
        MaskFolderSource(pairs / "empty", pairs / "annotations" / "training")
    with pytest.raises(InputError, match="nowhere: no such folder"):
        MaskFolderSource(pairs / "nowhere", pairs / "annotations" / "training")
    put(pairs / "images" / "training" / "a.png")
    with pytest.raises(InputError, match=r"a\.png: a\.jpg has the same stem"):
        MaskFolderSource(pairs / "images" / "training", pairs / "annotations" / "training")


def test_missing_split_names_the_option(pairs):
    with pytest.raises(InputError, match="split 'test'.*training, validation.*--validation_split"):
        load_mask_folders(DataArguments(dataset=str(pairs), validation_split="test"))
    with pytest.raises(InputError, match="--train_images"):
        load_mask_folders(DataArguments(dataset=str(pairs / "images")))


def test_class_folders_are_sorted_and_searched_deeply(classes):
    source = load_class_folders(DataArguments(dataset=str(classes)))
    assert source.label_space.names == ("n01", "n02")
    assert [source.train[index].target for index in range(2)] == [0, 1]
    assert len(source.validation) == 2


def test_class_names_by_column_or_order(classes):
    file = classes / "names.txt"
    file.write_text("n02\tcat\nn03\tbird\nn01\tdog, hound\n")
    arguments = DataArguments(dataset=str(classes), class_names=str(file))
    assert load_class_folders(arguments).label_space.names == ("dog, hound", "cat")
    arguments.class_names = "first,second"
    assert load_class_folders(arguments).label_space.names == ("first", "second")
    arguments.class_names = "first,second,third"
    with pytest.raises(InputError, match="3 names for 2 class folders"):
        load_class_folders(arguments)
    file.write_text("n02\tcat\n")
    arguments.class_names = str(file)
    with pytest.raises(InputError, match="no name for the class folder n01"):
        load_class_folders(arguments)


def test_class_names_of_folders_from_json_and_tables(classes):
    file = classes / "names.json"
    arguments = DataArguments(dataset=str(classes), class_names=str(file))
    for content in (
        '{"n02": "cat", "n01": "dog", "n03": "bird"}',
        '{"0": ["n01", "dog"], "1": ["n02", "cat"]}',
        '{"0": "dog", "1": "cat"}',
        '{"cat": 1, "dog": 0}',
    ):
        file.write_text(content)
        assert load_class_folders(arguments).label_space.names == ("dog", "cat")
    table = classes / "names.csv"
    table.write_text("wnid;name\nn03;crane\nn02;cat\nn01;dog\nn04;crane\n")
    arguments.class_names = str(table)
    assert load_class_folders(arguments).label_space.names == ("dog", "cat")
    file.write_text('{"n02": 0, "n01": 1}')
    arguments.class_names = str(file)
    with pytest.raises(InputError, match="names of the class folders in another order, so that n01 would be called"):
        load_class_folders(arguments)


def test_wrong_class_folders_are_named(classes):
    put(classes / "val" / "n09" / "x.png")
    with pytest.raises(InputError, match="n09: no such class among the training folders"):
        load_class_folders(DataArguments(dataset=str(classes)))
    (classes / "train" / "n05").mkdir()
    with pytest.raises(InputError, match="n05: the class folder holds no images"):
        ClassFolderSource(classes / "train")


def test_class_folders_without_splits_say_what_is_missing(classes):
    with pytest.raises(InputError, match="no folder for the split 'train' .*n01, n02"):
        load_class_folders(DataArguments(dataset=str(classes / "train")))


def test_camvid(real_data):
    camvid = real_data / "camvid"
    source = load_mask_folders(
        DataArguments(
            train_images=str(camvid / "train"),
            train_masks=str(camvid / "trainannot"),
            validation_images=str(camvid / "val"),
            validation_masks=str(camvid / "valannot"),
            ignore_label=11,
        )
    )
    assert (len(source.train), len(source.validation)) == (367, 26)
    assert (source.label_space.num_labels, source.dataset_name) == (11, "camvid")
    example = source.validation[0]
    encoded = source.label_space.encode_mask(example.target, example.name)
    assert (encoded == 255).sum() == (example.target == 11).sum() > 0
    assert set(np.unique(encoded)) <= {*range(11), 255}


def test_ade20k(real_data):
    source = load_mask_folders(DataArguments(dataset=str(real_data / "ade20k_150_pairs")))
    assert (len(source.train), len(source.validation), source.label_space.num_labels) == (6, 2, 150)
    example = source.train[0]
    encoded = source.label_space.encode_mask(example.target, example.name)
    raw_names = {source.label_space.names[value - 1] for value in np.unique(example.target) if value}
    assert {source.label_space.names[value] for value in np.unique(encoded) if value != 255} == raw_names


def test_tiny_imagenet(real_data):
    root = real_data / "tiny_imagenet10"
    source = load_class_folders(DataArguments(dataset=str(root), class_names=str(root / "classes.txt")))
    assert (len(source.train), len(source.validation)) == (5000, 250)
    assert source.label_space.names[0] == "goldfish, Carassius auratus"
    assert all(source.train[index].image.mode == "RGB" for index in range(0, 5000, 97))
