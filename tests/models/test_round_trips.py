"""What is saved comes back, bit for bit, in every precision and file layout."""

import pytest
import torch
from safetensors import safe_open

from lrsegformer import STRATEGIES
from tests.selection import one_of_each

CASES = [
    ("segmentation", strategy, scope) for strategy in (None, *STRATEGIES) for scope in ("projections", "head")
] + [("classification", strategy, "head") for strategy in (None, *STRATEGIES)]
CASES += [(task, strategy, "network") for task in ("segmentation", "classification") for strategy in STRATEGIES]


@pytest.fixture(params=one_of_each(CASES), ids=lambda case: "-".join(map(str, case)))
def model(request, make_model):
    task, strategy, scope = request.param
    return make_model(strategy, scope, task=task)


def reload(model, folder, **options):
    again, info = type(model).from_pretrained(folder, output_loading_info=True, **options)
    assert not any(info.values()), info
    return again


def assert_same_state(actual, expected) -> None:
    assert list(actual) == list(expected)
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype and torch.equal(actual[name], tensor), name


def test_round_trip_in_float32_is_exact(model, images, tmp_path):
    model.save_pretrained(tmp_path)
    torch.manual_seed(99)
    again = reload(model, tmp_path)
    assert_same_state(again.state_dict(), model.state_dict())
    with torch.no_grad():
        # Kernels round differently where memory is aligned differently; the tensors above are equal bit for bit.
        torch.testing.assert_close(again(images).logits, model(images).logits, rtol=1e-5, atol=1e-6)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert not any("linear_projections" in name or ".stages." in name for name in names), "old key names on disk"
    for name, tensor in model.named_buffers():
        assert name in again.state_dict() and torch.equal(again.get_buffer(name), tensor)


def test_round_trip_in_shards_is_exact(model, tmp_path):
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    assert_same_state(reload(model, tmp_path).state_dict(), model.state_dict())


@pytest.mark.one_in(3)
def test_round_trip_in_bfloat16_is_exact_and_constraints_stay_float32(model, images, tmp_path):
    model.save_pretrained(tmp_path / "first")
    halved = reload(model, tmp_path / "first", dtype=torch.bfloat16)
    constrained = halved.constrained_layers()
    assert (len(constrained) > 0) == (model.config.lipschitz_strategy is not None)
    for name, layer in constrained.items():
        original = model.get_submodule(name)
        for tensor_name, tensor in layer.state_dict().items():
            assert tensor.dtype == torch.float32, (name, tensor_name)
            assert torch.equal(tensor, original.state_dict()[tensor_name]), (name, tensor_name)
    assert halved.segformer.stages[0].layer_norm.weight.dtype == torch.bfloat16
    halved.save_pretrained(tmp_path / "second")
    again = reload(model, tmp_path / "second", dtype=torch.bfloat16)
    assert_same_state(again.state_dict(), halved.state_dict())
    with torch.no_grad():
        logits = again(images.bfloat16()).logits
        torch.testing.assert_close(logits, halved(images.bfloat16()).logits)
    assert torch.isfinite(logits).all()


def test_resized_classifier_of_our_own_file_keeps_the_rest(make_model, tmp_path):
    model = make_model("stable_softplus")
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path, num_labels=9, ignore_mismatched_sizes=True)
    for name, tensor in model.state_dict().items():
        if not name.startswith("decode_head.classifier."):
            assert torch.equal(again.state_dict()[name], tensor), name
    assert again.lipschitz_report()["head"]["guaranteed"]
    for row in again.lipschitz_report()["layers"]:
        assert row["exact"] <= row["bound"]


def test_scope_of_our_own_file_can_be_widened(make_model, tmp_path):
    model = make_model("stable_softplus", "projections")
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path, lipschitz_scope="head")
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    pixels = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(again.eval()(pixels).logits, model(pixels).logits, rtol=1e-4, atol=1e-5)
