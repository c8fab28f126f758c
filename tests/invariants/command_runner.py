"""
Runs of the command line whose batch of 8 is split as asked.

    torchrun --nproc_per_node 2 command_runner.py OUT PER_DEVICE ACCUMULATION ddp|fsdp2 CASE...

What rule 5 leaves out is off: the statistics of BatchNorm are frozen and nothing is dropped. Images are augmented as
ever: an image's draws are its own. A case whose name ends in float64 computes in that, where nothing but the split is
left that could make a difference.
"""

import functools
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch
from matplotlib.figure import Figure

from lrsegformer import LRSegformerForImageClassification, LRSegformerForSemanticSegmentation
from lrsegformer.cli.finetune import main
from lrsegformer.training.run import finetune
from tests.sharding import shard_on_the_cpu

# Of the validation images one process has more than the other, and of the last batch nothing of its own.
TOTAL, STEPS, EVALUATED, SIDE = 8, 2, 5, 32
OPTIONS = (
    f"--dataset digits --image_size {SIDE} --max_train_samples {STEPS * TOTAL} --max_eval_samples {EVALUATED} "
    f"--architecture tiny --use_cpu --max_steps {STEPS} --per_device_eval_batch_size 2 --dataloader_num_workers 0 "
    # Adam would make much of the rounding of gradients that are 0.
    "--optim sgd --learning_rate 1e-3 --constants_learning_rate 1e-3 --lr_scheduler_type constant --lambda_lip 0.3 "
    "--weight_decay 0 --max_grad_norm 0 --logging_steps 1 --save_strategy no --eval_strategy no --disable_tqdm True "
    "--report_to none"
).split()
# The attack takes signs, so a gradient that is zero but for its rounding moves a pixel by up to two radii. At this one
# such a pixel is below the tolerance, and the attack as a whole is far above it.
ADVERSARIAL_EPS = "0.1"


def options_of(case: str) -> list[str]:
    """The options of a case: task-strategy-scope-adversarial steps-precision."""
    _, strategy, scope, steps, _ = case.split("-")
    attack = [] if steps == "0" else ["--adversarial_steps", steps, "--adversarial_eps", ADVERSARIAL_EPS]
    of_network = (strategy, scope) == ("jacobian_norm", "network")
    options = ["--lipschitz_options", '{"jacobian": "network"}'] if of_network else []
    return ["--strategy", strategy, "--scope", scope, *options, *attack]


def run(case: str, per_device: int, accumulation: int, folder: Path) -> Path:
    """A run of the command line in `folder`, which is new; beside it `start`, the model that it began with."""
    split = ["--per_device_train_batch_size", str(per_device), "--gradient_accumulation_steps", str(accumulation)]
    with _settled(case, folder):
        main(case.split("-")[0], [*OPTIONS, *options_of(case), *split, "--output_dir", str(folder / "run")])
    return folder


@contextmanager
def _settled(case: str, folder: Path) -> Iterator[None]:
    """Starts models frozen where they have to be and in the precision of the case, and draws no pictures."""
    exact, make = case.endswith("float64"), finetune.start_model

    def start(*arguments):
        model = make(*arguments)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
                module.train = lambda mode=True, norm=module: norm
            elif isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        model = model.double() if exact else model
        if os.environ.get("RANK", "0") == "0":
            model.save_pretrained(folder / "start")
        return model

    with mock.patch.object(finetune, "start_model", start), mock.patch.object(Figure, "savefig", _touch):
        with _in_own_precision(LRSegformerForSemanticSegmentation):
            with _in_own_precision(LRSegformerForImageClassification):
                yield


def _touch(figure: Figure, file: object, **options: object) -> None:
    if isinstance(file, str | Path):
        Path(file).touch()


@contextmanager
def _in_own_precision(kind: type[torch.nn.Module]) -> Iterator[None]:
    """Models of this class take images, which data sets give in float32, in the precision of their weights."""
    forward = kind.forward

    @functools.wraps(forward)
    def with_cast(self, pixel_values=None, **inputs):
        return forward(self, pixel_values=pixel_values.to(self.dtype), **inputs)

    with mock.patch.object(kind, "forward", with_cast):
        yield


def _say_what_was_sharded(folder: Path) -> None:
    """Writes beside a run whether its parameters were divided over the processes when it trained."""
    from lrsegformer import LRSegformerTrainer

    step = LRSegformerTrainer.training_step

    def with_note(self, model, *arguments, **named):
        divided = sum(hasattr(each, "to_local") for each in self.model.parameters())
        (folder / f"sharded-{self.args.process_index}").write_text(str(divided))
        return step(self, model, *arguments, **named)

    LRSegformerTrainer.training_step = with_note


if __name__ == "__main__":
    out, per_device, accumulation, kind = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    torch.set_num_threads(1)
    if kind == "fsdp2":
        shard_on_the_cpu()
    _say_what_was_sharded(out)
    for case in sys.argv[5:]:
        run(case, per_device, accumulation, out / case)
    torch.distributed.destroy_process_group()
