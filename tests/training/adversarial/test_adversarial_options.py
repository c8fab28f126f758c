"""Adversarial training: its options, and where the pixels' scale comes from."""

import math

import pytest
from transformers import SegformerImageProcessorPil
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from lrsegformer.errors import InputError
from lrsegformer.training.adversarial.perturbation import check_adversarial, pixel_statistics

ON = {"adversarial_steps": 2, "adversarial_eps": 4.0}


def test_statistics_from_the_processor_or_else_from_the_data(digits):
    mean, std = pixel_statistics(None, digits("segmentation").train)
    assert mean == pytest.approx(IMAGENET_DEFAULT_MEAN, rel=1e-6)
    assert std == pytest.approx(IMAGENET_DEFAULT_STD, rel=1e-6)
    processor = SegformerImageProcessorPil(image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6])
    assert pixel_statistics(processor, digits("segmentation").train) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
    processor.do_normalize = False
    assert pixel_statistics(processor, None) == ([0.0] * 3, [1.0] * 3)


def test_images_of_unknown_normalisation_are_refused(make_trainer, digits):
    items = list(digits("segmentation").train)
    with pytest.raises(InputError, match="processing_class"):
        make_trainer(train_dataset=items, **ON)
    make_trainer(train_dataset=items)


@pytest.mark.parametrize(
    ("steps", "eps", "message"),
    [
        (-1, 4.0, "--adversarial_steps is -1"),
        (1, -4.0, "--adversarial_eps is -4.0"),
        (1, math.nan, "--adversarial_eps is nan"),
        (1, math.inf, "--adversarial_eps is inf"),
        (0, 4.0, "--adversarial_steps is 0"),
        (3, 0.0, "--adversarial_eps is 0"),
    ],
)
def test_bad_options_are_refused_in_one_line(make_arguments, steps, eps, message):
    with pytest.raises(InputError, match=message) as caught:
        make_arguments(adversarial_steps=steps, adversarial_eps=eps)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=message):
        check_adversarial(steps, eps)
