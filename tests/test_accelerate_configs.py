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
    "zero3": DistributedType.DEEPSPEED,
    "multi_node": DistributedType.MULTI_GPU,
}
PROCESSES = {"cpu": 1, "single_gpu": 1, "multi_node": 64}


def test_the_files_are_there():
    assert {file.stem for file in FOLDER.iterdir()} == set(KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_accelerate_loads_it(name):
    file = FOLDER / f"{name}.yaml"
    config = load_config_from_file(str(file))
    assert config.distributed_type == KINDS[name]
    assert config.use_cpu == (name == "cpu")
    assert config.num_processes == PROCESSES.get(name, 2)
    assert config.num_machines == (8 if name == "multi_node" else 1)
    known = set(vars(config))
    assert set(yaml.safe_load(file.read_text())) <= known


@pytest.mark.parametrize("name", KINDS)
def test_accelerate_launch_takes_it(name, monkeypatch):
    """The launcher's own merge of file and command line; nothing is started."""
    if KINDS[name] == DistributedType.DEEPSPEED:
        monkeypatch.setattr("accelerate.commands.launch.is_deepspeed_available", lambda: True, raising=False)
    line = ["--config_file", str(FOLDER / f"{name}.yaml"), "scripts/finetune_seg.py", "--strategy", "stable_softplus"]
    arguments = launch_command_parser().parse_args(line)
    arguments, _, precision_is_from_file = _validate_launch_command(arguments)
    assert arguments.training_script == "scripts/finetune_seg.py"
    assert arguments.training_script_args == ["--strategy", "stable_softplus"]
    assert precision_is_from_file
    assert arguments.multi_gpu == (KINDS[name] == DistributedType.MULTI_GPU)
    assert arguments.use_fsdp == (name == "fsdp2") and arguments.use_deepspeed == name.startswith("zero")


def test_fsdp_shards_the_model_as_one_unit():
    config = yaml.safe_load((FOLDER / "fsdp2.yaml").read_text())["fsdp_config"]
    assert config["fsdp_version"] == 2 and config["fsdp_auto_wrap_policy"] == "NO_WRAP"
    assert config["fsdp_state_dict_type"] == "FULL_STATE_DICT", "what is saved is an ordinary model"


@pytest.mark.parametrize("stage", [2, 3])
def test_zero_shards(stage):
    config = yaml.safe_load((FOLDER / f"zero{stage}.yaml").read_text())["deepspeed_config"]
    assert config["zero_stage"] == stage and config["gradient_accumulation_steps"] == "auto"
    assert config.get("zero3_save_16bit_model", False) == (stage == 3)
