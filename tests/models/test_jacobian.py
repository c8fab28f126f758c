"""jacobian_norm's penalty: an unbiased estimate that does not depend on how samples are batched."""

import pytest
import torch
from torch import nn

from lrsegformer.models.jacobian import jacobian_penalty, random_signs, sample_seeds

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


def exact_penalty(head, features: list[torch.Tensor]) -> torch.Tensor:
    """The mean over samples of the squared Frobenius norm of the exact Jacobian, by `torch.func.jacrev`."""
    norms = []
    for sample in zip(*features, strict=True):
        inputs = tuple(feature[None] for feature in sample)
        jacobians = torch.func.jacrev(lambda *inputs: head(inputs), argnums=tuple(range(len(inputs))))(*inputs)
        norms.append(sum(jacobian.square().sum() for jacobian in jacobians))
    return torch.stack(norms).mean()


def test_estimate_is_unbiased_for_the_nonlinear_head(make_model):
    """The mean over many draws of signs meets the exact value within five standard errors."""
    head = make_model("jacobian_norm").double().decode_head
    features = features_of(1)
    expected = exact_penalty(head.eval_logits, features).item() / 16
    draws = []
    for start in range(0, 2048, 512):
        repeated = [feature.expand(512, *feature.shape[1:]) for feature in features]
        for chunk in torch.arange(start, start + 512).split(64):
            draws.append(
                jacobian_penalty(head.eval_logits, [feature[: len(chunk)] for feature in repeated], chunk).item()
            )
    draws = torch.tensor(draws, dtype=torch.float64)
    error = draws.std() / len(draws) ** 0.5
    assert abs(draws.mean() - expected) < 5 * error
    assert error < 0.05 * expected, "the test is sharp"


def test_estimate_is_a_mean_over_samples_and_output_positions():
    """For a head that has a diagonal Jacobian every draw is exact."""
    inputs = [torch.randn(3, 2, 4, 5)]
    scale = torch.tensor([2.0, 3.0])[:, None, None]
    penalty = jacobian_penalty(lambda features: features[0] * scale, inputs, torch.arange(3))
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
    features = [torch.randn(1, 3, dtype=torch.float64)]
    exact_penalty(lambda inputs: head(inputs[0]), features).backward()
    expected = [parameter.grad.clone() for parameter in head.parameters() if parameter.grad is not None]
    head.zero_grad()
    many = [features[0].expand(20_000, 3)]
    jacobian_penalty(lambda inputs: head(inputs[0]), many, torch.arange(20_000)).backward()
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
