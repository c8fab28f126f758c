"""Names that a command line offers stand in one place; sizes of the architectures against the published ones."""

import ast
from pathlib import Path

import pytest
import torch
from transformers.training_args import trainer_log_levels

from lrsegformer import LRSegformerConfig, LRSegformerForSemanticSegmentation
from lrsegformer.choices import ARCHITECTURES, LOG_LEVELS, PENALTY_REDUCTIONS, SCOPES, TASKS
from lrsegformer.cli.finetune import DESCRIPTIONS
from lrsegformer.models.loading import build_model

MILLIONS = {
    "b0": (3.75, 0.433),
    "b1": (13.72, 0.564),
    "b2": (27.46, 3.266),
    "b3": (47.34, 3.266),
    "b4": (64.11, 3.266),
    "b5": (84.71, 3.266),
}


def test_log_levels_are_those_of_transformers():
    assert LOG_LEVELS == tuple(trainer_log_levels)


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", MILLIONS)
@pytest.mark.parametrize("strategy", [None, "stable_softplus"])
def test_parameter_counts_of_the_paper(name, strategy):
    config = LRSegformerConfig(**ARCHITECTURES[name], num_labels=150, lipschitz_strategy=strategy)
    with torch.device("meta"):
        model = LRSegformerForSemanticSegmentation(config)
    total, head = MILLIONS[name]
    constants = 6 if strategy else 0
    assert (count(model) - constants) / 1e6 == pytest.approx(total, abs=0.006)
    assert (count(model.decode_head) - constants) / 1e6 == pytest.approx(head, abs=0.0006)


def test_every_architecture_is_listed_and_the_tiny_one_is_tiny():
    assert set(ARCHITECTURES) == {"tiny", "small", *MILLIONS}
    model = build_model("segmentation", "tiny", num_labels=11, lipschitz_strategy="orthogonal")
    assert count(model) < 1_000_000
    assert model(torch.randn(1, 3, 64, 64)).logits.shape == (1, 11, 16, 16)
    classifier = build_model("classification", "tiny", num_labels=10, lipschitz_strategy="orthogonal")
    assert classifier(torch.randn(1, 3, 64, 64)).logits.shape == (1, 10)


PACKAGE = Path(__file__).resolve().parents[1] / "lrsegformer"
MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.name != "choices.py"]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_list_of_choices_stands_twice(path):
    """No tuple, list or set elsewhere that names two of what a command line offers."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Tuple | ast.List | ast.Set):
            named = {item.value for item in node.elts if isinstance(item, ast.Constant)}
            for group in (TASKS, SCOPES, PENALTY_REDUCTIONS, ARCHITECTURES):
                assert len(named & set(group)) < 2, f"line {node.lineno} repeats names of lrsegformer/choices.py"


def test_every_task_has_its_command_line():
    assert set(DESCRIPTIONS) == set(TASKS)
