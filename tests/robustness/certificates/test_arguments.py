"""The options of the certificates: radii, norms, and what contradicts itself."""

import pytest

from lrsegformer.errors import InputError
from lrsegformer.robustness.bench.arguments import attack_conditions
from lrsegformer.robustness.certificates.arguments import CertificateArguments, parse_radius


@pytest.mark.parametrize(
    ("text", "radius"), [("36/255", 36 / 255), ("0.5", 0.5), (0.25, 0.25), ("0.5/255", 0.5 / 255), ("1e-3", 1e-3)]
)
def test_radii_are_numbers_or_quotients(text, radius):
    assert parse_radius(text) == radius


@pytest.mark.parametrize("text", ["", "0", "-1/255", "1/0", "nan", "inf", "one", "a/255", "1/2/3"])
def test_what_is_no_radius(text):
    with pytest.raises(InputError, match="--radii"):
        CertificateArguments(models=["m"], radii=[text])


def test_each_norm_has_its_radii():
    arguments = CertificateArguments(
        models=["m"], radii=["72/255", "36/255", "36/255"], per_pixel_radii=["1/255"], norms=["l2", "per_pixel_l2"]
    )
    assert arguments.radii_of("l2") == [36 / 255, 72 / 255] and arguments.radii_of("per_pixel_l2") == [1 / 255]
    assert CertificateArguments(models=["m"], radii=["0.1"], norms=["per_pixel_l2"]).radii_of("per_pixel_l2") == [0.1]


def test_attacks_run_at_the_same_radii_in_the_units_of_the_bench():
    arguments = CertificateArguments(
        models=["m"], radii=["0.1"], norms=["l2", "per_pixel_l2"], attacks=["pgd"], steps=7, restarts=3
    )
    found = [attack_conditions(arguments.bench_arguments(norm)) for norm in arguments.norms]
    assert [(one.norm, one.radius, one.steps, one.restarts) for (one,) in found] == [
        ("l2", 0.1, 7, 3),
        ("per_pixel_l2", 25.5, 7, 3),
    ]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"models": []}, "--models"),
        ({"norms": ["linf"]}, "'linf'.*l2"),
        ({"per_pixel_radii": ["1/255"]}, "per_pixel_l2"),
        ({"attacks": ["pdg"]}, "'pdg'"),
        ({"attacks": ["alma_prox"]}, "alma_prox has no norm l2"),
        ({"steps": 3}, "--steps.*--attacks"),
        ({"sigma": 0.5}, "--sigma.*--smoothing"),
        ({"tau": 0.8}, "--tau.*--smoothing"),
        ({"pictures": -1}, "--pictures"),
        ({"batch_size": 0}, "--batch_size"),
        ({"seed": -1}, "--seed"),
    ],
)
def test_options_that_make_no_sense(options, words):
    with pytest.raises(InputError, match=words):
        CertificateArguments(**{"models": ["m"], **options})


def test_options_that_a_task_does_not_have():
    smoothed = CertificateArguments(models=["m"], smoothing=True, tau=0.8)
    smoothed.check_task("segmentation")
    with pytest.raises(InputError, match="--tau"):
        smoothed.check_task("classification")
    with pytest.raises(InputError, match="segpgd"):
        CertificateArguments(models=["m"], attacks=["segpgd"]).check_task("classification")


def test_smoothing_has_defaults_of_its_own():
    assert CertificateArguments(models=["m"], smoothing=True).smoothing_options() == {"sigma": 0.25}
    chosen = CertificateArguments(models=["m"], smoothing=True, sigma=0.5, n=7)
    assert chosen.smoothing_options() == {"sigma": 0.5, "n": 7}
