"""FSDP2 on processes that share a CPU."""

import os
from pathlib import Path

import yaml
from accelerate import state
from accelerate.utils import DistributedType

FSDP2 = Path(__file__).resolve().parents[1] / "accelerate_configs" / "fsdp2.yaml"


def shard_on_the_cpu() -> None:
    """
    Let accelerate shard as accelerate_configs/fsdp2.yaml says, by gloo on the CPU.

    accelerate 1.15 leaves FSDP out where processes share a CPU: `AcceleratorState` looks at the kinds of GPUs alone
    and goes on as if nothing was asked for. All that follows from its `distributed_type` works there.
    """
    for name, value in yaml.safe_load(FSDP2.read_text())["fsdp_config"].items():
        os.environ[name.upper()] = str(value).lower() if isinstance(value, bool) else str(value)
    os.environ["ACCELERATE_USE_FSDP"] = "true"
    initialise = state.AcceleratorState.__init__

    def initialise_sharded(self, *args, fsdp_plugin=None, **kwargs):
        initialise(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        plugin = fsdp_plugin or self.__dict__.get("fsdp_plugin")
        if plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, plugin

    state.AcceleratorState.__init__ = initialise_sharded
