"""
Two optimizer steps on fixed images, their batch split as asked; writes losses, gradients and scores.

    torchrun --nproc_per_node 2 split_runner.py OUT PER_DEVICE ACCUMULATION

Everything that rule 5 leaves out is off: the statistics of BatchNorm are frozen and nothing is dropped.
"""

import sys
from pathlib import Path

import torch
from transformers import SegformerImageProcessorPil, TrainerCallback, set_seed

from lrsegformer import LRSegformerTrainer, LRSegformerTrainingArguments
from lrsegformer.data.dataset import collate
from lrsegformer.models.loading import build_model

# Task, strategy, and steps of adversarial training.
CASES = (
    ("segmentation", "stable_softplus", 0),
    ("segmentation", "jacobian_norm", 0),
    ("classification", "stable_softplus", 0),
    ("segmentation", "stable_softplus", 2),
    ("classification", "stable_softplus", 1),
)
TOTAL, STEPS, CLASSES, SIDE = 8, 2, 5, 32
# A number that two processes cannot share evenly: of its last batch one of them has nothing of its own.
EVALUATED = 5
# The attack takes signs, so a gradient that is zero but for its rounding moves a pixel by up to two radii. At this one
# such a pixel is below the tolerance, and the attack as a whole is far above it.
ADVERSARIAL_EPS = 0.1


class Images(torch.utils.data.Dataset):
    """Random images; in segmentation, the share of void pixels is another one for each: 0 to almost all."""

    def __init__(self, task: str, count: int):
        self.task, self.count = task, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        image = torch.randn(3, SIDE, SIDE, generator=generator)
        if self.task == "classification":
            return {"pixel_values": image, "labels": index % CLASSES}
        labels = torch.full((SIDE, SIDE), index % CLASSES, dtype=torch.uint8)
        # Void rows: 0, 0, 4, 4, ..., 28, 31, so that the means of small batches say little about that of all.
        labels[: min(4 * (index // 2) * (1 + index % 2), SIDE - 1)] = 255
        return {"pixel_values": image, "labels": labels}


class Gradients(TrainerCallback):
    """Copies the gradients that the optimizer is about to use."""

    def __init__(self):
        self.steps = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        named = getattr(model, "module", model).named_parameters()
        self.steps.append({name: parameter.grad.detach().clone() for name, parameter in named})


def start(task: str, strategy: str) -> torch.nn.Module:
    """The model, the same in every process, in training mode but for BatchNorm and dropout."""
    set_seed(0)
    model = build_model(
        task,
        "tiny",
        lipschitz_strategy=strategy,
        num_labels=CLASSES,
        # Large enough for the loss to differ from image to image.
        initializer_range=0.2,
        classifier_dropout_prob=0.0,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
            module.train = lambda mode=True, norm=module: norm
    return model


@torch.no_grad()
def loss_by_hand(model: torch.nn.Module, dataset: Images) -> float:
    """The mean over the valid pixels, or the images, of the data set, by torch's own loss, image by image."""
    model.eval()
    total, count = 0.0, 0
    for image in (dataset[index] for index in range(len(dataset))):
        logits, labels = model(image["pixel_values"][None]).logits.double(), torch.as_tensor(image["labels"])[None]
        if labels.ndim > 1:
            logits = torch.nn.functional.interpolate(logits, size=labels.shape[1:], mode="bilinear")
        losses = torch.nn.functional.cross_entropy(logits, labels.long(), ignore_index=255, reduction="sum")
        total, count = total + losses.item(), count + (labels != 255).sum().item()
    return total / count


def run(task: str, strategy: str, adversarial_steps: int, per_device: int, accumulation: int, folder: str) -> dict:
    """Losses, gradients and scores of a run."""
    gradients = Gradients()
    arguments = LRSegformerTrainingArguments(
        output_dir=folder,
        use_cpu=True,
        max_steps=STEPS,
        per_device_train_batch_size=per_device,
        per_device_eval_batch_size=per_device,
        gradient_accumulation_steps=accumulation,
        # Adam would make much of the rounding of gradients that are 0.
        optim="sgd",
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        lr_scheduler_kwargs=None,
        lambda_lip=0.3,
        adversarial_steps=adversarial_steps,
        adversarial_eps=ADVERSARIAL_EPS if adversarial_steps else 0.0,
        logging_steps=1,
        save_strategy="no",
        eval_strategy="no",
        dataloader_num_workers=0,
        disable_tqdm=True,
    )
    assert arguments.total_batch_size == TOTAL
    trainer = LRSegformerTrainer(
        model=start(task, strategy),
        args=arguments,
        train_dataset=Images(task, STEPS * TOTAL),
        eval_dataset=Images(task, EVALUATED),
        data_collator=collate,
        processing_class=SegformerImageProcessorPil(),
        callbacks=[gradients],
    )
    trainer.train()
    scores = trainer.evaluate()
    predicted = trainer.predict(trainer.eval_dataset)
    return {
        "world_size": arguments.world_size,
        "logs": [
            {name: log[name] for name in ("loss", "loss_task", "loss_lipschitz", "grad_norm")}
            for log in trainer.state.log_history
            if "loss" in log
        ],
        "gradients": gradients.steps,
        "eval_losses": {name: scores[f"eval_{name}"] for name in ("loss", "loss_task", "loss_lipschitz")},
        "test_loss": predicted.metrics["test_loss"],
        "predicted": torch.from_numpy(predicted.predictions),
        "by_hand": loss_by_hand(trainer.accelerator.unwrap_model(trainer.model), trainer.eval_dataset),
        "scores": {
            name: score
            for name, score in scores.items()
            if not any(word in name for word in ("loss", "time", "second"))
        },
    }


if __name__ == "__main__":
    out, per_device, accumulation = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    for task, strategy, adversarial_steps in CASES:
        result = run(task, strategy, adversarial_steps, per_device, accumulation, str(out))
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        torch.save(result, out / f"{task}-{strategy}-{adversarial_steps}-{rank}.pt")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
