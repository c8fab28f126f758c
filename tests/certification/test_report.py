"""The report: every layer below its bound, what is limited and what is not, in the precision that is asked for."""

import json
import math

import pytest
import torch

from lrsegformer import STRATEGIES
from lrsegformer.certification.text import format_report
from lrsegformer.errors import InputError

CASES = [*((strategy, {}) for strategy in STRATEGIES), ("stable_softplus", {"lipschitz_options": {"norm": "l1"}})]
BY_CONSTANT = ("orthogonal", "spectral_norm")  # of which the constant is a parameter as it stands
NAMES = {"l2": ["per_pixel_l2", "l2"], "linf": ["linf"], "l1": ["per_pixel_l1"]}


def operator_norm(matrix: torch.Tensor, norm: str) -> float:
    return torch.linalg.matrix_norm(matrix.double(), ord={"l2": 2, "linf": float("inf"), "l1": 1}[norm]).item()


@pytest.mark.parametrize(("strategy", "options"), CASES)
def test_bound_of_the_head_stays_below_what_the_constraint_limits(make_model, strategy, options):
    model = make_model(strategy, **options)
    head = model.lipschitz_report()["head"]
    layers = {name: layer.lipschitz_bound(model.row_scale_of(layer)).item()
              for name, layer in model.constrained_layers().items()}  # fmt: skip
    projections = max(layers[f"decode_head.linear_projections.{stage}.proj"] for stage in range(4))
    product = layers["decode_head.classifier"] * layers["decode_head.linear_fuse"] * projections
    norm = model.decode_head.classifier.norm
    assert head["guaranteed"] is True and norm in head["norm"]
    assert head["product_of_bounds"] == pytest.approx(product, rel=1e-12)
    assert 0 < head["bound"] <= head["product_of_bounds"] * (1 + 2e-5)
    assert head["bound"] == head["norms"][NAMES[norm][0]]["bound"]


@pytest.mark.parametrize(("strategy", "options"), CASES)
def test_norms_are_limited_where_the_constraint_limits_them(make_model, strategy, options):
    for task in ("segmentation", "classification"):
        model = make_model(strategy, task=task, **options)
        norms = model.lipschitz_report()["head"]["norms"]
        layer = next(iter(model.constrained_layers().values()))
        expected = NAMES[layer.norm] if task == "segmentation" else [layer.norm]
        limited = [name for name, row in norms.items() if row["limited"]]
        assert limited == (expected if strategy != "jacobian_norm" else [])


@pytest.mark.one_in(3)
@pytest.mark.parametrize("strategy", list(STRATEGIES))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize(("task", "scope", "count"), [("segmentation", "head", 6), ("segmentation", "projections", 4),
                                                      ("classification", "head", 1)])  # fmt: skip
def test_every_layer_is_below_its_guaranteed_bound(make_model, strategy, dtype, task, scope, count):
    model = make_model(strategy, scope, task)
    for report in (model.lipschitz_report(dtype), model.to(dtype).lipschitz_report()):
        assert (report["strategy"], report["scope"], len(report["layers"])) == (strategy, scope, count)
        assert report["dtype"] == str(dtype).removeprefix("torch.")
        json.dumps(report, allow_nan=False)
    for row in report["layers"]:
        layer = model.get_submodule(row["name"])
        effective = layer.effective_weight(model.row_scale_of(layer)).detach().to(dtype)
        assert row["guaranteed"] is True and row["limited"] is layer.limits_norm
        for norm, value in row["operator_norms"].items():
            assert value == pytest.approx(operator_norm(effective, norm), rel=1e-9)
        assert row["exact"] == row["operator_norms"][row["norm"]] <= row["bound"]
        assert row["share"] == row["exact"] / row["bound"]


def test_precision_is_that_of_the_head(make_model):
    model = make_model("spectral_norm")
    assert model.lipschitz_report()["dtype"] == "float32"
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model.lipschitz_report() == model.lipschitz_report(torch.bfloat16)
        assert model.lipschitz_report(torch.float32)["dtype"] == "float32"
    assert model.lipschitz_report()["layers"] != model.lipschitz_report(torch.bfloat16)["layers"]
    # Loading in bfloat16 keeps the head's weights in float32, and the head computes in the encoder's precision.
    model.segformer.to(torch.bfloat16)
    assert model.lipschitz_report() == model.lipschitz_report(torch.bfloat16)
    model.double()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model.lipschitz_report()["dtype"] == "float64"
    with pytest.raises(InputError, match="int8"):
        model.lipschitz_report(torch.int8)


@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_scope_projections_says_that_the_head_is_not_bounded(make_model, strategy):
    report = make_model(strategy, "projections").lipschitz_report()["head"]
    assert report["guaranteed"] is False
    assert report["bound"] is report["norm"] is report["product_of_bounds"] is None
    assert "does not bound the head" in report["note"]
    assert len(report["norms"]) == 4 and not any(row["limited"] for row in report["norms"].values())


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_baseline_has_no_bound(make_model, task):
    report = make_model(None, task=task).lipschitz_report()
    assert report["layers"] == [] and report["strategy"] is None and report["scope"] is None
    assert report["head"]["bound"] is None and report["head"]["guaranteed"] is False
    assert "nothing limits them" in report["head"]["note"]
    assert not any(row["limited"] for row in report["head"]["norms"].values())


@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_classifier_bound_holds_for_its_outputs(make_model, strategy):
    model = make_model(strategy, task="classification")
    report = model.lipschitz_report()["head"]
    classifier = model.double().classifier
    order = {"l2": 2, "linf": float("inf"), "l1": 1}[report["norm"]]
    first, second = torch.randn(2, 500, 16, dtype=torch.float64)
    moved = torch.linalg.vector_norm(classifier(first) - classifier(second), ord=order, dim=1)
    assert (moved / torch.linalg.vector_norm(first - second, ord=order, dim=1)).max() <= report["bound"]
    assert report["bound"] <= report["product_of_bounds"] * (1 + 2e-5)


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_only_jacobian_norm_says_that_nothing_limits_its_bound(make_model, task):
    for strategy in STRATEGIES:
        note = make_model(strategy, task=task).lipschitz_report()["head"]["note"]
        assert ("nothing limits it" in note) == (not STRATEGIES[strategy].limits_norm)


def test_report_leaves_no_gradient_and_no_mode_behind(make_model):
    model = make_model("stable_softplus").train()
    model.lipschitz_report()
    assert model.training and all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("strategy", list(STRATEGIES))
@pytest.mark.parametrize("scope", ["head", "network", "certified"])
def test_a_layer_that_is_0_has_a_row(make_model, strategy, scope):
    """By its constant, or its weights: what a run can come to, and a file can hold."""
    if scope == "certified" and strategy == "stable_softplus":
        pytest.skip("refused: it bounds no l2 norm")
    model = make_model(strategy, scope)
    with torch.no_grad():
        for layer in model.constrained_layers().values():
            (layer.c if strategy in BY_CONSTANT else layer.weight).zero_()
    report = model.lipschitz_report()
    # The step down a potential that is 0 is divided by 0: no bound of the network, and no logits.
    json.dumps(report, allow_nan=scope == "certified")
    assert scope != "certified" or math.isinf(report["network"]["bound"])
    assert format_report(report)
    assert all(0 <= row["share"] <= 1 + 1e-5 for row in report["layers"])
    if strategy in BY_CONSTANT:
        assert {row["bound"] for row in report["layers"]} == {0.0}
