"""Class names from every kind of file that people have, and one line for what is none of them."""

import csv
import json

import pytest

from lrsegformer.data.ade20k import ADE20K_NAMES
from lrsegformer.data.classes.names import read_class_names
from lrsegformer.errors import InputError

THREE = ("sky", "road, paved", "car")


@pytest.fixture
def read(tmp_path):
    """Reads the classes of a file with this content."""

    def read_text(text, name="classes.txt", encoding="utf-8"):
        file = tmp_path / name
        file.write_text(text if isinstance(text, str) else json.dumps(text, indent=2), encoding=encoding)
        return read_class_names(str(file))

    return read_text


@pytest.mark.parametrize(
    "content",
    [
        {"0": "sky", "1": "road, paved", "2": "car"},
        {"2": "car", "0": "sky", "1": "road, paved"},
        {"sky": 0, "road, paved": 1, "car": 2},
        {"car": 2, "sky": 0, "road, paved": 1},
        {"car": "2", "sky": "0", "road, paved": "1"},
        {"model_type": "segformer", "id2label": {"0": "sky", "1": "road, paved", "2": "car"}, "depths": [1, 2]},
        {"label2id": {"sky": 0, "road, paved": 1, "car": 2}, "num_labels": 3},
        {
            "id2label": {"0": "sky", "1": "road, paved", "2": "car"},
            "label2id": {"sky": 0, "road, paved": 1, "car": 2},
        },
        list(THREE),
        {"names": list(THREE)},
        {"categories": [{"id": index, "name": name, "supercategory": "x"} for index, name in enumerate(THREE, 1)]},
        [{"name": name, "color": [index, 0, 0]} for index, name in enumerate(THREE)],
    ],
)
@pytest.mark.parametrize("name", ["id2label.json", "classes.txt"])
def test_json(read, content, name):
    assert read(content, name).names == THREE
    assert read(content, name, "utf-8-sig").names == THREE
    assert read_class_names(json.dumps(content)).names == THREE


@pytest.mark.parametrize(
    "text",
    [
        'index,name\n0,sky\n1,"road, paved"\n2,car\n',
        "Name;ID\nroad, paved;1\nsky;0\ncar;2\n",
        'name\tr\tg\tb\nsky\t1\t2\t3\n"road, paved"\t4\t5\t6\n\ncar\t7\t8\t9\n',
        'name, r, g, b\nsky, 1, 2, 3\n"road, paved", 4, 5, 6\ncar, 7, 8, 9\n',
        "Idx\tRatio\tTrain\tVal\tName\n1\t0.1\t9\t9\tsky\n2\t0.1\t9\t9\troad, paved\n3\t0.1\t9\t9\tcar\n",
        "# label:color_rgb:parts:actions\nsky:1,2,3::\nroad, paved:4,5,6::\ncar:7,8,9::\n",
        'label,class\n0,sky\n1,"road, paved"\n2,car\n',
        'name\nsky\n"road, paved"\ncar\n',
        "0,sky\n1,road, paved\n2,car\n",
        "0: sky\r\n1: road, paved\r\n2: car\r\n",
        "1 sky\n2 road, paved\n3 car\n",
        "sky\t0\nroad, paved\t1\ncar\t2\n",
        "128 64 0\tsky\n1 2 3\troad, paved\n7 8 9\tcar\n",
        "#112233 sky\n#445566 road, paved\n#778899 car\n",
        "0 sky 1 2 3\n1 road, paved 4 5 6\n2 car 7 8 9\n",
        "sky\nroad, paved\n\n  \ncar\n",
        '"sky"\n"road, paved"\n"car"',
    ],
)
def test_tables_and_lists(read, text):
    assert read(text).names == THREE
    assert read(text, "classes.csv", "utf-8-sig").names == THREE


def test_indices_and_colours_are_kept(read):
    table = read("id,name,red,green,blue\n2,b,255,0,1\n1,a,0,0,0\n")
    assert (table.names, table.first_index, table.colours) == (("a", "b"), 1, (0, 0xFF0001))
    assert read('{"a": [1, 2, 3], "b": "#0a0b0c"}').colours == (0x010203, 0x0A0B0C)
    assert read("a\nb").first_index is None and read("a\nb").colours is None


