"""Each file of accelerate_configs is one that accelerate reads as meant."""

from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType

FOLDER = Path(__file__).resolve().parents[1] / "accelerate_configs"
KINDS = {
    "cpu": DistributedType.NO,
    "single_gpu": DistributedType.NO,
    "ddp": DistributedType.MULTI_GPU,
    "fsdp2": DistributedType.FSDP,
    "zero2": DistributedType.DEEPSPEED,
}


def test_the_five_files_are_there():
    assert {file.stem for file in FOLDER.iterdir()} == set(KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_accelerate_loads_it(name):
    file = FOLDER / f"{name}.yaml"
    config = load_config_from_file(str(file))
    assert config.distributed_type == KINDS[name]
    assert config.use_cpu == (name == "cpu")
    assert config.num_processes == (1 if KINDS[name] == DistributedType.NO else 2)
    known = set(vars(config))
    assert set(yaml.safe_load(file.read_text())) <= known


@pytest.mark.parametrize("name", KINDS)
def test_accelerate_launch_takes_it(name, monkeypatch):
    """The launcher's own merge of file and command line; nothing is started."""
    if name == "zero2":
        monkeypatch.setattr("accelerate.commands.launch.is_deepspeed_available", lambda: True, raising=False)
    line = ["--config_file", str(FOLDER / f"{name}.yaml"), "scripts/finetune_seg.py", "--strategy", "stable_softplus"]
    arguments = launch_command_parser().parse_args(line)
    arguments, _, precision_is_from_file = _validate_launch_command(arguments)
    assert arguments.training_script == "scripts/finetune_seg.py"
    assert arguments.training_script_args == ["--strategy", "stable_softplus"]
    assert precision_is_from_file
    assert arguments.multi_gpu == (name == "ddp")
    assert arguments.use_fsdp == (name == "fsdp2") and arguments.use_deepspeed == (name == "zero2")


def test_fsdp_wraps_a_layer_that_the_models_have():
    from lrsegformer import LRSegformerConfig, LRSegformerForSemanticSegmentation

    config = yaml.safe_load((FOLDER / "fsdp2.yaml").read_text())["fsdp_config"]
    assert config["fsdp_version"] == 2
    model = LRSegformerForSemanticSegmentation(LRSegformerConfig())
    names = {type(module).__name__ for module in model.modules()}
    assert set(config["fsdp_transformer_layer_cls_to_wrap"].split(",")) <= names


def test_zero_shards_gradients_and_optimizer_states():
    config = yaml.safe_load((FOLDER / "zero2.yaml").read_text())["deepspeed_config"]
    assert config["zero_stage"] == 2 and config["gradient_accumulation_steps"] == "auto"
