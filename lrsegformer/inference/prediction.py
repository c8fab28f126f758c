"""What a model says of one image, and the pictures of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

from lrsegformer.evaluation.figures import palette

# Half image, half colour of the class.
OVERLAY_SHARE = 0.5


@dataclass(frozen=True, eq=False)
class MapPrediction:
    """
    The classes of an image's pixels, at the image's own size.

    Attributes:
        image (`PIL.Image.Image`): RGB, upright.
        class_names (`tuple[str, ...]`): in the order of the class indices.
        classes (`numpy.ndarray` of shape `(height, width)`): class indices; uint8, int16 above 256 classes. Every
            pixel has a class: none is void.
        confidence (`numpy.ndarray`, *optional*): float32 of that shape: the probability that the model gives the
            class, an estimate.
        certified_radius (`numpy.ndarray`, *optional*): float32 of that shape, rounded down: no change of the input
            that is shorter in l2, for pixels from 0 to 1, changes the pixel's class. The input is the image that the
            model receives, after the processor's resizing. Rounding inside the forward pass is not covered.
    """

    image: Image.Image
    class_names: tuple[str, ...]
    classes: np.ndarray
    confidence: np.ndarray | None = None
    certified_radius: np.ndarray | None = None

    def pixel_counts(self) -> np.ndarray:
        """int64 `(num_labels,)`: pixels of each class."""
        return np.bincount(self.classes.ravel(), minlength=len(self.class_names))

    def shares(self) -> dict[str, float]:
        """The share of the image's pixels that each class has, of the classes that occur, the largest first."""
        counts = self.pixel_counts()
        order = [index for index in np.argsort(-counts, kind="stable") if counts[index]]
        return {self.class_names[index]: float(counts[index] / self.classes.size) for index in order}

    def class_map(self) -> Image.Image:
        """
        The class indices as an image: mode P, whose palette has the colours of the overlay; mode I;16 above 256
        classes, which no palette holds.
        """
        if len(self.class_names) > 256:
            return Image.fromarray(self.classes.astype(np.uint16))
        picture = Image.fromarray(self.classes.astype(np.uint8), mode="P")
        picture.putpalette(colours_of(len(self.class_names)).tobytes())
        return picture

    def overlay(self) -> Image.Image:
        """The image under the colours of its classes, half each."""
        coloured = Image.fromarray(colours_of(len(self.class_names))[self.classes])
        return Image.blend(self.image, coloured, OVERLAY_SHARE)


@dataclass(frozen=True, eq=False)
class ClassPrediction:
    """
    The class of an image.

    Attributes:
        image (`PIL.Image.Image`): RGB, upright.
        class_names (`tuple[str, ...]`): in the order of the class indices.
        probabilities (`numpy.ndarray` of shape `(num_labels,)`): float32, the softmax of the logits: estimates.
        index (`int`): of the largest logit.
        certified_radius (`float`, *optional*): as of [`MapPrediction`], of the image's class.
    """

    image: Image.Image
    class_names: tuple[str, ...]
    probabilities: np.ndarray
    index: int
    certified_radius: float | None = None

    @property
    def name(self) -> str:
        """The predicted class."""
        return self.class_names[self.index]

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """The most probable classes with their probabilities, the predicted one first."""
        others = [place for place in np.argsort(-self.probabilities, kind="stable") if place != self.index]
        order = [self.index, *others][:count]
        return [(self.class_names[place], float(self.probabilities[place])) for place in order]


@lru_cache(maxsize=4)
def colours_of(num_labels: int) -> np.ndarray:
    """[`~lrsegformer.evaluation.palette`], which takes a moment, once."""
    return palette(num_labels)
