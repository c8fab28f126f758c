"""Bilinear resampling as matrices: `F.interpolate(mode="bilinear", align_corners=False)` is one along each axis."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import NamedTuple

import torch
from torch.nn import functional

# Entries of the upsampled maps held at a time: what stays in the cache of a CPU, what keeps a GPU busy.
BAND_ENTRIES_ON_CPU = 2**18
BAND_ENTRIES = 2**26
# A band of fewer rows is upsampled from nearly as many rows of the source as it has itself.
FEWEST_ROWS = 6
# Bands whose rows are upsampled along the width together: neighbours share a row or two of the source.
BANDS_OF_SLAB = 8
# Columns made by one product with the interpolation matrix: few enough to skip most of its zeros.
BLOCK_COLUMNS = 128


class Band(NamedTuple):
    """
    Consecutive rows of an interpolation matrix, without the columns in which they are zero.

    Attributes:
        start (`int`), stop (`int`): the rows.
        source_start (`int`), source_stop (`int`): the columns.
        weights (`torch.Tensor` of shape `(stop - start, source_stop - source_start)`).
    """

    start: int
    stop: int
    source_start: int
    source_stop: int
    weights: torch.Tensor


def interpolation_matrix(
    size: int, new_size: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """
    The `(new_size, size)` matrix that linear interpolation multiplies by; its rows sum to 1.

    The entries are those that `torch.nn.functional.interpolate` uses, computed in at least float32.
    """
    compute = torch.promote_types(dtype, torch.float32)
    identity = torch.eye(size, dtype=compute, device=device)[None]
    matrix = functional.interpolate(identity, size=new_size, mode="linear", align_corners=False)
    return matrix[0].T.contiguous().to(dtype)


def upsampling_error(size: Sequence[int], new_size: Sequence[int]) -> float:
    """
    A bound of how far bilinear upsampling in float32, as [`BandedUpsampling`] does it, is from the exact one: times
    the largest absolute value of the map. 0 where nothing is upsampled.
    """
    if tuple(size) == tuple(new_size):
        return 0.0
    by_rows, by_columns = (_matrix_error(old, new) for old, new in zip(size, new_size, strict=True))
    # Along each axis two products and their sum are rounded, by 4 * 2^-24 in all. This is more than twice as much, so
    # that it also bounds how far two ways of upsampling in float32 are from each other.
    return (1 + by_rows) * (1 + by_columns) - 1 + 10 * 2.0**-24


@lru_cache(maxsize=64)
def _matrix_error(size: int, new_size: int) -> float:
    """
    How far a row of the float32 matrix is from the exact one, as the sum of the absolute differences: positions in the
    source are rounded, so that it is 0 for factors that are powers of two and 2e-5 from 128 to 500.
    """
    exact = interpolation_matrix(size, new_size, torch.float64)
    return float((interpolation_matrix(size, new_size).double() - exact).abs().sum(dim=1).max())


@lru_cache(maxsize=64)
def bands(
    size: int, new_size: int, rows: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> tuple[Band, ...]:
    """The interpolation matrix cut into bands of at most `rows` rows."""
    # A tensor made in inference mode could not be used in training later.
    with torch.inference_mode(False):
        matrix = interpolation_matrix(size, new_size, dtype)
        cut = []
        for start in range(0, new_size, rows):
            stop = min(start + rows, new_size)
            columns = matrix[start:stop].any(dim=0).nonzero()
            first, last = int(columns[0]), int(columns[-1]) + 1
            weights = matrix[start:stop, first:last].contiguous().to(device)
            cut.append(Band(start, stop, first, last, weights))
    return tuple(cut)


class BandedUpsampling:
    """
    Bilinear upsampling of an image's maps to `new_size`, a band of rows at a time.

    The source rows that a slab of bands needs are upsampled along the width, then each band along the height, all of
    it as products with blocks of the two interpolation matrices and into the same few buffers.

    Args:
        maps (`int`): number of maps.
        size (`tuple[int, int]`), new_size (`tuple[int, int]`): height and width before and after.
        dtype (`torch.dtype`), device (`torch.device`): of the maps; float32 or float64.
        with_gradient (`bool`): whether gradients of the bands will be given back.
    """

    def __init__(
        self,
        maps: int,
        size: Sequence[int],
        new_size: Sequence[int],
        dtype: torch.dtype,
        device: torch.device,
        with_gradient: bool,
    ):
        entries = BAND_ENTRIES_ON_CPU if device.type == "cpu" else BAND_ENTRIES
        rows = min(new_size[0], max(FEWEST_ROWS, entries // (maps * new_size[1])))
        by_rows = bands(size[0], new_size[0], rows, dtype, device)
        self.slabs = [by_rows[first : first + BANDS_OF_SLAB] for first in range(0, len(by_rows), BANDS_OF_SLAB)]
        self._blocks = bands(size[1], new_size[1], BLOCK_COLUMNS, dtype, device)
        tallest = max(slab[-1].source_stop - slab[0].source_start for slab in self.slabs)
        like = {"dtype": dtype, "device": device}
        # A large image's whole maps would not stay in the cache, and are allocated anew by the system at every call.
        self._narrow = torch.empty(tallest, maps, size[1], **like)
        self._wide = torch.empty(tallest, maps, new_size[1], **like)
        self._wide_gradient = torch.empty_like(self._wide) if with_gradient else None
        self._band = torch.empty(rows, maps, new_size[1], **like)

    def bands_of(
        self,
        image: torch.Tensor,
        gradient: torch.Tensor | None = None,
        origin: torch.Tensor | None = None,
        rows: Collection[int] | None = None,
    ) -> Iterator[tuple[slice, torch.Tensor]]:
        """
        Go through the upsampled rows of an image.

        Args:
            image (`torch.Tensor` of shape `(maps, height, width)`): any floating dtype.
            gradient (`torch.Tensor` of shape `(maps, height, width)`, *optional*):
                What the caller leaves in each band is taken for its gradient, and that of the image is added here.
            origin (`torch.Tensor`, *optional*): a scalar to subtract.
            rows (collection of `int`, *optional*):
                Go through the bands that hold these rows alone, which are then to the bit what they are without.

        Yields:
            The rows, a `slice` of the new height, and a `torch.Tensor` of shape `(rows, maps, new_width)` that may be
            overwritten, as the next band overwrites it.
        """
        for slab in self.slabs:
            wanted = [band for band in slab if rows is None or any(band.start <= row < band.stop for row in rows)]
            if not wanted:
                continue
            self._start_slab(slab, image, origin)
            for band in wanted:
                upsampled = self._upsampled(band)
                yield slice(band.start, band.stop), upsampled
                if gradient is not None:
                    sources = self._wide_gradient[self._sources(band)].flatten(1)
                    sources.addmm_(band.weights.T, upsampled.flatten(1))
            if gradient is not None:
                self._finish_slab(slab, gradient)

    def _start_slab(self, slab: Sequence[Band], image: torch.Tensor, origin: torch.Tensor | None) -> None:
        """Upsample what the slab needs of `image` `(maps, height, width)`, less the origin, along the width."""
        self._first, last = slab[0].source_start, slab[-1].source_stop
        source = self._narrow[: last - self._first].copy_(image[:, self._first : last].transpose(0, 1))
        if origin is not None:
            source.sub_(origin)
        flat, flat_wide = source.flatten(0, 1), self._wide[: len(source)].flatten(0, 1)
        for block in self._blocks:
            narrow = flat[:, block.source_start : block.source_stop]
            torch.mm(narrow, block.weights.T, out=flat_wide[:, block.start : block.stop])
        if self._wide_gradient is not None:
            self._wide_gradient.zero_()

    def _upsampled(self, band: Band) -> torch.Tensor:
        upsampled = self._band[: band.stop - band.start]
        torch.mm(band.weights, self._wide[self._sources(band)].flatten(1), out=upsampled.flatten(1))
        return upsampled

    def _finish_slab(self, slab: Sequence[Band], gradient: torch.Tensor) -> None:
        """Add the gradient of the current slab to that of the image, `(maps, height, width)`."""
        last = slab[-1].source_stop
        narrow_gradient = self._narrow[: last - self._first].zero_()
        flat, flat_out = self._wide_gradient[: len(narrow_gradient)].flatten(0, 1), narrow_gradient.flatten(0, 1)
        for block in self._blocks:
            narrow = flat_out[:, block.source_start : block.source_stop]
            narrow.addmm_(flat[:, block.start : block.stop], block.weights)
        gradient[:, self._first : last].add_(narrow_gradient.transpose(0, 1))

    def _sources(self, band: Band) -> slice:
        return slice(band.source_start - self._first, band.source_stop - self._first)


@contextmanager
def full_precision_products() -> Iterator[None]:
    """
    Interpolation is no place for TensorFloat-32 or bfloat16, which a user may allow for the products of the network
    or bring in by autocast.
    """
    with ExitStack() as stack:
        for device_type in ("cpu", "cuda"):
            stack.enter_context(torch.autocast(device_type, enabled=False))
        stack.enter_context(_highest_precision())
        yield


@contextmanager
def _highest_precision() -> Iterator[None]:
    # torch 2.9 and later have a setting for each backend, and refuse to read the older one once those were set.
    backends = [torch.backends.cuda.matmul, torch.backends.mkldnn.matmul]
    if all(hasattr(backend, "fp32_precision") for backend in backends):
        before = [backend.fp32_precision for backend in backends]
        for backend in backends:
            backend.fp32_precision = "ieee"
        try:
            yield
        finally:
            for backend, precision in zip(backends, before, strict=True):
                backend.fp32_precision = precision
        return
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)


def upsampling_transposed(maps: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """The transpose of bilinear upsampling from `size`, applied to `(batch, channels, height, width)`."""
    if tuple(size) == tuple(maps.shape[2:]):
        return maps
    by_rows, by_columns = interpolation_matrices(size, maps.shape[2:], maps)
    return by_rows.T @ (maps @ by_columns)


def interpolation_matrices(
    size: Sequence[int], new_size: Sequence[int], like: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The matrices along rows and columns, with the dtype and on the device of `like`."""
    pairs = zip(size, new_size, strict=True)
    return tuple(interpolation_matrix(old, new, like.dtype, like.device) for old, new in pairs)
