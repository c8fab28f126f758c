"""
Training crops a second that one core decodes, augments and collates, beside the same recipe written plainly.

    pip install -c constraints.txt '.[bench]'
    LRSEGFORMER_DATA=path/to/data python benchmarks/data_path.py --output docs/benchmarks.md

Writes the section `data-path`. Images are the ADE20K pairs below the folder of real images (`--data`, by default
LRSEGFORMER_DATA); without one, JPEGs of smooth noise and PNG masks of ADE20K's size are made for the run.
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
from clock import StageClock
from measuring import interleaved
from PIL import Image
from plain_data_path import PlainRecipe, plain_collate, processor_recipe
from report import markdown_table, median_and_spread, publish, run_header, significant

from lrsegformer.data import dataset as dataset_module
from lrsegformer.data import examples, folders, transforms
from lrsegformer.data.ade20k import ADE20K_NAMES
from lrsegformer.data.dataset import ImageDataset, collate
from lrsegformer.data.folders import MaskFolderSource
from lrsegformer.data.labels import LabelSpace

SIDE, BATCH, GOAL = 512, 8, 60
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SPACE = LabelSpace(ADE20K_NAMES, reduce_zero_label=True)
SHORT_SIDE = 400  # smaller images are not of ADE20K's usual size
NOISE_IMAGES, NOISE_SIZE = 6, (683, 512)
OURS, PLAIN, PROCESSOR = "ours", "plain recipe", "plain recipe, image processor"
# The plain recipe resizes the whole image where ours resizes the crop, and goes through 8-bit HSV twice.
LARGEST_MEAN_DIFFERENCE, LARGEST_LABEL_DIFFERENCE = 0.05, 0.05

EXPLANATION = f"""
One thread; {SIDE}x{SIDE} crops of SegFormer's recipe (random scale 0.5 to 2, crop, flip, photometric distortion) in
batches of {BATCH}, from files that the system has in its cache. Every competitor draws the same scales, crops and
colours from the same generator, once in each round, in rotating order; the run stops where crops or labels disagree.
Figures are medians over the rounds with half the interquartile range: wall-clock in the comparisons; by stage, and for
the goal of {GOAL} crops a second on a core, processor time, to which other processes add nothing.

The *plain recipe* is the same augmentation as example scripts write it with numpy and Pillow: the whole image and its
mask are resized and then cut, colours go through HSV once for saturation and once for hue, pixels are divided by 255
and normalised one step at a time, labels are int64. The *image processor* variant leaves scaling to [0, 1],
normalising and int64 labels to transformers' `SegformerImageProcessor` (its Pillow backend where torchvision is
absent). The DataLoader has one worker process.
"""


class PlainDataset(torch.utils.data.Dataset):
    """The pairs of files through a plain recipe, with the random draws of [`ImageDataset`]."""

    def __init__(self, pairs: list[tuple[Path, Path]], recipe: Callable, seed: int, indices: np.ndarray):
        self.pairs, self.recipe, self.seed, self.indices = pairs, recipe, seed, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        image, mask = (Image.open(file) for file in self.pairs[self.indices[index]])
        return self.recipe(image.convert("RGB"), np.array(mask), np.random.default_rng((self.seed, 0, index)))


def write_noise(folder: Path) -> None:
    """JPEGs and masks of ADE20K's size: smooth noise, so that a JPEG has about the size of a photograph's."""
    rng = np.random.default_rng(0)
    width, height = NOISE_SIZE
    for kind in ("images", "annotations"):
        (folder / kind / "training").mkdir(parents=True)
    for number in range(NOISE_IMAGES):
        coarse = Image.fromarray(rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8))
        coarse.resize(NOISE_SIZE, Image.Resampling.BICUBIC).save(
            folder / "images" / "training" / f"{number}.jpg", quality=90
        )
        blocks = Image.fromarray(rng.integers(0, len(ADE20K_NAMES) + 1, (8, 11), dtype=np.uint8))
        blocks.resize(NOISE_SIZE, Image.Resampling.NEAREST).save(folder / "annotations" / "training" / f"{number}.png")


def open_source(folder: Path) -> MaskFolderSource:
    """The pairs of ADE20K's usual size."""
    source = MaskFolderSource(folder / "images" / "training", folder / "annotations" / "training")
    source.pairs = [pair for pair in source.pairs if min(Image.open(pair[0]).size) >= SHORT_SIDE]
    return source


def batches(dataset: torch.utils.data.Dataset, collator: Callable) -> list[dict[str, torch.Tensor]]:
    return [
        collator([dataset[index] for index in range(start, start + BATCH)]) for start in range(0, len(dataset), BATCH)
    ]


def check_same_crops(ours: ImageDataset, other: PlainDataset, name: str) -> None:
    """
    Hold each crop to ours.

    Raises:
        `AssertionError`: pixels or labels differ by more than what the recipes' rounding explains.
    """
    for index in range(len(ours)):
        mine, theirs = ours[index], other[index]
        pixels = float((mine["pixel_values"] - torch.as_tensor(theirs["pixel_values"])).abs().mean())
        labels = float((mine["labels"].long() != torch.as_tensor(theirs["labels"])).float().mean())
        if not (pixels <= LARGEST_MEAN_DIFFERENCE and labels <= LARGEST_LABEL_DIFFERENCE):
            raise AssertionError(f"{name}: crop {index} differs from ours by {pixels:.3f}, labels by {labels:.3f}")


