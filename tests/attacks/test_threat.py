"""The ball and the box: what comes out is inside both, and steps and starts are what they are said to be."""

import math
import sys
from unittest.mock import Mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lrsegformer.attacks.threat import Threat, image_generator
from lrsegformer.choices import NORMS
from lrsegformer.errors import InputError
from lrsegformer.extras import require

norms = st.sampled_from(NORMS)
radii = st.one_of(st.just(0.0), st.floats(1e-7, 1e-2), st.floats(1e-2, 5.0))
shapes = st.tuples(st.integers(1, 3), st.sampled_from([1, 3]), st.integers(1, 20), st.integers(1, 20))


def clean_images(shape, seed, at_edges=True):
    images = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 1.4 - 0.2
    return images.clamp(0, 1) if at_edges else 0.3 + 0.4 * images.clamp(0, 1)


@given(norms, radii, shapes, st.integers(0, 10**6), st.sampled_from([1e-8, 1e-3, 1.0, 1e4]))
def test_projection_is_inside_the_ball_and_the_box(norm, radius, shape, seed, scale):
    clean = clean_images(shape, seed)
    far = clean + scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed + 1))
    threat = Threat(norm, radius)
    projected = threat.project(far, clean)
    assert (threat.distance(projected, clean) <= radius * (1 + 1e-6) + 1e-9).all()
    assert projected.min() >= 0 and projected.max() <= 1
    # What is inside already stays where it is, to the rounding of the difference.
    torch.testing.assert_close(threat.project(projected, clean), projected, atol=1e-6, rtol=0)
    threat.verify(projected, clean)


@given(st.floats(0.0, 0.25), shapes, st.integers(0, 10**6))
def test_every_pixel_has_a_ball_of_its_own(radius, shape, seed):
    clean = clean_images(shape, seed, at_edges=False)
    far = clean + radius * torch.randn(shape, generator=torch.Generator().manual_seed(seed + 1))
    pixels = [image.flatten(2).permute(0, 2, 1).flatten(0, 1).double() for image in (far, clean)]
    expected = torch.stack(
        [
            pixel
            if (pixel - centre).norm() <= radius
            else centre + (pixel - centre) * radius / (pixel - centre).norm()
            for pixel, centre in zip(*pixels, strict=True)
        ]
    )
    found = Threat("per_pixel_l2", radius).project(far, clean).flatten(2).permute(0, 2, 1).flatten(0, 1)
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=0)


@given(norms, st.integers(0, 10**6))
def test_the_projection_is_the_nearest_point_of_ball_and_box(norm, seed):
    # In l2 it is that where no pixel meets the box.
    clean = clean_images((1, 3, 1, 2), seed, at_edges=norm != "l2").double()
    threat, generator = Threat(norm, 0.1), torch.Generator().manual_seed(seed)
    far = clean + 0.15 * torch.randn(clean.shape, generator=generator).double()
    projected = threat.project(far, clean)
    directions = torch.randn(500, *clean.shape[1:], generator=generator).double()
    # Points near the projection, and points of the whole ball.
    scales = torch.logspace(-4, 0, 500).double().view(-1, 1, 1, 1)
    others = threat.project(projected + scales * directions, clean.expand_as(directions))
    distances = (others - far).flatten(1).norm(dim=1)
    assert (distances >= (projected - far).norm() * (1 - 1e-9)).all()
    if norm == "per_pixel_l2":
        # What the box takes from a channel the others get: a pixel ends on its sphere, in its corner, or where it was.
        lengths, wanted = (projected - clean).norm(dim=1), (far.clamp(0, 1) - clean).norm(dim=1)
        torch.testing.assert_close(lengths, wanted.clamp_max(0.1), atol=1e-9, rtol=0)


