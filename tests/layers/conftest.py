"""The layers that every test of a behaviour runs for, the weights they are tried with, the judge of their norms."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from lrsegformer.layers import STRATEGIES, LipschitzConv1x1, LipschitzConv2d, LipschitzLinear


class Variant(NamedTuple):
    """A strategy with options: a row of the table of behaviours."""

    strategy: str
    options: dict[str, Any]

    @property
    def layer_class(self) -> type[LipschitzLinear]:
        return STRATEGIES[self.strategy]

    def build(self, out_features: int = 6, in_features: int = 5, seed: int = 0, **arguments) -> LipschitzLinear:
        torch.manual_seed(seed)
        return self.layer_class(in_features, out_features, **self.options, **arguments)

    def build_conv(self, out_channels: int = 6, in_channels: int = 5, seed: int = 0, **arguments) -> LipschitzConv1x1:
        torch.manual_seed(seed)
        return self.layer_class.conv1x1_class(in_channels, out_channels, **self.options, **arguments)

    def build_conv2d(self, out_channels: int = 6, in_channels: int = 5, seed: int = 0, **arguments) -> LipschitzConv2d:
        """By default an overlapping convolution, as of a patch embedding."""
        torch.manual_seed(seed)
        geometry = {"kernel_size": 3, "stride": 2, "padding": 1, **arguments}
        return self.layer_class.conv2d_class(in_channels, out_channels, **self.options, **geometry)

    def from_linear(self, linear: nn.Linear) -> LipschitzLinear:
        return self.layer_class.from_linear(linear, **self.options)


# A strategy joins by being registered.
VARIANTS = {name: Variant(name, {}) for name in STRATEGIES} | {
    "stable_softplus l1": Variant("stable_softplus", {"norm": "l1"}),
    "spectral_norm initial": Variant("spectral_norm", {"constant": "initial"}),
    "spectral_norm power_iteration": Variant("spectral_norm", {"sigma": "power_iteration"}),
}

KINDS = [
    "normal", "zero", "zero rows", "zero columns", "duplicated rows", "rank one", "one row", "strictly upper",
    "one large, many tiny", "constant", "times 1e-6", "times 1e-3", "times 1e3", "times 1e6",
]  # fmt: skip


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test starts from the same random state."""
    torch.manual_seed(0)


@pytest.fixture(scope="module", params=VARIANTS.values(), ids=VARIANTS.keys())
def variant(request) -> Variant:
    return request.param


@pytest.fixture(params=KINDS)
def kind(request) -> str:
    """A kind of weight, most of them awkward, as `raw_matrix` makes it."""
    return request.param


@pytest.fixture(scope="session")
def raw_matrix() -> Callable[[str, tuple[int, int]], torch.Tensor]:
    return _raw_matrix


def _raw_matrix(kind: str, shape: tuple[int, int]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(map(ord, kind)) + 31 * shape[0] + shape[1])
    matrix = torch.randn(shape, generator=generator)
    if kind == "zero":
        matrix.zero_()
    elif kind == "zero rows":
        matrix[::2] = 0
    elif kind == "zero columns":
        matrix[:, ::2] = 0
    elif kind == "duplicated rows":
        matrix[:] = matrix[0].clone()
    elif kind == "rank one":
        matrix = torch.outer(matrix[:, 0], matrix[0])
    elif kind == "one row":
        matrix[1:] = 0
        matrix[0, 0] = 0
    elif kind == "strictly upper":
        matrix = matrix.triu(1)
    elif kind == "one large, many tiny":
        matrix.fill_(5.9e-8)
        matrix[0, 0] = 1
    elif kind == "constant":
        matrix.fill_(0.3)
    elif kind.startswith("times"):
        matrix *= float(kind.split()[1])
    return matrix


@pytest.fixture(scope="session")
def plain_linear() -> Callable[..., nn.Linear]:
    """`plain_linear(matrix, bias=True)`: an `nn.Linear` that multiplies by `matrix`."""

    def make(matrix: torch.Tensor, bias: bool = True) -> nn.Linear:
        linear = nn.Linear(matrix.shape[1], matrix.shape[0], bias=bias)
        with torch.no_grad():
            linear.weight.copy_(matrix)
        return linear

    return make


@pytest.fixture(scope="session")
def reference_norm() -> Callable[[torch.Tensor, str], float]:
    return _reference_norm


def _reference_norm(matrix: torch.Tensor, norm: str) -> float:
    """The operator norm by numpy in float64, written independently of the package."""
    entries = matrix.detach().double().numpy()
    if norm == "l2":
        return float(np.linalg.svd(entries, compute_uv=False)[0])
    return float(np.abs(entries).sum(axis=1 if norm == "linf" else 0).max())


@pytest.fixture(scope="session")
def assert_bounded() -> Callable[[nn.Module], None]:
    """The bound of a layer is one of its effective weight, and both are finite."""

    def check(layer: nn.Module) -> None:
        effective = layer.effective_weight()
        assert torch.isfinite(effective).all()
        assert _reference_norm(effective, layer.norm) <= layer.lipschitz_bound().item() < float("inf")

    return check
