"""The table of strategies. A strategy joins the package, its command line and its tests by a row here."""

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lrsegformer.layers.base import LipschitzLinear
    from lrsegformer.layers.conv import LipschitzConv1x1, LipschitzConv2d

# name, which is also its file's: (class of the linear layer, one line for --help and the README)
_TABLE = {
    "stable_softplus": (
        "StableSoftplusLipschitzLinear",
        "rows scaled to a learned constant K = softplus(c); bounds linf",
    ),
    "geometric_mean": (
        "GeometricMeanLipschitzLinear",
        "matrix scaled to a learned constant K = exp(c) by sqrt(l1 * linf); bounds l2",
    ),
    "spectral_norm": (
        "SpectralNormalizedLinear",
        "matrix divided by its exact largest singular value; bounds l2 by a fixed K",
    ),
    "orthogonal": (
        "OrthogonalLipschitzLinear",
        "orthonormal rows or columns by Householder QR; every singular value is a fixed K",
    ),
    "jacobian_norm": (
        "JacobianNormLipschitzLinear",
        "plain weights; the head's Jacobian at the data is penalised, nothing is limited",
    ),
}
# What a command line that asks for a constraint, and names none, gets.
DEFAULT_STRATEGY = "stable_softplus"


class StrategyTable(Mapping[str, "type[LipschitzLinear]"]):
    """Read-only mapping from strategy names to layer classes; a class is imported when it is asked for."""

    def __getitem__(self, name: str) -> "type[LipschitzLinear]":
        if name not in _TABLE:
            raise KeyError(f"Unknown strategy {name!r}: choose one of {', '.join(_TABLE)}.")
        return getattr(import_module(f"lrsegformer.layers.{name}"), _TABLE[name][0])

    def __iter__(self) -> Iterator[str]:
        return iter(_TABLE)

    def __len__(self) -> int:
        return len(_TABLE)

    def __contains__(self, name: object) -> bool:
        return name in _TABLE

    def homes(self) -> dict[str, str]:
        """The names of the layer classes, and of the files that hold them."""
        return {class_name: name for name, (class_name, _) in _TABLE.items()}

    def summary(self, name: str) -> str:
        """One line on what the strategy does, for `--help` and tables."""
        return _TABLE[name][1]

    def summaries(self) -> str:
        """All names with their summaries, for `--help`."""
        return "; ".join(f"{name}: {self.summary(name)}" for name in self)


STRATEGIES = StrategyTable()


def build_lipschitz_linear(
    strategy: str, in_features: int, out_features: int, bias: bool = True, **options: Any
) -> "LipschitzLinear":
    """
    A linear layer of the named strategy.

    Args:
        strategy (`str`): a key of `STRATEGIES`.
        in_features (`int`), out_features (`int`): sizes of the input and output samples.
        bias (`bool`, *optional*, defaults to `True`): whether there is a bias (never constrained).
        options: options of the strategy, and `device` and `dtype` as `nn.Linear` takes them.

    Raises:
        `KeyError`: for an unknown strategy, naming the known ones.
        `TypeError` or `ValueError`: for an option that the strategy does not take.
    """
    return STRATEGIES[strategy](in_features, out_features, bias=bias, **options)


def build_lipschitz_conv1x1(
    strategy: str, in_channels: int, out_channels: int, bias: bool = True, **options: Any
) -> "LipschitzConv1x1":
    """A 1x1 convolution of the named strategy; see [`build_lipschitz_linear`]."""
    return STRATEGIES[strategy].conv1x1_class(in_channels, out_channels, bias=bias, **options)


def build_lipschitz_conv2d(
    strategy: str,
    in_channels: int,
    out_channels: int,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    groups: int = 1,
    bias: bool = True,
    **options: Any,
) -> "LipschitzConv2d":
    """A zero-padded convolution of the named strategy, of any geometry; see [`build_lipschitz_linear`]."""
    geometry = {"stride": stride, "padding": padding, "groups": groups, "bias": bias}
    return STRATEGIES[strategy].conv2d_class(in_channels, out_channels, kernel_size, **geometry, **options)
