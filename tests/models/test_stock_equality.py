"""The baseline is the stock model: logits, loss, gradients, statistics, options of the forward pass."""

import re

import pytest
import torch
from torch import nn

from lrsegformer.models.decode_head import LRSegformerDecodeHead


def assert_close_to_largest(actual: torch.Tensor, expected: torch.Tensor, tolerance: float, name: str = "") -> None:
    """The largest difference is below `tolerance` times the largest entry."""
    assert actual.shape == expected.shape, name
    difference = (actual - expected).abs().max().item()
    assert difference <= tolerance * max(expected.abs().max().item(), 1e-12), (name, difference)


@pytest.fixture(params=["float32", "float64"])
def pair(request, make_model, make_stock):
    stock, model = make_stock(), make_model(None)
    model.load_state_dict(stock.state_dict(), strict=True)
    dtype = getattr(torch, request.param)
    return stock.to(dtype), model.to(dtype), 1e-5 if request.param == "float32" else 1e-12


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_baseline_has_the_stock_logits_loss_and_gradients(pair, images, labels, training):
    stock, model, tolerance = pair
    outputs = []
    for each in (stock, model):
        each.train(training)
        outputs.append(each(images.to(each.dtype), labels=labels))
        outputs[-1].loss.backward()
    assert_close_to_largest(outputs[1].logits, outputs[0].logits, tolerance)
    assert_close_to_largest(outputs[1].loss, outputs[0].loss, tolerance)
    expected = {name: parameter.grad for name, parameter in stock.named_parameters()}
    actual = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert set(actual) == set(expected)
    largest = max(gradient.abs().max().item() for gradient in expected.values())
    for name, gradient in expected.items():
        if training and re.fullmatch(r"decode_head\.linear_projections\.\d\.proj\.bias", name):
            # The batch's mean takes these biases away: their true gradient is 0, and rounding is all that either has.
            assert max(gradient.abs().max().item(), actual[name].abs().max().item()) <= tolerance * largest, name
            continue
        # A key bias has no true gradient: softmax ignores it, and rounding is all there is.
        scale = max(gradient.abs().max().item(), 1e-3 * largest)
        assert (actual[name] - gradient).abs().max().item() <= 10 * tolerance * scale, name
    for name, buffer in stock.named_buffers():
        assert_close_to_largest(model.get_buffer(name).double(), buffer.double(), tolerance, name)


@pytest.mark.parametrize("sizes", [[(16, 16), (8, 8), (4, 4), (2, 2)], [(7, 9), (4, 5), (2, 3), (1, 2)]])
def test_head_equals_the_stock_head_at_any_resolution(pair, sizes):
    stock, model, tolerance = pair
    features = [torch.randn(3, c, *size, dtype=stock.dtype) for c, size in zip((8, 8, 16, 16), sizes, strict=True)]
    logits, fused = model.decode_head(features, return_fused=True)
    scale, shift = (value[:, None, None] for value in model.decode_head.eval_affine())
    expected = stock.decode_head(features)
    assert_close_to_largest(logits, expected, tolerance)
    assert_close_to_largest(model.decode_head.classifier((fused * scale + shift).relu()), expected, tolerance)
    channels_last = [feature.to(memory_format=torch.channels_last) for feature in features]
    assert_close_to_largest(model.decode_head(channels_last), expected, tolerance)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("sizes", [[(16, 16), (8, 8), (4, 4), (2, 2)], [(7, 9), (4, 5), (2, 3), (1, 2)]])
def test_head_has_the_stock_gradients(pair, sizes, training):
    """Every tensor's, and those of the features, each in relation to its own largest entry."""
    stock, model, tolerance = pair
    features = [torch.randn(3, c, *size, dtype=stock.dtype) for c, size in zip((8, 8, 16, 16), sizes, strict=True)]
    cotangent = torch.randn(3, 5, *sizes[0], dtype=stock.dtype)
    gradients = []
    for each in (stock, model):
        inputs = [feature.clone().requires_grad_() for feature in features]
        each.decode_head.train(training)(inputs).backward(cotangent)
        named = {name: parameter.grad for name, parameter in each.decode_head.named_parameters()}
        gradients.append(named | {f"features {i}": feature.grad for i, feature in enumerate(inputs)})
    expected, actual = gradients
    assert set(actual) == set(expected)
    # In training mode a bias before the normalisation has no true gradient, only the rounding of larger ones.
    rounding = 8 * torch.finfo(stock.dtype).eps * max(each.abs().max().item() for each in expected.values())
    for name, gradient in expected.items():
        difference = (actual[name] - gradient).abs().max().item()
        assert difference <= tolerance * gradient.abs().max().item() + rounding, name
    for name, buffer in stock.decode_head.named_buffers():
        assert_close_to_largest(model.decode_head.get_buffer(name).double(), buffer.double(), tolerance, name)


