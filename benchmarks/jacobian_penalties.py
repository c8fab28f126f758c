"""
Ways to train a robust network, at equal time: penalties on its Jacobian, adversarial training, and TRADES.

    python benchmarks/jacobian_penalties.py --model_name_or_path path/to/mit-b0 --dataset path/to/folders \\
        --seconds 60 --output docs/benchmarks.md

Each way fine-tunes the same model by itself until its seconds of the processor are used up; the ways take turns step
by step, on the same batches. Then held-out images say how steep each has become, and how it holds. Writes the section
`robust-training-time`, or with `--steps` in place of `--seconds` `robust-training-steps`.
"""

import argparse
import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from report import markdown_table, publish, run_header, significant
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from lrsegformer.data import DataArguments, load_data
from lrsegformer.data.dataset import collate
from lrsegformer.losses import consistency_loss
from lrsegformer.models.eval_mode import eval_mode
from lrsegformer.models.jacobian import difference_penalty, jacobian_penalty, sample_seeds, seeds_of_step
from lrsegformer.models.loading import build_model, load_model
from lrsegformer.robustness.metrics.local_lipschitz import local_lipschitz_estimate
from lrsegformer.training.adversarial.perturbation import AdversarialTraining

BATCH, SHARE, EVERY, EPS, BETA = 16, 0.125, 8, 1.0, 6.0
HEADER = ["way", "time of a step / plain", "steps", "accuracy", "PGD-10 at 1/255", "slope, mean (estimate)"]
EXPLANATION = """
Classification of {images} held-out images of {data} after {spent} each, {batch} images a step, AdamW
at 1e-4; penalties weigh {weight:g}, beta is 6, one adversarial step at 1/255. The slope is the steepest that a power
iteration of 10 slopes finds around an image, l2, from pixels in [0, 1] to logits: an estimate from below. One seed
({seed}).
"""

# From the model, the images, the labels and the step to the loss.
Loss = Callable[[nn.Module, Tensor, Tensor, int], Tensor]


