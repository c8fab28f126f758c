"""The head's norms: rebuilt by hand, met, attacked by gradient ascent, and true in bfloat16."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import nn

from lrsegformer import STRATEGIES

HIDDEN_SIZES = (8, 8, 16, 16)
ORDERS = {"per_pixel_l2": 2, "linf": float("inf"), "per_pixel_l1": 1, "l2": 2}
# Sizes of the stages' maps: with odd ones bilinear upsampling has no integer factor.
ODD_SIZES = ((8, 8), (4, 4), (3, 2), (1, 1))
WHOLE_SIZES = ((8, 8), (4, 4), (2, 2), (1, 1))
CASES = [
    *((strategy, "head", {}) for strategy in STRATEGIES),
    ("stable_softplus", "head", {"lipschitz_options": {"norm": "l1"}}),
    ("geometric_mean", "projections", {}),
    (None, "head", {}),
]


def operator_norm(matrix: torch.Tensor, norm: str) -> float:
    return torch.linalg.matrix_norm(matrix.detach().double(), ord=ORDERS[norm]).item()


def map_norm(values: torch.Tensor, norm: str) -> torch.Tensor:
    """The norm of one map `(batch, channels, height, width)`, one a sample."""
    if norm == "l2":
        return torch.linalg.vector_norm(values.flatten(1), dim=1)
    return torch.linalg.vector_norm(values, ord=ORDERS[norm], dim=1).flatten(1).amax(1)


def feature_norm(features: Sequence[torch.Tensor], norm: str) -> torch.Tensor:
    """The norm of the features of all stages that the report names, one a sample."""
    scales = torch.stack([map_norm(feature, norm) for feature in features])
    return {2: scales.square().sum(0).sqrt(), float("inf"): scales.amax(0), 1: scales.sum(0)}[ORDERS[norm]]


def effective(layer: nn.Module, row_scale: torch.Tensor | None = None) -> torch.Tensor:
    """The matrix of a constrained or plain layer."""
    return layer.effective_weight(row_scale) if hasattr(layer, "effective_weight") else layer.weight.flatten(1)


def folded_by_hand(head: nn.Module) -> list[torch.Tensor]:
    """What the head multiplies each stage by in float32: its block of the fuse weight times its projection."""
    norm = head.batch_norm
    row_scale = norm.row_scale() if hasattr(norm, "row_scale") else None
    blocks = effective(head.linear_fuse, row_scale).split(head.config.decoder_hidden_size, dim=1)
    projections = [effective(projection.proj) for projection in head.linear_projections]
    return [block @ projection for block, projection in zip(reversed(blocks), projections, strict=True)]


def scale_after(head: nn.Module) -> torch.Tensor:
    """What a plain BatchNorm multiplies the rows by in eval mode; centring multiplies by nothing."""
    norm = head.batch_norm
    if hasattr(norm, "row_scale"):
        return torch.ones(len(norm.weight), 1, dtype=torch.float64)
    return (norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt())[:, None]


def to_relu(head: nn.Module, features: Sequence[torch.Tensor]) -> torch.Tensor:
    """The linear part of the map from the features to the ReLU."""
    zeros = [torch.zeros_like(feature) for feature in features]
    return head.batch_norm(head.fuse(features)) - head.batch_norm(head.fuse(zeros))


def largest_ratio(head: nn.Module, norm: str, sizes: Sequence[tuple[int, int]], steps: int = 30) -> float:
    """How far gradient ascent from random pairs can drive the ratio of output to input differences."""
    generator = torch.Generator().manual_seed(1)
    shapes = [(8, channels, *size) for channels, size in zip(HIDDEN_SIZES, sizes, strict=True)]
    bases = [(3 * torch.randn(shape, generator=generator, dtype=torch.float64)).requires_grad_() for shape in shapes]
    # Moves that start the same at every pixel: those would attain the norm, were no ReLU closed.
    moves = [0.1 * torch.randn(8, shape[1], 1, 1, generator=generator, dtype=torch.float64) for shape in shapes]
    moves = [move.repeat(1, 1, *size).requires_grad_() for move, size in zip(moves, sizes, strict=True)]
    optimizer = torch.optim.Adam([*moves, *bases], lr=0.05)
    largest = 0.0
    for _ in range(steps):
        moved = [base + move for base, move in zip(bases, moves, strict=True)]
        ratios = map_norm(head(moved) - head(bases), norm) / feature_norm(moves, norm)
        largest = max(largest, ratios.max().item())
        optimizer.zero_grad()
        (-ratios.log().sum()).backward()
        optimizer.step()
    return largest


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("strategy", "options", "norm"),
    [
        *((strategy, {}, "linf" if strategy == "stable_softplus" else "per_pixel_l2") for strategy in STRATEGIES),
        ("stable_softplus", {"lipschitz_options": {"norm": "l1"}}, "per_pixel_l1"),
        ("spectral_norm", {}, "l2"),
        *((None, {}, norm) for norm in ORDERS),
    ],
)
def test_ascent_never_exceeds_a_bound(make_model, strategy, options, norm):
    model = make_model(strategy, **options)
    bound = model.lipschitz_report()["head"]["norms"][norm]["bound"]
    measured = largest_ratio(model.double().decode_head, norm, WHOLE_SIZES if norm == "l2" else ODD_SIZES)
    assert measured <= bound
    assert measured > 0.1 * bound, "the attack has power"


@pytest.mark.parametrize(("strategy", "scope", "options"), CASES)
def test_norms_are_those_of_the_matrices_built_by_hand(make_model, strategy, scope, options):
    model = make_model(strategy, scope, **options)
    head, norms = model.decode_head, model.lipschitz_report()["head"]["norms"]
    matrices = [scale_after(head) * matrix.double() for matrix in folded_by_hand(head)]
    assert list(norms) == list(ORDERS)
    for norm, row in norms.items():
        factors = (1, 2, 4, 8) if norm == "l2" else (1, 1, 1, 1)
        stacked = torch.cat([factor * matrix for factor, matrix in zip(factors, matrices, strict=True)], dim=1)
        exact = operator_norm(stacked, norm)
        classifier = operator_norm(effective(head.classifier), norm)
        assert exact <= row["to_relu_bound"] <= exact * (1 + 1e-6)
        assert exact * classifier <= row["bound"] <= exact * classifier * (1 + 2e-5)
        row_scale = head.fuse_row_scale()
        fuse = operator_norm(scale_after(head) * effective(head.linear_fuse, row_scale), norm)
        projections = [operator_norm(effective(projection.proj), norm) for projection in head.linear_projections]
        largest = max(factor * projection for factor, projection in zip(factors, projections, strict=True))
        assert row["product_of_norms"] == pytest.approx(classifier * fuse * largest, rel=1e-9)
        assert row["bound"] <= row["product_of_norms"] * (1 + 2e-5)


@pytest.mark.parametrize("strategy", ["spectral_norm", "orthogonal", "jacobian_norm", None])
def test_per_pixel_norm_is_met(make_model, strategy):
    """The same features at every pixel, along the first right singular vector."""
    model = make_model(strategy).double()
    bound = model.lipschitz_report()["head"]["norms"]["per_pixel_l2"]["to_relu_bound"]
    head = model.decode_head
    _, _, right = torch.linalg.svd(scale_after(head) * torch.cat(folded_by_hand(head), dim=1))
    parts = right[0].detach().split(HIDDEN_SIZES)
    features = [part[None, :, None, None].expand(1, -1, *size) for part, size in zip(parts, ODD_SIZES, strict=True)]
    reached = map_norm(to_relu(head, features), "per_pixel_l2") / feature_norm(features, "per_pixel_l2")
    assert reached.item() <= bound <= reached.item() * (1 + 1e-6)


def test_bound_is_met_where_the_relu_is_open(make_model):
    """With every ReLU open the head is linear: to the ReLU its norm is attained, and the classifier comes on top."""
    head = make_model("jacobian_norm").double().decode_head
    nn.init.constant_(head.batch_norm.bias, 1e4)
    features = [torch.randn(1, c, *size, dtype=torch.float64) for c, size in zip(HIDDEN_SIZES, ODD_SIZES, strict=True)]
    zeros = [torch.zeros_like(feature) for feature in features]
    with torch.no_grad():
        moved = head(features) - head(zeros)
        fused = to_relu(head, features)
        torch.testing.assert_close(moved, head.classifier(fused) - head.classifier(torch.zeros_like(fused)))


@pytest.mark.one_in(2)
@pytest.mark.parametrize("strategy", [None, "stable_softplus"])
@pytest.mark.parametrize("height", [64, 96])
def test_l2_norm_over_the_image_is_that_of_the_dense_map(make_model, strategy, height):
    """Every unit vector of the features of an image of height x 64 through the head; the norm of the matrix."""
    model = make_model(strategy, hidden_sizes=(2, 2, 4, 4), decoder_hidden_size=4).double()
    bound = model.lipschitz_report()["head"]["norms"]["l2"]["to_relu_bound"]
    shapes = [(c, height // side, 64 // side) for c, side in zip((2, 2, 4, 4), (4, 8, 16, 32), strict=True)]
    lengths = [math.prod(shape) for shape in shapes]
    units = torch.eye(sum(lengths), dtype=torch.float64).split(lengths, dim=1)
    with torch.no_grad():
        features = [unit.view(-1, *shape) for unit, shape in zip(units, shapes, strict=True)]
        dense = to_relu(model.decode_head, features).flatten(1)
    exact = torch.linalg.eigvalsh(dense @ dense.T)[-1].sqrt().item()
    assert exact <= bound <= exact * (1 + 1e-6)


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_upsampling_has_the_norm_of_the_proof(factor):
    for length in (1, 2, 3, 64):
        unit = torch.eye(length, dtype=torch.float64)[None]
        matrix = nn.functional.interpolate(unit, scale_factor=factor, mode="linear", align_corners=False)[0].T
        torch.testing.assert_close(matrix.sum(dim=1), torch.ones(factor * length, dtype=torch.float64))
        torch.testing.assert_close(matrix.sum(dim=0), torch.full((length,), float(factor), dtype=torch.float64))
        norm = torch.linalg.matrix_norm(matrix, ord=2).item()
        assert 0.95 * math.sqrt(factor) < norm <= math.sqrt(factor) * (1 + 1e-12)
    image = torch.eye(9, dtype=torch.float64).view(9, 1, 3, 3)
    upsampled = nn.functional.interpolate(image, scale_factor=factor, mode="bilinear", align_corners=False)
    assert torch.linalg.matrix_norm(upsampled.flatten(1), ord=2).item() == pytest.approx(factor, rel=1e-12)


def matrices_in_use(head: nn.Module, dtype: torch.dtype) -> torch.Tensor:
    """What the head really multiplies features of one pixel by in `dtype`: its answers to unit vectors, biases off."""
    for projection in head.linear_projections:
        nn.init.zeros_(projection.proj.bias)
    units = torch.eye(sum(HIDDEN_SIZES), dtype=dtype).split(HIDDEN_SIZES, dim=1)
    with torch.no_grad():
        fused = head.fuse([unit[:, :, None, None] for unit in units])
    assert fused.dtype == dtype
    return fused.flatten(1).T.double()


@pytest.mark.one_in(2)
@pytest.mark.parametrize("norm", list(ORDERS))
def test_bfloat16_has_bounds_of_its_own(make_model, norm):
    """The bounds of the matrices in use hold; those in float32 would not, or this test proved nothing."""
    violated = 0
    for strategy, scope, options in CASES:
        # Whether rounding carries a matrix beyond its bound is chance: of these weights it does so for four or more.
        model = make_model(strategy, scope, seed=1, **options)
        in_bfloat16, in_float32 = model.lipschitz_report(torch.bfloat16), model.lipschitz_report(torch.float32)
        assert (in_bfloat16["dtype"], in_float32["dtype"]) == ("bfloat16", "float32")
        head = model.decode_head
        classifier = operator_norm(effective(head.classifier).bfloat16(), norm)
        used = scale_after(head) * matrices_in_use(head, torch.bfloat16)
        if norm == "l2":
            used = torch.cat([2**i * part for i, part in enumerate(used.split(HIDDEN_SIZES, dim=1))], dim=1)
        exact, row = operator_norm(used, norm), in_bfloat16["head"]["norms"][norm]
        assert exact <= row["to_relu_bound"] <= exact * (1 + 1e-6)
        assert exact * classifier <= row["bound"] <= exact * classifier * (1 + 2e-5)
        violated += exact * classifier > in_float32["head"]["norms"][norm]["bound"]
    assert violated >= 2


@pytest.mark.parametrize("task", ["segmentation", "classification"])
@pytest.mark.parametrize("strategy", [None, *STRATEGIES])
def test_bound_of_the_log_is_that_of_the_report(make_model, task, strategy):
    model = make_model(strategy, task=task)
    for dtype in (None, torch.bfloat16):
        assert model.head_bound(dtype) == model.lipschitz_report(dtype)["head"]["bound"]
    assert (model.head_bound() is None) == (strategy is None)


@pytest.mark.parametrize("strategy", [None, *STRATEGIES])
def test_norms_of_a_classifier(make_model, strategy):
    model = make_model(strategy, task="classification")
    norms = model.lipschitz_report()["head"]["norms"]
    weight = effective(model.classifier).detach()
    assert list(norms) == ["l2", "linf", "l1"]
    for norm, order in {"l2": 2, "linf": float("inf"), "l1": 1}.items():
        exact = torch.linalg.matrix_norm(weight.double(), ord=order).item()
        assert exact <= norms[norm]["bound"] <= exact * (1 + 2e-5)


@pytest.mark.parametrize("strategy", [None, "stable_softplus", "geometric_mean", "jacobian_norm"])
def test_a_diverged_head_has_infinite_bounds(make_model, strategy):
    model = make_model(strategy)
    with torch.no_grad():
        model.decode_head.linear_projections[0].proj.weight[0, 0] = float("nan")
    for row in model.lipschitz_report()["head"]["norms"].values():
        assert row["to_relu_bound"] == row["bound"] == float("inf")
