"""Whether a CPU computes a model's convolutions in bfloat16 as it does in float32."""

from collections.abc import Sequence

import torch
from torch import nn

from lrsegformer.errors import InputError

# Rounding to bfloat16 is below 0.01 of the outputs' norm; the fault looked for gives outputs as far off as their norm.
_TOLERANCE = 0.1


def refuse_wrong_bfloat16(model: nn.Module) -> None:
    """
    Refuse to compute `model` in bfloat16 on a CPU that gets its convolutions wrong.

    oneDNN 3.12, which torch 2.13 calls, does so on CPUs with AMX where kernels do not overlap and have fewer than 32
    channels, whatever the class of the layer (measured; we found no upstream issue). Every kind of convolution of the
    model is tried on random numbers, so that a version without the fault is not refused.

    Raises:
        [`~lrsegformer.errors.InputError`]: one of them differs from float32 by more than rounding.
    """
    tried: dict[tuple, bool] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            kind = (module.weight.shape, module.stride, module.padding, module.dilation, module.groups)
            if kind not in tried:
                tried[kind] = _is_wrong(*kind)
            if tried[kind]:
                raise InputError(
                    f"--bf16: on this CPU the convolution {name} comes out wrong in bfloat16 (a fault of oneDNN, "
                    "which torch calls, on CPUs with AMX): leave --bf16 out, or set the environment variable "
                    "ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16, which does without AMX."
                )


@torch.no_grad()
def _is_wrong(
    shape: torch.Size, stride: Sequence[int], padding: Sequence[int] | str, dilation: Sequence[int], groups: int
) -> bool:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator)
    # Which code computes it depends on the number of positions and on the layout in memory.
    for kernels in (3, 4):
        images = torch.randn(2, shape[1] * groups, kernels * shape[2], kernels * shape[3], generator=generator)
        expected = nn.functional.conv2d(images, weight, None, stride, padding, dilation, groups)
        for layout in (torch.contiguous_format, torch.channels_last):
            halves = (each.bfloat16().to(memory_format=layout) for each in (images, weight))
            found = nn.functional.conv2d(*halves, None, stride, padding, dilation, groups).float()
            if not (found - expected).norm() <= _TOLERANCE * expected.norm():
                return True
    return False