def logits(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """The model in eval mode, by attention that can be differentiated twice."""

    def function(images: Tensor) -> Tensor:
        with eval_mode(model), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            return model(pixel_values=images).logits

    return function


def plain(model: nn.Module, images: Tensor, labels: Tensor, step: int) -> Tensor:
    return model(pixel_values=images, labels=labels).loss


def penalised(penalty: Callable[..., Tensor], weight: float, share: float = 1.0, every: int = 1) -> Loss:
    """The task loss and a penalty on a share of each batch, or on whole batches now and then."""

    def loss(model: nn.Module, images: Tensor, labels: Tensor, step: int) -> Tensor:
        total = plain(model, images, labels, step)
        if step % every:
            return total
        chosen = images[: round(share * len(images))]  # Batches are shuffled.
        seeds = seeds_of_step(sample_seeds(chosen), step)
        return total + weight * every * penalty(logits(model), chosen, seeds)

    return loss


def perturbed(attack: AdversarialTraining) -> Loss:
    """The task loss of perturbed images, or with the divergence that the attack has raised."""

    def loss(model: nn.Module, images: Tensor, labels: Tensor, step: int) -> Tensor:
        if not attack.is_consistency:
            found = attack.perturb(model, images, lambda moved: plain(model, moved, labels, step), step)
            return plain(model, found, labels, step)
        with eval_mode(model), torch.no_grad():
            fixed = model(pixel_values=images).logits
        found = attack.perturb(
            model, images, lambda moved: consistency_loss(fixed, model(pixel_values=moved).logits, labels), step
        )
        state = torch.get_rng_state()
        outputs = model(pixel_values=images, labels=labels)
        torch.set_rng_state(state)
        return outputs.loss + BETA * consistency_loss(outputs.logits, model(pixel_values=found).logits, labels)

    return loss


def ways(weight: float) -> dict[str, Loss]:
    statistics = (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    return {
        "plain": plain,
        "Jacobian, double backward": penalised(jacobian_penalty, weight),
        "Jacobian, differences": penalised(difference_penalty, weight),
        f"Jacobian, double backward, {SHARE:g} of the images": penalised(jacobian_penalty, weight, SHARE),
        f"Jacobian, differences, {SHARE:g} of the images (`jacobian_norm`)": penalised(
            difference_penalty, weight, SHARE
        ),
        f"Jacobian, differences, every {EVERY}th step": penalised(difference_penalty, weight, every=EVERY),
        "adversarial, cross entropy": perturbed(AdversarialTraining(1, EPS, *statistics)),
        "adversarial, TRADES": perturbed(AdversarialTraining(1, EPS, *statistics, "trades")),
    }


@dataclass
class Run:
    """A model that is trained one way, and the time that each of its steps took."""

    model: nn.Module
    loss: Loss
    seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.model = copy.deepcopy(self.model).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, weight_decay=0.01)

    def step(self, images: Tensor, labels: Tensor) -> None:
        start = time.process_time()
        self.optimizer.zero_grad()
        self.loss(self.model, images, labels, len(self.seconds)).backward()
        self.optimizer.step()
        self.seconds.append(time.process_time() - start)


def train(runs: dict[str, Run], loader: DataLoader, seconds: float, steps: int | None) -> None:
    """Each its seconds, or its steps, in turns; every way sees the batches in the same order."""
    while True:
        for batch in loader:
            left = [
                run
                for run in runs.values()
                if (sum(run.seconds) < seconds if steps is None else len(run.seconds) < steps)
            ]
            if not left:
                return
            for run in left:
                run.step(batch["pixel_values"], batch["labels"].long())


def scores(model: nn.Module, loader: DataLoader) -> list[float]:
    """Accuracy, accuracy under attack, mean slope."""
    model.eval()
    attack = AdversarialTraining(10, EPS, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    sums = torch.zeros(3, dtype=torch.float64)
    for batch in loader:
        images, labels = batch["pixel_values"], batch["labels"].long()
        found = attack.perturb(model, images, lambda moved, labels=labels: plain(model, moved, labels, 0), 0)
        with torch.no_grad():
            right = [(model(pixel_values=each).logits.argmax(dim=1) == labels).sum() for each in (images, found)]
        slopes = local_lipschitz_estimate(
            lambda pixels: model(pixel_values=(pixels - mean) / std).logits, images * std + mean, 10
        )
        sums += torch.stack([*(each.double() for each in right), slopes.double().sum()])
    return (sums / len(loader.dataset)).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", help="checkpoint to start from; by default the architecture tiny")
    parser.add_argument("--dataset", default="digits", help="as the command lines take it")
    parser.add_argument("--image_size", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60, help="of the processor, for each way")
    parser.add_argument("--steps", type=int, help="for each way, in place of the seconds")
    parser.add_argument("--only", nargs="+", choices=ways(0.0), help="of the ways, beside plain")
    parser.add_argument("--weight", type=float, default=1.0, help="of the penalties")
    parser.add_argument("--max_eval_samples", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="Markdown file whose section is replaced")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)
    data = DataArguments(
        dataset=arguments.dataset, image_size=arguments.image_size, max_eval_samples=arguments.max_eval_samples
    )
    splits = load_data(data, "classification", arguments.seed, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    names = {"id2label": splits.label_space.id2label, "label2id": splits.label_space.label2id}
    if arguments.model_name_or_path is None:
        model = build_model("classification", "tiny", **names)
    else:
        model = load_model("classification", arguments.model_name_or_path, **names)

    def chosen(name: str) -> bool:
        return arguments.only is None or name in ("plain", *arguments.only)

    runs = {name: Run(model, loss) for name, loss in ways(arguments.weight).items() if chosen(name)}
    loader = DataLoader(splits.train, BATCH, shuffle=True, drop_last=True, collate_fn=collate)
    train(runs, loader, arguments.seconds, arguments.steps)
    held_out = DataLoader(splits.validation, 25, collate_fn=collate)
    rows = []
    for name, run in runs.items():
        of_run = scores(run.model, held_out)
        # Of the steps that all have made, for the ways took turns then.
        together = min(len(each.seconds) for each in runs.values())
        ratio = sum(run.seconds[:together]) / sum(runs["plain"].seconds[:together])
        rows.append([name, f"{ratio:.2f}", str(len(run.seconds)), *(significant(value) for value in of_run)])
        print(rows[-1], flush=True)
    text = EXPLANATION.strip().format(
        spent=f"{arguments.steps} steps" if arguments.steps else f"{arguments.seconds:g} s of one core",
        images=len(splits.validation),
        data=Path(arguments.dataset).name,
        batch=BATCH,
        **vars(arguments),
    )
    unit = "time" if arguments.steps is None else "steps"
    parts = [f"## Robust training at equal {unit}", run_header(["torch", "transformers"]), text]
    publish("\n\n".join([*parts, markdown_table(HEADER, rows)]), arguments.output, f"robust-training-{unit}")


if __name__ == "__main__":
    main()