def test_the_option_itself():
    assert read_class_names("sky, road").names == ("sky", "road")
    assert read_class_names('"road, paved",car').names == ("road, paved", "car")
    assert read_class_names("lesion").names == ("lesion",)
    for missing in ("nowhere.txt", "some/where", "a,,b", " "):
        with pytest.raises(InputError, match=f"--class_names {missing}: no such file"):
            read_class_names(missing)


def test_plain_lists_keep_commas_and_numbers(read):
    assert read("goldfish, Carassius\n\ntench\n").names == ("goldfish, Carassius", "tench")
    assert read("0\n1\n2").names == ("0", "1", "2")
    assert read({"0": 0, "1": 1}).names == ("0", "1")
    assert read("# comment\nsky\nroute 66\n2 door car\n").names == ("sky", "route 66", "2 door car")
    assert read("sky, road, car\n").names == ("sky", "road", "car")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", r"line 1: no valid JSON"),
        ('{\n "0": "sky",\n "1" "road"\n}', r"line 3: no valid JSON"),
        ('{"depths": [1, 2]}', r"'depths': \[1, 2\] names no class"),
        ('{"training": {"epochs": 3}, "data": {"path": "x"}}', "'training': .*epochs.* names no class"),
        ('{"0": "sky", "0": "road"}', "index 0 is given to 'sky' and to 'road'"),
        ('{"sky": 0, "road": 0}', "index 0 is given to 'sky' and to 'road'"),
        ('{"0": "sky", "2": "road"}', "index 0 is followed by 2, which leaves a gap"),
        ('{"5": "sky", "6": "road"}', "the indices begin at 5"),
        ('{"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 1, "b": 0}}', "label2id gives 'a' the index 1"),
        ("[]", "names no class"),
        ("[1, 2]", "entry 1: no name"),
        ('{"0": "sky", "255": null}', "no name"),
        ("index,name\n0,sky\n1,road, paved\n", "line 3: 3 columns, but the header has 2"),
        ("index,name\n0,sky\nx,road\n", "line 3: the index 'x' is no whole number"),
        ("index,name\n0,sky\n1,\n", "line 3: the column 'name' holds no name"),
        ("name,r,g,b\nsky,1,2,300\n", "line 2: .* is no colour"),
        ("id,trainId,name\n7,0,road\n8,1,pavement\n", "id and trainid both give an index"),
        ("index,name\n", "a header without rows"),
        ("0,sky\n1,road\ncar\n", "line 3: not like the other lines"),
        ("sky\nroad\nsky\n", "line 3: 'sky' stands more than once .*line 1"),
        ("names:\n  0: sky\n  1: road\n", "line 1: not like the other lines"),
        ("names:\n- sky\n- road\n", "line 1: 'names:' is no class name"),
        ("<html>\n<body>\n", "line 1: '<html>' is no class name"),
        ("sky\n---\nroad", "line 2: '---' is no class name"),
        ("sky\n\x00\x01road", "line 2: .* is no class name"),
        ("\n \n", "the file is empty"),
    ],
)
def test_what_is_none_of_them_is_refused_in_one_line(read, text, said):
    with pytest.raises(InputError, match=said) as caught:
        read(text)
    assert "classes.txt" in str(caught.value) and "\n" not in str(caught.value)


def test_text_of_another_encoding(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(InputError, match="UTF-8"):
        read_class_names(str(tmp_path / "binary"))


def test_ade20k_names_agree_with_the_official_file(real_data, read):
    file = real_data / "ade20k_150_pairs" / "objectInfo150.csv"
    rows = list(csv.DictReader(file.read_text().splitlines()))
    assert len(ADE20K_NAMES) == 150
    for name, row in zip(ADE20K_NAMES, rows, strict=True):
        assert f";{name.replace(' ', ';')};" in f";{row['Name']};", (name, row)
    assert read_class_names(str(file)).names == ADE20K_NAMES
    # The same as tab-separated text, with synonyms after commas.
    lines = [f"{row['Idx']}\t{row['Ratio']}\t{name}, thing" for name, row in zip(ADE20K_NAMES, rows, strict=True)]
    table = read("Idx\tRatio\tName\n" + "\n".join(lines))
    assert (table.names, table.first_index) == (ADE20K_NAMES, 1)
    # 150 other classes keep their names.
    assert read("index;name\n" + "\n".join(f"{k};thing {k}" for k in range(150))).names[0] == "thing 0"
