"""
What robust training costs a step of the Trainer, on a CPU or a GPU.

    python benchmarks/robust_step.py --device cuda --output docs/benchmarks.md

Every way trains a SegFormer B0 for a few steps through [`LRSegformerTrainer`], optimizer included, on one batch that
lies in the device's memory, so that no data path is in the time. The ways take turns, round by round. Writes the
section `robust-step`.
"""

import argparse
import gc
import json
import statistics
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch
from measuring import wait_for_gpu
from report import markdown_table, median_and_spread, publish, run_header, significant
from torch.utils.data import Dataset
from transformers import TrainerCallback
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from lrsegformer import LRSegformerConfig, LRSegformerForSemanticSegmentation, LRSegformerTrainer
from lrsegformer.choices import ARCHITECTURES
from lrsegformer.data.processor import build_processor
from lrsegformer.recipes import recipe_options
from lrsegformer.training.training_arguments import LRSegformerTrainingArguments

CLASSES, WARM_UP_STEPS, PLAIN = 150, 4, "plain"
GIGABYTES = 1e-9
MODEL_OPTIONS = {
    "strategy": "lipschitz_strategy",
    "scope": "lipschitz_scope",
    "lipschitz_options": "lipschitz_options",
}
WAYS: dict[str, dict[str, Any]] = {
    PLAIN: {},
    "orthogonal, scope head": {"strategy": "orthogonal"},
    "stable_softplus, scope network": {"strategy": "stable_softplus", "scope": "network"},
    "Jacobian penalty (`--recipe robust`)": recipe_options("segmentation", "robust"),
    "adversarial, one step": {"adversarial_steps": 1, "adversarial_eps": 1.0},
    "TRADES, one step": {"adversarial_steps": 1, "adversarial_eps": 1.0, "adversarial_loss": "trades"},
}
EXPLANATION = """
B0, {batch} images of {side}x{side} pixels and {classes} classes a step, {precision}, {where}; {rounds} rounds of
{steps} steps. Peak memory is what torch's allocator handed out, the model and the optimizer among it.
"""


class OneBatch(Dataset):
    """Images and masks that lie on the device already."""

    def __init__(self, batch: int, side: int, device: str):
        torch.manual_seed(0)
        self.images = torch.randn(batch, 3, side, side).to(device)
        self.masks = torch.randint(0, CLASSES, (batch, side, side)).to(device)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"pixel_values": self.images[index], "labels": self.masks[index]}


class StepClock(TrainerCallback):
    """Seconds of each step, from the end of one to the end of the next."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *arguments: Any, **named: Any) -> None:
        wait_for_gpu()
        self.ends.append(perf_counter())

    def seconds(self) -> float:
        """The median after the first steps."""
        steps = [after - before for before, after in zip(self.ends, self.ends[1:], strict=False)]
        return statistics.median(steps[WARM_UP_STEPS:])


def measure(options: dict[str, Any], data: OneBatch, device: str, steps: int) -> tuple[float, float]:
    """Seconds of a step and peak gigabytes of one short training; the second is 0 on a CPU."""
    torch.manual_seed(0)
    named = {theirs: options[ours] for ours, theirs in MODEL_OPTIONS.items() if ours in options}
    if "lipschitz_options" in named:  # As the command line takes them.
        named["lipschitz_options"] = json.loads(named["lipschitz_options"])
    config = LRSegformerConfig(**ARCHITECTURES["b0"], num_labels=CLASSES, **named)
    on_gpu, clock = device == "cuda", StepClock()
    if on_gpu:
        gc.collect()  # The last trainer refers to itself.
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with TemporaryDirectory() as folder:
        arguments = LRSegformerTrainingArguments(
            output_dir=folder,
            total_batch_size=len(data),
            max_steps=WARM_UP_STEPS + 1 + steps,
            use_cpu=not on_gpu,
            bf16=on_gpu,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_steps=1000,
            dataloader_num_workers=0,
            dataloader_pin_memory=False,
            **{name: value for name, value in options.items() if name not in MODEL_OPTIONS},
        )
        trainer = LRSegformerTrainer(
            LRSegformerForSemanticSegmentation(config),
            arguments,
            train_dataset=data,
            processing_class=build_processor("segmentation", 512, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
            callbacks=[clock],
        )
        trainer.train()
    return clock.seconds(), GIGABYTES * torch.cuda.max_memory_allocated() if on_gpu else 0.0


def step_table(found: dict[str, list[tuple[float, float]]], batch: int) -> str:
    """Every way beside plain training of the same round."""
    plain, rows = [seconds for seconds, _ in found[PLAIN]], []
    for way, rounds in found.items():
        seconds = [each for each, _ in rounds]
        ratios = [ours / theirs for ours, theirs in zip(seconds, plain, strict=True)]
        row = [way, median_and_spread(seconds, 1000), significant(batch / statistics.median(seconds))]
        peak = max(gigabytes for _, gigabytes in rounds)
        row += [median_and_spread(ratios), significant(peak) if peak else "-"]
        rows.append(row)
    return markdown_table(["way", "step, ms", "images/s", "time / plain", "peak GB"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--side", type=int, default=512, help="of the images, in pixels")
    parser.add_argument("--steps", type=int, default=10, help="that are timed in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="Markdown file to write the section to")
    arguments = parser.parse_args()
    header = run_header(["torch", "transformers", "accelerate"])
    data = OneBatch(arguments.batch, arguments.side, arguments.device)
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for _ in range(arguments.rounds):
        for way, options in WAYS.items():
            found[way].append(measure(options, data, arguments.device, arguments.steps))
    on_gpu = arguments.device == "cuda"
    explanation = EXPLANATION.format(
        batch=arguments.batch,
        side=arguments.side,
        classes=CLASSES,
        precision="bfloat16" if on_gpu else "float32",
        where=torch.cuda.get_device_name() if on_gpu else "on the CPU",
        rounds=arguments.rounds,
        steps=arguments.steps,
    ).strip()
    parts = ["## What robust training costs a step", header, explanation, step_table(found, arguments.batch)]
    publish("\n\n".join(parts), arguments.output, "robust-step")


if __name__ == "__main__":
    main()
