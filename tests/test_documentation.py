"""The documents say what is so: options exist, strategies are those of the registry, snippets and formulas run."""

import doctest
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from lrsegformer import STRATEGIES, LRSegformerForSemanticSegmentation
from lrsegformer.attacks.registry import ATTACKS
from lrsegformer.choices import SCOPES
from lrsegformer.cli.matrix import MatrixArguments
from lrsegformer.cli.parser import OneLineParser
from lrsegformer.cli.report import ReportArguments
from lrsegformer.cli.run import RunArguments
from lrsegformer.data import open_image
from lrsegformer.data.arguments import DataArguments
from lrsegformer.data.processor import load_processor
from lrsegformer.data.transforms import EvaluationTransform
from lrsegformer.evaluation import predict_classes
from lrsegformer.export.arguments import ExportArguments
from lrsegformer.inference.arguments import PredictArguments
from lrsegformer.inference.evaluation_arguments import EvaluateArguments
from lrsegformer.robustness.bench.arguments import RobustnessArguments
from lrsegformer.robustness.certificates.arguments import CertificateArguments
from lrsegformer.training import LRSegformerTrainingArguments
from lrsegformer.training.arguments import ModelArguments

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
OF_TRAINING = OneLineParser((RunArguments, ModelArguments, DataArguments, LRSegformerTrainingArguments))
OF_OTHERS = [
    OneLineParser(kind)
    for kind in (
        *(RobustnessArguments, CertificateArguments, PredictArguments, EvaluateArguments, ExportArguments),
        *(MatrixArguments, ReportArguments),
    )
]
FIELDS = {*OF_TRAINING.field_names(), *(name for parser in OF_OTHERS for name in parser.field_names())}
# Options of our command lines that are no fields, and options of accelerate.
OTHERS = {"config", "help", "help_all", "config_file", "print_completion"}


def code_blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_every_option_named_in_the_readme_exists():
    lines = [line for block in code_blocks("bash") for line in block.splitlines() if "--" in line]
    named = {name for line in lines for name in re.findall(r"(?<=--)[a-z_]+", line)}
    named |= {name for name in re.findall(r"`--([a-z_]+)", README)}
    assert named - {"extra"} <= FIELDS | OTHERS
    assert len(named) > 15


def test_the_tables_of_strategies_and_scopes_are_complete():
    rows = re.findall(r"^\| `([a-z_]+)`(?: \(default\))? \|", README, flags=re.MULTILINE)
    assert rows == [*STRATEGIES, *SCOPES]


def test_the_table_of_attacks_is_that_of_the_registry():
    text = (ROOT / "docs" / "robustness.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `([a-z_]+)` \|", text, flags=re.MULTILINE) == list(ATTACKS)


def test_every_make_target_named_in_the_readme_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"\bmake ([a-z-]+)", README)):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_every_linked_file_exists():
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link


def test_every_convention_names_a_test_that_is_there():
    text = (ROOT / "docs" / "conventions.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \|.*\|(.*)\|$", text, flags=re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 23))
    named = [path for _, cell in rows for path in re.findall(r"`([a-z_/.]+)`", cell)]
    assert len(named) >= 20
    assert all((ROOT / path).exists() for path in named)


def test_the_quickstart_configuration_has_known_options():
    assert set(yaml.safe_load((ROOT / "docs/quickstart.yaml").read_text(encoding="utf-8"))) <= FIELDS


def test_the_snippets_run(segmentation_run, make_stock, turned_photograph, tmp_path, monkeypatch, capsys):
    from PIL import Image

    folder, _ = segmentation_run
    turned_photograph(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    usage, prediction, in_python = code_blocks("python")
    names: dict = {}
    exec(compile(usage.replace("runs/quickstart", str(folder)), "README.md", "exec"), names)
    with Image.open(tmp_path / "prediction.png") as picture:
        assert picture.size == (70, 90)
    # What evaluation gives for the same photograph.
    item = EvaluationTransform(load_processor(str(folder)))(
        open_image(tmp_path / "photo.jpg"), np.zeros((90, 70), np.uint8), np.random.default_rng(0)
    )
    logits = LRSegformerForSemanticSegmentation.from_pretrained(folder)(item["pixel_values"][None]).logits
    assert torch.equal(names["classes"], predict_classes(logits.detach(), (90, 70))[0])
    assert float(capsys.readouterr().out) > 0
    in_three_lines: dict = {}
    exec(compile(prediction.replace("runs/quickstart", str(folder)), "README.md", "exec"), in_three_lines)
    assert np.array_equal(in_three_lines["prediction"].classes, names["classes"].numpy())
    assert capsys.readouterr().out.startswith("(90, 70) {")
    # Without a network a folder stands for the checkpoint.
    make_stock("classification").save_pretrained(tmp_path / "mit")
    exec(compile(in_python.replace("nvidia/mit-b0", str(tmp_path / "mit")), "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "Strategy orthogonal, scope head" in printed and "tensor(2.0" in printed and "Linear(" in printed


@pytest.mark.parametrize("name", ["layer_formulations.md", "lipschitz_constraints.md"])
def test_the_formulas_and_claims_hold(name):
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    result = doctest.testfile(str(ROOT / "docs" / name), module_relative=False, optionflags=flags, encoding="utf-8")
    assert result.attempted > 0
    assert result.failed == 0
