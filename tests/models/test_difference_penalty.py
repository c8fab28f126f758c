"""The penalty on the network's Jacobian by differences: against exact Jacobians, in float64, by brute force."""

import copy

import pytest
import torch
from torch import nn

from lrsegformer.models.jacobian import DIFFERENCE_STEP, difference_penalty, random_signs, sample_seeds, seeds_of_step

TASKS = ("segmentation", "classification")


@pytest.fixture(params=TASKS)
def model(make_model, request):
    """A tiny model that penalises its network's Jacobian, its statistics frozen."""
    model = make_model("jacobian_norm", task=request.param, lipschitz_options={"jacobian": "network"}).train()
    if hasattr(model, "decode_head"):
        model.decode_head.batch_norm.eval()
    return model


@pytest.fixture
def pixels():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(8))


def exact_squares(model, pixels, seeds):
    """`|J v|^2` of each image over its positions, J by `torch.func.jacrev` in float64."""
    model = model.double().eval()
    squares = []
    for image, seed in zip(pixels.double(), seeds, strict=True):
        jacobian = torch.func.jacrev(lambda one: model(one[None]).logits[0])(image)
        along = torch.tensordot(jacobian, random_signs(seed[None], image.shape)[0].double(), dims=3)
        squares.append(along.square().sum() / (along[0].numel() if along.ndim == 3 else 1))
    return torch.stack(squares)


def test_penalty_is_the_exact_square_along_each_direction(model, pixels):
    """In float32 with the step that training takes: rounding and the difference's own error are below 1 %."""
    found = [model(image).lipschitz_penalty.item() for image in pixels.split(1)]
    whole = model(pixels).lipschitz_penalty.item()
    exact = exact_squares(model, pixels, sample_seeds(pixels))
    assert found == pytest.approx(exact.tolist(), rel=1e-2)
    assert whole == pytest.approx(sum(found) / 3, rel=1e-4)


def test_error_falls_with_the_step(model, pixels):
    """With its square where the network is smooth; the decode head's ReLUs have kinks."""
    seeds = torch.arange(3)
    exact = exact_squares(model, pixels, seeds).mean().item()
    errors = [
        difference_penalty(model._eval_mode_logits, pixels.double(), seeds, step=step).item() / exact - 1
        for step in (DIFFERENCE_STEP, DIFFERENCE_STEP / 4, DIFFERENCE_STEP / 64)
    ]
    assert abs(errors[0]) < 1e-2
    if hasattr(model, "decode_head"):
        assert abs(errors[2]) < abs(errors[0]) / 10
    else:
        assert errors[1] == pytest.approx(errors[0] / 16, rel=0.05) and abs(errors[2]) < 1e-5


