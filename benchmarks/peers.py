"""The layers that `layers.py` compares: ours, torch's parametrizations, deel-torchlip and orthogonium."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils import parametrizations

from lrsegformer.layers import STRATEGIES, build_lipschitz_linear

# What a layer's weight is constrained to.
ALL_SINGULAR_VALUES = "all singular values = K"
LARGEST_SINGULAR_VALUE = "largest singular value = K"
L2_NORM = "l2 norm <= K"
LINF_NORM = "linf norm <= K"
NOTHING = "nothing"

# How far that can be relied on.
PROVEN = "proven"  # rounding included, and checked by a bound that the layer returns
EXACT_ARITHMETIC = "exact arithmetic"  # true of the formula; what rounding does to it is not covered
ESTIMATE = "estimate"  # an iteration that is stopped, so the norm may exceed what is claimed
NONE = "none"

LARGEST_SQUARE = 1024


@dataclass(frozen=True)
class Candidate:
    """
    A layer that takes part.

    Attributes:
        name (`str`): its row in the tables.
        source (`str`): `"ours"`, the peer's name, or `"alternative"` for an algorithm that we did not choose.
        constraint (`str`), guarantee (`str`): one of the constants above.
        build (`Callable`): from (in_features, out_features) to a layer without bias.
        weight (`Callable`): from the layer to its effective weight, differentiable.
        bound (`Callable`): from the layer to the operator norm that it claims; NaN where it claims none.
        norm (`str`): the norm of that claim, `"l2"` or `"linf"`.
        largest_side (`float`): the layer is left out where in or out is larger, because a call takes seconds there.
    """

    name: str
    source: str
    constraint: str
    guarantee: str
    build: Callable[[int, int], nn.Module]
    weight: Callable[[nn.Module], torch.Tensor] = lambda layer: layer.weight
    bound: Callable[[nn.Module], float] = lambda layer: 1.0
    norm: str = "l2"
    largest_side: float = math.inf

    @property
    def promise(self) -> str:
        """Constraint and guarantee in one cell of a table."""
        return NONE if self.guarantee == NONE else f"{self.constraint}, {self.guarantee}"


def our_layers() -> Iterator[Candidate]:
    """Every registered strategy, and spectral_norm's option."""
    promises = {
        "stable_softplus": (LINF_NORM, PROVEN),
        "geometric_mean": (L2_NORM, PROVEN),
        "spectral_norm": (LARGEST_SINGULAR_VALUE, PROVEN),
        "orthogonal": (ALL_SINGULAR_VALUES, PROVEN),
        "jacobian_norm": (NOTHING, NONE),
    }
    for strategy in STRATEGIES:
        yield _ours(strategy, *promises[strategy])
    # Its bound is exact, and computed from the weight at hand; what the estimate leaves open is whether K holds.
    yield _ours("spectral_norm", LARGEST_SINGULAR_VALUE, ESTIMATE, sigma="power_iteration")


def _ours(strategy: str, constraint: str, guarantee: str, **options: str) -> Candidate:
    return Candidate(
        name=" ".join(["ours", strategy, *options.values()]),
        source="ours",
        constraint=constraint,
        guarantee=guarantee,
        build=lambda inputs, outputs: build_lipschitz_linear(strategy, inputs, outputs, bias=False, **options),
        weight=lambda layer: layer.effective_weight(),
        bound=lambda layer: float(layer.lipschitz_bound().detach()),
        norm="linf" if constraint == LINF_NORM else "l2",
    )


def torch_layers() -> Iterator[Candidate]:
    """
    torch.nn.utils.parametrizations; `trivialization` is its default, which multiplies by a square base matrix.

    At in = 3072, matrix_exp and cayley need a 3072 x 3072 matrix, and the backward pass of householder takes a minute.
    """

    def spectral(inputs: int, outputs: int) -> nn.Module:
        return parametrizations.spectral_norm(nn.Linear(inputs, outputs, bias=False))

    def orthogonal(orthogonal_map: str, trivialization: bool = True) -> Callable[[int, int], nn.Module]:
        return lambda inputs, outputs: parametrizations.orthogonal(
            nn.Linear(inputs, outputs, bias=False),
            orthogonal_map=orthogonal_map,
            use_trivialization=trivialization,
        )

    yield Candidate("torch spectral_norm", "torch", LARGEST_SINGULAR_VALUE, ESTIMATE, spectral)
    maps = {name: orthogonal(name) for name in ("householder", "matrix_exp", "cayley")}
    maps["householder, no trivialization"] = orthogonal("householder", trivialization=False)
    for name, build in maps.items():
        yield Candidate(
            name=f"torch orthogonal {name}",
            source="torch",
            constraint=ALL_SINGULAR_VALUES,
            guarantee=EXACT_ARITHMETIC,
            build=build,
            largest_side=LARGEST_SQUARE,
        )


