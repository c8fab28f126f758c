"""The certified network's parts, and the whole, against their true Jacobians: no bound is below what is reached."""

import pytest
import torch

from lrsegformer.certification.primitives import pointwise
from lrsegformer.models.encoder.mix_ffn import ConvexPotentialStep
from tests.certification.judges import PAIRS, climbed, factors_of, jacobian_at

SIDE = 32
# What reaches a part, `(channels, height, width)`: keys of 8 x 8 tokens in the first stage, of one in the last.
PARTS = {
    "stages.0.patch_embeddings": (3, SIDE, SIDE),
    "stages.0.blocks.0.attention": (4, 8, 8),
    "stages.0.blocks.0.mlp.steps.1": (4, 8, 8),
    "stages.1.blocks.0.attention": (4, 4, 4),
    "stages.2.blocks.0.mlp.steps.0": (8, 2, 2),
    "decode_head.steps.0": (6, 8, 8),
}
CASES = [("orthogonal", "energy"), ("spectral_norm", "softmax"), ("geometric_mean", "energy")]


def certified(make_model, strategy: str, attention: str, task: str = "segmentation", **options):
    widths = {"hidden_sizes": (4, 4, 8, 8), "decoder_hidden_size": 6}
    model = make_model(strategy, "certified", task, certified_attention=attention, **{**widths, **options})
    return model.double().requires_grad_(False).merge()


@pytest.mark.one_in(3)
@pytest.mark.parametrize(("strategy", "attention"), CASES)
def test_no_part_grows_more_than_its_constants(make_model, strategy, attention):
    """The Jacobian at random features, and where ascent of two points together leads from them."""
    model = certified(make_model, strategy, attention)
    parts = {name: (part, constants) for name, part, constants in model.network_modules(SIDE, SIDE)}
    for name, shape in PARTS.items():
        part, constants = parts[name]
        x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        slope, where = climbed(part, "per_pixel_to_per_pixel", x, 0.3, steps=6)
        assert slope <= constants.per_pixel_to_per_pixel.item() * (1 + 1e-9), name
        for point in (x[:1], where):
            reached = factors_of(jacobian_at(part, point), restarts=2, steps=8)
            shares = {pair: reached[pair] / getattr(constants, pair).item() for pair in PAIRS}
            assert max(shares.values()) <= 1 + 1e-9, (name, shares)
        assert shares["l2_to_l2"] > 0.5, (name, shares)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("task", ["segmentation", "classification"])
@pytest.mark.parametrize("attention", ["energy", "softmax"])
def test_no_logits_move_farther_than_the_network_says(make_model, attention, task):
    """
    From the image in [0, 1], normalised as the configuration says, of sides that are no multiples of anything, so that
    padding, cropping and uneven upsampling are in it.
    """
    model = certified(make_model, "orthogonal", attention, task)
    height, width = SIDE - 3, SIDE + 5
    bound = model.network_constants(height, width).then(pointwise(torch.linalg.svdvals(model.classifier_rows())[0]))
    std = torch.tensor(model.config.pixel_std(), dtype=torch.float64)[:, None, None]
    images = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    for pair in PAIRS:
        slope, _ = climbed(lambda x: model(pixel_values=(x - 0.45) / std).logits, pair, images, 0.05, steps=4)
        assert 0 < slope <= getattr(bound, pair).item()


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_every_step_of_a_new_model_moves_its_input(make_model, task):
    """A kernel and a bias of zero would have a gradient of zero, and stay."""
    # Of a single fold, random inputs may all lie on the side that stays.
    wide = {"hidden_sizes": (32, 32, 32, 32), "decoder_hidden_size": 32}
    model = certified(make_model, "orthogonal", "energy", task, stirred=False, **wide)
    for module in model.modules():
        if isinstance(module, ConvexPotentialStep):
            x = torch.randn(1, module.matrix.linear.in_features, 4, 4, dtype=torch.float64)
            assert (module(x) - x).norm() > 0.1 * x.norm()