@given(st.integers(0, 10**6), st.floats(1e-3, 0.2))
def test_balls_lie_in_each_other_as_said(seed, radius):
    clean = clean_images((2, 3, 4, 5), seed)
    starts = {norm: Threat(norm, radius).random_start(clean, image_generator(seed, 0)) for norm in NORMS}
    corners = Threat("linf", radius).project(clean + 9 * (starts["l2"] - clean).sign(), clean)
    for inside in (starts["linf"], corners):
        Threat("per_pixel_l2", math.sqrt(3) * radius).verify(inside, clean)
    Threat("l2", math.sqrt(20) * radius).verify(starts["per_pixel_l2"], clean)
    Threat("per_pixel_l2", radius).verify(starts["l2"], clean)
    # No smaller ball does: in the middle of the box a corner of the linf ball is that far away.
    middle = torch.full((1, 3, 1, 1), 0.5).double()
    assert Threat("per_pixel_l2", 1.0).distance(middle + radius, middle).item() == pytest.approx(math.sqrt(3) * radius)


@pytest.mark.parametrize("norm", ["l2", "per_pixel_l2"])
@pytest.mark.parametrize("radius", [1e-4, 1e-2, 1.0, 100.0])
def test_rounding_of_a_large_image_does_not_leave_a_small_ball(norm, radius):
    clean = clean_images((1, 3, 512, 512), 0)
    threat = Threat(norm, radius)
    step = torch.randn(clean.shape, generator=torch.Generator().manual_seed(3))
    for _ in range(3):
        image = threat.project(clean + 1000 * step, clean)
        assert threat.distance(image, clean) <= radius * (1 + 1e-6) + 1e-9
    # The sum rounded as it comes leaves the smallest ball by more than the tolerance.
    naive = clean + step.sign() * (radius / math.sqrt(step.numel()))
    assert radius > 1e-4 or norm != "l2" or threat.distance(naive, clean) > radius + 1e-6


def test_distance_is_over_what_the_norm_says():
    clean = torch.zeros(2, 3, 4, 4)
    moved = clean.clone()
    moved[0] += 0.5
    moved[1, 2, 1, 1] = 0.25
    expected = torch.tensor([0.5 * math.sqrt(48), 0.25], dtype=torch.float64)
    torch.testing.assert_close(Threat("l2", 1).distance(moved, clean), expected)
    assert Threat("linf", 1).distance(moved, clean).tolist() == [0.5, 0.25]
    assert Threat("per_pixel_l2", 1).distance(moved, clean).tolist() == pytest.approx([0.5 * math.sqrt(3), 0.25])