def torchlip_layers() -> Iterator[Candidate]:
    """deel-torchlip's linear layers, with its defaults and without its orthogonalisation."""
    from deel import torchlip

    def spectral(**options: None) -> Callable[[int, int], nn.Module]:
        return lambda inputs, outputs: torchlip.SpectralLinear(inputs, outputs, bias=False, **options)

    def frobenius(inputs: int, outputs: int) -> nn.Module:
        return torchlip.FrobeniusLinear(inputs, outputs, bias=False, disjoint_neurons=False)

    yield Candidate("torchlip SpectralLinear", "deel-torchlip", ALL_SINGULAR_VALUES, ESTIMATE, spectral())
    yield Candidate(
        "torchlip SpectralLinear, no Bjorck",
        "deel-torchlip",
        LARGEST_SINGULAR_VALUE,
        ESTIMATE,
        spectral(eps_bjorck=None),
    )
    yield Candidate("torchlip FrobeniusLinear", "deel-torchlip", L2_NORM, EXACT_ARITHMETIC, frobenius)


def orthogonium_layers() -> Iterator[Candidate]:
    """orthogonium's OrthoLinear with each of the orthogonalizers that it has settings for."""
    from orthogonium import reparametrizers
    from orthogonium.layers.linear.ortho_linear import OrthoLinear

    # Cholesky adds 1e-5 to the Gram matrix before it is factored, which keeps the norm below 1 in exact arithmetic;
    # exp sums 11 terms of the series of a matrix that an estimate has scaled to norm 1.
    settings = {
        "Bjorck": (reparametrizers.DEFAULT_ORTHO_PARAMS, ALL_SINGULAR_VALUES, ESTIMATE),
        "Cholesky": (reparametrizers.CHOLESKY_ORTHO_PARAMS, L2_NORM, EXACT_ARITHMETIC),
        "QR": (reparametrizers.QR_ORTHO_PARAMS, ALL_SINGULAR_VALUES, EXACT_ARITHMETIC),
        "exp": (reparametrizers.EXP_ORTHO_PARAMS, ALL_SINGULAR_VALUES, ESTIMATE),
    }

    def ortho(params: reparametrizers.OrthoParams) -> Callable[[int, int], nn.Module]:
        return lambda inputs, outputs: OrthoLinear(inputs, outputs, bias=False, ortho_params=params)

    for name, (params, constraint, guarantee) in settings.items():
        yield Candidate(
            name=f"orthogonium OrthoLinear {name}",
            source="orthogonium",
            constraint=constraint,
            guarantee=guarantee,
            build=ortho(params),
            largest_side=LARGEST_SQUARE if name == "exp" else math.inf,
        )


def all_layers() -> list[Candidate]:
    """Plain, ours and the peers' layers; a peer that is not installed is named in a printed line and left out."""

    def plain(inputs: int, outputs: int) -> nn.Module:
        return nn.Linear(inputs, outputs, bias=False)

    candidates = [
        Candidate("plain nn.Linear", "torch", NOTHING, NONE, plain, bound=lambda layer: math.nan),
        *our_layers(),
        *torch_layers(),
    ]
    for distribution, layers in (("deel-torchlip", torchlip_layers), ("orthogonium", orthogonium_layers)):
        try:
            candidates.extend(layers())
        except ModuleNotFoundError as error:
            print(f"{distribution} is left out ({error}): pip install -c constraints.txt '.[bench]'", flush=True)
    return candidates


def same_promise(ours: Candidate, candidates: Sequence[Candidate]) -> list[Candidate]:
    """The peers that promise what `ours` does; where none does, those that promise more."""
    peers = [c for c in candidates if c.source not in ("ours", "alternative") and c.guarantee != NONE]
    as_sure = [c for c in peers if (c.guarantee == ESTIMATE) == (ours.guarantee == ESTIMATE)]
    equal = [c for c in as_sure if c.constraint == ours.constraint]
    if not equal and ours.constraint == LARGEST_SINGULAR_VALUE:
        return [c for c in as_sure if c.constraint == ALL_SINGULAR_VALUES]
    return equal
