"""What every strategy owes its users: one table of behaviours, run for each row of the registry."""

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hypothesis_numpy
from torch import nn

from lrsegformer.layers import STRATEGIES, LipschitzConv1x1, LipschitzLinear, build_lipschitz_linear

SHAPES = [(1, 1), (1, 9), (9, 1), (6, 6), (5, 24), (24, 5)]


def reference_norm(matrix: torch.Tensor, norm: str) -> float:
    """The operator norm by numpy in float64, written independently of the package."""
    matrix = matrix.detach().double().numpy()
    if norm == "l2":
        return float(np.linalg.svd(matrix, compute_uv=False)[0])
    absolute = np.abs(matrix)
    return float(max(absolute.sum(axis=1)) if norm == "linf" else max(absolute.sum(axis=0)))


def raw_matrix(kind: str, shape: tuple[int, int]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(map(ord, kind)) + 31 * shape[0] + shape[1])
    matrix = torch.randn(shape, generator=generator)
    if kind == "zero":
        matrix.zero_()
    elif kind == "zero rows":
        matrix[::2] = 0
    elif kind == "duplicated rows":
        matrix[:] = matrix[0].clone()
    elif kind == "rank one":
        matrix = torch.outer(matrix[:, 0], matrix[0])
    elif kind == "one large, many tiny":
        matrix.fill_(5.9e-8)
        matrix[0, 0] = 1
    elif kind == "constant":
        matrix.fill_(0.3)
    elif kind.startswith("times"):
        matrix *= float(kind.split()[1])
    return matrix


KINDS = [
    "normal", "zero", "zero rows", "duplicated rows", "rank one", "one large, many tiny", "constant",
    "times 1e-6", "times 1e-3", "times 1e3", "times 1e6",
]  # fmt: skip


def plain_linear(matrix: torch.Tensor, bias: bool = True) -> nn.Linear:
    linear = nn.Linear(matrix.shape[1], matrix.shape[0], bias=bias)
    with torch.no_grad():
        linear.weight.copy_(matrix)
    return linear


def build(strategy: str, out_features: int = 6, in_features: int = 5, seed: int = 0) -> LipschitzLinear:
    torch.manual_seed(seed)
    return build_lipschitz_linear(strategy, in_features, out_features)


def assert_bounded(layer: nn.Module) -> None:
    effective = layer.effective_weight()
    assert torch.isfinite(effective).all()
    assert reference_norm(effective, layer.norm) <= layer.lipschitz_bound().item()


@pytest.fixture(scope="module", params=list(STRATEGIES))
def strategy(request) -> str:
    return request.param


@pytest.mark.parametrize("kind", KINDS)
def test_bound_holds_for_any_raw_weight(strategy, kind):
    for shape in SHAPES:
        matrix = raw_matrix(kind, shape)
        started = STRATEGIES[strategy].from_linear(plain_linear(matrix))
        assert_bounded(started)
        overwritten = build(strategy, *shape)
        before = overwritten.lipschitz_bound().item()
        with torch.no_grad():
            overwritten.weight.copy_(matrix)
        assert_bounded(overwritten)
        if overwritten.limits_norm:
            # The bound depends on the constant alone, whatever becomes of the weight.
            assert overwritten.lipschitz_bound().item() == before


def test_bound_holds_at_the_sizes_of_a_real_decode_head(strategy):
    for matrix in (raw_matrix("normal", (256, 1024)), raw_matrix("one large, many tiny", (16, 3072))):
        layer = STRATEGIES[strategy].from_linear(plain_linear(matrix))
        with torch.no_grad():
            layer.weight.mul_(1.7)
        assert_bounded(layer)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_bound_holds_for_drawn_weights_and_constants(strategy, data):
    shape = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    entries = st.floats(-1e4, 1e4, width=32)
    matrix = torch.from_numpy(data.draw(hypothesis_numpy.arrays(np.float32, shape, elements=entries)))
    layer = build(strategy, *shape)
    with torch.no_grad():
        layer.weight.copy_(matrix)
        if layer.learns_constant:
            layer.c.fill_(data.draw(st.floats(-30, 30, width=32)))
    assert_bounded(layer)


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_outputs_differ_by_no_more_than_the_bound_allows(strategy, data):
    layer = build(strategy, seed=data.draw(st.integers(0, 99)))
    order = {"l2": 2, "linf": float("inf"), "l1": 1}[layer.norm]
    entries = st.floats(-10, 10, width=32)
    first, second = torch.from_numpy(data.draw(hypothesis_numpy.arrays(np.float32, (2, 5), elements=entries))).double()
    layer.double()
    moved = torch.linalg.vector_norm(layer(first) - layer(second), ord=order)
    assert moved <= layer.lipschitz_bound() * torch.linalg.vector_norm(first - second, ord=order) + 1e-12


