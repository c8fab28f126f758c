"""The penalty of the learned constants: its reductions, and its way into output and gradients."""

import math

import pytest
import torch

from lrsegformer import STRATEGIES, InputError, LRSegformerConfig, build_lipschitz_linear
from lrsegformer.choices import PENALTY_REDUCTIONS
from lrsegformer.models.penalty import constants_penalty

LEARNED = [name for name in STRATEGIES if STRATEGIES[name].learns_constant]
JACOBIAN = [name for name in STRATEGIES if STRATEGIES[name].penalized_jacobian]
FIXED = [name for name in STRATEGIES if name not in (*LEARNED, *JACOBIAN)]


def geometric_mean(values: list[float]) -> float:
    return math.prod(values) ** (1 / len(values))


# Of constants in groups: parallel layers in a group, the groups one after another.
EXPECTED = {
    "geometric_mean": lambda groups: geometric_mean([geometric_mean(group) for group in groups]),
    "product": lambda groups: math.prod(geometric_mean(group) for group in groups),
    "sum": lambda groups: sum(map(sum, groups)),
    "mean_log": lambda groups: math.log(geometric_mean([geometric_mean(group) for group in groups])),
}


@pytest.mark.parametrize("reduction", PENALTY_REDUCTIONS)
def test_reductions(reduction):
    layers = [build_lipschitz_linear("stable_softplus", 4, width) for width in (2, 3, 5, 6)]
    values = (-1.0, 0.5, 3.0, 2.0)
    with torch.no_grad():
        for layer, value in zip(layers, values, strict=True):
            layer.c.fill_(value)
    first, second, third, fourth = (math.log1p(math.exp(value)) for value in values)
    fixed = build_lipschitz_linear("spectral_norm", 4, 2)
    penalty = constants_penalty([layers[:2], [layers[2], fixed], [fixed], layers[3:]], reduction)
    assert penalty.shape == () and penalty.dtype == torch.float32
    assert penalty.item() == pytest.approx(EXPECTED[reduction]([[first, second], [third], [fourth]]), rel=1e-6)


def test_no_learned_constant_is_no_penalty_and_a_bad_reduction_an_error():
    assert constants_penalty([[build_lipschitz_linear("orthogonal", 4, 2)]], "sum") is None
    assert constants_penalty([], "sum") is None
    with pytest.raises(ValueError, match="'maximum'"):
        constants_penalty([[build_lipschitz_linear("stable_softplus", 4, 2)]], "maximum")


@pytest.mark.one_in(3)
@pytest.mark.parametrize(("task", "scope", "count"), [("segmentation", "projections", 4), ("segmentation", "head", 6),
                                                      ("classification", "head", 1)])  # fmt: skip
@pytest.mark.parametrize("reduction", PENALTY_REDUCTIONS)
@pytest.mark.parametrize("strategy", LEARNED)
def test_gradient_reaches_each_constant_and_nothing_else(
    make_model, images, labels, strategy, reduction, task, scope, count
):
    model = make_model(strategy, scope, task=task, penalty_reduction=reduction)
    layers = model.constrained_layers()
    assert len(layers) == count
    target = labels if task == "segmentation" else torch.tensor([0, 4])
    for training in (True, False):
        output = model.train(training)(images, labels=target)
        constants = {name: layer.constant().item() for name, layer in layers.items()}
        # The decoder's projections lie side by side.
        parallel = [constants.pop(name) for name in list(constants) if "linear_projections" in name]
        groups = [group for group in (parallel, *([constant] for constant in constants.values())) if group]
        assert output.lipschitz_penalty.item() == pytest.approx(EXPECTED[reduction](groups), rel=1e-5)
    output.lipschitz_penalty.backward()
    reached = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert reached == {f"{name}.c" for name in layers}
    assert all(layer.c.grad.item() > 0 for layer in layers.values()), "descent lowers every constant"


@pytest.mark.parametrize("reduction", PENALTY_REDUCTIONS)
@pytest.mark.parametrize("strategy", LEARNED)
def test_a_step_on_the_penalty_alone_moves_each_constant(make_model, images, strategy, reduction):
    model = make_model(strategy, penalty_reduction=reduction).train()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    model(images).lipschitz_penalty.backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        if name.endswith(".c"):
            assert parameter < before[name], name
        else:
            assert torch.equal(parameter, before[name]), name


def test_the_penalty_of_a_strategy_is_what_it_says():
    assert {"stable_softplus", "geometric_mean"} <= set(LEARNED) and not set(LEARNED) & set(JACOBIAN)
    assert "jacobian_norm" in JACOBIAN and {"spectral_norm", "orthogonal"} <= set(FIXED)


@pytest.mark.parametrize("jacobian", ["head", "network"])
@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_a_penalised_jacobian_is_that_of_the_layers_option(make_model, images, task, jacobian):
    """The layers say whose Jacobian it is; only the network's moves the encoder."""
    model = make_model("jacobian_norm", task=task, lipschitz_options={"jacobian": jacobian}).train()
    assert {layer.penalized_jacobian for layer in model.constrained_layers().values()} == {jacobian}
    model(images).lipschitz_penalty.backward()
    moved = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert ("segformer" in moved) == (jacobian == "network")


