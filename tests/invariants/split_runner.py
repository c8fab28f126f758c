"""
Two optimizer steps on fixed images, their batch split as asked; writes losses, gradients and scores.

    torchrun --nproc_per_node 2 split_runner.py OUT PER_DEVICE ACCUMULATION few|many|fsdp2

Everything that rule 5 leaves out is off: the statistics of BatchNorm are frozen and nothing is dropped.
"""

import sys
from pathlib import Path

import torch
from transformers import SegformerImageProcessorPil, TrainerCallback, set_seed

from lrsegformer import LRSegformerTrainer, LRSegformerTrainingArguments
from lrsegformer.data.dataset import collate
from lrsegformer.models.loading import build_model
from tests.sharding import shard_on_the_cpu

# Task, strategy, scope, and steps of adversarial training, negative for those with the loss of TRADES.
FEW = (
    ("segmentation", "stable_softplus", "head", 2),
    ("segmentation", "jacobian_norm", "network", 0),
    ("classification", "geometric_mean", "certified", 0),
)
MANY = (
    ("segmentation", "stable_softplus", "head", 0),
    ("segmentation", "jacobian_norm", "head", 0),
    ("segmentation", "geometric_mean", "network", 0),
    ("segmentation", "geometric_mean", "certified", 0),
    ("classification", "stable_softplus", "head", 0),
    ("classification", "stable_softplus", "head", 1),
    ("segmentation", "stable_softplus", "head", -1),
)
TOTAL, STEPS, CLASSES, SIDE = 8, 2, 5, 32
# A number that two processes cannot share evenly: of its last batch one of them has nothing of its own.
EVALUATED = 5
# The attack takes signs, so a gradient that is zero but for its rounding moves a pixel by up to two radii. At this one
# such a pixel is below the tolerance, and the attack as a whole is far above it.
ADVERSARIAL_EPS = 0.1
AVERAGED = 0.15


class Images(torch.utils.data.Dataset):
    """Random images; in segmentation, the share of void pixels is another one for each: 0 to almost all."""

    def __init__(self, task: str, count: int, dtype: torch.dtype = torch.float32):
        self.task, self.count, self.dtype = task, count, dtype

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        image = torch.randn(3, SIDE, SIDE, generator=generator).to(self.dtype)
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
        self.steps.append({name: whole(parameter.grad).detach().clone() for name, parameter in named})


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor that FSDP2 has divided."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def shards(task: str, strategy: str, scope: str, adversarial_steps: int) -> bool:
    """Whether a case can be sharded: adversarial training and the penalty on the network's Jacobian refuse."""
    return adversarial_steps == 0 and (strategy, scope) != ("jacobian_norm", "network")


def start(task: str, strategy: str, scope: str) -> torch.nn.Module:
    """The model, the same in every process, in training mode but for BatchNorm and dropout."""
    set_seed(0)
    model = build_model(
        task,
        "tiny",
        lipschitz_strategy=strategy,
        lipschitz_scope=scope,
        lipschitz_options={"jacobian": "network"} if (strategy, scope) == ("jacobian_norm", "network") else None,
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


def run(
    task: str,
    strategy: str,
    scope: str,
    adversarial_steps: int,
    per_device: int,
    accumulation: int,
    folder: str,
    average_weights: float | None = None,
) -> dict:
    """Losses, gradients, scores and, where they are averaged, weights of a run."""
    gradients, model = Gradients(), start(task, strategy, scope)
    if model.penalizes_network_jacobian() or adversarial_steps < 0:
        # Rounding is divided by the step of the one's differences; beside an image the other's signs are signs of it.
        model.double()
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
        adversarial_steps=abs(adversarial_steps),
        adversarial_loss="trades" if adversarial_steps < 0 else "cross_entropy",
        adversarial_eps=ADVERSARIAL_EPS if adversarial_steps else 0.0,
        average_weights=average_weights,
        logging_steps=1,
        save_strategy="no",
        eval_strategy="no",
        dataloader_num_workers=0,
        disable_tqdm=True,
    )
    assert arguments.total_batch_size == TOTAL
    trainer = LRSegformerTrainer(
        model=model,
        args=arguments,
        train_dataset=Images(task, STEPS * TOTAL, model.dtype),
        eval_dataset=Images(task, EVALUATED, model.dtype),
        data_collator=collate,
        processing_class=SegformerImageProcessorPil(),
        callbacks=[gradients],
    )
    trainer.train()
    scores = trainer.evaluate()
    predicted = trainer.predict(trainer.eval_dataset)
    sharded = type(trainer.model).__name__.startswith("FSDP")  # After a forward pass the parameters are whole again.
    trainer.make_whole()
    return {
        "sharded": sharded,
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
        "weights": {} if average_weights is None else trainer.model.state_dict(),
        "scores": {
            name: score
            for name, score in scores.items()
            if not any(word in name for word in ("loss", "time", "second"))
        },
    }


if __name__ == "__main__":
    out, per_device, accumulation = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    if sys.argv[4] == "fsdp2":
        shard_on_the_cpu()
    cases = {"few": FEW, "many": MANY, "fsdp2": tuple(case for case in FEW + MANY if shards(*case))}[sys.argv[4]]
    runs = {"-".join(map(str, case)): (case, None) for case in cases}
    if sys.argv[4] == "many":
        runs["averaged"] = (MANY[0], AVERAGED)
    for name, (case, average_weights) in runs.items():
        result = run(*case, per_device, accumulation, str(out), average_weights)
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        torch.save(result, out / f"{name}-{rank}.pt")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