@pytest.fixture
def trained(strategy) -> LipschitzLinear:
    layer = build(strategy)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.05, weight_decay=0.01)
    inputs, targets = torch.randn(16, 5), 20 * torch.randn(16, 6)
    losses = []
    for _ in range(50):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(layer(inputs), targets)
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
    assert losses[-1] < losses[0]
    return layer


def test_bound_survives_training_saving_copying_and_casting(trained, strategy):
    assert_bounded(trained)
    assert_bounded(copy.deepcopy(trained))
    reloaded = build(strategy, seed=9)
    reloaded.load_state_dict(trained.state_dict(), strict=True)
    assert torch.equal(reloaded.effective_weight(), trained.effective_weight())
    unpickled = pickle.loads(pickle.dumps(trained))
    assert torch.equal(unpickled.effective_weight(), trained.effective_weight())
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        assert_bounded(copy.deepcopy(trained).to(dtype))


@pytest.mark.parametrize("seed", range(10))
def test_bound_holds_in_bfloat16_storage(strategy, seed):
    layer = build(strategy, seed=seed)
    with torch.no_grad():
        layer.weight.mul_(3)
    layer.bfloat16()
    assert layer.effective_weight().dtype == torch.float32
    assert_bounded(layer)


def test_autocast_leaves_the_effective_weight_alone(strategy):
    layer = build(strategy)
    outside = layer.effective_weight()
    inputs = torch.randn(3, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer.effective_weight(), outside)
        assert_bounded(layer)
        outputs = layer(inputs)
    assert outputs.dtype == torch.bfloat16
    torch.testing.assert_close(outputs.float(), layer(inputs), rtol=0.03, atol=0.03)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_outputs_have_the_dtype_of_the_inputs(strategy, dtype):
    assert build(strategy)(torch.randn(3, 5, dtype=dtype)).dtype == dtype


@pytest.mark.parametrize("kind", ["normal", "zero", "zero rows", "duplicated rows", "rank one", "times 1e-6"])
@pytest.mark.parametrize("shape", [(6, 6), (3, 8), (8, 3), (1, 4), (4, 1)])
def test_gradients_are_finite_and_a_step_stays_bounded(strategy, kind, shape):
    layer = build(strategy, *shape)
    with torch.no_grad():
        layer.weight.copy_(raw_matrix(kind, shape))
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        (layer(torch.randn(4, shape[1])).square().sum() + layer.lipschitz_bound()).backward()
        for name, parameter in layer.named_parameters():
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
        optimizer.step()
        assert_bounded(layer)


@pytest.mark.parametrize("shape", [(4, 3), (3, 4), (3, 3)])
def test_gradients_are_the_derivatives(strategy, shape):
    """`torch.autograd.gradcheck`, with the constraint active, with respect to weight, constant and row scale."""
    layer = build(strategy, *shape).double()
    torch.manual_seed(1)
    weight = (3 * torch.randn(shape, dtype=torch.float64)).requires_grad_()
    row_scale = (torch.rand(shape[0], dtype=torch.float64) + 0.5).requires_grad_()
    constant = layer.c.detach().clone().requires_grad_() if hasattr(layer, "c") else None

    def effective_weight_and_bound(weight, row_scale, constant=None):
        clone = Functional(layer)
        tensors = {"layer.weight": weight} | ({} if constant is None else {"layer.c": constant})
        return torch.func.functional_call(clone, tensors, (row_scale,))

    inputs = (weight, row_scale) if constant is None else (weight, row_scale, constant)
    assert torch.autograd.gradcheck(effective_weight_and_bound, inputs)


class Functional(nn.Module):
    """Effective weight and bound as the outputs of a forward pass."""

    def __init__(self, layer: LipschitzLinear):
        super().__init__()
        self.layer = layer

    def forward(self, row_scale):
        return self.layer.effective_weight(row_scale), self.layer.lipschitz_bound(row_scale)


