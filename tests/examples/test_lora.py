"""`examples/lora.py` runs to its end: it trains, saves both ways, and loads both ways."""

import runpy
import sys
from pathlib import Path

import pytest
from transformers import SegformerConfig, SegformerForImageClassification

from lrsegformer.choices import ARCHITECTURES

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "lora.py"


@pytest.mark.slow
def test_the_example_runs(tmp_path, monkeypatch, capsys):
    pytest.importorskip("peft")
    base, folder = tmp_path / "mit-tiny", tmp_path / "run"
    SegformerForImageClassification(SegformerConfig(**ARCHITECTURES["tiny"])).save_pretrained(base)
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), str(base), str(folder), "2"])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    said = capsys.readouterr().out
    assert "parameters are trained." in said and "mean IoU" in said and "Bound of the head" in said
    assert (folder / "adapter" / "adapter_config.json").is_file() and (folder / "config.json").is_file()
