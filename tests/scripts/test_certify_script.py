"""scripts/certify.py: what it says of bad input, and a run as a user makes it."""

import functools
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import SegformerImageProcessorPil

pytestmark = pytest.mark.usefixtures("blank_pictures")

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "certify.py"
PROBE = """
import runpy, sys
sys.argv = [{script!r}, "--help"]
try:
    runpy.run_path({script!r}, run_name="__main__")
except SystemExit as stop:
    status = stop.code
heavy = ("torch", "datasets", "evaluate", "matplotlib", "scipy", "lrsegformer.models")
print(status, sorted(set(heavy) & set(sys.modules)), file=sys.stderr)
"""
DIGITS = ["--dataset", "digits", "--image_size", "32", "--max_eval_samples", "3"]


@pytest.fixture
def script(tmp_path, monkeypatch):
    """The script as a module, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LRSEGFORMER_PARSE_ONLY", "")  # put back after the test what loading the script changes
    specification = importlib.util.spec_from_file_location("certify_script", SCRIPT)
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
        return lines[0]

    return run


@pytest.fixture
def explain(ends_with):
    """Run a command line that has to fail with one clear line; gives that line."""
    return functools.partial(ends_with, 2, "error")


@pytest.fixture(scope="module")
def model(make_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "head"
    make_model("spectral_norm", num_labels=11).save_pretrained(folder)
    SegformerImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return str(folder)


def assert_words(line, *words):
    assert all(str(word) in line for word in words), line


def test_help_needs_no_torch():
    probe = subprocess.run(
        [sys.executable, "-c", PROBE.format(script=str(SCRIPT))], capture_output=True, text=True, timeout=60
    )
    assert probe.stderr.splitlines()[-1] == "0 []", probe.stderr
    for option in ("--models", "--radii", "--norms", "--attacks", "--smoothing", "--sigma", "--dataset"):
        assert option in probe.stdout


def test_options_that_make_no_sense(explain):
    assert_words(explain(), "--models")
    assert_words(explain("--models", "m", "--radii", "0"), "--radii", "0")
    assert_words(explain("--models", "m", "--radii", "1/0"), "--radii", "36/255")
    assert_words(explain("--models", "m", "--norms", "linf"), "--norms", "'linf'", "per_pixel_l2")
    assert_words(explain("--models", "m", "--attacks", "pdg"), "--attacks", "'pdg'", "segpgd")
    assert_words(explain("--models", "m", "--sigma", "0.5"), "--sigma", "--smoothing")
    assert_words(explain("--models", "m", "--smoothing", "--sigma", "0"), "sigma", "above 0")
    assert_words(explain("--models", "m", "--smoothing", "--tau", "0.3"), "tau", "0.5")
    assert_words(explain("--models", "m", "--no_such_option"), "--no_such_option", "--help")
    assert_words(explain("--models", "nowhere"), "nowhere", "cannot be loaded")


def test_configuration_file(explain, tmp_path):
    (tmp_path / "run.yaml").write_text("models: [nowhere]\nraddii: [0.1]\n")
    assert_words(explain("--config", "run.yaml"), "run.yaml", "'raddii'", "'radii'")
    (tmp_path / "run.yaml").write_text("models: [nowhere]\nradii: [0.1, 36/255]\n")
    assert_words(explain("--config", "run.yaml"), "nowhere", "cannot be loaded")


def test_too_few_samples_and_folders_that_cannot_be_used(explain, model, tmp_path):
    line = explain("--model", model, *DIGITS, "--smoothing", "--n", "10", "--output_dir", "report")
    assert_words(line, "--n 10", "1024 pixels", "at least")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "results.json").write_text("{}")
    assert_words(explain("--model", model, *DIGITS, "--output_dir", "other"), "other", "holds results.json")
    assert_words(explain("--model", model, *DIGITS, "--output_dir", "/proc"), "/proc", "--output_dir")
    assert not list(tmp_path.rglob("results.md"))


def test_interrupt_and_lack_of_memory(ends_with, explain, model, monkeypatch):
    from lrsegformer.robustness.certificates import run

    for error, check in (
        (KeyboardInterrupt(), functools.partial(ends_with, 130, "stopped")),
        (MemoryError(), explain),
    ):

        def fail(*arguments, error=error):
            raise error

        monkeypatch.setattr(run, "certify", fail)
        assert "finished attacks are kept" in check("--model", model, *DIGITS, "--output_dir", "report")


def test_a_run_as_a_user_makes_it(script, model, tmp_path, capsys):
    script.main(["--model", model, *DIGITS, "--radii", "36/255", "0.5", "--pictures", "1", "--output_dir", "report"])
    assert capsys.readouterr().out.splitlines()[-1] == "Report: report/results.md"
    files = {file.name for file in (tmp_path / "report").iterdir()}
    expected = "results.md results.json results.csv curves.png pictures subsets run.yaml cells.jsonl"
    assert files == set(expected.split())
    report = json.loads((tmp_path / "report" / "results.json").read_text())
    assert report["models"]["head"]["reach"] == "feature space" and report["images"] == 3
    (picture,) = (tmp_path / "report" / "pictures").iterdir()
    assert picture.name in (tmp_path / "report" / "results.md").read_text()
    # The report's own configuration says the same again.
    script.main(["--config", "report/run.yaml"])
    assert json.loads((tmp_path / "report" / "results.json").read_text())["rows"] == report["rows"]
