"""The README says what is so: options exist, strategies are those of the registry, the snippet runs."""

import dataclasses
import re
from pathlib import Path

import pytest
import yaml

from lrsegformer import STRATEGIES
from lrsegformer.data.arguments import DataArguments
from lrsegformer.training import LRSegformerTrainingArguments
from lrsegformer.training.arguments import ModelArguments
from lrsegformer.training.short_names import SHORT_NAMES

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FIELDS = {
    field.name
    for kind in (ModelArguments, DataArguments, LRSegformerTrainingArguments)
    for field in dataclasses.fields(kind)
}
# Options of our command lines that are no fields, and options of accelerate.
OTHERS = {"config", "help", "help_all", "task", "variant", "config_file", *(name[2:] for name in SHORT_NAMES)}


def code_blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_every_option_named_in_the_readme_exists():
    lines = [
        line for block in code_blocks("bash") for line in block.splitlines() if "scripts/" in line or "--" in line
    ]
    named = {name for line in lines for name in re.findall(r"(?<=--)[a-z_]+", line)}
    named |= {name for name in re.findall(r"`--([a-z_]+)", README)}
    assert named - {"extra"} <= FIELDS | OTHERS
    assert len(named) > 15


def test_the_table_of_strategies_is_that_of_the_registry():
    assert re.findall(r"^\| `([a-z_]+)` \|", README, flags=re.MULTILINE) == list(STRATEGIES)


def test_every_make_target_named_in_the_readme_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"\bmake ([a-z-]+)", README)):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_every_linked_file_exists():
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link


def test_the_quickstart_configuration_has_known_options():
    assert set(yaml.safe_load((ROOT / "docs/quickstart.yaml").read_text(encoding="utf-8"))) <= FIELDS


def test_the_snippets_run(segmentation_run, tmp_path, monkeypatch, capsys):
    from PIL import Image

    folder, _ = segmentation_run
    Image.effect_noise((90, 70), 60).convert("RGB").save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    usage, in_python = code_blocks("python")
    exec(compile(usage.replace("runs/quickstart", str(folder)), "README.md", "exec"), {})
    with Image.open(tmp_path / "prediction.png") as picture:
        assert picture.size == (90, 70)
    assert "'guaranteed': True" in capsys.readouterr().out
    with pytest.raises(Exception, match="couldn't connect"):
        # Without a network the checkpoint is out of reach; everything before it has to work.
        exec(compile(in_python, "README.md", "exec"), {})
