"""Attention's constants against the true Jacobian of plain implementations, at random and at climbed points."""

import math

import pytest
import torch
from torch.nn import functional

from lrsegformer.certification.attention import HeadNorms, Tokens, energy_attention, head_norms, softmax_attention
from lrsegformer.certification.calculus import convex_residual
from lrsegformer.certification.primitives import non_expansive
from tests.certification.judges import assert_never_below, factors_of, jacobian_at

HEIGHT, WIDTH, CHANNELS, HEADS = 2, 4, 4, 2
TOKENS = HEIGHT * WIDTH
RADIUS = 1.0


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def images(size: float = 1.0) -> torch.Tensor:
    return size * random(4, CHANNELS, HEIGHT, WIDTH, seed=7)


def means(x: torch.Tensor, block: int) -> torch.Tensor:
    """`(batch, keys, channels)`: means of blocks, zeros beyond the map."""
    height, width = x.shape[2:]
    padded = functional.pad(x, (0, -width % block, 0, -height % block))
    return functional.avg_pool2d(padded, block).flatten(2).transpose(1, 2)


def pull(distance: torch.Tensor, scale: float, kind: str) -> torch.Tensor:
    """`phi'(r) / r`: of Huber's function, and of its smooth kin."""
    return scale / distance.clamp_min(scale) if kind == "huber" else (1 + (distance / scale) ** 2).rsqrt()


