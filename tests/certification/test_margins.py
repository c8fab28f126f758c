"""Certified distances and radii: against the formula in float64, and against models whose radius is known exactly."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from lrsegformer.certification import margins
from lrsegformer.certification.margins import certified_pixels, certified_radii, inverse_distances
from lrsegformer.errors import InputError, NotFiniteError
from lrsegformer.evaluation import predict_classes


def distances_by_definition(logits, rows):
    """Of every pixel of `(batch, classes, height, width)`, in float64, by a loop over pairs of classes."""
    logits = logits.double()
    top = logits.argmax(dim=1)
    best = torch.full(top.shape, torch.inf, dtype=torch.float64)
    for a in range(len(rows)):
        for b in range(len(rows)):
            if a != b:
                margin = logits[:, a] - logits[:, b]
                apart = torch.linalg.vector_norm(rows[a] - rows[b])
                found = margin / apart if apart > 0 else torch.where(margin > 0, torch.inf, 0.0)
                best = torch.where(top == a, torch.minimum(best, found.double()), best)
    return best


@given(st.integers(0, 2**31), st.integers(2, 7), st.integers(1, 5), st.integers(1, 5), st.sampled_from([1, 3, 4]))
def test_distances_are_those_of_the_definition_rounded_down(seed, num_labels, height, width, factor):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(2, num_labels, height, width, generator=generator)
    rows = torch.randn(num_labels, 4, generator=generator, dtype=torch.float64)
    size = (factor * height, factor * width)
    found = certified_pixels(logits, inverse_distances(rows), size)
    upsampled = functional.interpolate(logits.double(), size, mode="bilinear", align_corners=False)
    expected = distances_by_definition(upsampled, rows)
    assert torch.equal(found.classes, predict_classes(logits, size))
    assert (found.distances.double() <= expected).all()
    largest = logits.abs().max() / torch.pdist(rows).min()
    assert (found.distances.double() >= expected * (1 - 1e-5) - 1e-5 * largest).all()


def regions(seed, num_labels, size, kind):
    """Logits of an image of a few regions, with boundaries, and where asked for with ties."""
    generator = torch.Generator().manual_seed(seed)
    high_and_wide = torch.randn(1, num_labels, 2, 2, generator=generator)
    logits = 2 * functional.interpolate(high_and_wide, size, mode="nearest")
    logits += 0.2 * torch.randn(1, num_labels, *size, generator=generator)
    return {"regions": logits, "ties": logits.round(), "near ties": 1e-6 * logits + 1}[kind]


@given(
    st.integers(0, 2**31),
    st.sampled_from([2, 3, 11, 150]),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(1, 70), st.integers(1, 70)),
    st.sampled_from(["regions", "ties", "near ties"]),
    st.sampled_from(["apart", "one pair", "all"]),
)
def test_cells_certify_no_more_than_the_definition(seed, num_labels, size, new_size, kind, coinciding):
    logits = regions(seed, num_labels, size, kind)
    rows = torch.randn(num_labels, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if coinciding != "apart":
        rows[: 2 if coinciding == "one pair" else num_labels] = rows[0].clone()
    found = certified_pixels(logits, inverse_distances(rows), new_size)
    upsampled = functional.interpolate(logits.double(), new_size, mode="bilinear", align_corners=False)
    assert torch.equal(found.classes, predict_classes(logits, new_size))
    expected = distances_of_classes(upsampled, found.classes, rows)
    assert (found.distances.double() <= expected).all()
    apart = torch.pdist(rows)
    largest = logits.abs().max() / apart[apart > 0].min() if (apart > 0).any() else 0.0
    # Positions are rounded where the factor is no power of two.
    lack = expected * (1 - 1e-5) - 1e-4 * largest - found.distances
    assert (lack[expected.isfinite()] <= 0).all()
    margin = upsampled.topk(2, dim=1).values.diff(dim=1).abs().amin(dim=1)
    assert found.distances[expected.isinf() & (margin > 1e-4 * logits.abs().max())].isinf().all()


def distances_of_classes(logits, classes, rows):
    """[`distances_by_definition`] of given classes, 0 where one is not the largest by rounding, without its loop."""
    own = classes.long()[:, None]
    margins = logits.gather(1, own) - logits
    apart = torch.stack([torch.linalg.vector_norm(rows - row, dim=1) for row in rows])[own[:, 0]].movedim(-1, 1)
    distances = torch.where(apart > 0, margins / apart, torch.where(margins > 0, torch.inf, 0.0))
    return distances.scatter(1, own, torch.inf).amin(dim=1).clamp_min(0.0)


@pytest.mark.parametrize("looks_at_cells", [False, True])
def test_positions_that_are_rounded_are_covered(looks_at_cells, monkeypatch):
    """Weights between 128 and 500 places are off by 2e-5: logits that tell neighbours apart strongly show it."""
    monkeypatch.setattr(margins, "LARGEST_OPEN_SHARE", 1.0 if looks_at_cells else -1.0)
    logits = torch.zeros(1, 2, 1, 128)
    logits[0, 0] = 1000.0 * (torch.arange(128) % 2)
    logits[0, 1] = -1.0 if looks_at_cells else 500.0
    rows = torch.eye(2, dtype=torch.float64)
    found = certified_pixels(logits, inverse_distances(rows), (1, 500))
    upsampled = functional.interpolate(logits.double(), (1, 500), mode="bilinear", align_corners=False)
    exact = distances_of_classes(upsampled, found.classes, rows)
    assert (found.distances.double() <= exact).all()
    as_computed = functional.interpolate(logits, (1, 500), mode="bilinear", align_corners=False).double()
    assert (distances_of_classes(as_computed, found.classes, rows) > exact + 1e-3).any()


def test_many_bands_and_classes_agree_with_few():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 300, 20, 60, generator=generator)
    rows = torch.randn(300, 8, generator=generator, dtype=torch.float64)
    whole = certified_pixels(logits, inverse_distances(rows), (80, 240))
    upsampled = functional.interpolate(logits.double(), (80, 240), mode="bilinear", align_corners=False)
    part = upsampled[:, :, 30:50]
    top, second = part.topk(2, dim=1).values.unbind(dim=1)
    nearest, farthest = torch.pdist(rows).min(), torch.pdist(rows).max()
    distances = whole.distances[:, 30:50].double()
    assert (distances <= (top - second) / nearest).all() and (distances >= (top - second) / farthest - 1e-5).all()
    assert whole.classes.dtype == torch.int16


@pytest.mark.parametrize("kind", ["regions", "noise"])
def test_the_whole_map_of_upsampled_logits_is_never_held(largest_allocation, kind):
    logits = torch.randn(1, 150, 60, 45) if kind == "noise" else regions(0, 150, (60, 45), kind)
    rows = torch.randn(150, 8, dtype=torch.float64)
    inverse = inverse_distances(rows)
    whole = 4 * 150 * 480 * 360
    assert largest_allocation(lambda: certified_pixels(logits, inverse, (480, 360))) < whole / 8


def test_ties_and_rows_that_coincide():
    rows = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    inverse = inverse_distances(rows)
    logits = torch.tensor(
        [
            [1.0, 1.0, 0.0],  # tied, and no move of the features unties
            [1.0, 0.0, 1.0],  # tied
            [1.0, 0.5, -1.0],  # the second never wins
            [0.0, 1.0, -torch.finfo().max / 4],  # nothing wins any more
        ]
    )
    found = certified_pixels(logits, inverse)
    assert found.distances[:2].tolist() == [0.0, 0.0] and found.classes.tolist() == [0, 0, 0, 1]
    assert 2 / math.sqrt(2) * (1 - 1e-5) <= found.distances[2] <= 2 / math.sqrt(2)
    same = inverse_distances(torch.ones(3, 2, dtype=torch.float64))
    assert certified_pixels(logits[:3], same).distances.tolist() == [0.0, 0.0, math.inf]


@pytest.mark.parametrize("scale", [0.01, 1.0, 40.0])
def test_an_attack_just_above_the_radius_flips_and_just_below_does_not(scale):
    """A linear classifier: the constant of its features and the worst direction are known."""
    generator = torch.Generator().manual_seed(3)
    features, _ = torch.linalg.qr(torch.randn(12, 6, generator=generator, dtype=torch.float64))
    rows = torch.randn(5, 6, generator=generator, dtype=torch.float64)
    bias = torch.randn(5, generator=generator, dtype=torch.float64)

    def logits_of(images):
        return scale * images @ features @ rows.T + bias

    images = torch.randn(40, 12, generator=generator, dtype=torch.float64)
    found = certified_pixels(logits_of(images).float(), inverse_distances(rows))
    radii = certified_radii(found.distances, scale).double()
    top = found.classes.long()
    flipped = []
    for other in range(5):
        direction = functional.normalize((rows[other] - rows[top]) @ features.T, dim=1)
        for factor in (0.999, 1.001):
            moved = logits_of(images + factor * radii[:, None] * direction).argmax(dim=1)
            if factor < 1:
                assert torch.equal(moved, top)
            else:
                flipped.append(moved != top)
    assert torch.stack(flipped).any(dim=0).all()


def test_radii_of_constants_at_the_edge():
    distances = torch.tensor([0.0, 1.0, math.inf])
    assert certified_radii(distances, 0.0).tolist() == [0.0, math.inf, math.inf]
    for constant in (math.inf, 1e39):
        assert certified_radii(distances, constant).tolist() == [0.0, 0.0, 0.0]
    assert certified_radii(distances, 1e-39).tolist() == [0.0, torch.finfo().max, math.inf]
    radii = certified_radii(distances, 4.0)
    assert radii[0] == 0 and 0.25 * (1 - 2e-6) < radii[1] <= 0.25 and radii[2] == math.inf
    for constant in (-1.0, math.nan):
        with pytest.raises(InputError, match="constant"):
            certified_radii(distances, constant)


def test_what_no_certificate_can_be_made_of():
    inverse = inverse_distances(torch.eye(3, dtype=torch.float64))
    with pytest.raises(InputError, match="3 classes"):
        certified_pixels(torch.zeros(1, 4), inverse)
    with pytest.raises(NotFiniteError):
        certified_pixels(torch.tensor([[0.0, torch.nan, 1.0]]), inverse)
    for rows in (torch.eye(3), torch.ones(1, 2).double(), torch.full((2, 2), torch.inf).double()):
        with pytest.raises(InputError, match="rows"):
            inverse_distances(rows)


def test_half_precision_is_certified_in_float32():
    logits, rows = torch.randn(1, 3, 4, 4), torch.randn(3, 2, dtype=torch.float64)
    inverse = inverse_distances(rows)
    low = certified_pixels(logits.bfloat16(), inverse, (8, 8))
    same = certified_pixels(logits.bfloat16().float(), inverse, (8, 8))
    assert torch.equal(low.distances, same.distances) and low.distances.dtype == torch.float32
