"""What the scores under corruption come to."""

import math

import pytest

from lrsegformer.errors import InputError
from lrsegformer.robustness.metrics.corruption_scores import (
    ALEXNET_ERRORS,
    mean_corruption_error,
    summarise_corruptions,
)
from lrsegformer.robustness.shift.corruption_names import COMMON_CORRUPTIONS, SEVERITIES


def test_the_errors_of_alexnet_are_those_of_the_common_corruptions():
    assert tuple(ALEXNET_ERRORS) == COMMON_CORRUPTIONS


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({}, "no scores under corruption"),
        ({("fog", 1): 0.1, ("snow", 2): 0.1}, "snow was measured at"),
        ({("rain", 1): 0.1}, "corruption 'rain' is unknown"),
    ],
)
def test_bad_input_gets_one_line(scores, message):
    with pytest.raises(InputError, match=message) as caught:
        summarise_corruptions(0.5, scores)
    assert "\n" not in str(caught.value)


def test_summary_by_hand():
    scores = {("fog", 1): 0.4, ("fog", 3): 0.2, ("snow", 1): 0.3, ("snow", 3): 0.1}
    summary = summarise_corruptions(0.5, scores)
    assert summary.per_corruption == pytest.approx({"fog": 0.3, "snow": 0.2})
    assert (summary.mean, summary.retention) == pytest.approx((0.25, 0.5))
    assert summary.mce is None
    assert math.isnan(summarise_corruptions(0.0, scores).retention)


def test_mean_corruption_error():
    cells = [(name, severity) for name in COMMON_CORRUPTIONS for severity in SEVERITIES]
    # AlexNet itself has 1, whatever its errors at the single severities.
    alexnet = {(name, severity): 1 - ALEXNET_ERRORS[name] - 0.01 * (severity - 3) for name, severity in cells}
    assert mean_corruption_error(alexnet) == pytest.approx(1.0)
    halved = {cell: 1 - (1 - accuracy) / 2 for cell, accuracy in alexnet.items()}
    assert mean_corruption_error(halved) == pytest.approx(0.5)
    # ResNet-50: mean accuracy 0.3948 and mCE 0.764 are published, so an even spread of its errors comes close.
    assert mean_corruption_error(dict.fromkeys(cells, 0.3948)) == pytest.approx(0.764, abs=0.03)
    assert mean_corruption_error(dict.fromkeys(cells, 1.0)) == 0.0
    assert mean_corruption_error(dict.fromkeys(cells[1:], 0.5)) is None
    assert summarise_corruptions(1.0, dict.fromkeys(cells, 1.0), "classification").mce == 0.0
    assert summarise_corruptions(1.0, dict.fromkeys(cells, 1.0)).mce is None
