"""Starting a model from a checkpoint, and saying exactly what came from it and what did not."""

from collections.abc import Iterable
from typing import Any

from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.utils import logging

from lrsegformer.choices import ARCHITECTURES
from lrsegformer.errors import InputError, NotFiniteError, reason_of
from lrsegformer.models import LRSegformerConfig, LRSegformerForImageClassification, LRSegformerForSemanticSegmentation
from lrsegformer.models.certified.carry_over import carry_over
from lrsegformer.models.saved.folder import refuse_broken_folder
from lrsegformer.models.saved.trial import refuse_what_cannot_run
from lrsegformer.models.saved.weights import first_not_finite
from lrsegformer.text_files import parse_json

logger = logging.get_logger(__name__)

MODEL_CLASSES = {
    "segmentation": LRSegformerForSemanticSegmentation,
    "classification": LRSegformerForImageClassification,
}
LipschitzModel = LRSegformerForSemanticSegmentation | LRSegformerForImageClassification


def parse_options(text: str | None) -> dict[str, Any] | None:
    """The strategy's options from JSON, or `None`."""
    if text is None:
        return None
    try:
        options = parse_json(text)
    except ValueError as error:
        raise InputError(f'--lipschitz_options {error}: write JSON like \'{{"norm": "l1"}}\'.') from None
    if not isinstance(options, dict):
        raise InputError(f'--lipschitz_options {text} is not a JSON object: write it like \'{{"norm": "l1"}}\'.')
    return options


def parse_grid(text: str) -> list[int]:
    """Rows and columns from `"12,16"`."""
    words = text.split(",")
    if len(words) != 2 or not all(word.strip().isdecimal() and int(word) > 0 for word in words):
        raise InputError(f"--position_grid {text!r}: give rows and columns, such as 12,16.")
    return [int(word) for word in words]


def build_model(task: str, architecture: str, **config_options: Any) -> LipschitzModel:
    """A model from scratch; `architecture` is a key of `ARCHITECTURES`, whose values the options replace."""
    values = {**ARCHITECTURES[architecture], **config_options}
    return _guarded(lambda: MODEL_CLASSES[task](LRSegformerConfig(**values)))


def load_model(task: str, name_or_path: str, revision: str | None = None, **config_options: Any) -> LipschitzModel:
    """
    A model from a checkpoint: a MiT backbone, a stock SegFormer, or one of ours.

    What the checkpoint lacks may only be the head, or the classifier where the number of classes differs; the log says
    which.

    Args:
        task (`str`): `"segmentation"` or `"classification"`.
        name_or_path (`str`): a Hub id or a folder.
        revision (`str`, *optional*): revision on the Hub.
        config_options: fields of [`LRSegformerConfig`] that replace the checkpoint's.

    Raises:
        [`~lrsegformer.errors.InputError`]: where it cannot be reached, is gated, is not a SegFormer, or holds NaN or
            infinity.
    """
    refuse_broken_folder(name_or_path, f"The checkpoint {name_or_path}")
    if config_options.get("lipschitz_scope") == "certified" and not _is_certified(name_or_path, revision):
        return _certified_from_stock(task, name_or_path, revision, config_options)

    def load() -> tuple[LipschitzModel, dict[str, Any]]:
        return MODEL_CLASSES[task].from_pretrained(
            name_or_path,
            revision=revision or "main",
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **config_options,
        )

    model, info = _guarded(load, name_or_path)
    _refuse_strangers(info["unexpected_keys"], name_or_path)
    head = "decode_head." if task == "segmentation" else "classifier."
    foreign = [key for key in info["missing_keys"] if not key.startswith(head)]
    mismatched = [key[0] for key in info["mismatched_keys"]]
    foreign += [key for key in mismatched if not key.startswith(("classifier.", "decode_head.classifier."))]
    if foreign:
        raise InputError(
            f"The checkpoint {name_or_path} does not hold this SegFormer: {len(foreign)} tensors of the encoder are "
            f"missing or of another size ({sorted(foreign)[0]}, ...). Start from a MiT backbone or a "
            "SegFormer checkpoint."
        )
    if wrong := first_not_finite(model.state_dict().items()):  # of the Hub, or in a file that is no safetensors
        raise NotFiniteError(
            f"The checkpoint {name_or_path} holds values that are not finite (in {wrong}): give another."
        )
    if not is_deepspeed_zero3_enabled():  # under which no process has a whole model
        refuse_what_cannot_run(model, f"The checkpoint {name_or_path}")
    fresh = sorted({*info["missing_keys"], *mismatched})
    logger.info(f"From {name_or_path}; initialised anew: {', '.join(fresh) if fresh else 'nothing'}.")
    return model