def test_row_scale_is_inside_the_constraint(strategy):
    layer = build(strategy)
    row_scale = torch.tensor([100.0, -1.0, 0.5, 1e-12, 3.0, 1.0])
    scaled = copy.deepcopy(layer)
    with torch.no_grad():
        scaled.weight.mul_(row_scale[:, None])
    assert torch.equal(layer.effective_weight(row_scale), scaled.effective_weight())
    assert reference_norm(layer.effective_weight(row_scale), layer.norm) <= layer.lipschitz_bound(row_scale)
    layer.start_from_weight(row_scale)
    assert reference_norm(layer.effective_weight(row_scale), layer.norm) <= layer.lipschitz_bound(row_scale)


def test_to_linear_gives_equal_outputs(strategy):
    layer = build(strategy)
    with torch.no_grad():
        layer.weight.mul_(5)
    plain = layer.to_linear()
    inputs = torch.randn(7, 5)
    assert type(plain) is nn.Linear
    assert torch.equal(plain.weight, layer.effective_weight()) and torch.equal(plain.bias, layer.bias)
    torch.testing.assert_close(plain(inputs), layer(inputs), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_from_linear_is_exact_where_it_can_be(strategy, kind):
    layer_class = STRATEGIES[strategy]
    for shape in SHAPES:
        for dtype in (torch.float32, torch.float64):
            linear = plain_linear(raw_matrix(kind, shape)).to(dtype)
            layer = layer_class.from_linear(linear)
            assert layer.weight.dtype == dtype
            assert torch.equal(layer.bias, linear.bias)
            if layer_class.learns_constant or not layer_class.limits_norm:
                assert torch.equal(layer.effective_weight(), linear.weight)


def test_from_linear_keeps_no_tie_to_the_plain_layer(strategy):
    linear = plain_linear(raw_matrix("normal", (6, 5)), bias=False)
    layer = STRATEGIES[strategy].from_linear(linear)
    before = layer.effective_weight().detach().clone()
    with torch.no_grad():
        linear.weight.zero_()
    assert layer.bias is None
    assert torch.equal(layer.effective_weight(), before)


def test_conv1x1_twin_is_the_linear_layer_on_every_pixel(strategy):
    linear = build(strategy)
    conv = type(linear).conv1x1_class(5, 6)
    assert isinstance(conv, LipschitzConv1x1) and conv.weight.shape == (6, 5, 1, 1)
    state = linear.state_dict()
    conv.load_state_dict({**state, "weight": state["weight"][:, :, None, None]}, strict=True)
    assert torch.equal(conv.effective_weight(), linear.effective_weight())
    assert conv.norm == linear.norm and conv.lipschitz_bound() == linear.lipschitz_bound()
    images = torch.randn(2, 5, 3, 4)
    expected = linear(images.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(conv(images), expected, rtol=1e-5, atol=1e-6)


def test_state_has_stock_names_and_the_constant_only(strategy):
    for layer in (build(strategy), type(build(strategy)).conv1x1_class(5, 6)):
        parameters = {name for name, _ in layer.named_parameters()}
        buffers = {name for name, _ in layer.named_buffers()}
        assert set(layer.state_dict()) == parameters | buffers, "a tensor is not saved"
        assert {"weight", "bias"} <= parameters
        assert parameters | buffers <= {"weight", "bias", "c"}
        assert ("c" in parameters) == layer.learns_constant
        if "c" in parameters | buffers:
            assert layer.c.shape == () and layer.c.dtype == torch.float32
    assert set(build_lipschitz_linear(strategy, 5, 6, bias=False).state_dict()) <= {"weight", "c"}


def test_unknown_option_is_refused(strategy):
    with pytest.raises(TypeError, match="no_such_option"):
        build_lipschitz_linear(strategy, 3, 2, no_such_option=1)


def test_layers_say_what_they_are(strategy):
    text = repr(build(strategy))
    assert f"strategy={strategy}" in text and "norm=" in text
    assert STRATEGIES[strategy].strategy == strategy
    assert 0 < len(STRATEGIES.summary(strategy)) < 100 and "\n" not in STRATEGIES.summary(strategy)


def test_layer_can_be_made_on_the_meta_device_in_any_dtype(strategy):
    with torch.device("meta"):
        assert build_lipschitz_linear(strategy, 5, 6).weight.is_meta
    layer = build_lipschitz_linear(strategy, 5, 6, dtype=torch.bfloat16)
    assert layer.weight.dtype == torch.bfloat16
    assert_bounded(layer)
