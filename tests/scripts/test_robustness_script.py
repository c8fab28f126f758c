"""scripts/robustness.py: what it says of bad input, and a run as a user makes it."""

import functools
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import SegformerImageProcessorPil

pytestmark = pytest.mark.usefixtures("blank_pictures")

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "robustness.py"
PROBE = """
import runpy, sys
sys.argv = [{script!r}, "--help"]
try:
    runpy.run_path({script!r}, run_name="__main__")
except SystemExit as stop:
    status = stop.code
heavy = ("torch", "datasets", "evaluate", "matplotlib", "foolbox", "lrsegformer.models")
print(status, sorted(set(heavy) & set(sys.modules)), file=sys.stderr)
"""


@pytest.fixture
def script(tmp_path, monkeypatch):
    """The script as a module, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LRSEGFORMER_PARSE_ONLY", "")  # put back after the test what loading the script changes
    specification = importlib.util.spec_from_file_location("robustness_script", SCRIPT)
    script = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(script)
    return script


@pytest.fixture
def ends_with(script, capsys):
    """`ends_with(status, word, *options)`: run a command line that has to end with one line of that word; gives it."""

    def run(status, word, *options):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            script.main(list(options))
        assert stop.value.code == status
        errors = capsys.readouterr().err
        lines = [line for line in errors.splitlines() if line.startswith(f"{word}: ")]
        assert len(lines) == 1 and "Traceback" not in errors and errors.splitlines()[-1] == lines[0], errors
        assert "usage:" not in errors
        return lines[0]

    return run


@pytest.fixture
def explain(ends_with):
    """Run a command line that has to fail with one clear line; gives that line."""
    return functools.partial(ends_with, 2, "error")


@pytest.fixture(scope="module")
def models(make_model, tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    made = {
        "digits": make_model(task="classification", num_labels=10),
        "orthogonal": make_model("orthogonal", task="classification", num_labels=10),
        "five": make_model(task="classification", num_labels=5),
    }
    for name, model in made.items():
        model.save_pretrained(root / name)
        SegformerImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(root / name)
    return {name: str(root / name) for name in made}


DIGITS = ["--dataset", "digits", "--image_size", "32", "--max_eval_samples", "4"]


def assert_words(line, *words):
    assert all(str(word) in line for word in words), line


def test_help_needs_no_torch():
    probe = subprocess.run(
        [sys.executable, "-c", PROBE.format(script=str(SCRIPT))], capture_output=True, text=True, timeout=60
    )
    assert probe.stderr.splitlines()[-1] == "0 []", probe.stderr
    for option in ("--attacks", "--eps", "--corruptions", "--shifted", "--dataset", "sea: ", "autoattack: "):
        assert option in probe.stdout


def test_options_that_make_no_sense(explain):
    base = ["--models", "m", "--attacks", "pgd"]
    assert_words(explain(), "--models")
    assert_words(explain("--models", "m", "--attacks", "pdg", "--eps", "1"), "--attacks", "'pdg'", "segpgd")
    assert_words(explain(*base, "--eps", "-1"), "--eps", "-1")
    assert_words(explain(*base, "--eps", "0"), "--eps", "0")
    assert_words(explain(*base, "--eps", "nan"), "--eps", "nan")
    assert_words(explain(*base, "--eps", "1", "-1e-3"), "--eps", "-0.001", "above 0")
    assert_words(explain(*base, "--eps", "300"), "--eps", "1/255")
    assert_words(explain(*base, "--eps", "443", "--norm", "per_pixel_l2"), "--eps", "per_pixel_l2", "1/255", "442")
    assert_words(explain(*base, "--eps", "1", "--norm", "l1"), "--norm", "'l1'", "linf", "l2", "per_pixel_l2")
    per_pixel = ("--eps", "1", "--norm", "per_pixel_l2")
    assert_words(explain("--models", "m", "--attacks", "square", *per_pixel), "square", "per_pixel_l2", "--norm linf")
    assert_words(explain(*base), "--eps")
    assert_words(explain("--models", "m", "--eps", "1"), "--attacks")
    assert_words(explain("--models", "m", "--attacks", "fmn", "--eps", "1"), "fmn", "--norm l2")
    assert_words(explain("--models", "m", "--attacks", "sea", "--eps", "1", "--targeted"), "sea", "targeted", "pgd")
    assert_words(explain(*base, "--eps", "1", "--steps", "0"), "--steps", "0")
    assert_words(explain("--models", "m", "--batch_size", "0"), "--batch_size", "0")
    assert_words(explain("--models", "m", "--corruptions", "fgo"), "fgo", "fog", "common")
    assert_words(explain("--models", "m", "--corruptions", "fog", "--severities", "6"), "--severities", "6")
    assert_words(explain("--models", "m", "--seed", "-1"), "--seed", "-1")
    assert_words(explain("--models", "m", "--max_eval_samples", "0"), "--max_eval_samples", "0")
    assert_words(explain("--models", "m", "--no_such_option"), "--no_such_option", "--help")


def test_configuration_file(explain, tmp_path):
    (tmp_path / "run.yaml").write_text("models: [m]\natacks: [pgd]\n")
    assert_words(explain("--config", "run.yaml"), "run.yaml", "'atacks'", "'attacks'")
    (tmp_path / "run.yaml").write_text("models: [nowhere]\nattacks: [pgd]\neps: [1, 2]\n")
    assert_words(explain("--config", "run.yaml"), "nowhere", "cannot be loaded")
    assert_words(explain("--config", "run.yaml", "--eps", "-3"), "--eps", "-3")
    assert_words(explain("--config"), "--config", "needs a file")
    assert_words(explain("--config=absent.yaml"), "absent.yaml", "cannot be read")


def test_models_and_data_that_do_not_fit(explain, models, tmp_path):
    line = explain("--models", models["five"], *DIGITS)
    assert_words(line, "five", "5 classes", "digits", "10")
    line = explain("--models", models["digits"], models["five"], *DIGITS)
    assert_words(line, "10 classes", "5")
    line = explain("--models", models["digits"], *DIGITS, "--attacks", "segpgd", "--eps", "1")
    assert_words(line, "segpgd", "segmentation", "classification", "autoattack")
    line = explain("--models", models["digits"], *DIGITS, "--shifted", "other")
    assert_words(line, "--shifted other", "imagenet-a")
    line = explain("--models", models["digits"], *DIGITS, "--shifted", "imagenet-c")
    assert_words(line, "imagenet-c=FOLDER")
    line = explain("--models", models["digits"], *DIGITS, "--class_mappings", "other=map.json")
    assert_words(line, "--class_mappings other", "--shifted")
    assert not list(tmp_path.rglob("results.md"))


@pytest.mark.parametrize(
    ("package", "install", "options"),
    [
        ("imagecorruptions", "imagecorruptions-imaug", ["--corruptions", "common"]),
        ("pyautoattack", "pyautoattack", ["--attacks", "autoattack", "--eps", "1"]),
        ("foolbox", "foolbox", ["--attacks", "fmn", "--norm", "l2", "--eps", "1"]),
    ],
)
def test_missing_package(explain, models, monkeypatch, tmp_path, package, install, options):
    monkeypatch.setitem(sys.modules, package, None)
    line = explain("--models", models["digits"], *DIGITS, *options)
    assert_words(line, install, "pip install lrsegformer[robustness]")
    assert not list(tmp_path.rglob("cells.jsonl")), "said before anything is computed"


@pytest.fixture
def fails_measuring(monkeypatch):
    """`fails_measuring(error)`: the bench gets this error in its first cell."""
    from lrsegformer.robustness.bench import bench

    def fail(error):
        def measure(*arguments):
            raise error

        monkeypatch.setattr(bench, "measure", measure)

    return fail


def test_interrupt(ends_with, models, fails_measuring):
    fails_measuring(KeyboardInterrupt())
    line = ends_with(130, "stopped", "--models", models["digits"], *DIGITS, "--output_dir", "report")
    assert_words(line, "finished cells", "cells.jsonl", "--output_dir", "same command continues")


def test_out_of_memory(explain, models, fails_measuring):
    fails_measuring(MemoryError())
    line = explain("--models", models["digits"], *DIGITS, "--output_dir", "report")
    assert_words(line, "out of memory", "--batch_size", "--eval_size")
    assert "per_device" not in line and "checkpointing" not in line


def test_output_folder_that_cannot_be_written(explain, models, fails_measuring, tmp_path):
    fails_measuring(AssertionError("said before anything is computed"))
    assert_words(explain("--models", models["digits"], *DIGITS, "--output_dir", "/proc"), "/proc", "--output_dir")
    (tmp_path / "report" / "cells.jsonl").mkdir(parents=True)
    line = explain("--models", models["digits"], *DIGITS, "--output_dir", "report")
    assert_words(line, "--output_dir report holds cells.jsonl", "give another --output_dir")


def test_run_on_classification(script, models, tmp_path, capsys, caplog):
    options = ["--models", models["digits"], models["orthogonal"], *DIGITS, "--attacks", "pgd", "--norm", "l2"]
    options += ["--eps", "0.1", "1", "--steps", "3", "--output_dir", "report"]
    script.main(options)
    assert capsys.readouterr().out.splitlines()[-1] == "Report: report/results.md"
    report = json.loads((tmp_path / "report" / "results.json").read_text())
    assert report["task"] == "classification" and report["images"] == 4
    accuracy = {(row["model"], row["radius"]): row["accuracy"] for row in report["rows"]}
    assert len(accuracy) == 6
    for model in ("digits", "orthogonal"):
        assert accuracy[model, None] >= accuracy[model, 0.1] >= 0 and accuracy[model, None] >= accuracy[model, 1.0]
    assert report["bounds"]["orthogonal"]["guaranteed"] and report["bounds"]["digits"]["bound"] is None
    files = {file.name for file in (tmp_path / "report").iterdir()}
    expected = "results.md results.json results.csv per_class.csv curves.png subsets run.yaml sheets cells.jsonl"
    assert files == set(expected.split())
    assert len(list((tmp_path / "report" / "sheets").glob("*.png"))) == 4
    (subset,) = (tmp_path / "report" / "subsets").iterdir()
    assert subset.stem == report["inputs"]["digits"]["subset"] == report["inputs"]["orthogonal"]["subset"]
    assert len(subset.read_text().splitlines()) == 4

    # The report's own configuration says the same again, and nothing is computed twice.
    before = (tmp_path / "report" / "cells.jsonl").read_bytes()
    script.main(["--config", "report/run.yaml"])
    assert "orthogonal, pgd-l2-1 (4 of 4): finished before." in caplog.text
    assert (tmp_path / "report" / "cells.jsonl").read_bytes() == before
