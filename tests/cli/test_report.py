"""`lrsegformer report` as a user meets it."""

import pytest

from lrsegformer.cli.report import main, parse_arguments
from lrsegformer.errors import InputError


def test_defaults():
    folders, arguments = parse_arguments(["runs", "reports"])
    assert folders == ["runs", "reports"] and arguments.output == "report.html"


@pytest.mark.parametrize("argv", [[], ["--output", "x.html"], ["runs", "--nonsense", "1"], ["runs", "--output"]])
def test_wrong_options_are_one_line(argv):
    with pytest.raises(InputError) as error:
        parse_arguments(argv)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("argv", [["nowhere"], ["."], [".", "--output", "report.txt"]])
def test_bad_input_ends_in_one_line_and_status_2(tmp_path, monkeypatch, capsys, argv):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ") and errors.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_page_and_a_note_on_what_was_left_out(tmp_path, monkeypatch, capsys):
    import json

    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "good").mkdir(parents=True)
    (tmp_path / "runs" / "good" / "all_results.json").write_text(json.dumps({"eval_accuracy": 0.5}))
    (tmp_path / "runs" / "bad").mkdir()
    (tmp_path / "runs" / "bad" / "results.json").write_text("{")
    main(["runs", "--output", "out/page.html"])
    streams = capsys.readouterr()
    assert "note: runs/bad/results.json: is no JSON" in streams.err
    assert streams.out.startswith("Report: out/page.html")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"page.html", "page.md"}
