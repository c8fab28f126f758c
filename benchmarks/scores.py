"""
Time of a confusion-matrix update beside other metrics; time and memory of an evaluation as its images grow tenfold.

    pip install -c constraints.txt '.[bench]'
    LRSEGFORMER_DATA=path/to/data python benchmarks/scores.py --output docs/benchmarks.md

Writes the section `scores`. Annotations are those of the ADE20K pairs below the folder of real images (`--data`, by
default LRSEGFORMER_DATA); without one, maps of random blocks.
"""

import argparse
import os
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from measuring import interleaved, peak_resident, timed
from PIL import Image
from report import markdown_table, median_and_spread, publish, run_header, significant
from transformers import PrinterCallback

from lrsegformer import (
    LRSegformerConfig,
    LRSegformerForSemanticSegmentation,
    LRSegformerTrainer,
    LRSegformerTrainingArguments,
)
from lrsegformer.choices import ARCHITECTURES
from lrsegformer.data.ade20k import ADE20K_NAMES
from lrsegformer.data.dataset import collate
from lrsegformer.data.labels import LabelSpace
from lrsegformer.evaluation import ConfusionMatrix

SIDE, CLASSES, VOID = 512, 150, 255
WRONG_SHARE = 0.3
GOAL = 5.0
OURS, OURS_WIDE = "ours, uint8 maps", "ours, int64 maps"
EVALUATE, TORCHMETRICS, TORCHMETRICS_FAST = "evaluate mean_iou", "torchmetrics", "torchmetrics, validate_args=False"
ORIGINAL_SIZE = (512, 683)  # of most images of ADE20K
MORE = 10

EXPLANATION = f"""
One map of {SIDE}x{SIDE} pixels and {CLASSES} classes is added to the running counts, on one thread; random classes
stand in for {WRONG_SHARE:.0%} of the predictions. Every competitor takes the same map, once in each round, in rotating
order, and the run stops where the counts differ. evaluate and ours take uint8 maps, torchmetrics takes int64; times
are medians with half the interquartile range. The goal is {GOAL:g} times the speed of evaluate's mean_iou.

evaluate's mean_iou is what its script computes for one map (intersection, prediction and reference, each by
`np.histogram`), written out here: the script itself is fetched from the Hub, and adds the conversion of each map to
and from an Arrow table, which is not counted.
"""
GROWTH = f"""
`LRSegformerTrainer.evaluate` of a B0 with {CLASSES} classes, batch 1, annotations of
{ORIGINAL_SIZE[1]}x{ORIGINAL_SIZE[0]} pixels, scored at that size. Memory is the growth of the process's resident set
while it runs, as the kernel counts it, after an evaluation that nobody measures.
"""


