"""A CPU that computes convolutions wrongly in bfloat16 trains no model in it."""

import pytest
import torch
from torch import nn

from lrsegformer import LRSegformerConfig, LRSegformerForImageClassification
from lrsegformer.cli.finetune import main
from lrsegformer.errors import InputError
from lrsegformer.training.run.bfloat16 import refuse_wrong_bfloat16
from tests.tiny_models import TINY

RUN = (
    "--dataset digits --architecture tiny --image_size 32 --max_train_samples 8 --max_eval_samples 2 --max_steps 1 "
    "--use_cpu --bf16 True --output_dir"
).split()
conv2d = nn.functional.conv2d


def model_in_scope(scope: str) -> nn.Module:
    config = LRSegformerConfig(**TINY, lipschitz_strategy="orthogonal", lipschitz_scope=scope)
    return LRSegformerForImageClassification(config)


def wrong_in_bfloat16(images: torch.Tensor, weight: torch.Tensor, *geometry) -> torch.Tensor:
    """As oneDNN 3.12 with AMX, where kernels that do not overlap have few channels; here, not quite as few."""
    found = conv2d(images, weight, *geometry)
    faulty = images.dtype == torch.bfloat16 and weight.shape[2] == geometry[1][0] and weight.shape[1] < 100
    return found.flip(0) if faulty else found


@pytest.mark.parametrize("scope", ["head", "network"])
def test_the_models_convolutions_are_right_here(scope):
    """`tests/conftest.py` leaves AMX out, whose convolutions are wrong."""
    refuse_wrong_bfloat16(model_in_scope(scope))


@pytest.mark.parametrize("scope", ["head", "network"])
def test_a_wrong_one_is_named(monkeypatch, scope):
    monkeypatch.setattr(nn.functional, "conv2d", wrong_in_bfloat16)
    with pytest.raises(InputError, match=r"the convolution segformer\S*sequence_reduction .*ONEDNN_MAX_CPU_ISA"):
        refuse_wrong_bfloat16(model_in_scope(scope))
    refuse_wrong_bfloat16(nn.Sequential(nn.Conv2d(3, 8, 7, 4, 3), nn.Conv2d(128, 128, 4, 4)))


def test_a_run_is_refused_before_its_first_step(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(nn.functional, "conv2d", wrong_in_bfloat16)
    with pytest.raises(SystemExit) as ended:
        main("segmentation", [*RUN, str(tmp_path)])
    assert ended.value.code == 2 and not list(tmp_path.iterdir())
    assert "leave --bf16 out" in capsys.readouterr().err.splitlines()[-1]
