"""The options of the certificates. Light on purpose: `--help` imports this file, so no torch, no transformers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from lrsegformer.attacks.registry import ATTACKS, followers, names_where, what_attacks_do
from lrsegformer.choices import CERTIFICATE_NORMS, NORMS_IN_255THS, SMOOTHING_CORRECTIONS
from lrsegformer.errors import InputError
from lrsegformer.ranges import FROM_ZERO, check_ranges
from lrsegformer.robustness.bench.arguments import RobustnessArguments

DEFAULT_RADII = ("18/255", "36/255", "72/255")
DEFAULT_TAU = 0.75
# What `--smoothing` is asked for by.
_OF_SMOOTHING = ("sigma", "n0", "n", "tau", "alpha", "correction")


@dataclass
class CertificateArguments:
    """
    Which models are certified, at which radii, and what stands beside it.

    Raises:
        InputError: a number is out of its range, a name is unknown, or two options contradict each other.
    """

    models: list[str] = field(
        metadata={
            "help": "Checkpoints to certify: folders or Hub ids, ours or stock SegFormer, all of one task.",
            "aliases": ["--model"],
        }
    )
    radii: list[str] = field(
        default_factory=lambda: list(DEFAULT_RADII),
        metadata={"help": "Radii of pixels from 0 to 1 whatever the normalisation, such as 36/255 or 0.5."},
    )
    per_pixel_radii: list[str] = field(
        default_factory=list, metadata={"help": "Radii for per_pixel_l2. Default: those of --radii."}
    )
    norms: list[str] = field(
        default_factory=lambda: ["l2"],
        metadata={
            "help": "Norms of the perturbation: l2 over the whole image; per_pixel_l2, in which every pixel may move "
            "by the radius at once, in l2 over its channels.",
            "choices": CERTIFICATE_NORMS,
        },
    )
    attacks: list[str] = field(
        default_factory=list, metadata={"help": f"Attacks at the same radii and norms. {what_attacks_do()}."}
    )
    steps: int | None = field(default=None, metadata={"help": f"Steps of {followers('steps')}."})
    restarts: int = field(default=1, metadata={"help": f"Random starts of {followers('restarts')}."})
    smoothing: bool = field(
        default=False,
        metadata={"help": "Also certify by randomised smoothing (l2), which takes any model and n0 + n passes."},
    )
    sigma: float | None = field(
        default=None, metadata={"help": "Standard deviation of the noise, of pixels from 0 to 1. Default: 0.25."}
    )
    n0: int | None = field(default=None, metadata={"help": "Samples that choose the class. Default: 10."})
    n: int | None = field(default=None, metadata={"help": "Samples that test it. Default: 100."})
    tau: float | None = field(
        default=None,
        metadata={
            "help": "Probability that pixels are tested for: the radius is sigma times the normal quantile of tau. "
            f"For segmentation alone. Default: {DEFAULT_TAU}."
        },
    )
    alpha: float | None = field(
        default=None, metadata={"help": "Probability that an image's certificate is wrong. Default: 0.001."}
    )
    correction: str | None = field(
        default=None,
        metadata={"help": "For the many tests of an image. Default: holm.", "choices": SMOOTHING_CORRECTIONS},
    )
    pictures: int = field(default=4, metadata={"help": "Images of which a picture with the map of radii is drawn."})
    batch_size: int = field(default=8, metadata={"help": "Images a forward pass; halved where memory runs out."})
    seed: int = field(default=42, metadata={"help": "Seed of the subset, of random starts and of the noise."})
    output_dir: str = field(
        default="reports/certificates",
        metadata={"help": "Folder of the report. Attacks that it holds already are not run again."},
    )

    def __post_init__(self):
        for name in ("models", "norms", "attacks"):
            setattr(self, name, list(dict.fromkeys(getattr(self, name))))
        for norm in self.norms:
            if norm not in CERTIFICATE_NORMS:
                raise InputError(f"--norms {norm!r} is unknown: choose from {', '.join(CERTIFICATE_NORMS)}")
        for option, empty in (("models", not self.models), ("norms", not self.norms), ("radii", not self.radii)):
            if empty:
                raise InputError(f"--{option} needs at least one")
        if self.per_pixel_radii and "per_pixel_l2" not in self.norms:
            raise InputError("--per_pixel_radii is for --norms per_pixel_l2: add that norm, or leave the radii out")
        for norm in self.norms:
            self.radii_of(norm)
            self.bench_arguments(norm)
        self._check_smoothing()
        check_ranges(self, {"pictures": FROM_ZERO})

    def radii_of(self, norm: str) -> list[float]:
        """The radii in a norm, rising, each once."""
        given = self.per_pixel_radii if norm == "per_pixel_l2" and self.per_pixel_radii else self.radii
        return sorted({parse_radius(text) for text in given})

    def bench_radii_of(self, norm: str) -> list[float]:
        """The same as the robustness bench counts them."""
        return [as_eps(norm, radius) for radius in self.radii_of(norm)]

    def bench_arguments(self, norm: str | None = None) -> RobustnessArguments:
        """The options of the robustness bench that run the attacks of a norm; without one no attack, clean images."""
        options = {"batch_size": self.batch_size, "seed": self.seed, "output_dir": self.output_dir}
        if norm is None or not self.attacks:
            return RobustnessArguments(self.models, **options)
        for attack in self.attacks:
            if attack in ATTACKS and norm not in ATTACKS[attack].norms:
                fitting = ", ".join(names_where(lambda other: norm in other.norms)) or "none"
                raise InputError(f"--attacks {attack} has no norm {norm} (--norms): those that have it are {fitting}")
        options |= {"attacks": self.attacks, "norm": norm, "eps": self.bench_radii_of(norm)}
        return RobustnessArguments(self.models, **options, steps=self.steps, restarts=self.restarts)

    def check_task(self, task: str) -> None:
        """Raises `InputError` for an option that the models' task does not have."""
        self.bench_arguments(self.norms[0]).check_task(task)
        if self.tau is not None and task == "classification":
            raise InputError("--tau is for segmentation: an image's radius follows from its own samples; leave it out")

    def smoothing_options(self) -> dict[str, float | int | str]:
        """What [`~lrsegformer.certification.smoothing.Smoothing`] is made of."""
        given = {name: getattr(self, name) for name in _OF_SMOOTHING}
        return {"sigma": 0.25, **{name: value for name, value in given.items() if value is not None}}

    def _check_smoothing(self) -> None:
        given = [name for name in _OF_SMOOTHING if getattr(self, name) is not None]
        if given and not self.smoothing:
            raise InputError(f"--{given[0]} is an option of --smoothing: add that, or leave it out")
        if not self.attacks:
            for name in ("steps", "restarts"):
                if getattr(self, name) not in (None, 1):
                    raise InputError(f"--{name} is used by attacks: give --attacks, or leave it out")


def as_eps(norm: str, radius: float) -> float:
    """A radius of pixels from 0 to 1 in the units of the robustness bench and its conditions."""
    return 255 * radius if norm in NORMS_IN_255THS else radius


def parse_radius(text: str | float) -> float:
    """
    A radius such as `"36/255"` or `"0.5"`.

    Raises:
        InputError: it is no number above 0.
    """
    try:
        numerator, _, denominator = str(text).partition("/")
        radius = float(numerator) / float(denominator or 1)
    except (ValueError, ZeroDivisionError):
        raise InputError(f"--radii {text!r}: write a number above 0, such as 36/255 or 0.5") from None
    if not (math.isfinite(radius) and radius > 0):
        raise InputError(f"--radii {text}: a radius is a number above 0 (clean images are always scored)")
    return radius
