"""The options of an export. Light on purpose: `--help` imports this file, so no torch, no transformers."""

from __future__ import annotations

from dataclasses import dataclass, field

from lrsegformer.choices import EXPORT_FORMATS
from lrsegformer.errors import InputError

# SegFormer's coarsest map has a thirty-second of the image's sides, and below two pixels it is traced as a constant.
SMALLEST_SIDE = 64


@dataclass
class ExportArguments:
    """
    What a model is written as, and where to.

    Raises:
        InputError: a size that is none, or is too small.
    """

    format: list[str] = field(
        metadata={
            "help": "One or more of: 'stock' (a stock SegFormer checkpoint, which transformers 4 and 5 read without "
            "this package), 'onnx' (needs the extra 'export') and 'pt2' (a program of torch.export).",
            "choices": EXPORT_FORMATS,
        }
    )
    output_dir: str = field(
        metadata={"help": "Folder of the exports; each goes into a folder with the name of its format."}
    )
    image_size: str | None = field(
        default=None,
        metadata={
            "help": "onnx, pt2: rows,columns of the input, such as 512,1024, where it is to be fixed. Default: any "
            "size, chosen when the file is used; the number of images is free either way."
        },
    )

    def __post_init__(self) -> None:
        self.format = list(dict.fromkeys(self.format))
        if self.image_size is not None:
            if self.format == ["stock"]:
                raise InputError("--image_size is one of the formats onnx and pt2: leave it out for stock.")
            parse_size(self.image_size)

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        """Rows and columns that the input is fixed to, or `None`."""
        return None if self.image_size is None else parse_size(self.image_size)


def parse_size(text: str) -> tuple[int, int]:
    """
    Rows and columns from `"512,1024"`.

    Raises:
        [`~lrsegformer.errors.InputError`]: it is no size, or one below [`SMALLEST_SIDE`].
    """
    words = [word.strip() for word in text.split(",")]
    if len(words) != 2 or not all(word.isdecimal() for word in words):
        raise InputError(f"--image_size {text!r}: give rows and columns, such as 512,1024.")
    rows, columns = map(int, words)
    if min(rows, columns) < SMALLEST_SIDE:
        raise InputError(
            f"--image_size {text}: sides below {SMALLEST_SIDE} pixels cannot be exported; give larger ones."
        )
    return rows, columns
