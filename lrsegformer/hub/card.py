"""The model card of a trained model: README.md with the metadata that the Hub reads."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lrsegformer.hub.tables import bounds_section, is_finite, table

SEGFORMER_LICENSE = "https://github.com/NVlabs/SegFormer/blob/master/LICENSE"

_PIPELINE_TAGS = {"segmentation": "image-segmentation", "classification": "image-classification"}
_AUTO_CLASSES = {
    "segmentation": "AutoModelForSemanticSegmentation",
    "classification": "AutoModelForImageClassification",
}
_METRIC_NAMES = {
    "mean_iou": "Mean IoU",
    "mean_accuracy": "Mean accuracy",
    "overall_accuracy": "Overall accuracy",
    "accuracy": "Accuracy",
    "precision": "Precision (macro)",
    "recall": "Recall (macro)",
    "f1": "F1 (macro)",
    "matthews_correlation": "Matthews correlation",
}
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")

_SEGMENTATION_SNIPPET = """\
logits = model(**processor(images=image, return_tensors="pt")).logits
classes = predict_classes(logits, image.size[::-1])[0]  # (height, width), one class number per pixel"""
_CLASSIFICATION_SNIPPET = """\
logits = model(**processor(images=image, return_tensors="pt")).logits
print(model.config.id2label[logits.argmax(-1).item()])"""


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
    command: str | None = None,
) -> Path:
    """Write `README.md`: YAML metadata for the Hub, use, scores, Lipschitz bounds, recipe.

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
        command (`str`, *optional*): the command line of the run.

    Returns:
        `pathlib.Path`: the file written.
    """
    from huggingface_hub import ModelCard

    folder = Path(folder)
    base_is_on_hub = base_model is not None and bool(_HUB_ID.fullmatch(base_model)) and not Path(base_model).exists()
    base_name = base_model if base_model is None or base_is_on_hub else Path(base_model).name
    strategy = lipschitz_report.get("strategy")
    name = folder.resolve().name
    scores = {key: metrics[f"eval_{key}"] for key in _METRIC_NAMES if is_finite(metrics.get(f"eval_{key}"))}
    metadata = _metadata(
        name,
        task,
        base_name if base_is_on_hub else None,
        base_model is None,
        dataset_name,
        dataset_hub_id,
        scores,
        strategy,
    )
    sections = [
        f"# {name}",
        _introduction(task, base_name, base_is_on_hub, dataset_name, lipschitz_report),
        _usage(task),
        _scores_section(scores, metrics, config),
        bounds_section(lipschitz_report),
        _recipe_section(config, hyperparameters, versions, command),
        _license_section(base_name),
    ]
    path = folder / "README.md"
    ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n" + "\n\n".join(filter(None, sections)) + "\n").save(path)
    return path


def _metadata(
    name: str,
    task: str,
    base_model: str | None,
    from_scratch: bool,
    dataset_name: str,
    dataset_hub_id: str | None,
    scores: Mapping[str, float],
    strategy: str | None,
) -> Any:
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type=_PIPELINE_TAGS[task],
            dataset_type=dataset_hub_id or dataset_name,
            dataset_name=dataset_name,
            dataset_split="validation",
            metric_type=key,
            metric_name=_METRIC_NAMES[key],
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


def _introduction(
    task: str, base_name: str | None, base_is_on_hub: bool, dataset_name: str, report: Mapping[str, Any]
) -> str:
    goal = "semantic segmentation" if task == "segmentation" else "image classification"
    start = "trained from scratch" if base_name is None else f"fine-tuned from `{base_name}`"
    if base_name is not None and not base_is_on_hub:
        start += " (a local checkpoint)"
    if report.get("strategy") is None:
        kind = "No Lipschitz constraint: this is the unconstrained baseline."
    else:
        kind = f"Lipschitz strategy `{report['strategy']}`, applied to the scope `{report['scope']}`."
    return f"A SegFormer for {goal}, {start} on {dataset_name} with LRSegformer. {kind}"


def _usage(task: str) -> str:
    extra_import = "\nfrom lrsegformer.evaluation import predict_classes" if task == "segmentation" else ""
    snippet = _SEGMENTATION_SNIPPET if task == "segmentation" else _CLASSIFICATION_SNIPPET
    return f"""## Use

Install the `lrsegformer` package (`pip install .` in a clone of its repository); importing it registers the model.

```python
from PIL import Image
from transformers import AutoImageProcessor, {_AUTO_CLASSES[task]}

import lrsegformer  # noqa: F401  (registers the model classes){extra_import}

source = "."  # this folder, or the id of this repository
processor = AutoImageProcessor.from_pretrained(source)
model = {_AUTO_CLASSES[task]}.from_pretrained(source).eval()
image = Image.open("image.jpg").convert("RGB")
{snippet}
```"""


def _scores_section(scores: Mapping[str, float], metrics: Mapping[str, Any], config: Any) -> str:
    if not scores:
        return "## Scores\n\nNo scores were computed."
    parts = [
        "## Scores",
        "On the validation split, from one confusion matrix over the whole split; ignored pixels and absent classes "
        "do not count.",
        table(("score", "value"), [(_METRIC_NAMES[key], f"{value:.4f}") for key, value in scores.items()]),
    ]
    ious, accuracies = metrics.get("eval_per_category_iou"), metrics.get("eval_per_category_accuracy")
    if ious is not None and accuracies is not None:
        names = getattr(config, "id2label", None) or {}
        rows = [
            (names.get(label, str(label)), _figure(iou), _figure(accuracy))
            for label, (iou, accuracy) in enumerate(zip(ious, accuracies, strict=True))
        ]
        class_table = table(("class", "IoU", "accuracy"), rows)
        parts.append(f"<details>\n<summary>Per class</summary>\n\n{class_table}\n\n</details>")
    return "\n\n".join(parts)


def _recipe_section(
    config: Any, hyperparameters: Mapping[str, Any], versions: Mapping[str, str], command: str | None
) -> str:
    parts = ["## Training"]
    if command:
        parts.append(f"```bash\n{command}\n```")
    rows = [(f"`{key}`", f"`{value}`") for key, value in hyperparameters.items()]
    if getattr(config, "lipschitz_strategy", None) is not None:
        rows.append(("`penalty_reduction`", f"`{config.penalty_reduction}`"))
    if rows:
        parts.append(table(("option", "value"), rows))
    if versions:
        parts.append("Versions: " + ", ".join(f"{library} {version}" for library, version in versions.items()) + ".")
    return "\n\n".join(parts)


def _license_section(base_name: str | None) -> str:
    if base_name is None:
        return "## License\n\nApache 2.0. The data set has its own terms."
    return (
        f"## License\n\nThese weights started from `{base_name}` and stay under its terms. For NVIDIA's SegFormer and "
        f"MiT weights these are the [SegFormer licence]({SEGFORMER_LICENSE}): research and evaluation, "
        "non-commercial. The data set has its own terms."
    )


def _figure(value: float) -> str:
    return f"{value:.4f}" if is_finite(value) else "absent"
