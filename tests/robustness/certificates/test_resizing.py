"""The constants of the processor's resizing: of the map that Pillow applies, seen from outside."""

import numpy as np
import pytest
import torch
from PIL import Image

from lrsegformer.robustness.certificates.resizing import resizing, resizing_matrix

SIZES = [((12, 18), (6, 9)), ((7, 5), (21, 10)), ((20, 9), (7, 13))]
FILTERS = [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC]


@pytest.mark.parametrize("resample", FILTERS)
@pytest.mark.parametrize(("size", "new_size"), SIZES)
def test_the_matrices_are_those_of_pillow(size, new_size, resample):
    pixels = np.random.default_rng(0).random(size).astype(np.float32)
    resized = np.array(Image.fromarray(pixels, mode="F").resize(new_size[::-1], resample))
    rows, columns = (resizing_matrix(old, new, resample) for old, new in zip(size, new_size, strict=True))
    assert torch.allclose(
        rows @ torch.from_numpy(pixels).double() @ columns.T, torch.from_numpy(resized).double(), atol=1e-5
    )


@pytest.mark.parametrize("resample", FILTERS)
@pytest.mark.parametrize(("size", "new_size"), SIZES)
def test_the_constants_are_the_norms_of_the_whole_map(size, new_size, resample):
    units = np.eye(size[0] * size[1], dtype=np.float32).reshape(-1, *size)
    columns = [np.asarray(Image.fromarray(one, mode="F").resize(new_size[::-1], resample)).ravel() for one in units]
    whole = torch.from_numpy(np.stack(columns, axis=1)).double()
    found = resizing(size, new_size, resample)
    assert found.l2 == pytest.approx(torch.linalg.matrix_norm(whole, 2).item(), rel=1e-5)
    assert found.per_pixel == pytest.approx(whole.abs().sum(dim=1).max().item(), rel=1e-4)


def test_halving_halves_and_averages_leave_the_largest_pixel():
    found = resizing((64, 64), (32, 32), Image.Resampling.BOX)
    assert found.l2 == pytest.approx(0.5) and found.per_pixel == pytest.approx(1.0)
