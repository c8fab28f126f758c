"""Sheets say where their pictures lie, and what says nothing or nonsense gives none."""

import json

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lrsegformer.evaluation.picture_parts import PARTS_KEY, PicturePart, parts_text, read_parts


def save(path, text):
    pixels = np.arange(8 * 6 * 3, dtype=np.uint8).reshape(6, 8, 3)
    texts = PngInfo()
    if text is not None:
        texts.add_text(PARTS_KEY, text)
    Image.fromarray(pixels).save(path, pnginfo=texts)
    return pixels


def test_a_part_is_what_lies_in_its_box(tmp_path):
    part = PicturePart(1, "truth", (2, 1, 5, 6), "caption")
    pixels = save(tmp_path / "sheet.png", parts_text([part]))
    ((found, image),) = read_parts(tmp_path / "sheet.png")
    assert found == part
    np.testing.assert_array_equal(np.asarray(image), pixels[1:6, 2:5])


@pytest.mark.parametrize(
    "text",
    [None, "", "{", "3", '[{"row": 0}]', json.dumps([{"row": 0, "name": "a", "box": [0, 0, 99, 2], "caption": ""}])],
)
def test_other_pictures_have_none(tmp_path, text):
    save(tmp_path / "sheet.png", text)
    assert read_parts(tmp_path / "sheet.png") == []
