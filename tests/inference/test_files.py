"""What a command line names: order, names of the outputs, and what is refused."""

from pathlib import Path

import pytest

from lrsegformer.errors import InputError
from lrsegformer.inference.files import find_files, natural_key


@pytest.fixture
def names(tmp_path, monkeypatch):
    """`names(*words, output_dir="out")`: the names that the files of a command line get."""
    monkeypatch.chdir(tmp_path)
    for file in ("a/frame10.png", "a/frame9.PNG", "a/b/frame1.jpg", "a/clip.mp4", "a/notes.txt", "a/.hidden.png"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    for file in ("c/frame10.png", "c/frame10.jpg", "d/frame10.jpg", "out/classes/x.png"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    return lambda *words, output_dir="out": [file.name for file in find_files(words, output_dir)]


def test_a_folder_is_sorted_by_numbers_and_keeps_its_folders(names):
    assert names("a") == ["b/frame1", "clip", "frame9", "frame10"]
    assert names("a/frame9.PNG", "a") == ["frame9", "b/frame1", "clip", "frame10"]
    assert [file.is_video for file in find_files(["a"], "out")] == [False, True, False, False]


def test_patterns(names):
    assert names("a/frame*", "a/**/*.jpg") == ["frame9", "frame10", "frame1"]
    assert names("?/frame10.png") == ["a/frame10.png", "c/frame10.png"]


def test_files_of_one_name_are_told_apart(names):
    assert names("c") == ["frame10.jpg", "frame10.png"]
    assert names("c/frame10.jpg", "d/frame10.jpg") == ["c/frame10.jpg", "d/frame10.jpg"]
    assert names("a/frame10.png", "./a/frame10.png") == ["frame10"]


def test_what_lies_in_the_output_folder_is_no_input(names):
    assert "out/classes/x" in names(".", output_dir="elsewhere")
    assert not any("classes" in name for name in names("."))
    with pytest.raises(InputError, match="its images lie in the --output_dir"):
        names("out")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["missing.png"], "missing.png: no such file or folder"),
        (["a", "missing/*.png"], r"missing/\*.png: no file fits"),
        (["empty"], "empty: holds no images or videos"),
        (["x/1/f.png", "y/1/f.png"], "would both be written as 1/f.png"),
    ],
)
def test_refused(names, words, message):
    for folder in ("empty", "x/1", "y/1"):
        Path(folder).mkdir(parents=True)
    for file in ("x/1/f.png", "y/1/f.png"):
        Path(file).touch()
    with pytest.raises(InputError, match=message):
        names(*words)


def test_numbers_are_compared_by_value():
    names = ["b2", "b10", "a", "B1", "10", "9"]
    assert sorted(names, key=natural_key) == ["9", "10", "a", "B1", "b2", "b10"]