class Photographs(torch.utils.data.Dataset):
    """Noise in place of images, with annotations at their original size; made when asked for."""

    def __init__(self, length: int):
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if not 0 <= index < self.length:
            raise IndexError(index)
        height, width = ORIGINAL_SIZE
        generator = torch.Generator().manual_seed(index)
        labels = torch.randint(0, CLASSES, (height, width), dtype=torch.uint8, generator=generator)
        pixel_values = torch.randn(3, height, -(-width // 32) * 32, generator=generator)
        return {"pixel_values": pixel_values, "labels": labels}


def make_map(data: Path | None) -> tuple[np.ndarray, np.ndarray]:
    """A prediction and a reference as uint8 maps, zero labels reduced."""
    rng = np.random.default_rng(0)
    if data is None:
        reference = rng.integers(0, CLASSES, (16, 16), dtype=np.uint8).repeat(SIDE // 16, 0).repeat(SIDE // 16, 1)
        reference[: SIDE // 16] = VOID
    else:
        file = sorted((data / "ade20k_150_pairs" / "annotations" / "training").glob("*.png"))[0]
        raw = np.asarray(Image.open(file).resize((SIDE, SIDE), Image.Resampling.NEAREST))
        reference = LabelSpace(ADE20K_NAMES, reduce_zero_label=True).encode_mask(raw, str(file))
    right = np.where(reference == VOID, 0, reference).astype(np.uint8)
    is_wrong = rng.random(right.shape) < WRONG_SHARE
    return np.where(is_wrong, rng.integers(0, CLASSES, right.shape, dtype=np.uint8), right), reference


def histogram_areas(prediction: np.ndarray, reference: np.ndarray) -> list[np.ndarray]:
    """Intersection, predicted and labelled area of each class, the way evaluate's mean_iou counts them."""
    valid = np.not_equal(reference, VOID)
    prediction, reference = prediction[valid], reference[valid]
    intersection = prediction[prediction == reference]
    return [
        np.histogram(values, bins=CLASSES, range=(0, CLASSES - 1))[0]
        for values in (intersection, prediction, reference)
    ]


def updates(prediction: np.ndarray, reference: np.ndarray) -> dict[str, Callable[[], object]]:
    """The competitors' updates by one map, checked against our counts."""
    wide = torch.from_numpy(prediction).long(), torch.from_numpy(reference).long()
    metric = ConfusionMatrix(CLASSES)
    metric.add_batch(predictions=prediction, references=reference)
    counts = metric.counts.numpy().copy()
    expected = [counts.diagonal(), counts.sum(axis=0), counts.sum(axis=1)]
    for areas, own in zip(histogram_areas(prediction, reference), expected, strict=True):
        np.testing.assert_array_equal(areas, own)
    actions: dict[str, Callable[[], object]] = {
        OURS: partial(metric.add_batch, predictions=prediction, references=reference),
        OURS_WIDE: partial(metric.add_batch, predictions=wide[0], references=wide[1]),
        EVALUATE: partial(histogram_areas, prediction, reference),
    }
    try:
        from torchmetrics.classification import MulticlassConfusionMatrix
    except ImportError:
        return actions
    for name, validated in ((TORCHMETRICS, True), (TORCHMETRICS_FAST, False)):
        theirs = MulticlassConfusionMatrix(CLASSES, ignore_index=VOID, validate_args=validated)
        theirs.update(*wide)
        np.testing.assert_array_equal(theirs.confmat.numpy(), counts)
        actions[name] = partial(theirs.update, *wide)
    return actions


def update_table(data: Path | None, rounds: int, seconds: float) -> str:
    samples = interleaved(updates(*make_map(data)), rounds, seconds)
    rows = []
    for name, durations in samples.items():
        ratios = [other / mine for mine, other in zip(samples[OURS], durations, strict=True)]
        rows.append([name, median_and_spread(durations, 1e3), "" if name == OURS else median_and_spread(ratios)])
    table = markdown_table(["", "ms a map", "time / ours"], rows)
    ratio = statistics.median(samples[EVALUATE]) / statistics.median(samples[OURS])
    verdict = f"evaluate / ours: {significant(ratio)}, goal >= {GOAL:g}: {'met' if ratio >= GOAL else 'missed'}."
    absent = "" if TORCHMETRICS in samples else "\n\ntorchmetrics is not installed and was left out."
    return f"{table}\n\n{verdict}{absent}"


def growth_table(images: int, rounds: int) -> str:
    """Time an image and peak memory of an evaluation of `images` and of ten times as many, in turns."""
    torch.manual_seed(0)
    model = LRSegformerForSemanticSegmentation(LRSegformerConfig(**ARCHITECTURES["b0"], num_labels=CLASSES))
    with tempfile.TemporaryDirectory() as folder:
        options = {"report_to": "none", "use_cpu": True, "eval_strategy": "no", "per_device_eval_batch_size": 1}
        arguments = LRSegformerTrainingArguments(
            output_dir=folder, disable_tqdm=True, dataloader_num_workers=0, **options
        )
        trainer = LRSegformerTrainer(model=model, args=arguments, data_collator=collate)
        trainer.remove_callback(PrinterCallback)
        evaluation = {length: partial(trainer.evaluate, Photographs(length)) for length in (images, MORE * images)}
        evaluation[images]()
        seconds: dict[int, list[float]] = {length: [] for length in evaluation}
        memory: dict[int, list[float]] = {length: [] for length in evaluation}
        for _ in range(rounds):
            for length, action in evaluation.items():
                duration, grown = timed(partial(peak_resident, action))
                seconds[length].append(duration / length)
                memory[length] += [] if grown is None else [grown]
    rows = []
    for length in evaluation:
        held = median_and_spread(memory[length], 2.0**-20) if memory[length] else "-"
        rows.append([str(length), median_and_spread(seconds[length], 1e3), held])
    ratios = [[many / few for few, many in zip(*figure.values(), strict=True)] for figure in (seconds, memory)]
    rows.append([f"{MORE}x / 1x", *(median_and_spread(ratio) if ratio else "-" for ratio in ratios)])
    return markdown_table(["images", "ms an image", "peak memory, MiB"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of real images; default: LRSEGFORMER_DATA")
    parser.add_argument("--images", type=int, default=4, help=f"of the smaller evaluation; the other has {MORE}x")
    parser.add_argument("--rounds", type=int, default=15, help="of the updates, at most")
    parser.add_argument("--evaluations", type=int, default=3, help="rounds of the two evaluations")
    parser.add_argument("--seconds", type=float, default=30, help="of all rounds of the updates")
    parser.add_argument("--output", type=Path, help="Markdown file whose section `scores` is replaced")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = arguments.data or os.environ.get("LRSEGFORMER_DATA")
    parts = [
        "## Scores",
        run_header(["torch", "numpy", "evaluate", "torchmetrics", "transformers"]),
        EXPLANATION.strip(),
        f"Maps: {'random blocks' if data is None else 'an annotation of ADE20K'}.",
        "### One update",
        update_table(None if data is None else Path(data), arguments.rounds, arguments.seconds),
        "### An evaluation at original size as its images grow tenfold",
        GROWTH.strip(),
        growth_table(arguments.images, arguments.evaluations),
    ]
    text = "\n\n".join(parts)
    publish(text, arguments.output, "scores")


if __name__ == "__main__":
    main()
