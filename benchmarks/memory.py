"""
Estimate the GPU memory of a training step from measured parts: prints the README's table.

    python benchmarks/memory.py

Measured, on the CPU and per image at 512x512 with 150 classes under bfloat16 autocast: the bytes that autograd keeps
for the backward pass. Computed: weights, gradients and AdamW's two moments in float32 (16 bytes a parameter), and
three float32 maps of the full-size logits, which is what upsampling and cross entropy hold at their peak. Not counted:
the CUDA context, kernels' workspaces and fragmentation, so the table is an estimate from below.
"""

import argparse

import torch

from lrsegformer import LRSegformerConfig, LRSegformerForSemanticSegmentation
from lrsegformer.choices import ARCHITECTURES

SIDE, CLASSES = 512, 150
LOSS_MAPS = 3
GIB = 2**30


def kept_for_backward(model: torch.nn.Module, pixel_values: torch.Tensor, labels: torch.Tensor) -> int:
    """Bytes of distinct storages that autograd saves in a forward pass, the model's own tensors not counted."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    sizes: dict[int, int] = {}
    alive = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)  # An address may be given out again once its tensor is gone.
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            model(pixel_values=pixel_values, labels=labels)
    return sum(sizes.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architectures", nargs="+", default=["b0", "b1", "b2", "b3", "b4", "b5"])
    parser.add_argument("--batch_sizes", nargs="+", type=int, default=[1, 2, 4, 8, 16])
    arguments = parser.parse_args()
    print(
        "| model | parameters (M) | kept per image (GB) | "
        + " | ".join(f"batch {n}" for n in arguments.batch_sizes)
        + " |"
    )
    print("|---" * (3 + len(arguments.batch_sizes)) + "|")
    for name in arguments.architectures:
        config = LRSegformerConfig(**ARCHITECTURES[name], lipschitz_strategy="stable_softplus", num_labels=CLASSES)
        model = LRSegformerForSemanticSegmentation(config).train()
        pixel_values = torch.randn(1, 3, SIDE, SIDE)
        labels = torch.randint(0, CLASSES, (1, SIDE, SIDE), dtype=torch.uint8)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        an_image = kept_for_backward(model, pixel_values, labels)
        full_size_logits = SIDE * SIDE * CLASSES * 4
        # Two of the three maps of the loss are among what autograd keeps.
        totals = [
            (16 * parameters + n * (an_image + (LOSS_MAPS - 2) * full_size_logits)) / GIB
            for n in arguments.batch_sizes
        ]
        cells = " | ".join(f"{total:.1f}" for total in totals)
        print(f"| {name.upper()} | {parameters / 1e6:.1f} | {an_image / GIB:.2f} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
