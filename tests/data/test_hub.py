"""Hub data sets: columns, classes, and errors that name the remedy. Nothing here touches the network."""

import io

import datasets
import numpy as np
import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from PIL import Image

from lrsegformer.data import hub, hub_access
from lrsegformer.data.arguments import DataArguments
from lrsegformer.errors import InputError


def png(values):
    buffer = io.BytesIO()
    Image.fromarray(np.array(values, dtype=np.uint8)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def segmentation_rows(values=((0, 1), (2, 150)), count=2):
    columns = {
        "image": [png(np.full((2, 2, 3), 9))] * count,
        "annotation": [png(values)] * count,
        "scene_category": [0] * count,
    }
    features = datasets.Features(
        image=datasets.Image(), annotation=datasets.Image(), scene_category=datasets.Value("int64")
    )
    return datasets.Dataset.from_dict(columns, features=features)


def class_rows(labels, feature):
    columns = {"image": [png(np.full((2, 2), 9))] * len(labels), "label": labels}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(image=datasets.Image(), label=feature))


@pytest.fixture
def hub_of(monkeypatch):
    """Makes `load_splits` find the given splits under any id, and records the ids asked for."""
    asked = []

    def install(**splits):
        def load(dataset_id, arguments):
            asked.append(dataset_id)
            hub_access._check_splits(splits, (arguments.train_split, arguments.validation_split), dataset_id)
            return splits

        monkeypatch.setattr(hub, "load_splits", load)
        return asked

    return install


def test_ade20k_by_its_script_id(hub_of, caplog):
    asked = hub_of(train=segmentation_rows(), validation=segmentation_rows())
    source = hub.load_hub(DataArguments(dataset="zhoubolei/scene_parse_150"), "segmentation")
    assert asked == ["merve/scene_parse_150"] and source.hub_id == "merve/scene_parse_150"
    assert "no longer runs" in caplog.text
    assert source.label_space.num_labels == 150
    example = source.train[0]
    assert example.image.mode == "RGB"
    assert source.label_space.encode_mask(example.target, example.name).tolist() == [[255, 0], [1, 149]]
    assert example.name == "merve/scene_parse_150 train row 0"


def test_other_segmentation_sets_are_scanned_or_named(hub_of):
    hub_of(train=segmentation_rows(((0, 1), (2, 3))), validation=segmentation_rows(((0, 4), (255, 3))))
    assert hub.load_hub(DataArguments(dataset="a/b"), "segmentation").label_space.num_labels == 5
    named = DataArguments(dataset="a/b", class_names="p,q,r,s,t,u")
    assert hub.load_hub(named, "segmentation").label_space.names[-1] == "u"


def test_values_and_colours_of_masks_by_option(hub_of):
    hub_of(train=segmentation_rows(((0, 255), (0, 0))), validation=segmentation_rows(((0, 255), (0, 0))))
    for options in ({"class_names": "lesion"}, {"class_names": "none,lesion", "mask_values": "0,255"}):
        source = hub.load_hub(DataArguments(dataset="a/b", **options), "segmentation")
        example = source.train[0]
        assert source.label_space.encode_mask(example.target, example.name).tolist() == [[0, 1], [0, 0]]
    colours = np.zeros((2, 2, 3), dtype=np.uint8)
    colours[0, 1] = (255, 128, 0)
    hub_of(train=segmentation_rows(colours), validation=segmentation_rows(colours))
    source = hub.load_hub(DataArguments(dataset="a/b", mask_values='{"#000000":"p","#ff8000":"q"}'), "segmentation")
    assert source.label_space.encode_mask(source.validation[0].target, "m").tolist() == [[0, 1], [0, 0]]
    with pytest.raises(InputError, match=r"a/b train row 0 \(annotation\): the mask has mode RGB.*--mask_values"):
        hub.load_hub(DataArguments(dataset="a/b", class_names="p,q"), "segmentation").train[0]


def test_deep_images_and_bands_follow_the_options(hub_of):
    buffer = io.BytesIO()
    Image.fromarray(np.array([[0, 4095], [16, 160]], dtype=np.uint16)).save(buffer, "PNG")
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["a", "b"]))
    columns = {"image": [{"bytes": buffer.getvalue(), "path": None}] * 2, "label": [0, 1]}
    hub_of(
        train=datasets.Dataset.from_dict(columns, features), validation=datasets.Dataset.from_dict(columns, features)
    )
    arguments = DataArguments(dataset="a/b", image_range="0,4095", max_image_pixels=4)
    image = hub.load_hub(arguments, "classification").train[0].image
    assert np.asarray(image)[..., 0].tolist() == [[0, 255], [1, 10]]
    arguments.max_image_pixels = 3
    with pytest.raises(InputError, match="a/b train row 0: 2x2 are 4 pixels.*--max_image_pixels 4"):
        hub.load_hub(arguments, "classification").train[0]


def test_classes_of_all_rows_without_images(hub_of):
    hub_of(
        train=class_rows(["dog", "cat"], datasets.Value("string")),
        validation=class_rows(["cat"], datasets.Value("string")),
    )
    source = hub.load_hub(DataArguments(dataset="a/b"), "classification")
    assert source.train.class_indices().tolist() == [1, 0] and source.validation.class_indices().tolist() == [0]


