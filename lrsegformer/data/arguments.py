"""What the user says about the data. Light on purpose: `--help` imports this file, so no torch, no transformers."""

import math
from dataclasses import dataclass, field

from lrsegformer.errors import InputError
from lrsegformer.ranges import COUNT, PART, POSITIVE, SHARE, Range, check_ranges

# The built-in data set.
DIGITS = "digits"
# SegFormer's first stage, at a quarter of the resolution, reduces its keys by 8 and needs one whole window for that.
SMALLEST_INPUT = 29
# A typing error, not an image: a square of it in float32 takes 50 GB.
LARGEST_INPUT = 65536

_INPUT_SIDE = Range(f"a whole number from {SMALLEST_INPUT} to {LARGEST_INPUT}", low=SMALLEST_INPUT, high=LARGEST_INPUT)
_RANGES = {
    "image_size": _INPUT_SIDE,
    "eval_size": _INPUT_SIDE,
    "scale_min": POSITIVE,
    "scale_max": POSITIVE,
    "colour_distortion": SHARE,
    "crop_area_min": PART,
    "max_train_samples": COUNT,
    "max_eval_samples": COUNT,
    "image_page": COUNT,
    "max_image_pixels": COUNT,
}


@dataclass
class DataArguments:
    """
    Where the images come from, what their labels mean, and the size they are trained and scored at.

    A data set is named in one of three ways: `dataset` (built-in `digits`, a folder, or an id on the Hub), or the four
    folders `train_images`, `train_masks`, `validation_images` and `validation_masks`.

    Raises:
        InputError: when two options contradict each other or a number is out of its range.
    """

    dataset: str | None = field(
        default=None,
        metadata={
            "help": "`digits` (built in, needs no network), the path of a local folder, or a data set id on the Hub. "
            "Default: merve/scene_parse_150 (ADE20K) for segmentation, ILSVRC/imagenet-1k for classification."
        },
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration name of a Hub data set."})
    dataset_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of a Hub data set. Default: its main branch."}
    )
    train_split: str = field(default="train", metadata={"help": "Name of the split (or folder) to train on."})
    validation_split: str = field(default="validation", metadata={"help": "Name of the split (or folder) to score."})
    image_column: str | None = field(
        default=None, metadata={"help": "Column of a Hub data set that holds the images. Default: found by its type."}
    )
    label_column: str | None = field(
        default=None,
        metadata={"help": "Column of a Hub data set that holds the masks or classes. Default: found by its type."},
    )
    train_images: str | None = field(default=None, metadata={"help": "Folder of training images."})
    train_masks: str | None = field(
        default=None, metadata={"help": "Folder of training masks, paired with the images by name."}
    )
    validation_images: str | None = field(default=None, metadata={"help": "Folder of validation images."})
    validation_masks: str | None = field(
        default=None, metadata={"help": "Folder of validation masks, paired with the images by name."}
    )
    image_suffix: str | None = field(
        default=None,
        metadata={
            "help": "What the names of the images in folders end in, before the ending or with it: _leftImg8bit, "
            ".jpg. Other files are left out. Default: found where every image has one mask."
        },
    )
    mask_suffix: str | None = field(
        default=None,
        metadata={
            "help": "What the names of the masks in folders end in, before the ending or with it: _mask, "
            "_gtFine_labelIds.png. Other files are left out. Default: found where every image has one mask."
        },
    )
    class_names: str | None = field(
        default=None,
        metadata={
            "help": "Class names: a list with commas, or a file: JSON (id2label, label2id, a model's config.json, a "
            "list), a table whose header has a column `name` (ADE20K's objectInfo150.csv, say), lines of index and "
            "name, or one name a line. For class folders also lines of folder<TAB>name."
        },
    )
    mask_values: str | None = field(
        default=None,
        metadata={
            "help": "Mask values or colours in the order of the classes (0,255 or #000000,#ff0000), or JSON or a file "
            "from value or colour to class name (null for void). Default: a class's value is its index."
        },
    )
    ignore_label: int | None = field(
        default=None,
        metadata={"help": "Value in the mask files that means void and never counts, besides 255 (11 for CamVid)."},
    )
    reduce_zero_label: bool | None = field(
        default=None,
        metadata={
            "help": "Treat 0 in the mask files as void and shift the other values down by one. Default: what the "
            "data set needs (true for ADE20K, else false).",
            "nargs": "?",
            "const": True,
        },
    )
    image_range: str | None = field(
        default=None,
        metadata={
            "help": "Values that become black and white, for images with more than 8 bits a channel: 0,4095. Default: "
            "found once over the training images, said, and saved with the model."
        },
    )
    image_bands: str | None = field(
        default=None,
        metadata={
            "help": "The three bands to use as red, green and blue, or the one to use as grey, counted from 1: 4,3,2. "
            "Needed for images with other bands than one, three, or three and an opaque alpha channel."
        },
    )
    image_page: int | None = field(
        default=None,
        metadata={"help": "The page to use of image and mask files that hold several (TIFF, GIF), counted from 1."},
    )
    max_image_pixels: int | None = field(
        default=None,
        metadata={
            "help": "Refuse images of more pixels. Default: Pillow's limit against decompression bombs, 178956970."
        },
    )
    image_size: int | None = field(
        default=None,
        metadata={
            "help": "Side of a training crop (segmentation) or of the input (classification), in pixels. Default: "
            "512 for segmentation, 224 for classification; 128 and 64 for `digits`."
        },
    )
    eval_size: int | None = field(
        default=None,
        metadata={
            "help": "Size of an image at evaluation, in pixels: for segmentation the short side, around which "
            "training scales vary (the long side is at most 2048, or four times the short side where that is more); "
            "for classification the side of the centre square, which is cut after the short side was brought to 8/7 "
            "of it. Default: --image_size."
        },
    )
    scale_min: float = field(default=0.5, metadata={"help": "Smallest random scale of a segmentation image."})
    scale_max: float = field(default=2.0, metadata={"help": "Largest random scale of a segmentation image."})
    whole_images: bool = field(
        default=False,
        metadata={
            "help": "Segmentation: train on whole images instead of crops, at the sizes that --eval_size and the "
            "random scale give; images of one batch have to come out at one size.",
            "nargs": "?",
            "const": True,
        },
    )
    colour_distortion: float = field(
        default=1.0,
        metadata={
            "help": "Segmentation: share of the training images that are distorted in brightness, contrast, "
            "saturation and hue; 0 for none."
        },
    )
    crop_area_min: float | None = field(
        default=None,
        metadata={
            "help": "Classification: smallest share of an image's area that a random training crop keeps. Default: "
            "0.08 (8 %%), and 0.5 for `digits`."
        },
    )
    max_train_samples: int | None = field(
        default=None,
        metadata={
            "help": "Train on this many images (the first of a shuffle by the seed); for `digits`, the number of "
            "images to make (default 2000)."
        },
    )
    max_eval_samples: int | None = field(
        default=None,
        metadata={
            "help": "Score this many validation images, evenly spaced over the split; for `digits`, the number of "
            "images to make (default 200)."
        },
    )
    score_at: str = field(
        default="original",
        metadata={
            "help": "Size at which segmentation is scored: each annotation's own size, or the size of the resized "
            "input (quicker, and not comparable with published figures).",
            "choices": ["original", "resized"],
        },
    )

    def __post_init__(self):
        check_ranges(self, _RANGES)
        if self.scale_min > self.scale_max:
            raise InputError(
                f"--scale_min {self.scale_min} and --scale_max {self.scale_max} are no range; "
                "give 0 < scale_min <= scale_max"
            )
        if self.score_at not in ("original", "resized"):
            raise InputError(f"--score_at is {self.score_at!r}; give `original` or `resized`")
        parse_range(self.image_range)
        parse_bands(self.image_bands)
        if self.mask_values is not None and self.reduce_zero_label:
            raise InputError(
                "--mask_values and --reduce_zero_label both say what 0 in a mask means; leave one of them out"
            )
        self._check_folders()

    def _check_folders(self) -> None:
        given = [name for name in FOLDER_OPTIONS if getattr(self, name) is not None]
        missing = [f"--{name}" for name in self._needed_folders() if name not in given]
        if given and missing:
            raise InputError(f"{', '.join(missing)} missing; image and mask folders come as four options together")
        if given and self.dataset is not None:
            raise InputError(
                f"--dataset {self.dataset} and --{given[0]} {getattr(self, given[0])} both name the data; give one of "
                "them"
            )

    def _needed_folders(self) -> tuple[str, ...]:
        return FOLDER_OPTIONS


FOLDER_OPTIONS = ("train_images", "train_masks", "validation_images", "validation_masks")


def parse_range(text: str | None) -> tuple[float, float] | None:
    """The two numbers of `--image_range`, the first one smaller."""
    if text is None:
        return None
    try:
        low, high = (float(number) for number in text.split(","))
    except ValueError:
        low, high = 0.0, 0.0
    if not -math.inf < low < high < math.inf:
        raise InputError(f"--image_range {text}: give the values that become black and white, such as 0,4095")
    return low, high


def show_range(value_range: tuple[float, float]) -> str:
    """What [`parse_range`] takes back, to the last digit."""
    return ",".join(str(int(bound)) if float(bound).is_integer() else repr(float(bound)) for bound in value_range)


def parse_bands(text: str | None) -> tuple[int, ...] | None:
    """The one or three numbers of `--image_bands`, from 1."""
    if text is None:
        return None
    numbers = [number.strip() for number in text.split(",")]
    if len(numbers) not in (1, 3) or not all(number.isdecimal() and int(number) > 0 for number in numbers):
        raise InputError(f"--image_bands {text}: give one band or three, counted from 1, such as 4,3,2")
    return tuple(int(number) for number in numbers)
