"""What the report calls a bound is one: attacked by gradient ascent, and met where the head is linear."""

import json

import pytest
import torch
from torch import nn

from lrsegformer import (
    STRATEGIES,
)

HIDDEN_SIZES = (8, 8, 16, 16)


def operator_norm(matrix: torch.Tensor, norm: str) -> float:
    return torch.linalg.matrix_norm(matrix.double(), ord={"l2": 2, "linf": float("inf"), "l1": 1}[norm]).item()


def pixel_norms(features: torch.Tensor, norm: str) -> torch.Tensor:
    """The largest norm over pixels of the channels of `(batch, channels, height, width)`, one a sample."""
    order = {"l2": 2, "linf": float("inf"), "l1": 1}[norm]
    return torch.linalg.vector_norm(features, ord=order, dim=1).flatten(1).amax(1)


def feature_norm(features: list[torch.Tensor], norm: str) -> torch.Tensor:
    """The norm of the stage features that the report names, one a sample."""
    scales = torch.stack([pixel_norms(feature, norm) for feature in features])
    return {"l2": scales.square().sum(0).sqrt(), "linf": scales.amax(0), "l1": scales.sum(0)}[norm]


def largest_ratio(head, norm: str, steps: int = 60) -> float:
    """How far gradient ascent from random pairs can drive the ratio of output to input differences."""
    generator = torch.Generator().manual_seed(1)
    shapes = [(8, 8, 8), (8, 4, 4), (16, 3, 2), (16, 1, 1)]
    bases = [torch.randn(8, *shape, generator=generator, dtype=torch.float64) for shape in shapes]
    moves = [(0.1 * torch.randn(8, *shape, generator=generator, dtype=torch.float64)).requires_grad_()
             for shape in shapes]  # fmt: skip
    bases = [(3 * base).requires_grad_() for base in bases]
    optimizer = torch.optim.Adam([*moves, *bases], lr=0.05)
    largest = 0.0
    for _ in range(steps):
        moved = [base + move for base, move in zip(bases, moves, strict=True)]
        ratios = pixel_norms(head(moved) - head(bases), norm) / feature_norm(moves, norm)
        largest = max(largest, ratios.max().item())
        optimizer.zero_grad()
        (-ratios.log().sum()).backward()
        optimizer.step()
    return largest


CASES = [*((strategy, {}) for strategy in STRATEGIES), ("stable_softplus", {"lipschitz_options": {"norm": "l1"}})]


@pytest.mark.parametrize(("strategy", "options"), CASES)
def test_ascent_never_exceeds_the_bound_of_the_head(make_model, strategy, options):
    model = make_model(strategy, **options)
    report = model.lipschitz_report()["head"]
    head = model.double().decode_head
    norm = head.classifier.norm
    assert report["guaranteed"] and norm in report["norm"]
    measured = largest_ratio(head, norm)
    assert measured <= report["folded_bound"] <= report["bound"] * (1 + 2e-5)
    assert measured > 0.1 * report["folded_bound"], "the attack has power"


@pytest.mark.parametrize(("strategy", "options"), CASES)
def test_folded_bound_is_exact_up_to_the_classifier(make_model, strategy, options):
    """Built from the parts by hand: projections, fuse with the norm's scale, both at their effective weights."""
    model = make_model(strategy, **options)
    head, report = model.decode_head, model.lipschitz_report()["head"]
    fuse = head.linear_fuse.effective_weight(head.batch_norm.row_scale()).double()
    width = head.config.decoder_hidden_size
    blocks = [fuse[:, width * position : width * (position + 1)] for position in (3, 2, 1, 0)]
    projections = [projection.proj.effective_weight().double() for projection in head.linear_projections]
    stacked = torch.cat([block @ matrix for block, matrix in zip(blocks, projections, strict=True)], dim=1)
    norm = head.classifier.norm
    folded = operator_norm(stacked.detach(), norm)
    classifier = head.classifier.lipschitz_bound().item()
    assert report["folded_bound"] == pytest.approx(classifier * folded, rel=1e-4)
    assert report["folded_bound"] >= operator_norm(head.classifier.effective_weight().detach(), norm) * folded


