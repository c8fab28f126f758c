"""What every strategy owes its users: where it starts, what it stores, how it names itself."""

import ast
import copy
from pathlib import Path

import pytest
import torch

from lrsegformer.choices import PENALTY_REDUCTIONS
from lrsegformer.layers import STRATEGIES, LipschitzConv1x1, build_lipschitz_linear

SHAPES = [(1, 1), (1, 9), (9, 1), (6, 6), (5, 24), (24, 5)]


@pytest.mark.one_in(4)
def test_from_linear_is_bounded_and_exact_where_it_can_be(variant, kind, raw_matrix, plain_linear, assert_bounded):
    for shape in SHAPES:
        for dtype in (torch.float32, torch.float64):
            linear = plain_linear(raw_matrix(kind, shape)).to(dtype)
            layer = variant.from_linear(linear)
            assert layer.weight.dtype == dtype
            assert torch.equal(layer.bias, linear.bias)
            assert_bounded(layer)
            if layer.learns_constant or not layer.limits_norm:
                assert torch.equal(layer.effective_weight(), linear.weight)


def test_from_linear_keeps_no_tie_to_the_plain_layer(variant, raw_matrix, plain_linear):
    linear = plain_linear(raw_matrix("normal", (6, 5)), bias=False)
    layer = variant.from_linear(linear)
    before = layer.effective_weight().detach().clone()
    with torch.no_grad():
        linear.weight.zero_()
    assert layer.bias is None
    assert torch.equal(layer.effective_weight(), before)


def test_row_scale_is_inside_the_constraint(variant, reference_norm):
    layer = variant.build()
    row_scale = torch.tensor([100.0, -1.0, 0.5, 1e-12, 3.0, 1.0])
    scaled = copy.deepcopy(layer)
    with torch.no_grad():
        scaled.weight.mul_(row_scale[:, None])
    assert torch.equal(layer.effective_weight(row_scale), scaled.effective_weight())
    assert reference_norm(layer.effective_weight(row_scale), layer.norm) <= layer.lipschitz_bound(row_scale)
    layer.start_from_weight(row_scale)
    assert reference_norm(layer.effective_weight(row_scale), layer.norm) <= layer.lipschitz_bound(row_scale)


def test_conv1x1_twin_is_the_linear_layer_on_every_pixel(variant):
    linear, conv = variant.build(), variant.build_conv(seed=1)
    assert isinstance(conv, LipschitzConv1x1) and conv.weight.shape == (6, 5, 1, 1)
    state = linear.state_dict()
    conv.load_state_dict({**state, "weight": state["weight"][:, :, None, None]}, strict=True)
    assert torch.equal(conv.effective_weight(), linear.effective_weight())
    assert conv.norm == linear.norm and conv.lipschitz_bound() == linear.lipschitz_bound()
    images = torch.randn(2, 5, 3, 4)
    expected = linear(images.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(conv(images), expected, rtol=1e-5, atol=1e-6)


def test_state_has_stock_names_and_the_constant_only(variant):
    for layer in (variant.build(), variant.build_conv(), variant.build_conv2d()):
        parameters = {name for name, _ in layer.named_parameters()}
        buffers = {name for name, _ in layer.named_buffers()}
        assert set(layer.state_dict()) == parameters | buffers, "a tensor is not saved"
        assert {"weight", "bias"} <= parameters
        assert parameters | buffers <= {"weight", "bias", "c"}
        assert ("c" in parameters) == layer.learns_constant
        if "c" in parameters | buffers:
            assert layer.c.shape == () and layer.c.dtype == torch.float32
    assert set(variant.build(bias=False).state_dict()) <= {"weight", "c"}


@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_unknown_option_is_refused(strategy):
    with pytest.raises(TypeError, match="no_such_option"):
        build_lipschitz_linear(strategy, 3, 2, no_such_option=1)


def test_layers_say_what_they_are(variant):
    text, strategy = repr(variant.build()), variant.strategy
    assert f"strategy={strategy}" in text and "norm=" in text
    assert STRATEGIES[strategy].strategy == strategy
    assert 0 < len(STRATEGIES.summary(strategy)) < 100 and "\n" not in STRATEGIES.summary(strategy)


def test_nothing_asks_for_a_strategy_by_its_name():
    """Outside its own file, the registry and the recipes; a reduction of the penalty shares a strategy's name."""
    package = Path(__file__).resolve().parents[2] / "lrsegformer"
    by_name = (package / "layers" / "registry.py", package / "recipes.py")
    for path in sorted(package.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        said = {node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)}
        named = {name for name in STRATEGIES if name in said} - set(PENALTY_REDUCTIONS)
        allowed = set(STRATEGIES) if path in by_name else {path.stem}
        assert named <= allowed, f"{path} asks for {named - allowed}"
