"""When tensors may be worked on piece by piece, each piece small enough for the cache of a CPU."""

import torch


def works_in_chunks(*tensors: torch.Tensor) -> bool:
    """
    Whether all tensors lie in a CPU's memory, where results can be written piece by piece.

    Not on other devices, not while torch.compile or torch.jit traces, and not under vmap or a gradient of many
    cotangents at once, whose tensors have no memory of their own.
    """
    return are_values(*tensors) and all(tensor.device.type == "cpu" for tensor in tensors)


def are_values(*tensors: torch.Tensor) -> bool:
    """
    Whether all tensors are values in a memory, and not what stands for them: while torch.compile or torch.jit traces,
    under vmap, or in a gradient of many cotangents at once.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    return all(map(_has_memory, tensors))


def _has_memory(tensor: torch.Tensor) -> bool:
    try:
        tensor.untyped_storage()
    except NotImplementedError:
        return False
    return True
