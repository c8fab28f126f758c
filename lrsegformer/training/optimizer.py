"""Parameter groups of SegFormer's recipe."""

from typing import Any

import torch

HEAD_PREFIXES = ("decode_head.", "classifier.")


def parameter_groups(
    model: torch.nn.Module,
    learning_rate: float,
    head_multiplier: float,
    constants_learning_rate: float,
    weight_decay: float,
) -> list[dict]:
    """
    Groups for an optimizer: the head at a multiple of the base rate, the constants `c` at a rate of their own; no
    weight decay on norms and constants.

    AdamW moves each entry by about the learning rate a step, whatever the gradient. At the weights' rate, made for
    entries of about 0.01, constants of about 1 to 10 would hardly move in a run of a few thousand steps.

    Biases decay, as in the published recipe (transformers' default exempts them).

    Args:
        model: any SegFormer, possibly wrapped (the names are searched for the head's prefix).
        learning_rate (`float`): base rate.
        head_multiplier (`float`): the head's rate over the base rate.
        constants_learning_rate (`float`): the constants' rate.
        weight_decay (`float`): decay of everything else.

    Returns:
        `list[dict]`: up to five groups with `params`, `lr`, `weight_decay` and a `name` (`"encoder"`,
        `"encoder_no_decay"`, `"head"`, `"head_no_decay"`, `"constants"`). Each trainable parameter is in exactly one.
    """
    groups: dict[str, dict] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        in_head = any(name.startswith(prefix) or f".{prefix}" in name for prefix in HEAD_PREFIXES)
        is_constant = name.endswith(".c")
        decays = not (is_constant or "norm" in name)
        group_name = ("head" if in_head else "encoder") + ("" if decays else "_no_decay")
        group_name = "constants" if is_constant else group_name
        rate = learning_rate * (head_multiplier if in_head else 1.0)
        group = groups.setdefault(
            group_name,
            {
                "name": group_name,
                "params": [],
                "lr": constants_learning_rate if is_constant else rate,
                "weight_decay": weight_decay if decays else 0.0,
            },
        )
        group["params"].append(parameter)
    return list(groups.values())


def recipe_groups(model: torch.nn.Module, args: Any, options: dict[str, Any]) -> list[dict]:
    """
    [`parameter_groups`] by training arguments.

    Args:
        args ([`LRSegformerTrainingArguments`]): whose rates and decay they are.
        options (`dict`): of the optimizer; its own rate and decay come first.
    """
    return parameter_groups(
        model,
        options.get("lr", args.learning_rate),
        args.head_learning_rate_multiplier,
        args.constants_learning_rate,
        options.get("weight_decay", args.weight_decay),
    )
