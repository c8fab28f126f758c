"""The options of the robustness bench. Light on purpose: `--help` imports this file, so no torch, no transformers."""

import math
from dataclasses import dataclass, field, replace

from lrsegformer.attacks.registry import ATTACKS, followers, names_where, what_attacks_do
from lrsegformer.choices import NORMS, NORMS_IN_255THS
from lrsegformer.data.arguments import DIGITS, FOLDER_OPTIONS, DataArguments
from lrsegformer.errors import InputError
from lrsegformer.ranges import COUNT, SEED, check_ranges
from lrsegformer.robustness.conditions import Condition
from lrsegformer.robustness.shift.corruption_names import SEVERITIES, corruption_names

DEFAULT_SUBSET = 200
# The diagonal of the colour cube is sqrt(3) of its edges.
_REACHES_EVERY_IMAGE = {"linf": 255, "per_pixel_l2": 442}
# What other rows of a report are called.
RESERVED_NAMES = ("clean", "train", "gradients", "reliability")


@dataclass
class BenchDataArguments(DataArguments):
    """
    [`DataArguments`] of which the bench scores a seeded subset of the validation split.

    Of the four folder options the two for training may be left out: only the gap between training and validation needs
    them.
    """

    max_eval_samples: int | None = field(
        default=None,
        metadata={
            "help": f"Images of the validation split to score: the first of a shuffle by --seed. Default: "
            f"{DEFAULT_SUBSET}; the tables say how many of how many."
        },
    )

    image_size: int | None = field(
        default=None, metadata={"help": "Side of the images that `digits` are made with (128 and 64 by default)."}
    )
    eval_size: int | None = field(
        default=None,
        metadata={
            "help": "Score all models at this size, as in training's --eval_size. Default: each model's inputs are "
            "made by the image processor saved with it, as for the scores of its run."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        if self.image_size is not None and self.dataset != DIGITS:
            raise InputError(
                f"--image_size {self.image_size} is the side of training crops, and models are scored on the inputs "
                "that their saved image processors make: leave it out, or give --eval_size"
            )

    @property
    def lacks_training_folders(self) -> bool:
        """Whether the data are the validation folders alone."""
        return self.validation_images is not None and self.train_images is None and self.train_masks is None

    def with_training_folders(self) -> "BenchDataArguments":
        """The same options; where the training folders were left out, the validation folders stand in for them."""
        if not self.lacks_training_folders:
            return self
        return replace(self, train_images=self.validation_images, train_masks=self.validation_masks)

    def _needed_folders(self) -> tuple[str, ...]:
        return FOLDER_OPTIONS[2:] if self.lacks_training_folders else FOLDER_OPTIONS


_RANGES = {"steps": COUNT, "restarts": COUNT, "batch_size": COUNT, "seed": SEED}


@dataclass
class RobustnessArguments:
    """
    Which models are scored under which conditions.

    Raises:
        InputError: a number is out of its range, a name is unknown, or two options contradict each other.
    """

    models: list[str] = field(
        metadata={"help": "Checkpoints to compare: folders or Hub ids, ours or stock SegFormer, all of one task."}
    )
    attacks: list[str] = field(default_factory=list, metadata={"help": f"Attacks. {what_attacks_do()}."})
    norm: str = field(
        default="linf",
        metadata={
            "help": "Norm of the perturbations: linf, l2 of the whole image, or per_pixel_l2, in which each pixel may "
            "move by the radius in l2 over its channels.",
            "choices": NORMS,
        },
    )
    eps: list[float] = field(
        default_factory=list,
        metadata={
            "help": "Radii, in 1/255 for linf and per_pixel_l2 and plain for l2, of pixels from 0 to 1 whatever the "
            "normalisation."
        },
    )
    steps: int | None = field(default=None, metadata={"help": f"Steps of {followers('steps')}."})
    restarts: int = field(default=1, metadata={"help": f"Random starts of {followers('restarts')}."})
    targeted: bool = field(
        default=False,
        metadata={"help": f"Attack towards a class drawn for each image ({followers('targeted')})."},
    )
    corruptions: list[str] = field(
        default_factory=list,
        metadata={"help": "Corruptions by name, `common` for the 15 of ImageNet-C, `extra` for 4 more, or `all`."},
    )
    severities: list[int] = field(
        default_factory=lambda: list(SEVERITIES), metadata={"help": "Severities of the corruptions, from 1 to 5."}
    )
    shifted: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Other data: imagenet-v2, imagenet-a, imagenet-r or imagenet-sketch (from the Hub, or "
            "NAME=FOLDER), imagenet-c=FOLDER, any other NAME=FOLDER of the same task, or NAME=FILE, a list of file "
            "stems of the data set's validation images."
        },
    )
    class_mappings: list[str] = field(
        default_factory=list,
        metadata={"help": "NAME=FILE: the model's class for each class of a --shifted data set, as JSON or CSV."},
    )
    synsets: str | None = field(
        default=None,
        metadata={
            "help": "File whose line i begins with the wnid of the models' class i, for --shifted data in folders "
            "named by wnid. Models of ImageNet's 1000 classes in their usual order need none."
        },
    )
    reliability: bool = field(
        default=False,
        metadata={
            "help": "Also calibration, small-object IoU, an estimate of the local Lipschitz constant at the data, and "
            "the gap between training and validation."
        },
    )
    batch_size: int = field(default=8, metadata={"help": "Images a forward pass; halved where memory runs out."})
    seed: int = field(default=42, metadata={"help": "Seed of the subset, of random starts and of corruptions."})
    output_dir: str = field(
        default="reports/robustness",
        metadata={"help": "Folder of the report. What it holds already of the same cells is not computed again."},
    )

    def __post_init__(self):
        _check_names("--attacks", self.attacks, tuple(ATTACKS))
        _check_names("--norm", [self.norm], NORMS)
        for radius in self.eps:
            if not (math.isfinite(radius) and radius > 0):
                raise InputError(
                    f"--eps {radius:g}: a radius is a number above 0 (the clean images are always scored)"
                )
            if self.norm in NORMS_IN_255THS and radius > _REACHES_EVERY_IMAGE[self.norm]:
                raise InputError(
                    f"--eps {radius:g}: {self.norm} radii are in 1/255, so {_REACHES_EVERY_IMAGE[self.norm]} reaches "
                    "every image"
                )
        if self.attacks and not self.eps:
            raise InputError("--attacks needs radii: give --eps, such as --eps 0.25 0.5 1 2 4 for linf")
        if self.eps and not self.attacks:
            raise InputError("--eps gives radii but no attack was asked for: give --attacks, such as --attacks pgd")
        check_ranges(self, _RANGES)
        for severity in self.severities:
            if severity not in SEVERITIES:
                raise InputError(f"--severities {severity}: give whole numbers from 1 to 5")
        for attack in self.attacks:
            self._check_attack(attack)
        self._check_used("steps", self.steps is not None)
        self._check_used("restarts", self.restarts > 1)
        self._check_used("targeted", self.targeted)
        _check_set_names(self.shifted)
        if not self.models:
            raise InputError("--models needs at least one checkpoint")
        self._drop_repetitions()
        self.corruptions = list(corruption_names(self.corruptions))

    def _check_attack(self, attack: str) -> None:
        norms = ATTACKS[attack].norms
        if self.norm not in norms:
            raise InputError(f"--attacks {attack} has no norm {self.norm}: give --norm {norms[0]}, or leave it out")
        if self.targeted and not ATTACKS[attack].follows("targeted"):
            raise InputError(
                f"--attacks {attack} has no targeted form here: with --targeted give {followers('targeted')}"
            )

    def _check_used(self, option: str, given: bool) -> None:
        if given and not any(ATTACKS[name].follows(option) for name in self.attacks):
            raise InputError(
                f"--{option} is used by none of the attacks: leave it out, or give one of {followers(option)}"
            )

    def _drop_repetitions(self) -> None:
        for name in ("models", "attacks", "eps", "corruptions", "severities", "shifted", "class_mappings"):
            setattr(self, name, list(dict.fromkeys(getattr(self, name))))

    def check_task(self, task: str) -> None:
        """Raises `InputError` for an attack that the models' task does not have."""
        for attack in self.attacks:
            tasks = ATTACKS[attack].tasks
            if task not in tasks:
                fitting = ", ".join(names_where(lambda other: task in other.tasks))
                raise InputError(f"--attacks {attack} is for {tasks[0]}, and these models do {task}: give {fitting}")


def attack_conditions(arguments: RobustnessArguments) -> list[Condition]:
    """Every attack at every radius, with the numbers that it runs with."""
    conditions = []
    for name in arguments.attacks:
        attack = ATTACKS[name]
        steps = arguments.steps if attack.follows("steps") and arguments.steps is not None else attack.steps
        restarts = arguments.restarts if attack.follows("restarts") else 1
        for radius in [None] if attack.finds_radius else arguments.eps:
            conditions.append(
                Condition(
                    "attack",
                    name,
                    norm=arguments.norm,
                    radius=radius,
                    steps=steps,
                    restarts=restarts,
                    targeted=arguments.targeted,
                )
            )
    return conditions


def _check_set_names(shifted: list[str]) -> None:
    names = [entry.split("=", 1)[0] for entry in shifted]
    for entry, name in zip(shifted, names, strict=True):
        if not name or name in RESERVED_NAMES:
            raise InputError(f"--shifted {entry}: write NAME=FOLDER with a name of your own (not {name or 'nothing'})")
        if names.count(name) > 1 and shifted.count(entry) == 1:
            raise InputError(f"--shifted {entry}: the name {name} stands for two data sets; give each its own")


def _check_names(option: str, given: list[str], known: tuple[str, ...]) -> None:
    for name in given:
        if name not in known:
            raise InputError(f"{option} {name!r} is unknown: choose from {', '.join(known)}")
