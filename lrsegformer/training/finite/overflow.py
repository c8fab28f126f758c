"""Where in a model numbers stop being finite."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn


def overflow_finder(
    accelerator: Accelerator, model: nn.Module, inputs: Mapping[str, Any]
) -> Callable[[], str | None] | None:
    """
    [`first_overflow`] of a model that `accelerator` has prepared, for later; `None` where its parameters are sharded,
    and a forward pass of one process alone would wait for the others.
    """
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        return None
    return partial(first_overflow, accelerator.unwrap_model(model), inputs)


@torch.no_grad()
def first_overflow(model: nn.Module, inputs: Mapping[str, Any]) -> str | None:
    """
    The module of which a forward pass first gives outputs that are not finite.

    The pass is one more, so that looking at every layer costs nothing while all is well; what it draws (dropout) and
    what it moves (running statistics in training mode) are its own, and the model is not to be used afterwards.

    Args:
        model (`nn.Module`): of this process, in the mode that it is in.
        inputs (`Mapping`): of its forward pass.

    Returns:
        `str`: its name; of a module and one inside of it the inner one. `None` where all outputs of this pass are
        finite.
    """
    found: list[str] = []

    def watch(name: str):
        def look(module: nn.Module, arguments: tuple, output: Any) -> None:
            if not found and not all(tensor.isfinite().all() for tensor in _tensors(output)):
                found.append(name)

        return look

    hooks = [module.register_forward_hook(watch(name)) for name, module in model.named_modules() if name]
    try:
        model(**inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None


def _tensors(output: Any) -> Iterator[torch.Tensor]:
    if torch.is_tensor(output):
        if output.is_floating_point():
            yield output
    elif isinstance(output, Mapping):
        for each in output.values():
            yield from _tensors(each)
    elif isinstance(output, tuple | list):
        for each in output:
            yield from _tensors(each)