def _refuse_strangers(names: Iterable[str], checkpoint: str) -> None:
    """The head of another task is left out; a part of the encoder, or the constants of a constraint, are not."""
    strangers = sorted(name for name in names if name.startswith("segformer.") or name.endswith(".c"))
    if strangers:
        raise InputError(
            f"The checkpoint {checkpoint} has {len(strangers)} tensors that the model of its config.json has not "
            f"({strangers[0]}, ...): give the folder of a finished run, with the config.json that was saved with them."
        )


def _is_certified(name_or_path: str, revision: str | None) -> bool:
    saved = _guarded(
        lambda: LRSegformerConfig.from_pretrained(name_or_path, revision=revision or "main"), name_or_path
    )
    return saved.lipschitz_strategy is not None and saved.lipschitz_scope == "certified"


def _certified_from_stock(
    task: str, name_or_path: str, revision: str | None, config_options: dict[str, Any]
) -> LipschitzModel:
    """A certified model whose encoder starts from that of a checkpoint without a constraint."""
    ours = {name: config_options[name] for name in config_options if name.startswith(("lipschitz_", "certified_"))}
    others = {name: value for name, value in config_options.items() if name not in ours and name != "strides"}
    stock = load_model(task, name_or_path, revision, **others)
    if stock.config.lipschitz_strategy is not None:
        raise InputError(
            f"The checkpoint {name_or_path} has a constrained head: export it by `model.to_vanilla()` first, or start "
            "from its backbone."
        )
    values = {**stock.config.to_dict(), **ours, "strides": config_options.get("strides", stock.config.strides)}
    model = _guarded(lambda: MODEL_CLASSES[task](LRSegformerConfig.from_dict(values)))
    carry_over(model, stock.segformer)
    logger.info("Taken over into the certified encoder: embeddings, attention's projections, first maps of Mix-FFN.")
    return model


def _guarded(load: Any, name: str | None = None) -> Any:
    offline_ways = "give a local folder by --model_name_or_path, or train from scratch with --architecture tiny"
    try:
        return load()
    except InputError:
        raise
    except (RepositoryNotFoundError, HFValidationError, OSError) as error:
        if isinstance(error, GatedRepoError) or isinstance(error.__cause__, GatedRepoError):
            raise InputError(
                f"The checkpoint {name} is gated: accept its terms on https://huggingface.co/{name} and run "
                "`hf auth login`."
            ) from None
        raise InputError(f"The checkpoint {name} cannot be loaded ({reason_of(error)}); {offline_ways}.") from None
    except Exception as error:  # What a file says goes through three libraries, which check it as they like.
        if isinstance(error, TypeError) and "setup()" in str(error):
            raise InputError(f"--lipschitz_options: {error}; see the strategy's options in the README.") from None
        # transformers chains what a configuration's own check raised.
        cause = error.__cause__ or error.__context__
        if isinstance(cause, InputError):
            raise InputError(str(cause)) from None
        if name is None:
            raise
        raise InputError(
            f"The checkpoint {name} cannot be loaded ({reason_of(error)}); give one whose files are whole, or "
            "save it again."
        ) from None
