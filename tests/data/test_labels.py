"""Label spaces: which mask values are classes, which are void, and what happens to the others."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrsegformer.data.ade20k import ADE20K_NAMES
from lrsegformer.data.labels import LabelSpace
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


def test_mapped_values_and_what_is_none_of_them():
    space = LabelSpace(("background", "lesion"), mask_values=((0, 0), (255, 1), (128, None)))
    encoded = space.encode_mask(np.array([[0, 128, 255]], dtype=np.uint8), "m")
    assert (encoded.tolist(), encoded.dtype) == ([[0, 255, 1]], np.uint8)
    with pytest.raises(InputError, match=r"m\.png: mask value 7 is none of 0, 128, 255.*--mask_values"):
        space.encode_mask(np.array([[0, 7]], dtype=np.uint8), "m.png")
    unmapped_void = LabelSpace(("a", "b"), ignore_label=9, mask_values=((3, 0), (70000, 1)))
    assert unmapped_void.encode_mask(np.array([[3, 9, 255, 70000]]), "m").tolist() == [[0, 255, 255, 1]]


def test_colours_are_values_of_24_bits():
    space = LabelSpace(("sky", "road"), mask_values=((0x4682B4, 0), (0x0000FF, 1), (0, None)), colours=True)
    assert space.encode_mask(np.array([[0, 0xFF, 0x4682B4]]), "m").tolist() == [[255, 1, 0]]
    with pytest.raises(InputError, match="mask colour #0000fe is none of #000000, #0000ff, #4682b4"):
        space.encode_mask(np.array([[0xFE]]), "m")


@given(
    mapping=st.dictionaries(st.integers(-3, 70_000), st.sampled_from([0, 1, 2, None]), min_size=1, max_size=6),
    data=st.data(),
)
def test_mapping_follows_its_definition(mapping, data):
    space = LabelSpace(names(3), mask_values=tuple(mapping.items()))
    known = {255: None, **mapping}
    values = data.draw(st.lists(st.sampled_from([*known]), min_size=1, max_size=8))
    expected = [255 if known[value] is None else known[value] for value in values]
    assert space.encode_mask(np.array([values], dtype=np.int32), "m").tolist() == [expected]
    other = data.draw(st.integers(-5, 70_005).filter(lambda value: value not in known))
    with pytest.raises(InputError, match=f"mask value {other} is none of"):
        space.encode_mask(np.array([[*values, other]], dtype=np.int32), "m")
