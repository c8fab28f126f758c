"""Configuration of the LRSegformer models."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import SegformerConfig

from lrsegformer.errors import InputError
from lrsegformer.layers.registry import STRATEGIES

SCOPES = ("projections", "head")
PENALTY_REDUCTIONS = ("geometric_mean", "product", "sum", "mean_log")


@strict
class LRSegformerConfig(SegformerConfig):
    r"""
    Configuration of [`LRSegformerForSemanticSegmentation`] and [`LRSegformerForImageClassification`]: everything that
    [`~transformers.SegformerConfig`] has, and the Lipschitz constraint. A configuration file of a stock SegFormer is
    read as one without a constraint.

    Args:
        lipschitz_strategy (`str`, *optional*):
            A key of `lrsegformer.STRATEGIES`. `None` is the baseline: the stock model.
        lipschitz_scope (`str`, *optional*, defaults to `"head"`):
            `"head"` constrains every linear map of the head together with its BatchNorm, and bounds the head.
            `"projections"` constrains the four projections of the decode head only, and bounds nothing but them.
        penalty_reduction (`str`, *optional*, defaults to `"geometric_mean"`):
            How the learned constants of the layers become the penalty: `"geometric_mean"`, `"product"`, `"sum"` or
            `"mean_log"`.
        lipschitz_options (`dict`, *optional*):
            Options of the strategy, such as `{"norm": "l1"}` for stable_softplus or `{"constant": 2.0}` for
            orthogonal.

    Raises:
        [`~lrsegformer.errors.InputError`]: for an unknown strategy, scope or reduction, naming the known ones.

    Example:

    ```python
    >>> from lrsegformer import LRSegformerConfig, LRSegformerForSemanticSegmentation

    >>> config = LRSegformerConfig(lipschitz_strategy="stable_softplus", num_labels=150)
    >>> model = LRSegformerForSemanticSegmentation(config)
    >>> model.lipschitz_report()["head"]["guaranteed"]
    True

    ```"""

    model_type = "lrsegformer"
    keys_to_ignore_at_inference = ["lipschitz_penalty"]

    lipschitz_strategy: str | None = None
    lipschitz_scope: str = "head"
    penalty_reduction: str = "geometric_mean"
    lipschitz_options: dict[str, Any] | None = None

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.lipschitz_strategy is not None:
            _check_choice("lipschitz_strategy", self.lipschitz_strategy, tuple(STRATEGIES))
        _check_choice("lipschitz_scope", self.lipschitz_scope, SCOPES)
        _check_choice("penalty_reduction", self.penalty_reduction, PENALTY_REDUCTIONS)

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path, **kwargs) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read a configuration file; one of a stock SegFormer becomes one of ours, any other type is refused."""
        config_dict, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        model_type = config_dict.get("model_type", cls.model_type)
        if model_type not in ("segformer", cls.model_type):
            raise InputError(
                f"The checkpoint {pretrained_model_name_or_path} is a {model_type!r} model, not a SegFormer: start "
                "from nvidia/mit-b0 .. b5, from an nvidia/segformer-* checkpoint, or from a folder of this package."
            )
        saved = config_dict.get("lipschitz_strategy")
        requested = kwargs.get("lipschitz_strategy", saved)
        if saved is not None and requested != saved:
            # The raw weights and constants in its file mean something else to another strategy.
            raise InputError(
                f"The checkpoint {pretrained_model_name_or_path} is constrained by {saved!r} and cannot be read with "
                f"lipschitz_strategy {requested!r}: export it first with `model.to_vanilla().save_pretrained(folder)`."
            )
        return {**config_dict, "model_type": cls.model_type}, kwargs


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"Unknown {name} {value!r}: choose one of {', '.join(choices)}.")
