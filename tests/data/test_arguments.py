"""The options: what contradicts itself is refused, and reading them stays cheap."""

import subprocess
import sys

import pytest

from lrsegformer.data.arguments import DataArguments
from lrsegformer.errors import InputError


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"image_size": 0}, "--image_size"),
        ({"max_eval_samples": -3}, "--max_eval_samples"),
        ({"scale_min": 2.0, "scale_max": 0.5}, "--scale_min"),
        ({"crop_area_min": 1.5}, "--crop_area_min"),
        ({"score_at": "somewhere"}, "--score_at"),
        ({"train_images": "a", "train_masks": "b"}, "--validation_images"),
        (
            {
                "dataset": "x",
                "train_images": "a",
                "train_masks": "b",
                "validation_images": "c",
                "validation_masks": "d",
            },
            "--dataset",
        ),
    ],
)
def test_contradictions_are_refused_in_one_line(options, named):
    with pytest.raises(InputError, match=named) as caught:
        DataArguments(**options)
    assert "\n" not in str(caught.value)


def test_transformers_parser_takes_every_field():
    from transformers import HfArgumentParser

    parser = HfArgumentParser(DataArguments)
    line = ["--ignore_label", "11", "--reduce_zero_label", "false", "--scale_min", "0.75", "--max_train_samples", "8"]
    (arguments,) = parser.parse_args_into_dataclasses(line)
    assert (arguments.ignore_label, arguments.reduce_zero_label) == (11, False)
    assert (arguments.scale_min, arguments.max_train_samples, arguments.image_size) == (0.75, 8, None)
    assert "--crop_area_min" in parser.format_help()  # a bare % in a help text would break this


def test_importing_the_options_loads_no_heavy_package():
    code = (
        "import os, sys; os.environ['LRSEGFORMER_PARSE_ONLY'] = '1'; import lrsegformer.data; "
        "print([name for name in ('torch', 'transformers', 'datasets', 'sklearn') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
