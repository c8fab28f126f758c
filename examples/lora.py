"""
Adapters on the encoder and a Lipschitz-constrained head, in Python: train, save both ways, load both ways.

    pip install -c constraints.txt ".[peft]"
    python examples/lora.py nvidia/mit-b0 runs/lora
"""

import sys
from pathlib import Path

from peft import PeftModel
from transformers import AutoConfig, AutoModelForSemanticSegmentation
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from lrsegformer import LRSegformerForSemanticSegmentation, LRSegformerTrainer, LRSegformerTrainingArguments
from lrsegformer.certification import format_report
from lrsegformer.data import DataArguments, load_data
from lrsegformer.data.dataset import collate
from lrsegformer.models.encoder.adapters import add_adapters, merged, save_adapters, trained_share


def main(base: str, folder: str, steps: int = 100) -> None:
    # The built-in digits: `dataset` takes a Hub id or a folder as well.
    data = DataArguments(dataset="digits", image_size=64)
    splits = load_data(data, "segmentation", 0, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    space = splits.label_space
    labels = {"id2label": space.id2label, "label2id": space.label2id, "ignore_mismatched_sizes": True}
    model = LRSegformerForSemanticSegmentation.from_pretrained(base, lipschitz_strategy="orthogonal", **labels)

    # Query and value of every attention get an adapter of rank 8; the head, its constraint with it, is trained whole.
    adapted = add_adapters(model, "segmentation", rank=8, alpha=16, dropout=0.0, targets=["q_proj", "v_proj"])
    print("{:,} of {:,} parameters are trained.".format(*trained_share(adapted)))
    arguments = LRSegformerTrainingArguments(
        output_dir=folder, max_steps=steps, learning_rate=5e-4, head_learning_rate_multiplier=1.0, save_strategy="no"
    )
    trainer = LRSegformerTrainer(
        model=adapted,
        args=arguments,
        train_dataset=splits.train,
        eval_dataset=splits.validation,
        data_collator=collate,
        processing_class=splits.processor,
    )
    trainer.train()

    # The adapters alone, and the model in which they are merged, which is what gets scored.
    save_adapters(adapted, Path(folder, "adapter"), base)
    trainer.model = merged(adapted)
    print(f"mean IoU {trainer.evaluate_as_saved()['eval_mean_iou']:.4f}")
    trainer.save_model()
    print(format_report(trainer.model.lipschitz_report()))

    # Merged, it is a model like every other: the commands and the Auto classes take it.
    AutoModelForSemanticSegmentation.from_pretrained(folder)
    # By peft, onto what training started from.
    config = AutoConfig.from_pretrained(folder)
    start = AutoModelForSemanticSegmentation.from_pretrained(base, config=config, ignore_mismatched_sizes=True)
    PeftModel.from_pretrained(start, f"{folder}/adapter")


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(int, sys.argv[3:4]))