@pytest.mark.parametrize("sides", [(64, 64), (40, 72)])
def test_a_last_stage_left_flat_is_a_map_all_the_same(make_model, sides):
    """The stock head takes the side of the map from the channels, and fails; the exported model has a map."""
    pixels = torch.randn(2, 3, *sides)
    flat, mapped = (make_model("orthogonal", reshape_last_stage=reshaped) for reshaped in (False, True))
    assert torch.equal(flat(pixels).logits, mapped(pixels).logits)
    exported = flat.to_vanilla()
    assert exported.config.reshape_last_stage
    assert_close_to_largest(exported(pixels).logits, mapped(pixels).logits, 1e-5)


def test_dropout_is_applied_in_training_only(make_model):
    head: LRSegformerDecodeHead = make_model(None, classifier_dropout_prob=0.5).decode_head.train()
    features = [torch.randn(1, c, s, s) for c, s in zip((8, 8, 16, 16), (8, 4, 2, 1), strict=True)]
    assert not torch.equal(head(features), head(features))
    head.eval()
    assert torch.equal(head(features), head(features))


def test_autocast_leaves_the_folded_maps_in_float32(make_model, images):
    model = make_model("orthogonal")
    expected, bias = model.decode_head.folded_maps()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual, actual_bias = model.decode_head.folded_maps()
        logits = model(images).logits
    assert torch.equal(actual_bias, bias)
    assert all(torch.equal(*pair) for pair in zip(actual, expected, strict=True))
    assert_close_to_largest(logits.float(), model(images).logits, 0.05)


def test_forward_options_are_the_stock_ones(pair, images, labels):
    stock, model, tolerance = pair
    pixels = images.to(stock.dtype)
    assert model(pixels).hidden_states is None and model(pixels).loss is None
    assert model(pixels).lipschitz_penalty is None
    for expected, actual in zip(
        stock(pixels, output_hidden_states=True).hidden_states,
        model(pixels, output_hidden_states=True).hidden_states,
        strict=True,
    ):
        assert_close_to_largest(actual, expected, tolerance)
    as_tuple = model(pixels, labels=labels, return_dict=False)
    assert len(as_tuple) == len(stock(pixels, labels=labels, return_dict=False))
    assert as_tuple[1].shape == (2, 5, 18, 25)


def test_loss_keywords_of_the_trainer_are_not_taken(make_model, make_stock):
    """The stock class makes the Trainer believe that its loss is a sum over the whole batch (issue 47688)."""
    assert make_model(None).accepts_loss_kwargs is False
    assert make_model(None, task="classification").accepts_loss_kwargs is False
    assert getattr(make_stock(), "accepts_loss_kwargs", None) is not False


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_baseline_classifier_equals_the_stock_one(make_model, make_stock, images, training):
    stock, model = make_stock("classification"), make_model(None, task="classification")
    model.load_state_dict(stock.state_dict(), strict=True)
    for each in (stock, model):
        each.train(training)(images, labels=torch.tensor([1, 4])).loss.backward()
    assert torch.equal(model(images).logits, stock(images).logits)
    for (name, actual), (_, expected) in zip(model.named_parameters(), stock.named_parameters(), strict=True):
        assert torch.equal(actual.grad, expected.grad), name


def test_no_module_is_parametrized_and_every_tensor_is_saved(make_model):
    """Parametrizations rename keys, and buffers that are not saved come back as uninitialised memory."""
    model: nn.Module = make_model("stable_softplus")
    assert not any(nn.utils.parametrize.is_parametrized(module) for module in model.modules())
    tensors = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
    assert tensors == set(model.state_dict())
