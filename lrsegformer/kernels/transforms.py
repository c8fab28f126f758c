"""Whether a transformation of `torch.func` is at work."""

import torch


def under_torch_func() -> bool:
    """
    Whether the caller runs inside `vmap`, `grad`, `jacrev`, `jvp` or another transformation of `torch.func`.

    Steps of autograd with a formula of their own are left out there: torch asks them for a second formula, for forward
    mode, which `torch.compile` refuses to trace and which torch itself differentiates wrongly in forward mode (a zero
    instead of an error).
    """
    # What torch.autograd.Function.apply asks, too.
    return torch._C._are_functorch_transforms_active()
