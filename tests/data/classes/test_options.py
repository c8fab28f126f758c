"""What masks mean: values and colours by option, one class, tables with colours, and what the masks hold."""

import json

import numpy as np
import pytest
from PIL import Image

from lrsegformer.data import DataArguments, load_data
from lrsegformer.data.classes.options import label_space_of_masks, space_of_masks
from lrsegformer.errors import InputError

STATISTICS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Masks:
    """A source of these masks."""

    def __init__(self, *masks, coloured=False, dtype=np.uint8):
        self.values, self.coloured, self.has_colours = [np.array(mask, dtype=dtype) for mask in masks], coloured, False

    def __len__(self):
        return len(self.values)

    def mask(self, index):
        return self.values[index]

    def mask_name(self, index):
        return f"mask {index}"

    def is_coloured(self):
        return self.coloured


def space_by(options, *masks, **kinds):
    source = Masks(*(masks or ([[0, 1]],)), **kinds)
    space = label_space_of_masks(DataArguments(dataset="x", **options), source, source, "here")
    assert source.has_colours == space.colours
    return space


def encoded(options, mask, **kinds):
    return space_by(options, mask, **kinds).encode_mask(np.array(mask), "m").tolist()


@pytest.mark.parametrize(
    "mask_values",
    [
        "0,255",
        "[0, 255]",
        '{"0": "background", "255": "lesion"}',
        '{"lesion": 255, "background": 0}',
        '[{"value": 255, "name": "lesion"}, {"value": 0, "name": "background"}]',
    ],
)
@pytest.mark.parametrize("class_names", ["background,lesion", "lesion"])
def test_values_of_classes(mask_values, class_names):
    options = {"mask_values": mask_values, "class_names": class_names}
    assert space_by(options).names == ("background", "lesion")
    assert encoded(options, [[0, 255, 0]]) == [[0, 1, 0]]


def test_values_from_a_file_and_void(tmp_path):
    file = tmp_path / "values.csv"
    file.write_text("value;name\n7;road\n8;road\n0;void\n26;car\n")
    options = {"mask_values": str(file)}
    assert space_by(options).names == ("road", "car")
    assert encoded(options, [[0, 7, 8, 26, 255]]) == [[255, 0, 0, 1, 255]]
    assert encoded({**options, "class_names": "car,road"}, [[7, 26]]) == [[1, 0]]
    assert encoded({"mask_values": '{"0": null, "7": "road", "26": "car"}'}, [[0, 26]]) == [[255, 1]]
    file.write_text("10\n20\n30\n")
    assert space_by(options).names == ("class_0", "class_1", "class_2")
    assert encoded(options, [[30, 10]]) == [[2, 0]]


@pytest.mark.parametrize(
    "mask_values",
    ["#4682b4,#00008e", '{"#4682b4": "sky", "0,0,142": "car"}', '{"sky": [70, 130, 180], "car": [0, 0, 142]}'],
)
def test_colours_of_classes(mask_values):
    options = {"mask_values": mask_values, "class_names": "sky,car"}
    assert encoded(options, [[0x4682B4, 0x00008E]], coloured=True, dtype=np.int32) == [[0, 1]]


def test_a_table_of_class_names_gives_the_colours_of_coloured_masks(tmp_path):
    file = tmp_path / "class_dict.csv"
    file.write_text("name,r,g,b\nsky,70,130,180\ncar,0,0,142\n")
    options = {"class_names": str(file)}
    assert encoded(options, [[0x00008E, 0x4682B4]], coloured=True, dtype=np.int32) == [[1, 0]]
    assert encoded(options, [[1, 0]]) == [[1, 0]]
    file.write_text("value,name,color\n7,sky,#4682b4\n9,car,#00008e\n")
    options = {"mask_values": str(file)}
    assert encoded(options, [[0x00008E, 0x4682B4]], coloured=True, dtype=np.int32) == [[1, 0]]
    assert encoded(options, [[9, 7]]) == [[1, 0]]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mask_values": "0,255", "class_names": "a,b,c"}, "2 values for 3 class names"),
        ({"mask_values": "0,0"}, "0 stands more than once"),
        ({"mask_values": '{"0": "a", "1": "b"}', "class_names": "a,c"}, "class 'b' is missing in --class_names"),
        ({"mask_values": '{"0": "a"}', "class_names": "a,c"}, "class 'c' is missing in --mask_values"),
        ({"mask_values": "0,#ff0000"}, "no value or colour like the others|like the others"),
        ({"mask_values": "sky,road"}, "'sky' has no value or colour"),
        ({"mask_values": "nowhere.csv"}, "--mask_values nowhere.csv: no such file"),
        ({"mask_values": "0,255", "ignore_label": 255}, "--ignore_label 255: --mask_values says what every value"),
        ({"mask_values": "#000000,#ffffff", "ignore_label": 9}, "--ignore_label 9: --mask_values says what every col"),
        ({"class_names": "background"}, "one class beside the background"),
    ],
)
def test_contradictions_are_refused(options, said):
    with pytest.raises(InputError, match=said) as caught:
        space_by(options)
    assert "\n" not in str(caught.value)


