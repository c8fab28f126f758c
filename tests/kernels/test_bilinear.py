"""Interpolation matrices, bands and the upsampled sum, against `F.interpolate` and its autograd."""

import pytest
import torch
from torch.nn import functional

from lrsegformer.kernels import bilinear
from lrsegformer.kernels.bilinear import (
    BandedUpsampling,
    bands,
    full_precision_products,
    interpolation_matrix,
    upsampling_transposed,
)

SIZES = [1, 2, 3, 5, 8, 13, 32, 37]
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-14}
NEW_SIZES = [(33, 50), (12, 14), (6, 7), (3, 2), (1, 1), (41, 1), (1, 300)]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=[None, 1, 90, 400], ids=lambda entries: f"entries={entries}")
def small_bands(request, monkeypatch) -> None:
    """Bands of one row, of a few, and of all rows, in slabs of three and blocks of five columns."""
    if request.param is not None:
        monkeypatch.setattr(bilinear, "BAND_ENTRIES_ON_CPU", request.param)
        monkeypatch.setattr(bilinear, "FEWEST_ROWS", 1)
        monkeypatch.setattr(bilinear, "BANDS_OF_SLAB", 3)
        monkeypatch.setattr(bilinear, "BLOCK_COLUMNS", 5)


def upsampled(maps: torch.Tensor, size) -> torch.Tensor:
    return functional.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