@pytest.mark.parametrize("strategy", [None, *FIXED])
@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_fixed_constants_and_the_baseline_have_no_penalty(make_model, images, strategy, task):
    output = make_model(strategy, task=task).train()(images)
    assert output.lipschitz_penalty is None
    assert "lipschitz_penalty" not in output


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_inference_has_no_penalty_and_the_loss_of_an_evaluation_has(make_model, images, labels, strategy, task):
    """At inference every output has a row a sample; a penalty has none."""
    model = make_model(strategy, task=task).eval()
    target = labels if task == "segmentation" else torch.tensor([0, 4])
    output = model(images, output_hidden_states=True)
    assert "lipschitz_penalty" not in output
    assert all(len(value) == 2 for value in (output.logits, *output.hidden_states))
    assert len(model(images, return_dict=False)) == 1
    with torch.no_grad():
        evaluated = model(images, labels=target)
    assert ("lipschitz_penalty" in evaluated) == (strategy in LEARNED)
    if strategy in LEARNED:
        assert evaluated.lipschitz_penalty == model.train()(images).lipschitz_penalty


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_loss_is_the_task_loss_alone(make_model, images, labels, task):
    target = labels if task == "segmentation" else torch.tensor([0, 4])
    model, baseline = make_model("stable_softplus", task=task), make_model("jacobian_norm", task=task)
    output = model(images, labels=target)
    assert output.lipschitz_penalty > 0.1
    logits = output.logits
    if task == "segmentation":
        logits = torch.nn.functional.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False)
    expected = torch.nn.functional.cross_entropy(logits, target, ignore_index=255)
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert baseline(images, labels=target).loss.requires_grad


@pytest.mark.parametrize("strategy", LEARNED)
@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_descent_on_the_penalty_tightens_the_bound(make_model, images, strategy, task):
    model = make_model(strategy, task=task).train()
    before = model.lipschitz_report()["head"]["bound"]
    optimizer = torch.optim.SGD([parameter for name, parameter in model.named_parameters()], lr=0.2)
    for _ in range(5):
        optimizer.zero_grad()
        model(images).lipschitz_penalty.backward()
        optimizer.step()
    assert model.lipschitz_report()["head"]["bound"] < 0.95 * before
    assert model.config.keys_to_ignore_at_inference == ["lipschitz_penalty"]


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name not in JACOBIAN])
@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_penalty_of_the_head_is_the_bound_that_is_reported(make_model, images, labels, task, strategy):
    """Fixed constants or learned ones; a step along its gradient lowers what is reported."""
    model = make_model(strategy, task=task, penalty_of="head").train()
    target = labels if task == "segmentation" else torch.tensor([0, 4])
    penalty = model(images, labels=target).lipschitz_penalty
    assert penalty.dtype == torch.float32
    assert penalty.item() == pytest.approx(model.head_bound(torch.float64), rel=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again = model(images, labels=target).lipschitz_penalty
    assert again.dtype == torch.float32 and again.item() == pytest.approx(penalty.item(), rel=1e-6)
    penalty.backward()
    before = model.head_bound()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.sub_(1e-3 * parameter.grad / parameter.grad.norm().clamp_min(1e-12))
    # Where every singular value is K there may be nothing to lower.
    assert model.head_bound() < (before if strategy in LEARNED else before * (1 + 1e-6))


def test_gradient_of_the_heads_bound_is_its_derivative(make_model, images):
    model = make_model("geometric_mean", penalty_of="head").double().train()
    weight = model.decode_head.linear_projections[1].proj.weight
    parts = model.head_parts(torch.float64)
    (gradient,) = torch.autograd.grad(parts.exact_bound(parts.bounded_norm()), weight)
    direction, values = torch.randn_like(weight), []
    for step in (1e-5, -1e-5):
        with torch.no_grad():
            weight.add_(step * direction)
            parts = model.head_parts(torch.float64)
            values.append(parts.exact_bound(parts.bounded_norm()).item())
            weight.sub_(step * direction)
    difference = (values[0] - values[1]) / 2e-5
    assert (gradient * direction).sum().item() == pytest.approx(difference, rel=1e-4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"penalty_of": "head", "lipschitz_strategy": "jacobian_norm"}, "jacobian_norm penalises a Jacobian"),
        ({"penalty_of": "head", "lipschitz_scope": "projections"}, "not under lipschitz_scope 'projections'"),
        ({"penalty_of": "network"}, "no bound from the pixels"),
        ({"penalty_of": "network", "lipschitz_scope": "network"}, "no bound from the pixels"),
        ({"penalty_of": "logits"}, "Unknown penalty_of 'logits'"),
    ],
)
def test_a_penalty_of_what_has_no_bound_is_refused(options, words):
    with pytest.raises(ValueError) as caught:
        LRSegformerConfig(**{"lipschitz_strategy": "stable_softplus", **options})
    error = next(error for error in (caught.value, caught.value.__cause__) if isinstance(error, InputError))
    assert words in str(error) and "\n" not in str(error)


def test_the_baseline_has_no_penalty_of_its_head(make_model, images):
    assert make_model(None, penalty_of="head").train()(images).lipschitz_penalty is None


def test_penalty_of_the_network_is_the_logarithm_of_its_bound(make_model, images):
    model = make_model("orthogonal", "certified", penalty_of="network").train()
    penalty = model(images).lipschitz_penalty
    assert penalty.dtype == torch.float32
    assert penalty.item() == pytest.approx(math.log(model.network_bound().item()), rel=1e-6)
    with pytest.raises(InputError):
        make_model(None).network_bound()
