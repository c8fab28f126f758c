"""`run --matrix`: the real parsers behind a matrix, its bad input, and a run of it that is killed twice."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from lrsegformer.cli import matrix, run
from lrsegformer.matrix.definition import parse_definition
from lrsegformer.matrix.planning import Commands, Request, make_plan

ROOT = Path(__file__).resolve().parents[2]
DIGITS = {"dataset": "digits", "architecture": "tiny", "use_cpu": True}


@pytest.fixture
def explain(monkeypatch, tmp_path, capsys):
    """`explain(content, *options)`: the one line about a matrix file, judged in this process."""

    def call(content, *options: str) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(matrix, "_judge_elsewhere", matrix.judge)
        if content is not None:
            Path("m.yaml").write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        before = sorted(tmp_path.iterdir())
        with pytest.raises(SystemExit) as stop:
            run.main(["--matrix", "m.yaml", "--output_dir", "out", *options])
        errors = capsys.readouterr().err
        assert stop.value.code == 2 and errors.startswith("error: ") and errors.count("\n") == 1, errors
        assert sorted(tmp_path.iterdir()) == before
        return errors

    return call


def test_what_the_command_says_of_options():
    verdicts = matrix.judge(
        [
            Request("segmentation", {**DIGITS, "strategy": "stable_softplus", "max_eval_samples": 7}),
            Request("segmentation", {**DIGITS, "strategy": "stable_softplus", "scope": "certified"}),
            Request("classification", {**DIGITS, "strategy": "orthogonal", "epochs": 3}),
            Request("segmentation", {**DIGITS, "strategy": "orthogonal", "penalty_of": "head"}),
            Request("segmentation", {**DIGITS, "strategy": "none", "class_weights": [1, 2]}),
            Request("segmentation", {**DIGITS, "learning_rat": 1}),
            Request("segmentation", {**DIGITS, "lr": "fast"}),
            Request("segmentation", {**DIGITS, "adversarial_eps": 1}),
            Request("segmentation", {**DIGITS, "strategy": "orthogonal", "lipschitz_options": {"norm": "l1"}}),
        ]
    )
    assert verdicts[0].weighs and verdicts[0].length == (160000, 1.0, "steps", 0.1, 7, True)
    assert "linf" in verdicts[1].refusal and verdicts[1].error is None
    assert not verdicts[2].weighs and verdicts[2].length[:2] == (0, 3.0)
    assert verdicts[3].weighs
    assert verdicts[4].words[-2:] == ["--class_weights", "[1, 2]"]
    assert "'learning_rat'" in verdicts[5].error and "learning_rate" in verdicts[5].error
    assert "'fast'" in verdicts[6].error
    assert "--adversarial_steps" in verdicts[7].error
    assert "--lipschitz_options" in verdicts[8].refusal


def test_the_recipe_is_a_matrix_that_the_command_takes():
    file = ROOT / "recipes" / "quick_matrix.yaml"
    definition = parse_definition(yaml.safe_load(file.read_text(encoding="utf-8")), file.name)
    plan = make_plan(definition, Commands(matrix.judge, matrix.follow_up_words))
    assert len(plan.cells) == (1 + 2 * 2) * 2 + (1 + 2) * 2 + 2 and not plan.left_out
    assert {step.command for cell in plan.cells for step in cell.steps} > {"evaluate", "robustness", "certify"}


def small(**content):
    return {"tasks": ["segmentation"], "common": DIGITS, **content}


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        (None, [], ["--matrix m.yaml cannot be read"]),
        ("{a", [], ["--matrix m.yaml is neither YAML nor JSON"]),
        ("- a", [], ["--matrix m.yaml is not a mapping"]),
        (small(seed=[1]), [], ["'seed'", "did you mean 'seeds'"]),
        (small(variations={"x": {"lr": "fast"}}), [], ["m.yaml, cell segmentation-stable", "-x-seed42", "'fast'"]),
        (small(cells={"x": {"batch_sise": 2}}), [], ["cell segmentation-baseline-x-seed42", "batch_size"]),
        (small(scopes=["certified"]), [], ["every combination is refused", "stable_softplus"]),
        (small(then={"robustness": {"eps": [1]}}), [], ["then: robustness, cell", "--eps", "--attacks"]),
        (small(then={"robustness": {"atacks": ["pgd"]}}), [], ["then: robustness, cell", "'attacks'"]),
        (
            {"tasks": ["classification"], "common": DIGITS, "then": {"robustness": {"attacks": "cospgd", "eps": 1}}},
            [],
            ["then: robustness, cell classification", "cospgd", "segmentation"],
        ),
        (small(then={"evaluate": {"protocol": "slide"}}), [], ["then: evaluate, cell", "'protocols'"]),
        (small(then={"evaluate": {"stride": 8}}), [], ["then: evaluate, cell", "--stride"]),
        (small(then={"certify": {"radii": [0]}}), [], ["then: certify, cell", "--radii"]),
        (small(), ["--jobs", "0"], ["--jobs is 0"]),
        (small(), ["--accelerate_config", "none.yaml"], ["--accelerate_config none.yaml", "no such file"]),
        (small(), ["--max_steps", "2"], ["--max_steps"]),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_begun(explain, content, options, words):
    line = explain(content, *options)
    assert all(word in line for word in words), line


def test_a_matrix_under_a_launcher_is_refused(explain, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "starts accelerate for each cell" in explain(small())


def test_the_end_of_a_matrix_with_failures(monkeypatch, tmp_path, capsys, make_stock):
    """Through everything but the launcher: one cell of two has a data set that is not there."""
    (tmp_path / "m.yaml").write_text(
        yaml.safe_dump(small(variants=["baseline"], variations={"plain": {}, "lost": {"dataset": "no/such/folder"}}))
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(matrix, "_judge_elsewhere", matrix.judge)
    code = "import sys; sys.exit('error: no such folder' if 'no/such/folder' in sys.argv else 0)"
    monkeypatch.setattr(
        matrix, "launch_words", lambda command, words, config: [sys.executable, "-S", "-c", code, *words]
    )
    with pytest.raises(SystemExit) as stop:
        run.main(["--matrix=m.yaml"])
    printed = capsys.readouterr()
    assert stop.value.code == 1 and "1 of 2 cells are finished. Tables: runs/m/summary.md" in printed.out
    assert printed.err.splitlines() == [
        "failed: segmentation-baseline-lost-seed42: train: no such folder",
        "to try them again: lrsegformer run --matrix=m.yaml --retry_failed",
    ]


@pytest.mark.slow
def test_a_matrix_that_is_killed_and_stopped_is_finished_by_the_same_command(tmp_path):
    content = {
        "tasks": ["segmentation"],
        "variants": ["baseline", "lipschitz"],
        "strategies": ["orthogonal"],
        "common": {
            **{**DIGITS, "image_size": 32, "max_train_samples": 16, "max_eval_samples": 4, "total_batch_size": 2},
            **{"max_steps": 30, "save_steps": 5, "eval_strategy": "no", "dataloader_num_workers": 1},
        },
        "then": {"evaluate": {}, "robustness": {"attacks": "pgd", "eps": 1, "steps": 1, "max_eval_samples": 2}},
    }
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(content))
    command = [sys.executable, "-m", "lrsegformer", "run", "--matrix", "m.yaml", "--output_dir", "out"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    first, second = (tmp_path / "out" / f"segmentation-{name}-seed42" for name in ("baseline", "orthogonal-head"))

    def ended_once(ready, number: int) -> tuple[int, str]:
        with (
            open(tmp_path / "errors", "w+") as errors,
            subprocess.Popen(
                command,
                cwd=tmp_path,
                env=environment,
                stderr=errors,
                start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            ) as process,
        ):
            deadline = time.monotonic() + 600
            while not ready() and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.05)
            assert ready() and process.poll() is None
            process.send_signal(number)
            return process.wait(), (tmp_path / "errors").read_text()

    def train_log(cell: Path) -> str:
        return (cell / "train.log").read_text() if (cell / "train.log").exists() else ""

    assert ended_once(lambda: any(first.glob("checkpoint-*")), signal.SIGKILL)[0] == -signal.SIGKILL
    status, errors = ended_once(lambda: (first / "checkpoint-15").is_dir(), signal.SIGINT)
    assert status == 128 + signal.SIGINT and errors.count("stopped: ") == 1
    assert "this goes on: lrsegformer run --matrix m.yaml --output_dir out" in errors
    assert "is saved; continue with: " in train_log(first)
    assert ended_once(lambda: (first / "robustness" / "cells.jsonl").exists(), signal.SIGKILL)[0] == -signal.SIGKILL
    status, errors = ended_once(lambda: any(second.glob("checkpoint-*")), signal.SIGTERM)
    assert status == 128 + signal.SIGTERM and errors.count("stopped: ") == 1
    assert "is saved; continue with: " in train_log(second)
    finished = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    entries = {entry["name"]: entry for entry in json.loads((tmp_path / "out" / "matrix.json").read_text())}
    assert len(entries) == 2 and {entry["status"] for entry in entries.values()} == {"done"}
    assert [entries[cell.name]["steps"]["train"]["attempts"] for cell in (first, second)] == [3, 2]
    assert all("--resume_from_checkpoint" in train_log(cell) for cell in (first, second))
    summary = (tmp_path / "out" / "summary.md").read_text()
    assert "| configuration | n | whole, original | whole, resized |" in summary
    assert "2 of 2 cells are finished" in summary and "pgd-linf-1 (estimated by attack)" in summary