def in_bands(maps: torch.Tensor, size, cotangent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`(maps, height, width)` upsampled by bands, and the transpose of that applied to `cotangent`."""
    upsampling = BandedUpsampling(len(maps), maps.shape[1:], size, maps.dtype, maps.device, with_gradient=True)
    gradient = torch.zeros_like(maps)
    rows = []
    for part, upsampled in upsampling.bands_of(maps, gradient):
        rows.append(upsampled.clone())
        upsampled.copy_(cotangent[:, part].transpose(0, 1))
    return torch.cat(rows).permute(1, 0, 2), gradient


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("new_size", [*SIZES, 64, 200])
@pytest.mark.parametrize("size", SIZES)
def test_matrix_is_interpolation_along_either_axis(size, new_size, dtype):
    matrix = interpolation_matrix(size, new_size, dtype)
    assert matrix.shape == (new_size, size) and matrix.dtype == dtype
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(matrix.sum(1), torch.ones(new_size, dtype=dtype), rtol=0, atol=tolerance)
    tall = torch.randn(1, 2, size, 4, dtype=dtype)
    torch.testing.assert_close(matrix @ tall, upsampled(tall, (new_size, 4)), rtol=0, atol=10 * tolerance)
    wide = tall.transpose(2, 3).contiguous()
    torch.testing.assert_close(wide @ matrix.T, upsampled(wide, (4, new_size)), rtol=0, atol=10 * tolerance)


def test_matrix_in_half_precision_is_the_rounded_one():
    for dtype in (torch.bfloat16, torch.float16):
        assert torch.equal(interpolation_matrix(5, 17, dtype), interpolation_matrix(5, 17).to(dtype))


@pytest.mark.parametrize("rows", [1, 2, 7, 1000])
@pytest.mark.parametrize(("size", "new_size"), [(4, 29), (29, 4), (6, 6), (1, 9), (9, 1), (10, 25)])
def test_bands_reassemble_the_matrix(size, new_size, rows):
    matrix = torch.zeros(new_size, size, dtype=torch.float64)
    following = 0
    for band in bands(size, new_size, rows, torch.float64):
        assert band.start == following and 0 < band.stop - band.start <= rows
        assert band.weights.is_contiguous()
        matrix[band.start : band.stop, band.source_start : band.source_stop] = band.weights
        following = band.stop
    assert following == new_size
    assert torch.equal(matrix, interpolation_matrix(size, new_size, torch.float64))


@pytest.mark.usefixtures("small_bands")
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("new_size", NEW_SIZES)
def test_banded_upsampling_is_interpolate_and_its_gradient(new_size, dtype):
    maps = torch.randn(3, 6, 7, dtype=dtype, requires_grad=True)
    cotangent = torch.randn(3, *new_size, dtype=dtype)
    with torch.no_grad():
        forward, transposed = in_bands(maps, new_size, cotangent)
    expected = upsampled(maps[None], new_size)[0]
    (gradient,) = torch.autograd.grad(expected, maps, cotangent)
    torch.testing.assert_close(forward, expected.detach(), rtol=0, atol=10 * TOLERANCE[dtype])
    scale = max(1.0, gradient.abs().max().item())
    torch.testing.assert_close(transposed, gradient, rtol=0, atol=20 * TOLERANCE[dtype] * scale)


@pytest.mark.usefixtures("small_bands")
@pytest.mark.parametrize("new_size", NEW_SIZES)
def test_gradient_of_the_bands_is_their_adjoint(new_size):
    maps = torch.randn(3, 6, 7, dtype=torch.float64)
    cotangent = torch.randn(3, *new_size, dtype=torch.float64)
    forward, transposed = in_bands(maps, new_size, cotangent)
    left, right = (forward * cotangent).sum().item(), (maps * transposed).sum().item()
    assert left == pytest.approx(right, rel=0, abs=1e-12 * (forward.norm() * cotangent.norm()).item())
    whole = upsampling_transposed(cotangent[None], (6, 7))[0]
    torch.testing.assert_close(transposed, whole, rtol=0, atol=1e-12)


def test_small_bands_make_several_slabs_and_bands(monkeypatch):
    """What the tests above rely on."""
    monkeypatch.setattr(bilinear, "BAND_ENTRIES_ON_CPU", 90)
    monkeypatch.setattr(bilinear, "FEWEST_ROWS", 1)
    monkeypatch.setattr(bilinear, "BANDS_OF_SLAB", 3)
    upsampling = BandedUpsampling(3, (6, 7), (33, 10), torch.float32, torch.device("cpu"), with_gradient=False)
    assert [len(slab) for slab in upsampling.slabs] == [3, 3, 3, 2]
    assert {band.stop - band.start for slab in upsampling.slabs for band in slab} == {3}


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_the_users_precision_of_products_comes_back(precision):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        with full_precision_products():
            if hasattr(torch.backends.mkldnn.matmul, "fp32_precision"):
                assert torch.backends.mkldnn.matmul.fp32_precision == "ieee"
                assert torch.backends.cuda.matmul.fp32_precision == "ieee"
            else:
                assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == precision
        with pytest.raises(ZeroDivisionError), full_precision_products():
            _ = 1 / 0
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.fixture
def unset_precisions():
    """The settings of torch 2.9 and later as they are before anyone sets them."""
    if not hasattr(torch.backends, "fp32_precision"):
        pytest.skip("this torch has the older setting alone")
    backends = [torch.backends, torch.backends.cuda.matmul, torch.backends.mkldnn.matmul]
    before = [backend.fp32_precision for backend in backends]
    for backend in backends:
        backend.fp32_precision = "none"
    yield
    for backend, value in zip(backends, before, strict=True):
        backend.fp32_precision = value


@pytest.mark.usefixtures("unset_precisions")
@pytest.mark.parametrize("backend", [torch.backends, torch.backends.cuda.matmul, torch.backends.mkldnn.matmul])
def test_a_precision_set_by_backend_comes_back(backend):
    """`TrainingArguments(tf32=True)` sets it so; reading the older setting then raises."""
    backend.fp32_precision = "tf32"
    with full_precision_products():
        pass
    assert backend.fp32_precision == "tf32"


def test_bands_of_inference_mode_serve_training():
    bands.cache_clear()
    with torch.inference_mode():
        first = bands(5, 23, 4, torch.float64)
    assert bands(5, 23, 4, torch.float64) is first
    assert not any(band.weights.is_inference() for band in first)
    maps = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    (first[0].weights @ maps[:, : first[0].source_stop]).square().sum().backward()
    assert torch.isfinite(maps.grad).all()


def test_the_bands_of_some_rows_are_the_same_ones(small_bands):
    maps = torch.randn(3, 9, 7)
    upsampling = BandedUpsampling(3, (9, 7), (50, 20), torch.float32, maps.device, with_gradient=False)
    whole = torch.cat([band.clone() for _, band in upsampling.bands_of(maps)])
    held = []
    for rows, band in upsampling.bands_of(maps, rows={3, 48}):
        assert torch.equal(band, whole[rows])
        held += range(rows.start, rows.stop)
    assert {3, 48} <= set(held)


@pytest.mark.parametrize(("size", "new_size"), [((4, 6), (32, 48)), ((5, 9), (15, 13)), ((1, 128), (3, 500))])
def test_the_error_of_upsampling_is_bounded(size, new_size):
    maps = torch.randn(200, *size)
    found = torch.empty(200, *new_size)
    upsampling = BandedUpsampling(200, size, new_size, torch.float32, maps.device, with_gradient=False)
    for rows, band in upsampling.bands_of(maps):
        found[:, rows] = band.transpose(0, 1)
    exact = upsampled(maps.double()[None], new_size)[0]
    error = ((found.double() - exact).abs().amax(dim=(1, 2)) / maps.abs().amax(dim=(1, 2))).max()
    bound = bilinear.upsampling_error(size, new_size)
    assert bound / 100 < error <= bound
    assert bilinear.upsampling_error(size, size) == 0
