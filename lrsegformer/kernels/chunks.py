"""When tensors may be worked on piece by piece, each piece small enough for the cache of a CPU."""

import torch


def works_in_chunks(*tensors: torch.Tensor) -> bool:
    """
    Whether all tensors lie in a CPU's memory, where results can be written piece by piece.

    Not on other devices, not while torch.compile or torch.jit traces, and not under vmap or a gradient of many
    cotangents at once, whose tensors have no memory of their own.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    return all(tensor.device.type == "cpu" and has_memory(tensor) for tensor in tensors)


def has_memory(tensor: torch.Tensor) -> bool:
    """Whether its values lie somewhere: not under vmap, nor in a gradient of many cotangents at once."""
    try:
        tensor.untyped_storage()
    except NotImplementedError:
        return False
    return True
