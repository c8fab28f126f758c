"""The first run that a newcomer makes, from the Makefile's own line: it has to have learned something."""

import json
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TIMES_THE_CONSTANT_ANSWER = 3


@pytest.mark.slow
def test_the_quickstart_learns_the_digits(run_script, tmp_path):
    """As docs/results.md says; a penalty that takes the network down leaves it at the answer "background"."""
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    line = re.search(r"scripts/(finetune_seg\.py) (.*docs/quickstart\.yaml) --output_dir", recipe)
    options = *shlex.split(line[2]), "--output_dir", str(tmp_path / "quickstart")
    result = run_script(line[1], *options, timeout_seconds=3600)
    assert result.returncode == 0, result.stderr[-3000:]
    scores = json.loads((tmp_path / "quickstart" / "all_results.json").read_text(encoding="utf-8"))
    constant = scores["constant_answer"]["mean_iou"]
    assert scores["eval_mean_iou"] >= TIMES_THE_CONSTANT_ANSWER * constant
