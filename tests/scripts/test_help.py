"""`--help` answers at once: no torch, no models."""

import subprocess
import sys
from pathlib import Path

import pytest

from lrsegformer import STRATEGIES

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
# Runs a script as __main__, then names on the last line of stderr what it loaded of the heavy packages.
PROBE = """
import runpy, sys
sys.argv = [{script!r}, "--help"]
try:
    runpy.run_path({script!r}, run_name="__main__")
except SystemExit as stop:
    status = stop.code
heavy = ("torch", "datasets", "evaluate", "matplotlib", "sklearn", "lrsegformer.models")
print(status, sorted(set(heavy) & set(sys.modules)), file=sys.stderr)
"""


# The scripts differ in a word.
OTHERS = [pytest.param(script, marks=pytest.mark.slow) for script in ("finetune_cls.py", "run.py")]


@pytest.mark.parametrize("script", ["finetune_seg.py", *OTHERS])
def test_help(script):
    probe = subprocess.run(
        [sys.executable, "-c", PROBE.format(script=str(SCRIPTS / script))], capture_output=True, text=True, timeout=60
    )
    assert probe.stderr.splitlines()[-1] == "0 []", probe.stderr
    for strategy in STRATEGIES:
        assert f"{strategy}: " in " ".join(probe.stdout.split()), f"{strategy} and what it does"
    assert "--lambda_lip" in probe.stdout and "--strategy" in probe.stdout


def test_help_all_lists_the_trainers_options(capsys):
    from lrsegformer.cli.finetune import main

    with pytest.raises(SystemExit) as stop:
        main("segmentation", ["--help_all"])
    shown = capsys.readouterr().out
    assert stop.value.code == 0 and "--gradient_checkpointing" in shown and "--total_batch_size" in shown
