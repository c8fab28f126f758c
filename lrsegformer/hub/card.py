"""The model card of a trained model: what goes into `card_template.md`, and the metadata that the Hub reads."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lrsegformer.hub.markdown import code, code_block, plain, table
from lrsegformer.hub.sections import current_sections, sections_text
from lrsegformer.hub.tables import METRIC_NAMES, bounds_section, is_finite
from lrsegformer.visible import one_line
from lrsegformer.writing import write_whole

TEMPLATE = Path(__file__).with_name("card_template.md")
SEGFORMER_LICENSE = "https://github.com/NVlabs/SegFormer/blob/master/LICENSE"

_PIPELINE_TAGS = {"segmentation": "image-segmentation", "classification": "image-classification"}
_AUTO_CLASSES = {
    "segmentation": "AutoModelForSemanticSegmentation",
    "classification": "AutoModelForImageClassification",
}
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def write_model_card(
    folder: str | os.PathLike,
    *,
    config: Any,
    task: str,
    base_model: str | None,
    dataset_name: str,
    dataset_hub_id: str | None,
    metrics: Mapping[str, Any],
    lipschitz_report: Mapping[str, Any],
    hyperparameters: Mapping[str, Any],
    versions: Mapping[str, str],
    scored: str,
    subset: str | None = None,
    image_reading: str = "",
    command: str | None = None,
    adapter: str | None = None,
) -> Path:
    """Write `README.md`: YAML metadata for the Hub, use, scores, Lipschitz bounds, recipe.

    Sections that an earlier card has of this very model ([`~lrsegformer.hub.sections.keep_results`]) are carried over.

    Args:
        folder (`str` or `os.PathLike`): the folder of the saved model; its name becomes the model's name.
        config ([`LRSegformerConfig`]): configuration of the model (strategy, scope, penalty reduction, class names).
        task (`str`): `"segmentation"` or `"classification"`.
        base_model (`str`, *optional*):
            Hub id or local folder of the weights that training started from; `None` = trained from scratch. Of a local
            folder only its name is told.
        dataset_name (`str`): name of the data set for people.
        dataset_hub_id (`str`, *optional*): its id on the Hub, if it is there.
        metrics (`dict`): evaluation results, keys with the prefix `eval_`. Values that are not finite are left out.
        lipschitz_report (`dict`): what `model.lipschitz_report()` returns.
        hyperparameters (`dict`): the recipe, name to value.
        versions (`dict`): library name to version.
        scored (`str`): a sentence that says on which images, from which inputs and at which size the scores were made.
        subset (`str`, *optional*): the part of the validation split that was scored, for the metadata; `None` = all.
        image_reading (`str`, defaults to `""`): how image files are read, where the saved processor holds that.
        command (`str`, *optional*): the command line of the run.
        adapter (`str`, *optional*): the adapters that were trained, in words; they lie in the folder `adapter`.

    Returns:
        `pathlib.Path`: the file written.
    """
    from huggingface_hub import ModelCard

    folder = Path(folder)
    base_is_on_hub = base_model is not None and bool(_HUB_ID.fullmatch(base_model)) and not os.path.exists(base_model)
    base_name = base_model if base_model is None or base_is_on_hub else Path(base_model).name
    strategy = lipschitz_report.get("strategy")
    name, dataset_name = one_line(folder.resolve().name), one_line(dataset_name)
    scores = {key: metrics[f"eval_{key}"] for key in METRIC_NAMES if is_finite(metrics.get(f"eval_{key}"))}
    metadata = _metadata(
        name,
        task,
        base_name if base_is_on_hub else None,
        base_model is None,
        dataset_name,
        dataset_hub_id,
        scores,
        subset,
        strategy,
    )
    card = ModelCard.from_template(
        metadata,
        template_path=str(TEMPLATE),
        task=task,
        auto_class=_AUTO_CLASSES[task],
        name=plain(name),
        base_name=base_name and code(base_name),
        base_is_on_hub=base_is_on_hub,
        dataset_name=plain(dataset_name),
        strategy=strategy,
        scope=lipschitz_report.get("scope"),
        scores=_scores(scores),
        scored=scored,
        image_reading=image_reading,
        adapter=adapter,
        classes=_classes(metrics, config),
        bounds=bounds_section(lipschitz_report),
        measured=sections_text(folder, current_sections(folder)),
        command=command and code_block(command, "bash"),
        options=_options(config, hyperparameters),
        versions=", ".join(f"{library} {version}" for library, version in versions.items()),
        segformer_license=SEGFORMER_LICENSE,
    )
    path = folder / "README.md"
    write_whole(path, card.content.rstrip() + "\n")
    return path


def _metadata(
    name: str,
    task: str,
    base_model: str | None,
    from_scratch: bool,
    dataset_name: str,
    dataset_hub_id: str | None,
    scores: Mapping[str, float],
    subset: str | None,
    strategy: str | None,
) -> Any:
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type=_PIPELINE_TAGS[task],
            dataset_type=dataset_hub_id or dataset_name,
            dataset_name=dataset_name,
            dataset_split="validation",
            dataset_args=None if subset is None else {"images": subset},
            metric_type=key,
            metric_name=METRIC_NAMES[key],
            metric_value=float(value),
        )
        for key, value in scores.items()
    ]
    # Weights that started from a SegFormer checkpoint stay under its terms; an unknown base is treated alike.
    terms: dict[str, str] = {"license": "apache-2.0"}
    if not from_scratch:
        terms = {"license": "other", "license_name": "nvidia-segformer", "license_link": SEGFORMER_LICENSE}
    return ModelCardData(
        model_name=name,
        library_name="transformers",
        pipeline_tag=_PIPELINE_TAGS[task],
        base_model=base_model,
        datasets=[dataset_hub_id] if dataset_hub_id else None,
        tags=["lrsegformer", "segformer", "lipschitz", f"strategy:{strategy or 'none'}"],
        metrics=list(scores) or None,
        eval_results=results or None,
        **terms,
    )


def _scores(scores: Mapping[str, float]) -> str:
    if not scores:
        return ""
    return table(("score", "value"), [(METRIC_NAMES[key], f"{value:.4f}") for key, value in scores.items()])


def _classes(metrics: Mapping[str, Any], config: Any) -> str:
    ious, accuracies = metrics.get("eval_per_category_iou"), metrics.get("eval_per_category_accuracy")
    if ious is None or accuracies is None:
        return ""
    names = getattr(config, "id2label", None) or {}
    rows = [
        (plain(names.get(label, label)), _figure(iou), _figure(accuracy))
        for label, (iou, accuracy) in enumerate(zip(ious, accuracies, strict=True))
    ]
    return table(("class", "IoU", "accuracy"), rows)


def _options(config: Any, hyperparameters: Mapping[str, Any]) -> str:
    rows = [(code(key), code(value)) for key, value in hyperparameters.items()]
    if getattr(config, "lipschitz_strategy", None) is not None:
        rows.append(("`penalty_of`", f"`{config.penalty_of}`"))
        rows.append(("`penalty_reduction`", f"`{config.penalty_reduction}`"))
    return table(("option", "value"), rows) if rows else ""


def _figure(value: float) -> str:
    return f"{value:.4f}" if is_finite(value) else "absent"