def energy_step(x: torch.Tensor, matrix: torch.Tensor, beta: float, block: int, scale: float, kind: str):
    """The step of energy attention, its gradient written out."""
    queries, keys = x.flatten(2).transpose(1, 2), means(x, block)
    gaps = (queries[:, :, None] - keys[:, None]) @ matrix.T
    gaps = gaps.unflatten(-1, (HEADS, -1))
    pulls = pull(gaps.square().sum(-1, keepdim=True).clamp_min(1e-30).sqrt(), scale, kind) * gaps
    pulls = pulls.flatten(-2) @ matrix
    of_keys = pulls.sum(dim=1) / block**2
    height, width = -(-x.shape[2] // block), -(-x.shape[3] // block)
    spread = of_keys.transpose(1, 2).unflatten(2, (height, width))
    spread = spread.repeat_interleave(block, 2).repeat_interleave(block, 3)[:, :, : x.shape[2], : x.shape[3]]
    return x - 2 / beta * (pulls.sum(dim=2).transpose(1, 2).unflatten(2, x.shape[2:]) - spread)


def clip(tokens: torch.Tensor, radius: float) -> torch.Tensor:
    return tokens * (radius / tokens.norm(dim=1, keepdim=True).clamp_min(radius))


def softmax_heads(x: torch.Tensor, matrices: list[torch.Tensor], temperature: float, block: int) -> torch.Tensor:
    """The heads' outputs side by side, of tokens that are clipped onto the ball."""
    x = clip(x, RADIUS)
    inputs = [x.flatten(2).transpose(1, 2), means(x, block), means(x, block)]
    made = [(tokens @ matrix.T).unflatten(-1, (HEADS, -1)) for tokens, matrix in zip(inputs, matrices, strict=True)]
    logits = temperature * torch.einsum("bqhd,bkhd->bhqk", made[0], made[1])
    output = torch.einsum("bhqk,bkhd->bqhd", logits.softmax(dim=-1), made[2])
    return output.flatten(2).transpose(1, 2).unflatten(2, x.shape[2:])


def softmax_norms(matrices: list[torch.Tensor]) -> list[HeadNorms]:
    return [head_norms(matrix, HEADS, RADIUS) for matrix in matrices]


def shape_of(block: int) -> Tokens:
    return Tokens(TOKENS, -(-HEIGHT // block) * -(-WIDTH // block), block)


def test_the_step_is_down_the_gradient_of_an_energy():
    matrix, x, block, scale = random(6, CHANNELS), images()[:1], 2, 0.8

    def energy(x: torch.Tensor) -> torch.Tensor:
        gaps = (x.flatten(2).transpose(1, 2)[:, :, None] - means(x, block)[:, None]) @ matrix.T
        squares = gaps.unflatten(-1, (HEADS, -1)).square().sum(-1)
        return (scale**2 * ((1 + squares / scale**2).sqrt() - 1)).sum()

    step = energy_step(x, matrix, 5.0, block, scale, "smooth")
    torch.testing.assert_close(step, x - 2 / 5.0 * torch.func.grad(energy)(x))


@pytest.mark.parametrize("block", [1, 2, 3])
def test_a_change_of_tokens_moves_all_differences_by_the_incidence_at_most(block):
    """The map from tokens to all differences to keys: its squared norm is at most keys + queries / block^2."""
    tokens = shape_of(block)

    def differences(x: torch.Tensor) -> torch.Tensor:
        gaps = x.flatten(2).transpose(1, 2)[:, :, None] - means(x, block)[:, None]
        return gaps.flatten(1)[:, :, None, None]

    squared = factors_of(jacobian_at(differences, torch.zeros(1, 1, HEIGHT, WIDTH, dtype=torch.float64)))
    limit = tokens.keys + tokens.pulls
    assert 0.5 * limit <= squared["l2_to_l2"] ** 2 <= limit * (1 + 1e-12)
    assert limit <= 2 * tokens.keys


@pytest.mark.one_in(3)
@pytest.mark.each_value
@pytest.mark.parametrize("kind", ["huber", "smooth"])
@pytest.mark.parametrize(("block", "slower"), [(1, 1.0), (1, 2.0), (2, 1.0), (2, 2.0), (3, 1.0), (1, 0.6)])
def test_energy_attention(block, slower, kind):
    """Both norms, at the largest step that is 1-Lipschitz, at half of it, and beyond it."""
    matrix, tokens = random(6, CHANNELS), shape_of(block)
    squared = torch.linalg.matrix_norm(matrix, ord=2).square()
    beta = slower * (tokens.keys + tokens.pulls) * squared
    bound = energy_attention(squared, beta, tokens)
    assert bound.l2_to_l2.item() == pytest.approx(max(1.0, 2 / slower - 1))
    # Near each other all tokens are pulled fully; far apart hardly.
    found = {}
    for size in (0.02, 2.0):
        reached = assert_never_below(
            lambda x: energy_step(x, matrix, beta, block, 1.0, kind), bound, images(size), size=0.1, steps=15
        )
        found = {pair: max(share, found.get(pair, 0)) for pair, share in reached.items()}
    assert found["l2_to_l2"] > 0.8
    assert found["per_pixel_to_per_pixel"] > 0.4


def test_energy_attention_per_pixel_is_as_the_docs_say():
    tokens, coarse = Tokens(100, 100), Tokens(400, 100, 2)
    for shape, slower, expected in (
        (tokens, 1, 3.0),
        (tokens, 2, 2**0.5),
        (coarse, 1, 2 + 2**0.5),
        (coarse, 2, 1 + 1.5**0.5),
    ):
        bound = energy_attention(4.0, slower * 8.0 * shape.keys, shape)
        assert bound.per_pixel_to_per_pixel.item() == pytest.approx(expected)
        assert bound.l2_to_l2.item() == bound.l2_to_per_pixel.item() == 1


@pytest.mark.parametrize(("block", "share"), [(1, 0.95), (2, 0.85)])
def test_a_reflection_about_the_mean_shows_that_three_cannot_be_improved(block, share):
    """All tokens but those of one key go one way: the few among many are carried three times as far."""
    tokens = Tokens(12 * 16, 12 * 16 // block**2, block)
    bound = energy_attention(1.0, 2.0 * tokens.keys, tokens)
    change = torch.zeros(1, 2, 12, 16, dtype=torch.float64)
    change[:, 0] = 1e-3
    change[:, 0, :block, :block] = -1e-3
    moved = energy_step(change, torch.eye(2, dtype=torch.float64), 2.0 * tokens.keys, block, 1.0, "huber")
    reached = moved.norm(dim=1).amax().item() / 1e-3
    assert share * bound.per_pixel_to_per_pixel.item() < reached <= 3


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    ("block", "temperature", "power"), [(1, 0.2, 0.5), (2, 1.0, 0.2), (3, 4.0, 0.05), (1, 4.0, 0.08)]
)
def test_softmax_attention(block, temperature, power):
    """The higher the temperature, the further the sum of all worst cases is from what happens at once."""
    matrices = [random(6, CHANNELS, seed=seed) / 3 for seed in (1, 2, 3)]
    bound = softmax_attention(*softmax_norms(matrices), temperature, shape_of(block))
    found = {}
    for size in (0.05, 1.0):
        reached = assert_never_below(
            lambda x: softmax_heads(x, matrices, temperature, block), bound, images(size), size=0.1, steps=25
        )
        found = {pair: max(share, found.get(pair, 0)) for pair, share in reached.items()}
    assert found["l2_to_l2"] > power and found["per_pixel_to_per_pixel"] > power


def test_softmax_attention_without_logits_is_a_mean_and_exact():
    """A temperature of 0: all keys count alike, in l2 the values of the means and no more."""
    matrices = [random(6, CHANNELS, seed=seed) for seed in (1, 2, 3)]
    bound = softmax_attention(*softmax_norms(matrices), 0.0, shape_of(2))
    found = factors_of(jacobian_at(lambda x: softmax_heads(x, matrices, 0.0, 2), 0.1 * images()[:1]))
    assert found["l2_to_l2"] == pytest.approx(bound.l2_to_l2.item())
    assert found["l2_to_per_pixel"] == pytest.approx(bound.l2_to_per_pixel.item())


def test_column_sums_of_attention_stay_below_those_of_bounded_logits():
    """Every query agrees on one key: as far as logits between -b and b allow, and the bound is attained."""
    logit, queries, keys = 1.3, 5, 4
    scores = torch.full((queries, keys), -logit, dtype=torch.float64)
    scores[:, 0] = logit
    largest = scores.softmax(dim=1).sum(dim=0).amax().item()
    assert largest == pytest.approx(queries / (1 + (keys - 1) * math.exp(-2 * logit)))


def test_windows_share_no_constants():
    norms = softmax_norms([random(6, CHANNELS, seed=seed) for seed in (1, 2, 3)])
    one, many = (softmax_attention(*norms, 1.0, Tokens(4, 4, 1, windows)) for windows in (1, 9))
    assert one.l2_to_l2 == many.l2_to_l2 and one.per_pixel_to_per_pixel == many.per_pixel_to_per_pixel
    assert many.per_pixel_to_l2.item() == pytest.approx(3 * one.per_pixel_to_l2.item())


def test_a_normalised_branch_in_a_convex_residual_is_1_lipschitz():
    matrices = [random(4, CHANNELS, seed=seed) / 2 for seed in (1, 2, 3)]
    branch = non_expansive(TOKENS).then(softmax_attention(*softmax_norms(matrices), 1.0, shape_of(1)))
    size = branch.l2_to_l2
    whole = convex_residual(branch.scaled(1 / size), 0.6, TOKENS)
    assert whole.l2_to_l2.item() == pytest.approx(1, rel=1e-12)

    def function(x: torch.Tensor) -> torch.Tensor:
        return 0.4 * x + 0.6 / size * softmax_heads(x, matrices, 1.0, 1)

    assert assert_never_below(function, whole, images(), steps=20)["l2_to_l2"] > 0.4


def test_constants_of_attention_are_differentiable():
    def bound(matrix: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
        norms = [head_norms(rows, 2, 1.5) for rows in matrix.chunk(3)]
        attention = softmax_attention(*norms, temperature, Tokens(16, 4, 2))
        step = energy_attention(norms[0].joint ** 2, 3.0, Tokens(16, 4, 2))
        return attention.l2_to_l2 + attention.per_pixel_to_per_pixel + step.per_pixel_to_per_pixel

    matrix = random(12, 3).requires_grad_()
    assert torch.autograd.gradcheck(bound, (matrix, torch.tensor(0.3, dtype=torch.float64, requires_grad=True)))