@pytest.mark.parametrize(
    ("labels", "feature", "names"),
    [
        ([1, 0], datasets.ClassLabel(names=["cat", "dog"]), ("cat", "dog")),
        ([2, 0], datasets.Value("int64"), ("class_0", "class_1", "class_2")),
        (["dog", "cat"], datasets.Value("string"), ("cat", "dog")),
    ],
)
def test_classes_of_every_column_type(hub_of, labels, feature, names):
    hub_of(train=class_rows(labels, feature), validation=class_rows(labels[:1], feature))
    source = hub.load_hub(DataArguments(dataset="a/b"), "classification")
    assert source.label_space.names == names
    expected = labels[0] if isinstance(labels[0], int) else names.index(labels[0])
    assert source.validation[0].target == expected


def test_missing_split_lists_the_splits(hub_of):
    hub_of(train=segmentation_rows(), test=segmentation_rows())
    with pytest.raises(InputError, match="--validation_split validation: a/b has the splits train, test"):
        hub.load_hub(DataArguments(dataset="a/b"), "segmentation")


def test_columns_by_option_and_their_mistakes(hub_of):
    rows = segmentation_rows().rename_columns({"image": "left", "annotation": "right"})
    hub_of(train=rows, validation=rows)
    with pytest.raises(InputError, match="no image column among left, right.*--image_column"):
        hub.load_hub(DataArguments(dataset="a/b"), "segmentation")
    with pytest.raises(InputError, match="--label_column nothing: a/b has the columns"):
        hub.load_hub(DataArguments(dataset="a/b", label_column="nothing"), "segmentation")
    with pytest.raises(InputError, match="--label_column scene_category: it holds no masks"):
        hub.load_hub(DataArguments(dataset="a/b", image_column="left", label_column="scene_category"), "segmentation")
    arguments = DataArguments(dataset="a/b", image_column="left", class_names="a,b,c")
    assert hub.load_hub(arguments, "segmentation").train[0].target.tolist() == [[0, 1], [2, 150]]


def test_broken_rows_are_named(hub_of):
    rows = segmentation_rows()
    broken = datasets.Dataset.from_dict(
        {"image": [{"bytes": b"no image", "path": None}], "annotation": [png([[0]])]},
        features=datasets.Features(image=datasets.Image(), annotation=datasets.Image()),
    )
    hub_of(train=broken, validation=rows)
    source = hub.load_hub(DataArguments(dataset="a/b", class_names="a,b"), "segmentation")
    with pytest.raises(InputError, match="a/b train row 0: cannot be read"):
        source.train[0]


def response_error(kind):
    # Not through its constructor: that wants a response of whichever HTTP client this version of the library uses.
    return kind.__new__(kind)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConnectionError("Couldn't reach 'a/b' on the Hub"), "--dataset digits.*local folder"),
        (RuntimeError("Dataset scripts are no longer supported, but found b.py"), "script data set"),
        (ValueError("Config name is missing.\nPlease pick one among: ['x', 'y']"), "--dataset_config.*'x', 'y'"),
        (datasets.exceptions.DatasetNotFoundError("Dataset 'a/b' is a gated dataset on the Hub."), "hf auth login"),
        (datasets.exceptions.DatasetNotFoundError("Dataset 'a/b' doesn't exist"), "--dataset a/b: neither"),
    ],
)
def test_what_datasets_raises_becomes_one_line(error, expected):
    explained = hub_access.explain(error, "a/b")
    assert "\n" not in str(explained)
    with pytest.raises(InputError, match=expected):
        raise explained


def test_gated_names_the_licence_page_and_the_login(monkeypatch):
    def ask(*arguments, **options):
        raise response_error(GatedRepoError)

    monkeypatch.setattr(HfApi, "dataset_info", ask)
    with pytest.raises(InputError, match="https://huggingface.co/datasets/ILSVRC/imagenet-1k.*hf auth login"):
        hub.load_hub(DataArguments(), "classification")


def test_unknown_id_is_named(monkeypatch):
    def ask(*arguments, **options):
        raise response_error(RepositoryNotFoundError)

    monkeypatch.setattr(HfApi, "dataset_info", ask)
    with pytest.raises(InputError, match="--dataset no/such: neither a local folder nor"):
        hub.load_hub(DataArguments(dataset="no/such"), "segmentation")


def test_without_network_the_answer_is_quick_and_names_the_offline_ways(monkeypatch, tmp_path):
    def ask(*arguments, **options):
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(HfApi, "dataset_info", ask)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(InputError, match="merve/scene_parse_150 cannot be loaded.*--dataset digits"):
        hub.load_hub(DataArguments(), "segmentation")


def test_the_size_is_said_before_the_download(monkeypatch, tmp_path, caplog):
    class Info:
        gated = False
        siblings = [type("File", (), {"size": 3_000_000_000}), type("File", (), {"size": None})]

    class Builder:
        cache_dir = str(tmp_path / "not yet" / "here")
        info = type("BuilderInfo", (), {"splits": None, "download_size": None})

    rows = segmentation_rows()
    monkeypatch.setattr(HfApi, "dataset_info", lambda *arguments, **options: Info)
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *arguments, **options: Builder)

    def load(*arguments, **options):
        assert "a/b will be downloaded: about 3.0 GB" in caplog.text
        return datasets.DatasetDict(train=rows, validation=rows)

    monkeypatch.setattr(datasets, "load_dataset", load)
    splits = hub_access.load_splits("a/b", DataArguments(dataset="a/b"))
    assert set(splits) == {"train", "validation"}