def test_gradient_is_that_of_the_exact_square():
    """Of `|J(theta) v|^2`, differentiated twice by autograd."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2)).double()
    inputs, seeds = torch.randn(5, 3, dtype=torch.float64), torch.arange(5)
    signs = random_signs(seeds, (3,)).double()
    (_, along) = torch.autograd.functional.jvp(network, inputs, signs, create_graph=True)
    expected = torch.autograd.grad(along.square().sum(dim=1).mean(), list(network.parameters()), allow_unused=True)
    found = torch.autograd.grad(
        difference_penalty(network, inputs, seeds, step=1e-4), list(network.parameters()), allow_unused=True
    )
    assert expected[-1] is None or not expected[-1].any(), "the last bias moves no slope"
    for one, judge in zip(found[:-1], expected[:-1], strict=True):
        torch.testing.assert_close(one, judge, rtol=1e-6, atol=1e-8)


def test_images_of_weight_zero_are_not_computed(model, pixels):
    seeds, sizes = torch.arange(3), []

    def logits(images):
        sizes.append(len(images))
        return model._eval_mode_logits(images)

    alone = [difference_penalty(logits, pixels[[one]], seeds[[one]]).item() for one in range(3)]
    weights = torch.tensor([2.0, 0.0, 0.5])
    penalty = difference_penalty(logits, pixels, seeds, weights).item()
    assert penalty == pytest.approx((2 * alone[0] + alone[2] / 2) / 3, rel=1e-4) and sizes == [2, 2, 2, 4]
    assert difference_penalty(logits, pixels, seeds, torch.zeros(3)).item() == 0 and len(sizes) == 4
    outputs = model(pixels, jacobian_seeds=seeds, jacobian_weights=weights)
    assert outputs.lipschitz_penalty.item() == pytest.approx(penalty, rel=1e-4)


@pytest.fixture(params=["head", "projections"])
def scope(request):
    return request.param


@pytest.fixture
def normalising(make_model, scope):
    """A segmentation model in training mode whose norm sees the batch; under scope `projections` it divides, too."""
    return normalising_model(make_model, scope, "network")


def normalising_model(make_model, scope, jacobian):
    return make_model(
        "jacobian_norm",
        scope=scope,
        lipschitz_options={"jacobian": jacobian},
        drop_path_rate=0.0,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        classifier_dropout_prob=0.0,
    ).train()


def test_the_norm_reads_the_statistics_of_the_batch(normalising, pixels):
    """Judged by running statistics that follow torch's own forward pass at once, in float64."""
    judge = copy.deepcopy(normalising).double()
    norm = judge.decode_head.batch_norm
    norm.momentum = 1.0
    judge(pixels.double())
    if normalising.config.lipschitz_scope == "projections":
        positions = len(pixels) * (32 // 4) ** 2
        norm.running_var *= (positions - 1) / positions  # torch keeps the unbiased variance and divides by the other
    expected = exact_squares(judge, pixels, sample_seeds(pixels)).mean().item()
    assert normalising(pixels).lipschitz_penalty.item() == pytest.approx(expected, rel=1e-2)


def test_statistics_that_lag_behind_are_not_rewarded(normalising, pixels):
    """By running means that shut every ReLU the slope would be 0; and moving the mean moves no slope in training."""
    expected = normalising(pixels).lipschitz_penalty
    biases = [projection.proj.bias for projection in normalising.decode_head.linear_projections]
    weight = normalising.decode_head.linear_fuse.weight
    *of_biases, of_weight = torch.autograd.grad(expected, [*biases, weight])
    assert all(gradient.abs().max() < 1e-5 * of_weight.abs().max() for gradient in of_biases)
    norm = normalising.decode_head.batch_norm
    norm.running_mean += 1e3
    before = norm.running_mean.clone()
    assert normalising(pixels).lipschitz_penalty.item() == pytest.approx(expected.item(), rel=1e-4)
    assert not torch.equal(norm.running_mean, before) and not norm.running_mean.requires_grad
    norm.eval()
    assert normalising(pixels).lipschitz_penalty.item() == 0, "a frozen norm has no other statistics than its own"


@pytest.mark.parametrize("jacobian", ["head", "network"])
def test_shrinking_what_the_norm_divides_by_is_not_rewarded(make_model, pixels, jacobian):
    """The slope of the penalty along the fuse convolution's own weight is 0, as that of the task loss is."""
    model = normalising_model(make_model, "projections", jacobian)
    model.decode_head.batch_norm.eps = 0.0
    penalty, weight = model(pixels).lipschitz_penalty, model.decode_head.linear_fuse.weight
    (gradient,) = torch.autograd.grad(penalty, weight)
    assert abs((gradient * weight).sum()) < 1e-4 * gradient.norm() * weight.norm()
    model.decode_head.batch_norm.running_var *= 100
    assert model(pixels).lipschitz_penalty.item() == pytest.approx(penalty.item(), rel=1e-5)


def test_autocast_leaves_the_penalty_in_float32(model, pixels):
    """Also where accelerate has put autocast around the instance's forward."""
    expected = model(pixels).lipschitz_penalty.item()
    with torch.autocast("cpu", torch.bfloat16):
        assert model(pixels).lipschitz_penalty.item() == pytest.approx(expected, rel=1e-5)
    model.forward = torch.autocast("cpu", torch.bfloat16)(model.forward)
    penalty = model(pixels).lipschitz_penalty
    assert penalty.item() == pytest.approx(expected, rel=1e-5)
    penalty.backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())


def test_seeds_of_steps_are_even_and_independent():
    seeds = torch.stack([seeds_of_step(torch.arange(2000), step) for step in range(3)])
    assert seeds.unique().numel() == 6000
    shares = (seeds.double() / 2**63).flatten()
    assert abs(shares.mean() - 0.5) < 5 * (1 / 12 / 6000) ** 0.5
    assert shares.std().item() == pytest.approx((1 / 12) ** 0.5, rel=0.03)
    assert torch.corrcoef(seeds.double()).fill_diagonal_(0).abs().max() < 5 / 2000**0.5
