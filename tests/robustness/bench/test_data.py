"""Shifted data sets in a run of the bench."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from transformers import SegformerImageProcessorPil

from lrsegformer.data import load_data
from lrsegformer.errors import InputError
from lrsegformer.robustness.bench import bench
from lrsegformer.robustness.bench.arguments import BenchDataArguments, RobustnessArguments
from lrsegformer.robustness.bench.cells import CellFile
from lrsegformer.robustness.bench.data import with_saved_reading

SEED = 7


def make_arguments(model, folder) -> RobustnessArguments:
    model.save_pretrained(folder / "model")
    SegformerImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(folder / "model")
    return RobustnessArguments(models=[str(folder / "model")], output_dir=str(folder / "report"), seed=SEED)


def row_of(report, condition):
    (row,) = (row for row in report["rows"] if row["condition"] == condition)
    return row


def save_masks(folder, splits, classes):
    """The validation images and masks as a data set in folders, of which the masks hold `classes` of the classes."""
    for index in range(4):
        example = splits.validation.source[index]
        for split in ("training", "validation"):
            for kind, picture in (
                ("images", example.image),
                ("annotations", Image.fromarray(classes(example.target))),
            ):
                (folder / kind / split).mkdir(parents=True, exist_ok=True)
                picture.save(folder / kind / split / f"frame{index}.png")
    return folder


def test_shifted_masks_and_file_lists(make_model, tmp_path):
    digits = BenchDataArguments(dataset="digits", image_size=64, max_eval_samples=4)
    splits = load_data(digits, "segmentation", SEED, (0.0,) * 3, (1.0,) * 3)
    (tmp_path / "names.txt").write_text("\n".join(splits.label_space.names))
    data = BenchDataArguments(
        dataset=str(save_masks(tmp_path / "data", splits, lambda mask: mask)),
        class_names=str(tmp_path / "names.txt"),
    )
    # Elsewhere 0 is the digit 1, 1 is background and 2 is everything else, which the mapping leaves out.
    save_masks(tmp_path / "other", splits, lambda mask: np.choose(np.minimum(mask, 3), [1, 2, 0, 2]).astype(np.uint8))
    (tmp_path / "map.json").write_text('{"0": 2, "1": "background", "2": "ignore"}')
    (tmp_path / "list.txt").write_text("frame2\nframe0\n")
    arguments = make_arguments(make_model(num_labels=11), tmp_path)
    shifted = [f"other={tmp_path / 'other'}", f"unseen={tmp_path / 'list.txt'}"]
    mappings = [f"other={tmp_path / 'map.json'}"]
    report = bench.run_bench(dataclasses.replace(arguments, shifted=shifted, class_mappings=mappings), data)
    clean, other, unseen = (row_of(report, name) for name in ("clean", "other", "unseen"))
    built_in = bench.run_bench(arguments, digits)
    assert clean["accuracy"] == row_of(built_in, "clean")["accuracy"], "the same images from files"
    assert (other["images"], unseen["images"], unseen["of"]) == (4, 2, 2)
    # The pixels of background and of digit 1 keep their classes, so their accuracy is that of the clean images.
    assert other["per_category_accuracy"][0] == clean["per_category_accuracy"][0]
    assert other["per_category_accuracy"][2] == clean["per_category_accuracy"][2]
    assert [index for index, value in enumerate(other["per_category_accuracy"]) if value is not None] == [0, 2]
    with pytest.raises(InputError, match="--class_mappings other=FILE"):
        bench.run_bench(dataclasses.replace(arguments, shifted=shifted[:1]), data)


def test_shifted_classes(make_model, tmp_path):
    digits = BenchDataArguments(dataset="digits", image_size=64, max_eval_samples=30)
    source = load_data(digits, "classification", SEED, (0.0,) * 3, (1.0,) * 3).validation.source
    for index in range(30):
        example = source[index]
        if example.target in (3, 7):
            folder = tmp_path / "root" / "fog" / "2" / f"digit {example.target}"
            folder.mkdir(parents=True, exist_ok=True)
            example.image.save(folder / f"{index}.png")
    arguments = make_arguments(make_model("spectral_norm", task="classification", num_labels=10), tmp_path)
    shifted = [f"two={tmp_path / 'root' / 'fog' / '2'}", f"imagenet-c={tmp_path / 'root'}"]
    report = bench.run_bench(dataclasses.replace(arguments, shifted=shifted), digits)
    two, fog = row_of(report, "two"), row_of(report, "imagenet-c-fog-2")
    assert two["images"] == fog["images"] == 6 and two["accuracy"] == fog["accuracy"] and fog["severity"] == 2
    # Of two classes alone, one is always among the answers.
    (cell,) = (cell for cell in CellFile(tmp_path / "report").read().values() if cell["condition"]["name"] == "two")
    assert cell["num_labels"] == 2 and cell["class_names"] == ["digit 3", "digit 7"]
    assert sum(count for _, _, count in cell["counts"]) == 6


def test_scoring_needs_no_training_folders(make_model, tmp_path):
    digits = BenchDataArguments(dataset="digits", image_size=64, max_eval_samples=4)
    splits = load_data(digits, "segmentation", SEED, (0.0,) * 3, (1.0,) * 3)
    (tmp_path / "names.txt").write_text("\n".join(splits.label_space.names))
    save_masks(tmp_path, splits, lambda mask: mask)
    data = BenchDataArguments(
        validation_images=str(tmp_path / "images" / "validation"),
        validation_masks=str(tmp_path / "annotations" / "validation"),
        class_names=str(tmp_path / "names.txt"),
    )
    arguments = make_arguments(make_model(num_labels=11), tmp_path)
    report = bench.run_bench(arguments, data)
    assert row_of(report, "clean")["images"] == 4
    assert "train_images" not in (tmp_path / "report" / "run.yaml").read_text()
    with pytest.raises(InputError, match="--reliability compares with training images: give --train_images"):
        bench.run_bench(dataclasses.replace(arguments, reliability=True), data)


def test_folders_that_do_not_make_a_data_set():
    with pytest.raises(InputError, match="--validation_masks missing"):
        BenchDataArguments(validation_images="a")
    with pytest.raises(InputError, match="--train_masks missing"):
        BenchDataArguments(validation_images="a", validation_masks="b", train_images="c")
    with pytest.raises(InputError, match="--dataset d and --validation_images a both name the data"):
        BenchDataArguments(validation_images="a", validation_masks="b", dataset="d")


def test_image_files_are_read_as_in_training():
    def processor(**attributes):
        return SimpleNamespace(**attributes)

    data = BenchDataArguments(dataset="digits")
    trained = processor(image_range=[0.0, 4095.0], image_bands=[4, 2, 1], image_page=2)
    read = with_saved_reading(data, {"ours": trained, "stock": processor()})
    assert (read.image_range, read.image_bands, read.image_page) == ("0,4095", "4,2,1", 2)
    assert with_saved_reading(data, {"stock": processor()}) == data
    given = BenchDataArguments(dataset="digits", image_range="0,4095.0")
    assert with_saved_reading(given, {"ours": trained}).image_range == "0,4095"
    given.image_range = "0,1"
    with pytest.raises(InputError, match="--image_range: the models were trained with values 0 to 4095"):
        with_saved_reading(given, {"ours": trained})
    with pytest.raises(InputError, match="a and b were trained on image files that are read differently"):
        with_saved_reading(data, {"a": trained, "b": processor(image_range=[0, 255])})
