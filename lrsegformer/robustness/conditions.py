"""What a model is put to: clean images, an attack, a corruption, other data. Light: option parsing imports it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Condition:
    """
    What a model is put to.

    Attributes:
        kind (`str`): `"clean"`, `"gradients"`, `"attack"`, `"corruption"`, `"shifted"`, `"reliability"` or
            `"smoothing"`.
        name (`str`): of the attack, corruption or data set.
        norm (`str`, *optional*): `"linf"`, `"l2"` or `"per_pixel_l2"`, of an attack.
        radius (`float`, *optional*): of an attack, in [0, 1] pixel space: in 1/255 for linf and per_pixel_l2, and
            plain for l2.
        severity (`int`, *optional*): 1 to 5, of a corruption.
        steps, restarts (`int`, *optional*): of an attack.
        targeted (`bool`): whether an attack aims at given classes.
    """

    kind: str
    name: str = ""
    norm: str | None = None
    radius: float | None = None
    severity: int | None = None
    steps: int | None = None
    restarts: int | None = None
    targeted: bool = False

    @property
    def label(self) -> str:
        """A name for files and progress lines, such as `pgd-linf-0.5` or `fog-3`."""
        parts = [self.name or self.kind, *(["targeted"] if self.targeted else []), self.norm]
        parts += [None if self.radius is None else f"{self.radius:g}", self.severity]
        return "-".join(str(part).replace("/", "-") for part in parts if part is not None)
