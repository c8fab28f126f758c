"""Whose an output folder is: files of another, links and closed places are refused, and nothing is written."""

import os
from pathlib import Path

import pytest

from lrsegformer.errors import InputError
from lrsegformer.output_folder import check_place, claim, command_of, mark_of
from lrsegformer.writing import write_whole, writing_to, written_aside

NAMES = ("run.yaml", "results.json", "confusion_*.csv", "sheets")


@pytest.mark.parametrize("name", ["run.yaml", "results.json", "confusion_whole.csv"])
def test_files_of_another_are_refused_and_own_ones_are_not(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match=f"--output_dir .* holds {name}, which this command did not write: give"):
        claim(tmp_path, NAMES, is_own=False)
    claim(tmp_path, NAMES, is_own=True)
    assert (tmp_path / name).read_text() == "mine"


def test_other_files_may_lie_there(tmp_path):
    for name in ("train.log", "results.json.bak", "confusion_whole.png"):
        (tmp_path / name).touch()
    claim(tmp_path, NAMES, is_own=False)
    claim(tmp_path / "new" / "deeper", NAMES, is_own=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "confusion_whole.png",
        "results.json.bak",
        "train.log",
    ]


@pytest.mark.parametrize("target", ["elsewhere", "nowhere"])
def test_links_are_refused_whosever_the_folder_is(tmp_path, target):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sheets").symlink_to(tmp_path / target)
    with pytest.raises(InputError, match="sheets there is a link"):
        claim(tmp_path / "out", NAMES, is_own=True)
    # The folder itself may be one: that is how people keep outputs on another disk.
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    claim(tmp_path / "link", NAMES, is_own=False)


def test_the_mark(tmp_path):
    (tmp_path / "run.yaml").write_text(f"# {mark_of('certify')}, whose --config takes this file\nseed: 1\n")
    (tmp_path / "page.html").write_text(f"<!doctype html>\n<!-- {mark_of('report')} -->\n<html>")
    (tmp_path / "other").write_text("seed: 1\n# lrsegformer certify\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    found = [command_of(tmp_path / name) for name in ("run.yaml", "page.html", "other", "binary", "absent", ".")]
    assert found == ["certify", "report", None, None, None, None]
    with pytest.raises(InputError, match="holds run.yaml, which lrsegformer certify wrote"):
        claim(tmp_path, NAMES, is_own=False)


def test_places_where_no_folder_can_be(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    (tmp_path / "nowhere").symlink_to(tmp_path / "absent")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for place, reason in (
        ("file", "file is a file: give a folder"),
        ("file/a/b", "which is a file: give a folder"),
        ("nowhere", "No such file"),
        ("circle/a", "symbolic links"),
        ("n" * 300, "File name too long"),
        ("a\0b", "null byte"),
    ):
        with pytest.raises(InputError, match=reason) as error:
            check_place(tmp_path / place, "--output_dir")
        assert str(error.value).startswith("--output_dir ") and "give a" in str(error.value)
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(InputError, match="cannot be written .* give another folder"):
        check_place(tmp_path / "new")


def full(*arguments, **named):
    raise OSError(28, "No space left on device")


def test_what_cannot_be_written_leaves_the_old_file_and_no_part(tmp_path, monkeypatch):
    file = tmp_path / "results.json"
    write_whole(file, "old")
    with monkeypatch.context() as patch, pytest.raises(InputError, match=r"No space left on device\); make room"):
        patch.setattr(Path, "write_text", full)
        with writing_to(tmp_path):
            write_whole(file, "new")
    with pytest.raises(ZeroDivisionError), written_aside(file) as path:
        path.write_text("half")
        _ = 1 / 0
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"] and file.read_text() == "old"
    write_whole(file, "new\r\n")
    assert file.read_bytes() == b"new\r\n"


def test_names_as_long_as_a_file_system_takes(tmp_path):
    file = tmp_path / f"{'ä' * 125}.json"
    write_whole(file, "text")
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
