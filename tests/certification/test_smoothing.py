"""Randomised smoothing: its tests against scipy and a step-by-step Holm, its radii against a model in closed form."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, norm

from lrsegformer.certification.smoothing import (
    Smoothing,
    clopper_pearson_lower,
    fewest_hits,
    hit_p_values,
    most_frequent,
    smoothed_prediction,
)
from lrsegformer.errors import InputError


def holm_step_by_step(p_values, alpha):
    """Holm 1979: from the smallest p-value on, compare the i-th with alpha / (N - i), until the first that fails."""
    rejected = np.zeros(len(p_values), dtype=bool)
    for step, place in enumerate(np.argsort(p_values, kind="stable")):
        if p_values[place] > alpha / (len(p_values) - step):
            break
        rejected[place] = True
    return rejected


def test_p_values_are_those_of_the_binomial_test():
    expected = [binomtest(hits, 23, 0.8, alternative="greater").pvalue for hits in range(24)]
    assert hit_p_values(23, 0.8) == pytest.approx(expected, rel=1e-9)


def test_the_confidence_bound_is_that_of_clopper_and_pearson():
    for hits in (0, 1, 60, 99, 100):
        test = binomtest(hits, 100, alternative="greater")
        expected = test.proportion_ci(confidence_level=0.999, method="exact").low
        assert clopper_pearson_lower(hits, 100, 0.001) == pytest.approx(expected, rel=1e-8)
        assert clopper_pearson_lower(hits, 100, 0.001) <= expected


@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=30),
    st.floats(0.5, 0.9),
    st.floats(0.01, 0.9),
    st.sampled_from(["holm", "bonferroni"]),
)
def test_pixels_that_pass_are_those_of_the_corrections(hits, tau, alpha, correction):
    smoothing = Smoothing(sigma=1.0, n=12, tau=tau, alpha=alpha, correction=correction)
    needed = fewest_hits(np.bincount(hits, minlength=13).tolist(), smoothing)
    p_values = hit_p_values(12, tau)[hits]
    expected = holm_step_by_step(p_values, alpha) if correction == "holm" else p_values <= alpha / len(hits)
    assert ((np.array(hits) >= needed) == expected).all()


def test_the_fewest_samples_are_the_first_that_can_pass():
    smoothing = Smoothing(sigma=1.0, n=100, tau=0.75, alpha=0.001)
    fewest = smoothing.fewest_samples(1000)
    assert smoothing.tau**fewest <= smoothing.alpha / 1000 < smoothing.tau ** (fewest - 1)
    with pytest.raises(InputError, match=r"--n 20.*at least"):
        smoothed_prediction(
            lambda images: (images[:, 0] > 0.5).long(),
            torch.rand(1, 8, 8),
            Smoothing(sigma=0.1, n=20),
            torch.Generator(),
            2,
            5,
        )


def threshold(images):
    """A pixel is of class 1 where it is brighter than a half: under noise with probability Phi((x - 0.5) / sigma)."""
    return (images[:, 0] > 0.5).long()


def test_certified_pixels_of_a_model_in_closed_form():
    """The smoothed model's true radius is |x - 0.5|: what is certified never lies above it, and far pixels are."""
    sigma = 0.25
    image = torch.linspace(0, 1, 400).view(1, 20, 20)
    smoothing = Smoothing(sigma=sigma, n0=20, n=120, tau=0.75, alpha=0.01)
    found = smoothed_prediction(threshold, image, smoothing, torch.Generator().manual_seed(0), 2, 32)
    true_radius = (image[0] - 0.5).abs()
    certified = found.radii > 0
    assert smoothing.radius == pytest.approx(sigma * norm.ppf(0.75), rel=1e-5)
    assert (true_radius[certified] >= smoothing.radius).all()
    assert torch.equal(found.classes[certified], threshold(image[None])[0][certified])
    assert certified[true_radius > 0.45].all() and not certified[true_radius < 0.1].any()


def test_the_chance_of_an_error_is_at_most_alpha():
    """Pixels whose probability is exactly tau pass in at most a share alpha of the images."""
    tau, alpha, wrong, trials = 0.75, 0.1, 0, 400
    image = torch.full((1, 4, 4), 0.5 + 0.25 * float(norm.ppf(tau)))
    smoothing = Smoothing(sigma=0.25, n0=1, n=60, tau=tau, alpha=alpha)
    generator = torch.Generator().manual_seed(1)
    for _ in range(trials):
        found = smoothed_prediction(threshold, image, smoothing, generator, 2, 61)
        wrong += bool((found.radii > 0).any())
    assert wrong / trials <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / trials)


def test_an_image_has_the_radius_that_its_samples_show():
    def classify(images):
        return (images.flatten(1).mean(dim=1) > 0.5).long()

    smoothing = Smoothing(sigma=0.5, n0=5, n=200, alpha=0.01)
    bright = torch.full((3, 4, 4), 0.6)
    found = smoothed_prediction(classify, bright, smoothing, torch.Generator().manual_seed(0), 2, 64)
    # Under noise the mean of 48 values has deviation sigma / sqrt(48): the true radius is 0.1 sqrt(48).
    assert found.classes == 1 and found.classes.shape == () and 0.1 < found.radii <= 0.1 * math.sqrt(48)
    torch.manual_seed(0)
    undecided = smoothed_prediction(
        lambda images: torch.randint(2, (len(images),)), bright, smoothing, torch.Generator(), 2, 64
    )
    assert undecided.radii == 0


def test_results_do_not_depend_on_the_batch_size():
    image = torch.rand(1, 6, 6, generator=torch.Generator().manual_seed(0))
    smoothing = Smoothing(sigma=0.3, n0=7, n=50, alpha=0.05)
    results = [
        smoothed_prediction(threshold, image, smoothing, torch.Generator().manual_seed(5), 2, batch_size)
        for batch_size in (1, 8, 100)
    ]
    for other in results[1:]:
        assert torch.equal(results[0].classes, other.classes) and torch.equal(results[0].radii, other.radii)


def test_memory_is_that_of_a_few_class_maps(largest_allocation):
    image = torch.rand(1, 64, 64)
    smoothing = Smoothing(sigma=0.3, n0=4, n=80)
    largest = largest_allocation(
        lambda: smoothed_prediction(
            lambda images: threshold(images).to(torch.uint8), image, smoothing, torch.Generator(), 150, 4
        )
    )
    assert largest <= 4 * 8 * 64 * 64  # four samples of noise in float32, or of classes in int64; not 150 counts


@given(st.integers(0, 2**31), st.integers(1, 9))
def test_the_commonest_class(seed, count):
    samples = torch.randint(4, (count, 3, 5), generator=torch.Generator().manual_seed(seed))
    counts = torch.nn.functional.one_hot(samples, 4).sum(dim=0)
    found = most_frequent(samples, 4)
    assert torch.equal(counts.gather(-1, found[..., None])[..., 0], counts.amax(dim=-1))


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"sigma": 0.0}, "sigma"),
        ({"sigma": math.nan}, "sigma"),
        ({"n0": 0}, "n0"),
        ({"n": 0}, "--n"),
        ({"tau": 0.4}, "tau"),
        ({"tau": 1.0}, "tau"),
        ({"alpha": 0.0}, "alpha"),
        ({"correction": "sidak"}, "holm"),
    ],
)
def test_numbers_out_of_range(options, word):
    with pytest.raises(InputError, match=word):
        Smoothing(**{"sigma": 0.25, **options})