def test_bound_is_met_where_the_head_is_linear(make_model):
    """Every ReLU open and the same features at every pixel: the l2 norm of the folded maps is attained."""
    model = make_model("jacobian_norm").double()
    head = model.decode_head
    nn.init.constant_(head.batch_norm.bias, 1e4)
    matrices, _ = head.folded_maps()
    _, values, right = torch.linalg.svd(torch.cat(matrices, dim=1))
    parts = right[0].detach().split(HIDDEN_SIZES)
    features = [
        part[None, :, None, None].expand(1, -1, side, side) for part, side in zip(parts, (8, 4, 2, 1), strict=True)
    ]
    zeros = [torch.zeros_like(feature) for feature in features]
    fused = head.fuse(features) - head.fuse(zeros)
    reached = pixel_norms(fused, "l2") / feature_norm(features, "l2")
    assert reached.item() == pytest.approx(values[0].item(), rel=1e-9)
    with torch.no_grad():
        moved = head(features) - head(zeros)
    torch.testing.assert_close(moved, head.classifier(fused) - head.classifier(torch.zeros_like(fused)))


@pytest.mark.parametrize("strategy", list(STRATEGIES))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("task", "scope", "count"), [("segmentation", "head", 6), ("segmentation", "projections", 4),
                                                      ("classification", "head", 1)])  # fmt: skip
def test_every_layer_is_below_its_guaranteed_bound(make_model, strategy, dtype, task, scope, count):
    model = make_model(strategy, scope, task).to(dtype)
    report = model.lipschitz_report()
    assert (report["strategy"], report["scope"], len(report["layers"])) == (strategy, scope, count)
    for row in report["layers"]:
        layer = model.get_submodule(row["name"])
        effective = layer.effective_weight(model.row_scale_of(layer)).detach()
        assert row["guaranteed"] is True and row["limited"] is layer.limits_norm
        assert row["exact"] == pytest.approx(operator_norm(effective, row["norm"]), rel=1e-9)
        assert row["exact"] <= row["bound"]
    json.dumps(report)


@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_scope_projections_says_that_the_head_is_not_bounded(make_model, strategy):
    report = make_model(strategy, "projections").lipschitz_report()["head"]
    assert report["guaranteed"] is False and report["bound"] is None and report["norm"] is None
    assert "does not bound the head" in report["note"]


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_baseline_has_no_bound(make_model, task):
    report = make_model(None, task=task).lipschitz_report()
    assert report["layers"] == [] and report["strategy"] is None and report["scope"] is None
    assert report["head"]["bound"] is None and report["head"]["guaranteed"] is False


@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_classifier_bound_holds_for_its_outputs(make_model, strategy):
    model = make_model(strategy, task="classification")
    report = model.lipschitz_report()["head"]
    classifier = model.double().classifier
    order = {"l2": 2, "linf": float("inf"), "l1": 1}[report["norm"]]
    first, second = torch.randn(2, 500, 16, dtype=torch.float64)
    moved = torch.linalg.vector_norm(classifier(first) - classifier(second), ord=order, dim=1)
    assert (moved / torch.linalg.vector_norm(first - second, ord=order, dim=1)).max() <= report["bound"]


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_only_jacobian_norm_says_that_nothing_limits_its_bound(make_model, task):
    for strategy in STRATEGIES:
        note = make_model(strategy, task=task).lipschitz_report()["head"]["note"]
        assert ("nothing limits it" in note) == (not STRATEGIES[strategy].limits_norm)


def test_report_leaves_no_gradient_and_no_mode_behind(make_model):
    model = make_model("stable_softplus").train()
    model.lipschitz_report()
    assert model.training and all(parameter.grad is None for parameter in model.parameters())