def stage_table(dataset: ImageDataset, rounds: int) -> tuple[str, float]:
    """Processor time a crop of each stage of our path without the stages that it calls, and crops a second."""
    clock = StageClock(
        [
            ("open and decode the image", folders, "open_image"),
            ("turn by EXIF", examples.ImageOps, "exif_transpose"),
            ("open and decode the mask", folders, "open_mask"),
            ("encode the mask", LabelSpace, "encode_mask"),
            ("crop the labels", transforms, "nearest_crop"),
            ("75 % rule", transforms.SegmentationTrainTransform, "_is_varied"),
            ("resize the crop", Image.Image, "resize"),
            ("flip", Image.Image, "transpose"),
            ("image to planes", transforms, "colour_planes"),
            ("photometric distortion", transforms, "photometric_distortion"),
            ("normalise", transforms.Normalise, "planes"),
            ("collate", dataset_module, "_stack"),
        ]
    )
    samples = [clock.seconds_of(lambda: batches(dataset, collate)) for _ in range(rounds)]
    rows = [
        [stage, median_and_spread([sample[stage] / len(dataset) for sample in samples], 1e3)] for stage in samples[0]
    ]
    total = statistics.median(sum(sample.values()) for sample in samples) / len(dataset)
    return markdown_table(["stage", "ms a crop"], [*rows, ["all", significant(1e3 * total)]]), 1 / total


def speed_table(samples: dict[str, list[float]], crops: int) -> str:
    """Crops a second of each competitor, and the paired ratio to ours."""
    rows = []
    for name, seconds in samples.items():
        ratios = [other / mine for mine, other in zip(samples[OURS], seconds, strict=True)]
        cells = [name, median_and_spread([crops / value for value in seconds])]
        rows.append([*cells, "" if name == OURS else median_and_spread(ratios)])
    return markdown_table(["", "crops a second", "time / ours"], rows)


def section(source: MaskFolderSource, what: str, crops: int, rounds: int, seconds: float) -> str:
    """The whole text, tables included."""
    indices = np.arange(crops) % len(source)
    mine = ImageDataset(source, SPACE, transforms.SegmentationTrainTransform(SIDE, MEAN, STD), 0, indices)
    recipes = {PLAIN: PlainRecipe(SIDE, MEAN, STD), PROCESSOR: processor_recipe(SIDE, MEAN, STD)}
    plain = {name: PlainDataset(source.pairs, recipe, 0, indices) for name, recipe in recipes.items()}
    for name, other in plain.items():
        check_same_crops(mine, other, name)
    actions = {OURS: partial(batches, mine, collate)}
    actions |= {name: partial(batches, other, plain_collate) for name, other in plain.items()}
    single = interleaved(actions, rounds, seconds)
    stages, rate = stage_table(mine, rounds)
    options = {"batch_size": BATCH, "num_workers": 1, "persistent_workers": True}
    loaders = {OURS: torch.utils.data.DataLoader(mine, collate_fn=collate, **options)}
    loaders[PLAIN] = torch.utils.data.DataLoader(plain[PLAIN], collate_fn=plain_collate, **options)
    loaded = interleaved({name: partial(list, loader) for name, loader in loaders.items()}, rounds, seconds)
    return "\n\n".join(
        [
            "## Data path",
            run_header(["torch", "numpy", "pillow", "transformers", "torchvision"]),
            EXPLANATION.strip(),
            f"Images: {len(source)} {what}, {crops} crops a round. Ours: {rate:.0f} crops a second of one core's "
            f"time, goal {GOAL}: {'met' if rate >= GOAL else 'missed'}.",
            "### One thread, no DataLoader",
            speed_table(single, crops),
            "### Ours by stage, processor time",
            stages,
            "### DataLoader with one worker",
            speed_table(loaded, crops),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of real images; default: LRSEGFORMER_DATA")
    parser.add_argument("--crops", type=int, default=48, help=f"in a round; a multiple of {BATCH}")
    parser.add_argument("--rounds", type=int, default=9, help="at most")
    parser.add_argument("--seconds", type=float, default=20, help="of all rounds of a table")
    parser.add_argument("--output", type=Path, help="Markdown file whose section `data-path` is replaced")
    arguments = parser.parse_args()
    if arguments.crops % BATCH:
        parser.error(f"--crops {arguments.crops} is no multiple of {BATCH}")
    torch.set_num_threads(1)
    data = arguments.data or os.environ.get("LRSEGFORMER_DATA")
    with tempfile.TemporaryDirectory() as folder:
        if data is None:
            write_noise(Path(folder))
        source = open_source(Path(folder) if data is None else Path(data) / "ade20k_150_pairs")
        what = "pairs of smooth noise" if data is None else f"ADE20K pairs with a short side of {SHORT_SIDE} or more"
        text = section(source, what, arguments.crops, arguments.rounds, arguments.seconds)
    publish(text, arguments.output, "data-path")


if __name__ == "__main__":
    main()
