"""The task of a model, ours and stock, however it is wrapped; and of a configuration that was saved."""

import ast
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import SegformerModel, ViTConfig

from lrsegformer import STRATEGIES
from lrsegformer.choices import TASKS
from lrsegformer.errors import InputError
from lrsegformer.models.task import task_of, task_of_config


class Wrapper(nn.Module):
    """As the wrappers of several processes are: what was wrapped is `module`, and nothing else is handed on."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("strategy", ["stock", None, *STRATEGIES])
def test_task_of_a_model_and_of_its_wrappers(make_model, make_stock, task, strategy):
    model = make_stock(task) if strategy == "stock" else make_model(strategy, task=task)
    for wrapped in (model, Wrapper(model), Wrapper(Wrapper(model)), nn.DataParallel(model)):
        assert task_of(wrapped) == task


def test_task_of_a_compiled_model(make_stock):
    assert task_of(torch.compile(make_stock("segmentation"))) == "segmentation"


@pytest.mark.parametrize("task", TASKS)
def test_task_of_an_adapted_model(make_model, make_stock, task):
    peft = pytest.importorskip("peft")
    for model in (make_stock(task), make_model("orthogonal", task=task)):
        adapted = peft.get_peft_model(
            model, peft.LoraConfig(target_modules=["q_proj"], modules_to_save=["classifier"])
        )
        assert task_of(adapted) == task_of(Wrapper(adapted)) == task


def test_a_model_without_a_head_has_no_task(make_stock):
    backbone = make_stock("segmentation").segformer
    assert isinstance(backbone, SegformerModel)
    for model in (backbone, nn.Linear(2, 2)):
        with pytest.raises(InputError, match=f"a {type(model).__name__} is no SegFormer with a head"):
            task_of(model)


@pytest.mark.parametrize("task", TASKS)
def test_task_of_a_saved_configuration(make_model, make_stock, task, tmp_path):
    for number, model in enumerate((make_stock(task), make_model(None, task=task))):
        assert task_of_config(model.config) is None
        model.save_pretrained(tmp_path / str(number))
        assert task_of_config(type(model.config).from_pretrained(tmp_path / str(number))) == task
    assert task_of_config(ViTConfig(architectures=["ViTForImageClassification"])) is None
    assert task_of_config(ViTConfig(architectures=["SegformerModel"])) is None


def test_nothing_else_looks_for_a_decode_head():
    for path in sorted((Path(__file__).resolve().parents[2] / "lrsegformer").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) in ("hasattr", "getattr"):
                assert all(getattr(argument, "value", None) != "decode_head" for argument in node.args), path
