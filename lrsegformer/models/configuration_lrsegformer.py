"""Configuration of the LRSegformer models."""

import math
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import SegformerConfig

from lrsegformer.choices import CERTIFIED_ATTENTIONS, PENALTIES, PENALTY_REDUCTIONS, SCOPES, WIDER_SCOPES
from lrsegformer.errors import InputError
from lrsegformer.layers.registry import STRATEGIES

CERTIFIED_OPTIONS = (
    "certified_attention",
    "certified_position_grid",
    "certified_temperature",
    "certified_training_radius",
    "certified_image_std",
)
PENALTY_OPTIONS = ("penalty_of", "penalty_reduction")
OPTIONS = ("lipschitz_strategy", "lipschitz_scope", "lipschitz_options", *PENALTY_OPTIONS, *CERTIFIED_OPTIONS)
IMAGENET_STD = (0.229, 0.224, 0.225)
LOSS_OPTIONS = ("semantic_loss_class_weights", "semantic_loss_label_smoothing")


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
            `"network"` constrains the head and every linear map and convolution of the encoder: each layer and the
            head are bounded, the way from the pixels to the logits is not, because of LayerNorm and dot-product
            attention.
        penalty_of (`str`, *optional*, defaults to `"layers"`):
            What is penalised where the strategy has no penalty of its own: `"layers"` (the learned constants),
            `"head"` (the bound of the head itself, its maps multiplied out, in the strategy's norm), or `"network"`
            (the logarithm of the bound from the pixels to the logits, of a network that has one).
        penalty_reduction (`str`, *optional*, defaults to `"geometric_mean"`):
            How the learned constants of the layers become the penalty: `"geometric_mean"`, `"product"`, `"sum"` or
            `"mean_log"`.
        lipschitz_options (`dict`, *optional*):
            Options of the strategy, such as `{"norm": "l1"}` for stable_softplus or `{"constant": 2.0}` for
            orthogonal.
        certified_attention (`str`, *optional*, defaults to `"energy"`):
            Under scope `"certified"`: `"energy"`, a step down an energy of distances between tokens, or `"softmax"`,
            dot-product attention among clipped tokens.
        certified_position_grid (`list[int]`, *optional*):
            Rows and columns of a grid of learned vectors that are laid over the image, whatever its size, and added to
            the fused features: for images of one kind of scene, trained whole. `None` for none.
        certified_temperature (`float`, *optional*, defaults to 0.1):
            The rows of the last map have the length 1 over it.
        certified_training_radius (`float`, *optional*, defaults to 0.0):
            The l2 radius, of pixels on a scale of 0 to 1, for which the training loss asks a certificate.
        certified_image_std (`list[float]`, *optional*):
            What the processor divides the channels by, which the network undoes. By default ImageNet's deviations for
            three channels and 1 for others.
        semantic_loss_class_weights (list of numbers, *optional*):
            Weight of each class in the mean of the loss, of either task, as in `torch.nn.functional.cross_entropy`.
        semantic_loss_label_smoothing (`float`, *optional*, defaults to 0.0):
            Share of the target of each valid pixel that is spread evenly over the classes.

    Raises:
        [`~lrsegformer.errors.InputError`]: for an unknown strategy, scope or reduction, naming the known ones, and for
        weights or a share that do not fit.

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
    penalty_of: str = "layers"
    penalty_reduction: str = "geometric_mean"
    lipschitz_options: dict[str, Any] | None = None
    certified_attention: str = "energy"
    certified_position_grid: list[int] | tuple[int, ...] | None = None
    certified_temperature: float = 0.1
    certified_training_radius: float = 0.0
    certified_image_std: list[float] | tuple[float, ...] | None = None
    semantic_loss_class_weights: list[float | int] | None = None
    semantic_loss_label_smoothing: float = 0.0

    def __post_init__(self, **kwargs):
        _refuse_misspelt(kwargs)
        super().__post_init__(**kwargs)
        if self.lipschitz_strategy is not None:
            _check_choice("lipschitz_strategy", self.lipschitz_strategy, tuple(STRATEGIES))
        _check_choice("lipschitz_scope", self.lipschitz_scope, SCOPES)
        _check_choice("penalty_of", self.penalty_of, PENALTIES)
        _check_choice("penalty_reduction", self.penalty_reduction, PENALTY_REDUCTIONS)
        _check_choice("certified_attention", self.certified_attention, CERTIFIED_ATTENTIONS)
        self._check_certified_numbers()
        self._check_penalty()
        weights = self.semantic_loss_class_weights
        if weights is not None and (len(weights) != self.num_labels or not all(weight >= 0 for weight in weights)):
            raise InputError(
                f"semantic_loss_class_weights has {len(weights)} entries for {self.num_labels} classes, or one below "
                "0: give one weight of at least 0 a class, or None."
            )
        if not 0 <= self.semantic_loss_label_smoothing < 1:
            raise InputError(
                f"semantic_loss_label_smoothing {self.semantic_loss_label_smoothing} is not in [0, 1): give a share."
            )

    def _check_penalty(self) -> None:
        if self.lipschitz_strategy is None or self.penalty_of == "layers":
            return
        if STRATEGIES[self.lipschitz_strategy].penalized_jacobian is not None:
            raise InputError(
                f"penalty_of {self.penalty_of!r}: {self.lipschitz_strategy} penalises a Jacobian, and no bound beside "
                "it; leave penalty_of at 'layers'."
            )
        if self.penalty_of == "head" and (self.is_certified or not self.constrains_whole_head):
            raise InputError(
                f"penalty_of 'head': not under lipschitz_scope {self.lipschitz_scope!r}; use scope 'head' or "
                "'network', whose constraint bounds the head by itself."
            )
        if self.penalty_of == "network" and not self.is_certified:
            raise InputError(
                f"penalty_of 'network': under lipschitz_scope {self.lipschitz_scope!r} there is no bound from the "
                "pixels to the logits; use penalty_of 'head', or scope 'certified'."
            )

    @property
    def constrains_whole_head(self) -> bool:
        """Whether every linear map of the head is constrained, its normalisation included."""
        return self.lipschitz_strategy is not None and self.lipschitz_scope != "projections"

    @property
    def constrains_encoder(self) -> bool:
        """Whether every linear map and convolution of the stock encoder is constrained."""
        return self.lipschitz_strategy is not None and self.lipschitz_scope == "network"

    @property
    def is_certified(self) -> bool:
        """Whether the network is the one whose constant from the pixels to the logits is proven."""
        return self.lipschitz_strategy is not None and self.lipschitz_scope == "certified"

    def pixel_std(self) -> tuple[float, ...]:
        """What the processor divides each channel by."""
        if self.certified_image_std is not None:
            return tuple(self.certified_image_std)
        return IMAGENET_STD if self.num_channels == len(IMAGENET_STD) else (1.0,) * self.num_channels

    def _check_certified_numbers(self) -> None:
        if not self.certified_temperature > 0:
            raise InputError(f"certified_temperature is {self.certified_temperature}: give a number above 0.")
        if not 0 <= self.certified_training_radius < math.inf:
            raise InputError(f"certified_training_radius is {self.certified_training_radius}: give 0 or more.")
        grid = self.certified_position_grid
        if grid is not None and (len(grid) != 2 or min(grid) < 1):
            raise InputError(f"certified_position_grid is {grid}: give rows and columns, such as [12, 16], or None.")
        if len(self.pixel_std()) != self.num_channels or min(self.pixel_std()) <= 0:
            raise InputError(
                f"certified_image_std is {self.certified_image_std}: give {self.num_channels} numbers above 0."
            )

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
        if model_type == "segformer":  # whose file may hold anything, and no constraint
            config_dict = without_ours(config_dict)
        if config_dict.get("lipschitz_strategy") is not None:
            _refuse_another_reading(pretrained_model_name_or_path, config_dict, kwargs)
        elif kwargs.get("lipschitz_strategy") is not None and kwargs.get("lipschitz_scope") == "certified":
            raise InputError(
                f"The checkpoint {pretrained_model_name_or_path} has none of a certified network's parts: "
                "`lrsegformer.models.loading.load_model`, and every command line, start such a network from it."
            )
        return {**config_dict, "model_type": cls.model_type}, kwargs

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        """
        As in the parent, but our options and the classes given as keywords are in place before they are checked (the
        parent sets them afterwards, unchecked).
        """
        ours = (*OPTIONS, *LOSS_OPTIONS, "id2label", "label2id")
        given = {name: kwargs.pop(name) for name in ours if name in kwargs}
        saved_names = config_dict.get("id2label") or {}
        if "id2label" not in given and kwargs.get("num_labels") not in (None, len(saved_names)):
            config_dict = {name: value for name, value in config_dict.items() if name not in ("id2label", "label2id")}
        return super().from_dict({**config_dict, **given}, **kwargs)


def without_ours(values: dict[str, Any]) -> dict[str, Any]:
    """The fields of a configuration that a stock SegFormer has."""
    return {name: value for name, value in values.items() if name not in (*OPTIONS, *LOSS_OPTIONS)}


def _refuse_another_reading(name: str, saved: dict[str, Any], requested: dict[str, Any]) -> None:
    """The raw weights and constants in a constrained file mean something else under another constraint."""
    options = ("lipschitz_strategy", "lipschitz_scope", "lipschitz_options")
    for option in (*options, "certified_attention") if saved.get("lipschitz_scope") == "certified" else options:
        before, now = saved.get(option), requested.get(option, saved.get(option))
        widened = option == "lipschitz_scope" and now in WIDER_SCOPES.get(before, ())
        if now != before and not widened:
            raise InputError(
                f"The checkpoint {name} was saved with {option} {before!r} and cannot be read with {now!r}: give "
                "the same, or export it first with `model.to_vanilla().save_pretrained(folder)`."
            )


def _refuse_misspelt(others: Iterable[str]) -> None:
    """What is no field becomes an attribute that nobody reads: a misspelt constraint would be none, and silent."""
    for name in others:
        short = f"lipschitz_{name}"  # As the command lines call it.
        if short in OPTIONS or name.startswith(("lipschitz_", "certified_", "penalty_")):
            near = [short] if short in OPTIONS else get_close_matches(name, OPTIONS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the options are {', '.join(OPTIONS)}."
            raise InputError(f"LRSegformerConfig has no option {name!r}: {hint}")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"Unknown {name} {value!r}: choose one of {', '.join(choices)}.")
