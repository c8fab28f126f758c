"""
What adapters save of a training step's memory: gradients and AdamW's moments, counted after one step.

    python benchmarks/adapter_memory.py

The bytes are those of the tensors that are there, not an estimate. Activations are not among them: what autograd keeps
hardly changes, as gradients still go through the whole encoder to the first adapter.
"""

import argparse

import torch
from torch import nn

from lrsegformer import LRSegformerConfig, LRSegformerForSemanticSegmentation
from lrsegformer.choices import ARCHITECTURES, LORA_TARGETS
from lrsegformer.models.encoder.adapters import ALL_LINEAR, add_adapters, trained_share
from lrsegformer.training.optimizer import parameter_groups

SIDE, CLASSES = 64, 150
MIB = 2**20


def kept_by_training(model: nn.Module) -> tuple[int, int]:
    """Bytes of all gradients, and of all that the optimizer holds, after one step."""
    optimizer = torch.optim.AdamW(parameter_groups(model, 1e-4, 1.0, 1e-2, 0.01))
    outputs = model.train()(
        pixel_values=torch.randn(2, 3, SIDE, SIDE), labels=torch.randint(0, CLASSES, (2, SIDE, SIDE))
    )
    (outputs.loss + outputs.lipschitz_penalty).backward()
    optimizer.step()
    gradients = sum(each.grad.nbytes for each in model.parameters() if each.grad is not None)
    moments = sum(
        each.nbytes for state in optimizer.state.values() for each in state.values() if torch.is_tensor(each)
    )
    return gradients, moments


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architectures", nargs="+", choices=ARCHITECTURES, default=["b0"])
    parser.add_argument("--lora_r", type=int, default=8)
    arguments = parser.parse_args()
    print("| model | trained | parameters trained | gradients (MiB) | AdamW (MiB) |\n|---|---|---:|---:|---:|")
    for name in arguments.architectures:
        for trained, targets in (("all", None), ("q, v", LORA_TARGETS), ("all linear layers", (ALL_LINEAR,))):
            config = LRSegformerConfig(**ARCHITECTURES[name], lipschitz_strategy="stable_softplus", num_labels=CLASSES)
            model: nn.Module = LRSegformerForSemanticSegmentation(config)
            if targets is not None:
                model = add_adapters(model, "segmentation", arguments.lora_r, None, 0.0, targets)
                trained = f"adapters on {trained}, head"
            gradients, moments = kept_by_training(model)
            count = f"{trained_share(model)[0]:,}"
            print(
                f"| {name.upper()} | {trained} | {count} | {gradients / MIB:.1f} | {moments / MIB:.1f} |", flush=True
            )


if __name__ == "__main__":
    main()