@given(norms, st.sampled_from([1e-30, 1e-12, 1.0, 1e20]), st.integers(0, 10**6))
def test_step_is_the_steepest_unit_vector_at_any_scale_of_the_gradient(norm, scale, seed):
    gradient = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    step = Threat(norm, 1.0).step(gradient * scale)
    dual = {
        "linf": gradient.abs().flatten(1).sum(1),
        "l2": gradient.flatten(1).norm(dim=1),
        "per_pixel_l2": gradient.norm(dim=1).flatten(1).sum(1),
    }[norm]
    lengths = Threat(norm, 1.0).distance(step, torch.zeros_like(step))
    torch.testing.assert_close(lengths, torch.ones(2, dtype=torch.float64), atol=1e-5, rtol=0)
    torch.testing.assert_close((step * gradient).flatten(1).sum(1), dual, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("norm", NORMS)
def test_step_of_no_gradient_is_none(norm):
    assert torch.equal(Threat(norm, 1.0).step(torch.zeros(2, 3, 4, 4)), torch.zeros(2, 3, 4, 4))


def test_a_pixel_whose_gradient_is_far_smaller_than_the_others_steps_as_far():
    gradient = torch.zeros(1, 3, 1, 3)
    gradient[0, :, 0, 0], gradient[0, 1, 0, 1] = 1e20, 1e-36
    step = Threat("per_pixel_l2", 1.0).step(gradient)
    torch.testing.assert_close(step[0, :, 0].norm(dim=0), torch.tensor([1.0, 1.0, 0.0]))


@given(norms, radii, shapes, st.integers(0, 10**6))
def test_random_start_is_inside(norm, radius, shape, seed):
    clean = clean_images(shape, seed)
    threat = Threat(norm, radius)
    threat.verify(threat.random_start(clean, image_generator(seed, 0)), clean)


@pytest.mark.parametrize("norm", NORMS)
def test_random_start_is_uniform_in_the_ball(norm):
    # In a uniform ball the share of points within half the radius is 2^-dimension.
    clean = torch.full((4000, 1, 1, 3), 0.5)
    start = Threat(norm, 0.4).random_start(clean, image_generator(0, "a"))
    distance = Threat(norm, 0.4).distance(start, clean)
    assert abs((distance <= 0.2).double().mean() - 1 / 8) < 0.02
    assert (start - clean).mean().abs() < 0.01


def test_random_start_is_uniform_in_the_ball_of_each_pixel_by_itself():
    clean = torch.full((1, 3, 80, 80), 0.5)
    start = Threat("per_pixel_l2", 0.4).random_start(clean, image_generator(0, "a")) - clean
    lengths = start.norm(dim=1)
    assert abs((lengths <= 0.2).double().mean() - 1 / 8) < 0.02 and lengths.max() > 0.39
    assert start.mean(dim=(0, 2, 3)).abs().max() < 0.01
    # Neighbours are drawn by themselves.
    assert (start[..., 1:] * start[..., :-1]).sum(1).mean().abs() < 0.005


@pytest.mark.parametrize("norm", NORMS)
def test_an_unlimited_ball_reaches_from_corner_to_corner(norm):
    black = torch.zeros(1, 3, 4, 5)
    threat = Threat.unlimited(norm, black)
    assert threat.distance(black + 1, black).item() == pytest.approx(threat.radius)


def test_generators_differ_by_seed_image_and_restart():
    keys = [(0, "a", 0), (1, "a", 0), (0, "b", 0), (0, "a", 1), (0, 1, 0), (0, "1", 0)]
    drawn = {torch.rand(1, generator=image_generator(*key)).item() for key in keys}
    assert len(drawn) == len(keys)
    assert torch.rand(1, generator=image_generator(*keys[0])).item() in drawn


def test_radius_of_the_command_line_is_in_255ths_where_it_is_of_single_pixels():
    assert Threat.parse("linf", 4).radius == 4 / 255
    assert Threat.parse("per_pixel_l2", 0.5).radius == 0.5 / 255
    assert Threat.parse("l2", 0.5).radius == 0.5


@pytest.mark.parametrize(
    ("norm", "eps", "words"),
    [
        ("l1", 1.0, "'l1'"),
        ("linf", -1.0, "not negative"),
        ("l2", math.nan, "nan"),
        ("l2", math.inf, "inf"),
    ],
)
def test_bad_threats_get_one_line(norm, eps, words):
    with pytest.raises(InputError) as error:
        Threat.parse(norm, eps)
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("norm", NORMS)
def test_verify_refuses_what_is_outside(norm):
    clean = torch.full((3, 1, 2, 2), 0.99)
    threat = Threat(norm, 0.1)
    threat.verify(clean + 0.009, clean)
    for row, wrong in [(0, 0.5), (1, 1.001), (2, math.nan)]:
        moved = clean.clone()
        moved[row, 0, 0, 0] = wrong
        with pytest.raises(RuntimeError, match=rf"\[{row}\]"):
            threat.verify(moved, clean)


def test_require_gives_the_module_or_names_the_extra(monkeypatch, tmp_path):
    assert require("math") is math
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)
    with pytest.raises(InputError, match=r"imagecorruptions-imaug: pip install lrsegformer\[robustness\]"):
        require("imagecorruptions")
    absent = ModuleNotFoundError("No module named 'adv_lib'", name="adv_lib")
    monkeypatch.setattr("importlib.import_module", Mock(side_effect=absent))
    with pytest.raises(InputError, match=r"adv-lib: pip install lrsegformer\[alma\]"):
        require("adv_lib.attacks.segmentation")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("import a_module_that_is_not_there", "No module named 'a_module_that_is_not_there'"),
        ("raise RuntimeError('operator x does not exist\\nand more')", r"operator x does not exist\)"),
    ],
)
def test_a_package_that_cannot_be_imported_is_one_line(monkeypatch, tmp_path, line, reason):
    (tmp_path / "broken_package.py").write_text(f"{line}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "broken_package", raising=False)
    with pytest.raises(InputError, match=f"broken_package is installed but cannot be imported .*{reason}") as caught:
        require("broken_package")
    assert "\n" not in str(caught.value)
