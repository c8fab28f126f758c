"""No command takes a number that can ruin its work: nan, infinity, and what lies outside of an option's range."""

import pytest

from lrsegformer.cli import certify, finetune, robustness
from lrsegformer.errors import InputError
from lrsegformer.ranges import COUNT, PART, POSITIVE, SHARE_BELOW_ONE, check_ranges

NEVER = ("nan", "inf", "-inf", "-1")
# Options of training that take 0, those that do not, and what else each refuses.
FROM_ZERO = (
    *("lambda_lip", "certified_radius", "learning_rate", "head_learning_rate_multiplier", "constants_learning_rate"),
    *("weight_decay", "max_grad_norm", "label_smoothing_factor", "warmup_steps", "eval_delay", "adversarial_eps"),
    *("adam_beta1", "adam_beta2", "colour_distortion", "average_weights", "trades_beta"),
)
ABOVE_ZERO = (
    *("adam_epsilon", "num_train_epochs", "logging_steps", "eval_steps", "save_steps"),
    *("scale_min", "scale_max", "crop_area_min", "jacobian_share"),
)
FROM_ONE = (
    *("max_steps", "total_batch_size", "per_device_train_batch_size", "gradient_accumulation_steps"),
    *("per_device_eval_batch_size", "eval_accumulation_steps", "torch_empty_cache_steps", "save_total_limit"),
    *("dataloader_prefetch_factor", "ddp_bucket_cap_mb", "ddp_timeout", "image_size", "eval_size", "patch_stride"),
    *("max_train_samples", "max_eval_samples", "image_page", "max_image_pixels"),
)
MORE = [
    *(("seed", value) for value in ("-1", "4294967296")),
    *(("data_seed", value) for value in ("-1", "4294967296")),
    *(("dataloader_num_workers", value) for value in ("-1", "257")),
    *(("adam_beta1", "1"), ("adam_beta2", "1.5"), ("label_smoothing_factor", "1.5"), ("crop_area_min", "1.5")),
    *(("jacobian_share", "1.01"), ("average_weights", "1")),
    *(("colour_distortion", "1.01"), ("image_size", "28"), ("eval_size", "28"), ("image_size", "100000")),
    *(("adversarial_steps", "-1"), ("max_steps", "-5")),
]
CASES = [
    *((name, value) for name in FROM_ZERO for value in NEVER),
    *((name, value) for name in ABOVE_ZERO for value in (*NEVER, "0")),
    *((name, value) for name in FROM_ONE for value in ("-1", "0", "nan")),
    *MORE,
]


@pytest.mark.parametrize(("option", "value"), CASES, ids=lambda word: word)
@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_training_refuses(task, option, value):
    with pytest.raises(InputError) as error:
        finetune.parse_arguments(task, ["--dataset", "digits", f"--{option}={value}"])
    line = str(error.value)
    assert f"--{option}" in line and "\n" not in line
    assert value in line or float(value) == pytest.approx(float(line.split(" is ")[1].split(":")[0].split(";")[0]))


@pytest.mark.parametrize("option", ["steps", "restarts", "batch_size", "seed", "max_eval_samples", "eval_size"])
@pytest.mark.parametrize("value", ["-1", "nan", "1.5"])
@pytest.mark.parametrize("command", [robustness, certify])
def test_benches_refuse(command, option, value):
    argv = ["--models", "m", "--dataset", "digits", "--attacks", "pgd", f"--{option}={value}"]
    argv += ["--eps", "1"] if command is robustness else ["--radii", "0.1"]
    with pytest.raises(InputError, match=f"--{option}"):
        command.parse_arguments(argv)


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "0"])
def test_radii_are_positive_and_finite(value):
    with pytest.raises(InputError, match="--eps"):
        robustness.parse_arguments(["--models", "m", "--dataset", "digits", "--attacks", "pgd", f"--eps={value}"])
    with pytest.raises(InputError, match="radi"):
        certify.parse_arguments(["--models", "m", "--dataset", "digits", f"--radii={value}"])


def test_workers_and_their_prefetching():
    argv = ["--dataset", "digits", "--dataloader_prefetch_factor", "2", "--dataloader_num_workers", "0"]
    with pytest.raises(InputError, match="--dataloader_prefetch_factor 2 .* --dataloader_num_workers is 0"):
        finetune.parse_arguments("segmentation", argv)


def test_minus_one_step_is_what_follows_from_the_epochs():
    argv = ["--dataset", "digits", "--max_steps=-1", "--num_train_epochs", "2"]
    assert finetune.parse_arguments("segmentation", argv)[2].max_steps == -1


class Options:
    def __init__(self, value):
        self.value = value


@pytest.mark.parametrize(
    ("allowed", "within", "outside"),
    [
        (COUNT, (1, 10**9), (0, -3, float("nan"), float("inf"), True, "three")),
        (POSITIVE, (1e-300, 1e300), (0.0, -1e-300, float("inf"))),
        (PART, (1e-9, 1.0), (0.0, 1.0000001)),
        (SHARE_BELOW_ONE, (0.0, 0.999), (1.0, -0.1)),
    ],
)
def test_ends_of_ranges(allowed, within, outside):
    for value in (None, *within):
        check_ranges(Options(value), {"value": allowed})
    for value in outside:
        with pytest.raises(InputError, match="--value is"):
            check_ranges(Options(value), {"value": allowed})
