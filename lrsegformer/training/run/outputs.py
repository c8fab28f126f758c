"""What a run leaves in its folder besides the model: configuration, scores, pictures, card, and the closing table."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerState

from lrsegformer.certification.text import head_lines, network_lines
from lrsegformer.data import DataSplits
from lrsegformer.data.files.pixels import ImageReading
from lrsegformer.data.processor import input_size
from lrsegformer.evaluation import (
    holds_bounds,
    largest_class,
    palette,
    predict_classes,
    save_bounds,
    save_classification_samples,
    save_curves,
    save_samples,
)
from lrsegformer.evaluation.scores import scores_from_counts, without_nan
from lrsegformer.extras import installed_versions
from lrsegformer.hub.card import write_model_card
from lrsegformer.models.loading import LipschitzModel
from lrsegformer.training.averaging import average_in_words
from lrsegformer.training.class_weights import count_labels
from lrsegformer.training.training_arguments import LRSegformerTrainingArguments
from lrsegformer.visible import tell
from lrsegformer.writing import write_whole, written_aside

PICTURES = ("curves.png", "bounds.png", "samples.png")
# Of `evaluate_as_saved`, by which the scores of a run are made.
PRECISION = "float32"
SAMPLES = {"segmentation": 6, "classification": 18}
SHOWN_SCORES = {
    "segmentation": ("mean_iou", "mean_accuracy", "overall_accuracy", "f1", "matthews_correlation"),
    "classification": ("accuracy", "precision", "recall", "f1", "matthews_correlation"),
}
_PACKAGES = ("lrsegformer", "torch", "transformers", "accelerate", "datasets", "pillow")


def write_run_outputs(
    model: LipschitzModel,
    arguments: LRSegformerTrainingArguments,
    state: TrainerState,
    task: str,
    splits: DataSplits,
    scores: dict[str, Any],
    card: dict[str, Any],
) -> dict[str, Any]:
    """
    Write `all_results.json`, `curves.png`, `bounds.png` (where bounds were logged), `samples.png` and the model card
    `README.md`.

    Args:
        state ([`~transformers.TrainerState`]): of the finished run: its log, and its number of steps.
        scores: what the Trainer's `evaluate()` returned.
        card: `base_model`, `command`, `score_at`, `recipe` and `adapter` (both in words, the second or `None`), for
            the card and the results.

    Returns:
        `dict`: what `all_results.json` holds; a number that is not finite is `None` in it.
    """
    folder = Path(arguments.output_dir)
    report = model.lipschitz_report()
    results = without_nan(
        {
            **scores,
            "task": task,
            "dataset": splits.dataset_name,
            "score_at": card["score_at"] if task == "segmentation" else None,
            "input_size": input_size(splits.processor),
            "validation_images": {"scored": len(splits.validation), "of": len(splits.validation.source)},
            "precision": PRECISION,
            "classes": list(splits.label_space.names),
            "constant_answer": constant_answer(splits, task),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "peak_gpu_memory_bytes": _peak_gpu_memory(),
            "lipschitz": report,
            "versions": installed_versions(_PACKAGES),
        }
    )
    write_whole(folder / "all_results.json", json.dumps(results, indent=2) + "\n")
    with written_aside(folder / "curves.png") as path:
        save_curves(state.log_history, path)
    if holds_bounds(state.log_history):
        with written_aside(folder / "bounds.png") as path:
            save_bounds(state.log_history, path)
    with written_aside(folder / "samples.png") as path:
        _save_sample_sheet(model, task, splits, path)
    scored, of = results["validation_images"]["scored"], results["validation_images"]["of"]
    write_model_card(
        folder,
        config=model.config,
        task=task,
        base_model=card["base_model"],
        dataset_name=splits.dataset_name,
        dataset_hub_id=splits.hub_id,
        metrics=scores,
        scored=how_scored(results, task),
        subset=None if scored == of else f"{scored} of {of}",
        image_reading=str(ImageReading.of_processor(splits.processor)),
        lipschitz_report=report,
        adapter=card["adapter"],
        hyperparameters=_hyperparameters(arguments, state, splits, task, card["score_at"], card["recipe"]),
        versions=installed_versions(_PACKAGES),
        command=card["command"],
    )
    return results


def how_scored(results: dict[str, Any], task: str) -> str:
    """
    A sentence about the scores: on which images, from which inputs, at which size and precision.

    Args:
        results: what [`write_run_outputs`] returns.
    """
    scored, of = results["validation_images"]["scored"], results["validation_images"]["of"]
    images = f"all {of} images" if scored == of else f"{scored} of the {of} images"
    sizes = {"original": ", at the annotations' own sizes", "resized": ", at the size of the input"}
    at = sizes[results["score_at"]] if task == "segmentation" else ""
    return (
        f"Scored on {images} of the validation split, from inputs of {results['input_size']}{at}, in "
        f"{results['precision']}."
    )


def constant_answer(splits: DataSplits, task: str) -> dict[str, float] | None:
    """
    The scores of answering one class everywhere, the commonest of the validation split: what any model has to beat.

    Reads every validation label once; `None` where there are more than 5000 of them.
    """
    dataset = splits.validation
    if len(dataset) > 5000:
        return None
    space = splits.label_space
    counts = count_labels(dataset, space, task)
    table = torch.zeros(space.num_labels, space.num_labels, dtype=torch.int64)
    table[:, int(counts.argmax())] = torch.from_numpy(counts)
    answer = scores_from_counts(table, task=task)
    return {"class": space.names[int(counts.argmax())], **{name: answer[name] for name in SHOWN_SCORES[task]}}


def print_summary(folder: str, task: str, results: dict[str, Any]) -> None:
    """
    The closing table: scores beside those of a constant answer, the bound of the head, where the outputs lie.

    Args:
        results: what [`write_run_outputs`] returned.
    """
    constant = results["constant_answer"] or {}
    answer = f"always {constant['class']!r}" if constant else "constant answer"
    lines = [f"{'score':<24}{'model':>10}  {answer}"]
    for name in SHOWN_SCORES[task]:
        lines.append(f"{name:<24}{_figure(results[f'eval_{name}']):>10}  {_figure(constant.get(name))}")
    lines.append(how_scored(results, task))
    lines += [*head_lines(results["lipschitz"]["head"]), *network_lines(results["lipschitz"])]
    pictures = [name for name in PICTURES if (Path(folder) / name).is_file()]
    lines.append(f"Outputs: {folder} (model, processor, README.md, all_results.json, {', '.join(pictures)}, run.yaml)")
    tell("\n" + "\n".join(lines))


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


@torch.no_grad()
def _save_sample_sheet(model: LipschitzModel, task: str, splits: DataSplits, path: Path) -> None:
    dataset, space = splits.validation, splits.label_space
    count = min(SAMPLES[task], len(dataset))
    chosen = [index * len(dataset) // count for index in range(count)]
    model.eval()
    images, truths, predictions = [], [], []
    for index in chosen:
        example = dataset.source[int(dataset.indices[index])]
        pixel_values = dataset[index]["pixel_values"][None].to(device=model.device, dtype=model.dtype)
        logits = model(pixel_values=pixel_values).logits
        images.append(example.image)
        if task == "segmentation":
            truths.append(space.encode_mask(example.target, example.name))
            predictions.append(predict_classes(logits, truths[-1].shape)[0].cpu().numpy())
        else:
            truths.append(space.names[int(example.target)])
            predictions.append(space.names[largest_class(logits).item()])
    if task == "segmentation":
        save_samples(images, truths, predictions, path, palette(space.num_labels), space.names)
    else:
        save_classification_samples(images, truths, predictions, path)


def _hyperparameters(
    arguments: LRSegformerTrainingArguments,
    state: TrainerState,
    splits: DataSplits,
    task: str,
    score_at: str,
    recipe: str,
) -> dict[str, Any]:
    average = average_in_words(arguments.average_weights)
    values = {
        "recipe": recipe,
        "steps": state.global_step,
        "total batch size": arguments.total_batch_size,
        "image size": splits.image_size,
        "input at evaluation": input_size(splits.processor),
        "learning rate": arguments.learning_rate,
        "head learning rate": arguments.learning_rate * arguments.head_learning_rate_multiplier,
        "constants' learning rate": arguments.constants_learning_rate,
        "weight decay": arguments.weight_decay,
        **({} if average is None else {"weights": average}),
        "warmup steps": arguments.get_warmup_steps(state.max_steps),
        "schedule": str(getattr(arguments.lr_scheduler_type, "value", arguments.lr_scheduler_type)),
        "lambda_lip": arguments.lambda_lip,
        "seed": arguments.seed,
        "precision": "bfloat16 autocast" if arguments.bf16 else "float32",
    }
    reading = str(ImageReading.of_processor(splits.processor))
    if reading:
        values["image files"] = f"{reading} (`lrsegformer.data.open_image` reads them so)"
    return {**values, "scored at": f"{score_at} size"} if task == "segmentation" else values


def _peak_gpu_memory() -> int | None:
    """The most that this process's tensors took of its GPU at once; `None` where there is no CUDA device."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
