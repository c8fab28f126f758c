"""Upsampling of single cells, against `F.interpolate`."""

import pytest
import torch
from torch.nn import functional

from lrsegformer.kernels.bilinear import upsampling_error
from lrsegformer.kernels.cells import cells_of_axis, upsample_cells

SIZES = [((4, 5), (32, 40)), ((4, 5), (12, 15)), ((3, 7), (10, 29)), ((9, 8), (57, 67)), ((2, 5), (3, 40))]


@pytest.mark.parametrize(("size", "new_size"), SIZES)
def test_all_cells_together_are_the_upsampled_map(size, new_size):
    maps = torch.randn(3, *size, generator=torch.Generator().manual_seed(0))
    rows, columns = (cells_of_axis(old, new) for old, new in zip(size, new_size, strict=True))
    edged = functional.pad(maps, (1, 1, 1, 1), mode="replicate")
    row, column = torch.ones(size[0] + 1, size[1] + 1).nonzero().unbind(1)
    values, places = upsample_cells(edged, rows, columns, row, column)
    found = torch.full((3, *new_size), torch.nan)
    found.flatten(1)[:, places] = values
    expected = functional.interpolate(maps[None].double(), new_size, mode="bilinear", align_corners=False)[0]
    error = upsampling_error(size, new_size) * maps.abs().max().item()
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=error)


@pytest.mark.parametrize(("size", "new_size"), [(5, 40), (5, 15), (7, 29), (2, 3)])
def test_places_lie_between_the_cell_s_two_old_places(size, new_size):
    cells = cells_of_axis(size, new_size)
    where = (torch.arange(new_size).double() + 0.5) * size / new_size - 0.5
    numbers = torch.arange(size + 1)[:, None].double()
    assert (where[cells.places] >= numbers - 1 - 1e-6).all() and (where[cells.places] <= numbers + 1e-6).all()
    assert torch.equal(cells.of_place[cells.places], torch.arange(size + 1)[:, None].expand_as(cells.places))
    assert cells.places.flatten().unique().tolist() == list(range(new_size))
    torch.testing.assert_close(cells.lower + cells.upper, torch.ones(cells.lower.shape), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("size", "new_size"), [(9, 4), (8, 1), (6, 6), (1, 4)])
def test_where_cells_would_be_empty_there_are_none(size, new_size):
    assert cells_of_axis(size, new_size) is None
