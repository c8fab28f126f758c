"""Label spaces: which mask values are classes, which are void, and what happens to the others."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrsegformer.data.ade20k import ADE20K_NAMES
from lrsegformer.data.labels import LabelSpace, space_of_masks
from lrsegformer.errors import InputError


def names(count):
    return tuple(f"class {index}" for index in range(count))


def test_plain_masks_keep_their_values_and_255():
    raw = np.array([[0, 1, 2, 255]], dtype=np.uint8)
    encoded = LabelSpace(names(3)).encode_mask(raw, "m.png")
    assert encoded.dtype == np.uint8
    assert encoded.tolist() == [[0, 1, 2, 255]]


def test_zero_label_reduction_shifts_once():
    raw = np.array([[0, 1, 150, 255]], dtype=np.uint8)
    assert LabelSpace(ADE20K_NAMES, reduce_zero_label=True).encode_mask(raw, "m").tolist() == [[255, 0, 149, 255]]


def test_ignore_label_is_a_raw_value():
    raw = np.array([[0, 10, 11]], dtype=np.int32)
    assert LabelSpace(names(11), ignore_label=11).encode_mask(raw, "m").tolist() == [[0, 10, 255]]
    assert LabelSpace(names(3), ignore_label=-1).encode_mask(np.array([[-1, 2]]), "m").tolist() == [[255, 2]]


@pytest.mark.parametrize("value", [11, 254, -1, 70000, -70000])
def test_a_value_outside_names_file_and_value(value):
    raw = np.array([[0, value]], dtype=np.int32)
    with pytest.raises(InputError, match=rf"street/m\.png: mask value {value} is outside the 11 classes"):
        LabelSpace(names(11)).encode_mask(raw, "street/m.png")


def test_150_is_outside_without_reduction_and_names_the_option():
    with pytest.raises(InputError, match="--reduce_zero_label"):
        LabelSpace(ADE20K_NAMES).encode_mask(np.full((2, 2), 150, np.uint8), "m")


def test_more_than_255_classes_use_int16_and_class_255_is_a_class():
    space = LabelSpace(names(300), ignore_label=999)
    encoded = space.encode_mask(np.array([[255, 299, 999]], dtype=np.int32), "m")
    assert encoded.dtype == np.int16
    assert encoded.tolist() == [[255, 299, space.ignore_index]]
    assert space.ignore_index == -100
    largest = LabelSpace(names(255))
    assert largest.encode_mask(np.array([[254, 255]], dtype=np.uint8), "m").tolist() == [[254, 255]]


@given(
    count=st.integers(2, 300),
    reduce=st.booleans(),
    ignore=st.one_of(st.none(), st.integers(-5, 400)),
    values=st.lists(st.integers(-5, 400), min_size=1, max_size=20),
)
def test_encoding_follows_its_definition(count, reduce, ignore, values):
    space = LabelSpace(names(count), ignore, reduce)
    expected = []
    for value in values:
        if value == ignore or (value == 255 and count <= 255) or (reduce and value == 0):
            expected.append(space.ignore_index)
        elif 0 <= value - reduce < count:
            expected.append(value - reduce)
        else:
            expected = None
            break
    raw = np.array([values], dtype=np.int32)
    if expected is None:
        with pytest.raises(InputError):
            space.encode_mask(raw, "m")
    else:
        assert space.encode_mask(raw, "m").tolist() == [expected]


def test_classes_outside_are_refused():
    space = LabelSpace(names(10))
    assert space.encode_class(9, "a.jpg") == 9
    with pytest.raises(InputError, match=r"a\.jpg: class -1"):
        space.encode_class(-1, "a.jpg")


def test_names_are_unique_and_at_least_two():
    with pytest.raises(InputError, match="'a' stands more than once"):
        LabelSpace(("a", "b", "a"))
    with pytest.raises(InputError, match="at least two"):
        LabelSpace(("a",))
    space = LabelSpace(("sky", "road"))
    assert (space.id2label, space.label2id) == ({0: "sky", 1: "road"}, {"sky": 0, "road": 1})


def test_scanning_masks_counts_up_to_the_largest_value(caplog):
    masks = [np.array([[0, 3]], np.uint8), np.array([[255, 11]], np.uint8)]
    space = space_of_masks(masks, 2, 11, False, "here")
    assert (space.names, space.ignore_label) == (("class_0", "class_1", "class_2", "class_3"), 11)
    assert "4 classes" in caplog.text
    assert space_of_masks([np.array([[0, 1, 4]], np.int32)], 1, None, True, "here").num_labels == 4


@pytest.mark.parametrize("values", [[0, 255], [255], [0, 5000], [-7, 3]])
def test_scanning_refuses_what_is_no_class_index(values):
    with pytest.raises(InputError, match="here: the masks hold the values"):
        space_of_masks([np.array([values], dtype=np.int32)], 1, None, False, "here")
