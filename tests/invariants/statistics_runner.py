"""
A short training on two processes with BatchNorm's statistics as they are in practice, moving; each process writes what
it scored, and the first one the model.

    torchrun --nproc_per_node 2 statistics_runner.py OUT
"""

import json
import sys
from pathlib import Path

import torch
from transformers import SegformerImageProcessorPil, set_seed

from lrsegformer import LRSegformerTrainer, LRSegformerTrainingArguments
from lrsegformer.data.dataset import collate
from lrsegformer.models.loading import build_model

CLASSES, SIDE = 3, 32


class Scenes(torch.utils.data.Dataset):
    """Every second image is ten times as bright, so that two processes see other statistics."""

    def __init__(self, count: int):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        image = torch.randn(3, SIDE, SIDE, generator=generator) * (10 if index % 2 else 1)
        return {"pixel_values": image, "labels": torch.randint(CLASSES, (SIDE, SIDE), generator=generator)}


def make_trainer(folder: Path, model: torch.nn.Module, average_weights: float | None) -> LRSegformerTrainer:
    arguments = LRSegformerTrainingArguments(
        output_dir=str(folder),
        use_cpu=True,
        max_steps=4,
        total_batch_size=4,
        per_device_eval_batch_size=1,
        learning_rate=1e-3,
        average_weights=average_weights,
        save_strategy="no",
        eval_strategy="no",
        dataloader_num_workers=0,
        disable_tqdm=True,
    )
    return LRSegformerTrainer(
        model=model,
        args=arguments,
        train_dataset=Scenes(16),
        eval_dataset=Scenes(5),
        data_collator=collate,
        processing_class=SegformerImageProcessorPil(),
    )


def scores(trainer: LRSegformerTrainer) -> dict[str, float]:
    return {name: trainer.evaluate()[name] for name in ("eval_loss", "eval_accuracy", "eval_f1")}


if __name__ == "__main__":
    out = Path(sys.argv[1])
    torch.set_num_threads(1)
    for name, average_weights in (("plain", None), ("averaged", 0.5)):
        set_seed(0)
        trainer = make_trainer(out / "run", build_model("segmentation", "tiny", num_labels=CLASSES), average_weights)
        trainer.train()
        found = scores(trainer)
        trainer.save_model(str(out / name))
        (out / f"{name}-{trainer.args.process_index}.json").write_text(json.dumps(found))