def test_zero_has_one_meaning():
    with pytest.raises(InputError, match="--mask_values and --reduce_zero_label"):
        DataArguments(mask_values="0,1", reduce_zero_label=True)


@pytest.mark.parametrize(
    ("mask", "expected"),
    [([[0, 255]], [[0, 1]]), ([[0, 1]], [[0, 1]]), ([[0, 1, 255]], [[0, 1, 255]]), ([[0, 9, 255]], [[0, 255, 1]])],
)
def test_one_class_is_binary(mask, expected):
    options = {"class_names": "lesion", "ignore_label": 9 if 9 in mask[0] else None}
    assert space_by(options, mask).names == ("background", "lesion")
    assert encoded(options, mask) == expected


def test_one_class_in_other_values_names_the_option():
    with pytest.raises(InputError, match="hold the values 0, 128, .*lesion; .*--mask_values 0,128"):
        space_by({"class_names": "lesion"}, [[0, 128]])


def test_a_table_that_counts_from_1_leaves_0_to_void(tmp_path):
    file = tmp_path / "names.csv"
    file.write_text("index,name\n1,sky\n2,car\n")
    assert encoded({"class_names": str(file)}, [[0, 1, 2]]) == [[255, 0, 1]]
    assert encoded({"class_names": str(file), "reduce_zero_label": False}, [[0, 1]]) == [[0, 1]]


def test_scanning_masks_counts_up_to_the_largest_value(caplog):
    space = space_of_masks([Masks([[0, 3]], [[255, 11]])], 11, False, "here")
    assert (space.names, space.ignore_label) == (("class_0", "class_1", "class_2", "class_3"), 11)
    assert "4 classes" in caplog.text
    assert space_of_masks([Masks([[0, 1, 4]], dtype=np.int32)], None, True, "here").num_labels == 4


@pytest.mark.parametrize("values", [[0, 255], [255], [0, 5000], [-7, 3], [0, 128], [0, 80, 160, 255]])
def test_scanning_refuses_what_is_no_class_index(values):
    with pytest.raises(InputError, match="here: the masks hold the values .*--mask_values"):
        space_of_masks([Masks([values], dtype=np.int32)], None, False, "here")


def colour_folders(root, save):
    pixels = np.zeros((40, 40, 3), dtype=np.uint8)
    pixels[:20], pixels[20:] = (70, 130, 180), (0, 0, 142)
    for split in ("training", "validation"):
        for kind in ("images", "annotations"):
            (root / kind / split).mkdir(parents=True)
        Image.fromarray(pixels).save(root / "images" / split / "1.png")
        save(Image.fromarray(pixels), root / "annotations" / split / "1.png")
    return str(root)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_files_of_colours_and_palettes(tmp_path, mode):
    def save(image, path):
        (image.quantize(4) if mode == "P" else image.convert(mode)).save(path)

    colours = json.dumps({"sky": [70, 130, 180], "car": [0, 0, 142]})
    arguments = DataArguments(dataset=colour_folders(tmp_path, save), mask_values=colours, image_size=32)
    labels = load_data(arguments, "segmentation", 0, *STATISTICS).validation[0]["labels"]
    assert labels[:20].unique().tolist() == [0] and labels[20:].unique().tolist() == [1]


def test_transparent_colours_and_colours_without_a_table_are_refused(tmp_path):
    def save(image, path):
        image.putalpha(Image.linear_gradient("L").resize(image.size))
        image.save(path)

    dataset = colour_folders(tmp_path, save)
    with pytest.raises(InputError, match="1.png: the mask is transparent"):
        load_data(DataArguments(dataset=dataset, mask_values="#4682b4,#00008e"), "segmentation", 0, *STATISTICS)
    with pytest.raises(InputError, match="1.png: the mask has mode RGBA.*--mask_values"):
        load_data(DataArguments(dataset=dataset, class_names="a,b"), "segmentation", 0, *STATISTICS)
