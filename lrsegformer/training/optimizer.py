"""Parameter groups of SegFormer's recipe."""

import torch

HEAD_PREFIXES = ("decode_head.", "classifier.")


def parameter_groups(
    model: torch.nn.Module, learning_rate: float, head_multiplier: float, weight_decay: float
) -> list[dict]:
    """
    Groups for an optimizer: the head at a multiple of the base rate; no weight decay on norms and on the constants
    `c`.

    Biases decay, as in the published recipe (transformers' default exempts them).

    Args:
        model: any SegFormer, possibly wrapped (the names are searched for the head's prefix).
        learning_rate (`float`): base rate.
        head_multiplier (`float`): the head's rate over the base rate.
        weight_decay (`float`): decay of everything else.

    Returns:
        `list[dict]`: up to four groups with `params`, `lr`, `weight_decay` and a `name` (`"encoder"`,
        `"encoder_no_decay"`,
        `"head"`, `"head_no_decay"`). Each trainable parameter is in exactly one.
    """
    groups: dict[str, dict] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        in_head = any(name.startswith(prefix) or f".{prefix}" in name for prefix in HEAD_PREFIXES)
        decays = not ("norm" in name or name.endswith(".c"))
        group_name = ("head" if in_head else "encoder") + ("" if decays else "_no_decay")
        group = groups.setdefault(
            group_name,
            {
                "name": group_name,
                "params": [],
                "lr": learning_rate * (head_multiplier if in_head else 1.0),
                "weight_decay": weight_decay if decays else 0.0,
            },
        )
        group["params"].append(parameter)
    return list(groups.values())
