"""The folded and the merged decode head, against its layers written out one after the other."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from lrsegformer import STRATEGIES, LRSegformerForSemanticSegmentation
from lrsegformer.errors import InputError
from lrsegformer.layers.base import LipschitzConstraint
from lrsegformer.models.decode_head import LRSegformerDecodeHead
from lrsegformer.models.normalization import CenteringBatchNorm2d
from tests.selection import one_of_each

CHANNELS = (8, 8, 16, 16)
SIZES = [[(8, 8), (4, 4), (2, 2), (1, 1)], [(7, 9), (4, 5), (2, 3), (1, 2)]]
CASES = [("segmentation", None, "head")]
CASES += [("segmentation", strategy, scope) for strategy in STRATEGIES for scope in ("head", "projections")]
# An adapter's layer computes more than its weight says.
WRAPPED = ["linear_fuse", "classifier", "linear_projections.1.proj"]


@pytest.fixture(params=one_of_each(CASES), ids=lambda case: "-".join(map(str, case)))
def model(request, make_model) -> LRSegformerForSemanticSegmentation:
    task, strategy, scope = request.param
    return make_model(strategy, scope, task)


def features_of(sizes, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    return [torch.randn(2, c, *size, dtype=dtype, requires_grad=True) for c, size in zip(CHANNELS, sizes, strict=True)]


def matrix_of(layer: nn.Module, row_scale: torch.Tensor | None = None) -> torch.Tensor:
    return layer.effective_weight(row_scale) if isinstance(layer, LipschitzConstraint) else layer.weight.flatten(1)


def written_out(head: LRSegformerDecodeHead, features: list[torch.Tensor]) -> torch.Tensor:
    """Project, upsample, concatenate the coarsest first, fuse, normalise or centre, rectify, classify."""
    norm = head.batch_norm
    centres = isinstance(norm, CenteringBatchNorm2d)
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    upsampled = []
    for feature, projection in zip(features, head.linear_projections, strict=True):
        weight, bias = matrix_of(projection.proj), projection.proj.bias
        projected = torch.einsum("oc,bchw->bohw", weight, feature) + bias[:, None, None]
        upsampled.append(functional.interpolate(projected, features[0].shape[2:], mode="bilinear"))
    fuse = matrix_of(head.linear_fuse, scale if centres else None)
    hidden = functional.conv2d(torch.cat(upsampled[::-1], dim=1), fuse[:, :, None, None])
    if centres:
        mean = hidden.mean(dim=(0, 2, 3)) if head.training else scale * norm.running_mean
        hidden = hidden + (norm.bias - mean)[:, None, None]
    else:
        # Clones: the norm of the model has its own pass through training mode.
        statistics = norm.running_mean.clone(), norm.running_var.clone()
        hidden = functional.batch_norm(hidden, *statistics, norm.weight, norm.bias, head.training, 0.1, norm.eps)
    return functional.conv2d(hidden.relu(), matrix_of(head.classifier)[:, :, None, None], head.classifier.bias)


@pytest.mark.each_value
@pytest.mark.parametrize("model", CASES, indirect=True, ids=lambda case: "-".join(map(str, case)))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("sizes", SIZES, ids=["powers", "odd"])
def test_folded_head_is_the_head_written_out(model, sizes, training, dtype):
    head = model.to(dtype).decode_head.train(training)
    features = features_of(sizes, dtype)
    cotangent = torch.randn(2, 5, *sizes[0], dtype=dtype)
    named = dict(head.named_parameters()) | {f"features {i}": each for i, each in enumerate(features)}
    expected = written_out(head, features)
    expected_gradients = torch.autograd.grad(expected, named.values(), cotangent, allow_unused=True)
    actual = head(features)
    gradients = torch.autograd.grad(actual, named.values(), cotangent, allow_unused=True)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    assert (actual - expected).abs().max() <= tolerance * expected.abs().max()
    # Some gradients are truly zero (a bias before a normalisation, a scale before an orthogonal factor): what is left
    # is the rounding of larger ones that cancel.
    rounding = 8 * torch.finfo(dtype).eps * max(each.abs().max() for each in expected_gradients if each is not None)
    for name, one, other in zip(named, gradients, expected_gradients, strict=True):
        assert (one is None) == (other is None), name
        if one is not None:
            assert (one - other).abs().max() <= tolerance * other.abs().max() + rounding, name


def test_merged_logits_are_equal_bit_for_bit(model, images):
    expected = model(images).logits
    keys, state = list(model.state_dict()), copy.deepcopy(model.state_dict())
    merged = model.train().merge()
    assert merged is model and not model.training
    assert torch.equal(model(images).logits, expected)
    assert torch.equal(model.eval()(images).logits, expected)
    assert list(model.state_dict()) == keys
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


def test_merged_head_computes_no_effective_weight(model, images, monkeypatch):
    model.merge()

    def refuse(*arguments):
        raise AssertionError("an effective weight was computed")

    monkeypatch.setattr(LipschitzConstraint, "effective_weight", refuse)
    model.decode_head(model.segformer(images, output_hidden_states=True).hidden_states)


def assert_same_pixel_gradients_once_merged(model: nn.Module, images: torch.Tensor, inference: bool = False) -> None:
    pixels = images.clone().requires_grad_()
    (expected,) = torch.autograd.grad(model(pixels).logits.square().sum(), pixels)
    with torch.inference_mode(inference):
        model.merge()
    (actual,) = torch.autograd.grad(model(pixels).logits.square().sum(), pixels)
    assert expected.any()
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6 * expected.abs().max().item())


def test_gradients_reach_the_pixels_of_a_merged_model(model, images):
    """Attacks on a merged model need them."""
    assert_same_pixel_gradients_once_merged(model, images)


def test_a_model_merged_in_inference_mode_is_differentiable(make_model, images):
    assert_same_pixel_gradients_once_merged(make_model("orthogonal"), images, inference=True)


def shift_weights(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))


def test_training_ends_a_merge(model, images, labels):
    model.merge()
    before = model(images).logits
    model.train()
    output = model(images, labels=labels)
    output.loss.backward()
    with torch.no_grad():
        for parameter in model.decode_head.parameters():
            if parameter.grad is not None:
                parameter -= 0.1 * parameter.grad
    model.eval()
    features = list(model.segformer(images, output_hidden_states=True).hidden_states)
    expected = written_out(model.decode_head, features)
    assert not torch.allclose(before, expected)
    torch.testing.assert_close(model(images).logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("part", ["", "decode_head"])
def test_loading_ends_a_merge(make_model, images, part, assign):
    model, other = (make_model("stable_softplus", seed=seed) for seed in (0, 1))
    model.merge()
    other.segformer.load_state_dict(model.segformer.state_dict())
    model.get_submodule(part).load_state_dict(other.get_submodule(part).state_dict(), assign=assign)
    assert torch.equal(model(images).logits, other(images).logits)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_cast_of_a_merged_model_is_that_of_the_model(model, images, dtype):
    plain = copy.deepcopy(model).to(dtype)
    merged = model.merge().to(dtype)
    assert torch.equal(merged(images.to(dtype)).logits, plain(images.to(dtype)).logits)


def test_copy_of_a_merged_model_stands_alone(model, images):
    expected = model.merge()(images).logits
    twin = copy.deepcopy(model)
    assert torch.equal(twin(images).logits, expected)
    shift_weights(twin.train())
    plain = copy.deepcopy(twin).eval()
    assert torch.equal(twin.eval()(images).logits, plain(images).logits)
    assert torch.equal(model(images).logits, expected) and not torch.allclose(twin(images).logits, expected)


def test_merge_is_not_saved(model, images, tmp_path):
    state = copy.deepcopy(model.state_dict())
    expected = model.merge()(images).logits
    model.save_pretrained(tmp_path)
    again, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert all(torch.equal(state[name], tensor) for name, tensor in again.state_dict().items())
    torch.testing.assert_close(again(images).logits, expected, rtol=1e-5, atol=1e-6)
    shift_weights(again)
    assert not torch.allclose(again(images).logits, expected), "a snapshot was loaded"


class Wrapped(nn.Module):
    """What an adapter does to a layer: `weight` and `bias` are the layer's, `forward` adds to it."""

    def __init__(self, base_layer: nn.Module):
        super().__init__()
        self.base_layer = base_layer
        self.weight, self.bias = base_layer.weight, base_layer.bias

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return 2 * self.base_layer(inputs)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", WRAPPED)
@pytest.mark.parametrize("strategy", [None, "orthogonal"])
def test_a_wrapped_layer_is_refused_in_one_line(make_model, images, strategy, name, training):
    model = make_model(strategy).train(training)
    model.decode_head.set_submodule(name, Wrapped(model.decode_head.get_submodule(name)))
    for action in (lambda: model(images), model.merge):
        with pytest.raises(InputError, match="Wrapped.*modules_to_save") as error:
            action()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("strategy", [None, *STRATEGIES])
def test_a_merged_classifier_computes_its_weight_once(make_model, images, strategy, monkeypatch):
    model = make_model(strategy, task="classification")
    expected = model(images).logits
    assert model.train().merge() is model and not model.training
    with monkeypatch.context() as patch:
        patch.setattr(LipschitzConstraint, "effective_weight", None)
        assert torch.equal(model(images).logits, expected)
    shift_weights(model)
    stale = model(images).logits
    assert torch.equal(model.classifier(torch.zeros(1, 16)), model.classifier.bias[None])
    model.train().eval()
    assert not torch.equal(model(images).logits, stale), "training ends it"
    model.merge()
    state = {name: 0.5 * tensor for name, tensor in model.state_dict().items()}
    model.load_state_dict(state)
    assert model._merged is None
