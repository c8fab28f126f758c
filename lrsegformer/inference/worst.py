"""The sheet of the images that came out worst."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from lrsegformer.data.dataset import ImageDataset
from lrsegformer.evaluation.figures import palette
from lrsegformer.inference.predictor import Predictor
from lrsegformer.inference.scoring import ImageScore
from lrsegformer.robustness.report.sheets import VOID, coloured, draw_sheet, is_class, legend_of, sized

_WRONG = (220, 30, 30)
_IN_A_ROW = 4  # images of a classification sheet
_LONGEST_NAME = 34


def save_worst(
    predictor: Predictor, dataset: ImageDataset, worst: Sequence[ImageScore], title: str, path: Path
) -> None:
    """
    Draw the images, the worst first.

    For segmentation a row each: image, truth, prediction, and the wrong pixels in red on the grey image, with mean IoU
    and the share of right pixels. For classification each with what it was taken for, its class, and the loss.

    Args:
        predictor ([`~lrsegformer.inference.Predictor`]): of the first protocol, by which images were ranked.
        dataset ([`~lrsegformer.data.dataset.ImageDataset`]): that was scored.
        worst (sequence of [`~lrsegformer.inference.scoring.ImageScore`]): at least one.
        title (`str`): of the sheet.
        path (`Path`): the PNG file to write.
    """
    segments = predictor.task == "segmentation"
    cells, maps = [], []
    for score in worst:
        example = dataset.source[int(dataset.indices[score.position])]
        prediction = predictor(example.image)
        name = Path(example.name).name
        if not segments:
            truth = predictor.class_names[int(example.target)]
            share = prediction.probabilities[prediction.index]
            caption = f"{_short(prediction.name)} ({share:.0%}), true {_short(truth)}, loss {score.badness:.2f}"
            cells.append((sized(np.asarray(example.image)), caption))
            continue
        truth = dataset.label_space.encode_mask(example.target, example.name)
        maps += [truth, prediction.classes]
        cells.append(_row(example.image, truth, prediction.classes, name, score, len(predictor.class_names)))
    colours = palette(len(predictor.class_names))
    rows = cells if segments else [cells[start : start + _IN_A_ROW] for start in range(0, len(cells), _IN_A_ROW)]
    legend = legend_of(maps, colours, predictor.class_names) if segments else []
    draw_sheet(rows, title, legend, path)


def _row(
    image: Image.Image, truth: np.ndarray, classes: np.ndarray, name: str, score: ImageScore, num_labels: int
) -> list[tuple[Image.Image, str]]:
    colours = palette(num_labels)
    counted = is_class(truth, num_labels)
    wrong = counted & (classes.astype(np.int64) != truth)
    errors = np.repeat(np.asarray(image.convert("L"))[..., None], 3, axis=-1)
    errors = np.where(counted[..., None], errors, np.uint8(VOID))
    errors = np.where(wrong[..., None], np.uint8(_WRONG), errors)
    caption = name if len(name) <= _LONGEST_NAME else f"...{name[-_LONGEST_NAME:]}"
    return [
        (sized(np.asarray(image)), caption),
        (sized(coloured(truth, colours)), "truth"),
        (sized(coloured(classes, colours)), f"prediction: mean IoU {1 - score.badness:.3f}"),
        (sized(errors), f"wrong in red: {100 * score.accuracy:.1f} % right"),
    ]


def _short(name: str) -> str:
    return name if len(name) <= 14 else f"{name[:12]}.."
