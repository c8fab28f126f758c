"""jacobian_norm's penalty: an unbiased estimate that does not depend on how samples are batched."""

import pytest
import torch
from torch import nn

from lrsegformer.models.jacobian import (
    decode_head_jacobian_penalty,
    decode_head_signs,
    difference_penalty,
    jacobian_penalty,
    random_signs,
    sample_seeds,
)

SIZES = [(4, 4), (2, 2), (1, 1), (1, 1)]


def features_of(batch: int, dtype=torch.float64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    return [
        torch.randn(batch, channels, *size, generator=generator, dtype=dtype)
        for channels, size in zip((8, 8, 16, 16), SIZES, strict=True)
    ]


def with_frozen_statistics(model: nn.Module) -> nn.Module:
    """The norm in eval mode: in training every forward pass moves the mean that the penalty is taken at."""
    if hasattr(model, "decode_head"):
        model.decode_head.batch_norm.eval()
    return model


def exact_penalty(function, *inputs: torch.Tensor) -> torch.Tensor:
    """The mean over samples of the squared Frobenius norm of the exact Jacobian, by `torch.func.jacrev`."""
    norms = []
    for sample in zip(*inputs, strict=True):
        single = tuple(part[None] for part in sample)
        jacobians = torch.func.jacrev(function, argnums=tuple(range(len(single))))(*single)
        norms.append(sum(jacobian.square().sum() for jacobian in jacobians))
    return torch.stack(norms).mean()


@pytest.mark.parametrize("scope", ["head", "projections"])
def test_estimate_is_unbiased_for_the_nonlinear_head(make_model, scope):
    """The mean over many draws of signs meets the exact value within five standard errors."""
    head = make_model("jacobian_norm", scope).double().decode_head
    features = features_of(1)
    expected = exact_penalty(lambda *parts: head(parts), *features).item() / 16
    features = [feature.expand(32, -1, -1, -1) for feature in features]
    fused = head.fuse(features).detach()
    # 2048 draws, 32 at once: each of these is a mean of its own.
    means = torch.tensor(
        [decode_head_jacobian_penalty(head, features, fused, seeds).item() for seeds in torch.arange(2048).split(32)],
        dtype=torch.float64,
    )
    error = means.std() / len(means) ** 0.5
    assert abs(means.mean() - expected) < 5 * error
    assert error < 0.05 * expected, "the test is sharp"


@pytest.mark.parametrize("scope", ["head", "projections"])
def test_penalty_and_gradients_of_the_head_are_those_of_double_backward(make_model, scope):
    """Against autograd through the whole head, with the same projections; sizes that do not divide each other."""
    head = make_model("jacobian_norm", scope).double().decode_head
    sizes = [(7, 8), (4, 5), (2, 2), (1, 1)]
    features = [
        torch.randn(3, channels, *size, dtype=torch.float64)
        for channels, size in zip((8, 8, 16, 16), sizes, strict=True)
    ]
    seeds = torch.arange(3)
    penalty = decode_head_jacobian_penalty(head, features, head.fuse(features).detach(), seeds)
    inputs = [feature.requires_grad_() for feature in features]
    at_positions, at_rows = decode_head_signs(seeds, 5, 7, 8)
    projections = at_rows.transpose(1, 2)[..., None] * at_positions[:, None]
    gradients = torch.autograd.grad(head(inputs), inputs, projections.double(), create_graph=True)
    expected = sum(gradient.square().flatten(1).sum(dim=1) for gradient in gradients).mean() / 56
    assert penalty.item() == pytest.approx(expected.item(), rel=1e-12)
    parameters = [parameter for name, parameter in head.named_parameters() if not name.endswith("bias")]
    for own, judge in zip(
        torch.autograd.grad(penalty, parameters), torch.autograd.grad(expected, parameters), strict=True
    ):
        torch.testing.assert_close(own, judge, rtol=1e-10, atol=1e-14)


def test_projections_of_the_head_have_unit_covariance():
    """Over many samples; an entry is a product of two signs, no two of which coincide."""
    at_positions, at_rows = decode_head_signs(torch.arange(20_000), 3, 2, 2)
    projections = (at_rows[..., None] * at_positions[:, :, None, :]).flatten(1)
    covariance = projections.T @ projections / len(projections)
    assert (covariance - torch.eye(12)).abs().max() < 6 / len(projections) ** 0.5


@pytest.mark.parametrize("estimate", [jacobian_penalty, difference_penalty])
def test_network_estimate_is_unbiased_and_moves_the_encoder(make_model, estimate):
    """Of the logits with respect to the pixels, in eval mode: the average over draws, and a gradient everywhere."""
    model = make_model(
        "jacobian_norm", lipschitz_options={"jacobian": "network"}, hidden_sizes=(4, 4, 4, 4), decoder_hidden_size=4,
        num_attention_heads=(1, 1, 1, 1), num_labels=2, drop_path_rate=0.5,
    ).double()  # fmt: skip
    pixels = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    expected = exact_penalty(lambda part: model(part).logits, pixels).item() / 64
    model.train()
    modes = [module.training for module in model.modules()]
    same = pixels.expand(10, -1, -1, -1)
    means = torch.tensor(
        [estimate(model._eval_mode_logits, same, seeds).item() for seeds in torch.arange(300).split(10)]
    )
    error = means.std() / len(means) ** 0.5
    assert abs(means.mean() - expected) < 5 * error
    assert error < 0.1 * expected, "the test is sharp"
    assert [module.training for module in model.modules()] == modes
    model.decode_head.batch_norm.eval()
    penalty = model(pixels).lipschitz_penalty
    assert penalty.item() == pytest.approx(
        difference_penalty(model._eval_mode_logits, pixels, sample_seeds(pixels)).item(), rel=1e-12
    )
    penalty.backward()
    reached = {
        name for name, parameter in model.named_parameters() if parameter.grad is not None and parameter.grad.any()
    }
    # At this size every attention has one key; queries and keys have nothing to do, and the last stage one position.
    encoder = {
        name for name, _ in model.named_parameters() if name.startswith("segformer.") and "stages.3" not in name
    }
    assert {name for name in encoder if "mlp" in name and name.endswith("weight")} <= reached
    assert {name for name, layer in model.constrained_layers().items() if f"{name}.weight" not in reached} == set()


def test_estimate_is_a_mean_over_samples_and_output_positions():
    """For a function that has a diagonal Jacobian every draw is exact."""
    scale = torch.tensor([2.0, 3.0])[:, None, None]
    penalty = jacobian_penalty(lambda inputs: inputs * scale, torch.randn(3, 2, 4, 5), torch.arange(3))
    assert penalty.item() == pytest.approx(2.0**2 + 3.0**2)


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_penalty_does_not_depend_on_the_split_or_order_of_the_batch(make_model, task):
    model = with_frozen_statistics(make_model("jacobian_norm", task=task).train())
    pixels = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(8))
    whole = model(pixels).lipschitz_penalty.item()
    halves = [model(half).lipschitz_penalty.item() for half in pixels.split(2)]
    singles = [model(single).lipschitz_penalty.item() for single in pixels.split(1)]
    assert whole == pytest.approx(sum(halves) / 2, rel=1e-5)
    assert whole == pytest.approx(sum(singles) / 4, rel=1e-5)
    assert whole == pytest.approx(model(pixels.flip(0)).lipschitz_penalty.item(), rel=1e-5)
    assert len({round(value, 9) for value in singles}) == 4, "the samples differ"


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_gradient_reaches_every_map_of_the_head_and_not_the_encoder(make_model, task):
    model = make_model("jacobian_norm", task=task).train()
    model(torch.randn(2, 3, 64, 64)).lipschitz_penalty.backward()
    reached = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert not any(name.startswith("segformer.") for name in reached)
    for name, layer in model.constrained_layers().items():
        assert layer.weight.grad is not None and layer.weight.grad.any(), name
        assert torch.isfinite(layer.weight.grad).all(), name


def test_gradient_is_that_of_the_exact_penalty_on_average():
    torch.manual_seed(0)
    head = nn.Sequential(nn.Linear(3, 4), nn.Softplus(), nn.Linear(4, 2)).double()
    inputs = torch.randn(1, 3, dtype=torch.float64)
    exact_penalty(head, inputs).backward()
    expected = [parameter.grad.clone() for parameter in head.parameters() if parameter.grad is not None]
    head.zero_grad()
    jacobian_penalty(head, inputs.expand(20_000, 3), torch.arange(20_000)).backward()
    actual = [parameter.grad for parameter in head.parameters() if parameter.grad is not None]
    largest = max(gradient.abs().max() for gradient in expected)
    for estimate, exact in zip(actual, expected, strict=True):
        assert (estimate - exact).abs().max() < 0.03 * largest


def test_no_penalty_where_no_gradient_is_wanted(make_model, images):
    model = make_model("jacobian_norm")
    assert model.eval()(images).lipschitz_penalty is None
    with torch.no_grad():
        assert model.train()(images).lipschitz_penalty is None
    assert model.train()(images).lipschitz_penalty > 0


def test_penalty_is_independent_of_the_global_generator(make_model, images):
    model = with_frozen_statistics(make_model("jacobian_norm").train())
    values = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        values.append(model(images).lipschitz_penalty.item())
    assert values[0] == values[1]


def test_seeds_come_from_the_pixels_of_each_sample():
    pixels = torch.randn(3, 3, 8, 8)
    seeds = sample_seeds(pixels)
    assert seeds.dtype == torch.int64 and len(set(seeds.tolist())) == 3
    assert torch.equal(sample_seeds(pixels[[2, 0]]), seeds[[2, 0]])
    assert torch.equal(sample_seeds(pixels.to(memory_format=torch.channels_last)), seeds)
    pixels[0, 0, 0, 0] += 1e-3
    assert sample_seeds(pixels)[0] != seeds[0] and sample_seeds(pixels)[1] == seeds[1]


def test_signs_are_fair_and_independent():
    signs = random_signs(torch.arange(200), (50, 20))
    assert signs.shape == (200, 50, 20) and set(signs.unique().tolist()) == {-1.0, 1.0}
    flat = signs.flatten(1).double()
    assert abs(flat.mean()) < 5 / flat.numel() ** 0.5
    for correlation in (flat @ flat.T / flat.shape[1], flat.T @ flat / flat.shape[0]):
        off_diagonal = correlation - torch.diag(correlation.diagonal())
        samples = flat.shape[1] if len(correlation) == 200 else flat.shape[0]
        assert off_diagonal.abs().max() < 6 / samples**0.5
    assert torch.equal(random_signs(torch.tensor([7]), (50, 20))[0], signs[7])
