"""Starting from stock checkpoints: what is kept, what is new, and how constants start."""

import pytest
import torch
from safetensors import safe_open
from transformers import SegformerForSemanticSegmentation, ViTConfig, ViTForImageClassification

from lrsegformer import (
    STRATEGIES,
    InputError,
    LRSegformerForImageClassification,
    LRSegformerForSemanticSegmentation,
)
from lrsegformer.choices import SCOPES
from lrsegformer.layers.norms import operator_norm
from lrsegformer.models.loading import build_model, load_model, parse_options

# The scopes whose models have the stock tensors.
STOCK_SCOPES = [scope for scope in SCOPES if scope != "certified"]
UNCHANGED_AT_START = [name for name in STRATEGIES if STRATEGIES[name].learns_constant or name == "jacobian_norm"]


def keys_on_disk(folder) -> set[str]:
    with safe_open(folder / "model.safetensors", "pt") as file:
        return set(file.keys())


def load(model_class, folder, **options):
    return model_class.from_pretrained(folder, output_loading_info=True, **options)


def assert_healthy(model: torch.nn.Module) -> None:
    """No tensor is uninitialised memory: everything is finite, buffers included, and of a usual size."""
    for name, tensor in model.state_dict().items():
        assert torch.isfinite(tensor).all() and tensor.abs().max() < 1e3, name


def test_files_have_the_key_names_of_the_hub(mit_folder, segformer_folder):
    assert "segformer.encoder.block.0.0.attention.self.query.weight" in keys_on_disk(mit_folder)
    assert "classifier.weight" in keys_on_disk(mit_folder)
    assert "decode_head.linear_c.0.proj.weight" in keys_on_disk(segformer_folder)
    assert not any("linear_projections" in key for key in keys_on_disk(segformer_folder))


@pytest.mark.each_value
@pytest.mark.parametrize("scope", STOCK_SCOPES)
@pytest.mark.parametrize("strategy", [None, *STRATEGIES])
def test_backbone_lacks_exactly_the_decode_head(mit_folder, make_stock, strategy, scope):
    model, info = load(
        LRSegformerForSemanticSegmentation, mit_folder, lipschitz_strategy=strategy, lipschitz_scope=scope
    )
    head = {f"decode_head.{name}" for name in model.decode_head.state_dict() if not name.endswith(".c")}
    replaced = set(model.constrained_layers()) if strategy == "orthogonal" else set()
    assert info["missing_keys"] == head
    assert info["unexpected_keys"] == {"classifier.weight", "classifier.bias"}
    assert not info["mismatched_keys"] and not info["error_msgs"]
    backbone = make_stock("classification").segformer.state_dict()
    for name, tensor in model.segformer.state_dict().items():
        if not name.endswith(".c") and f"segformer.{name}".removesuffix(".weight") not in replaced:
            assert torch.equal(tensor, backbone[name]), name
    assert_healthy(model)
    for name, layer in model.constrained_layers().items():
        assert layer.weight.std() > 0.01, f"{name} was not initialised"
        assert name.startswith("segformer.") or layer.bias is None or not layer.bias.any()
        row_scale = model.row_scale_of(layer)
        assert layer.map_norm(layer.effective_weight(row_scale), layer.norm) <= layer.lipschitz_bound(row_scale)


@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_new_head_keeps_the_scale_of_its_input(mit_folder, strategy):
    """Under scope head nothing normalises the variance: the fused features must not vanish or blow up."""
    model = LRSegformerForSemanticSegmentation.from_pretrained(mit_folder, lipschitz_strategy=strategy)
    features = [torch.randn(2, c, s, s) for c, s in zip((8, 8, 16, 16), (16, 8, 4, 2), strict=True)]
    assert 0.05 < model.decode_head.fuse(features).std() < 20


@pytest.mark.each_value
@pytest.mark.parametrize("scope", STOCK_SCOPES)
@pytest.mark.parametrize("strategy", [None, *STRATEGIES])
def test_stock_segformer_is_loaded_whole(segformer_folder, make_stock, images, strategy, scope):
    model, info = load(
        LRSegformerForSemanticSegmentation, segformer_folder, lipschitz_strategy=strategy, lipschitz_scope=scope
    )
    assert not any(info.values()), info
    stock = make_stock()
    replaced = set(model.constrained_layers()) if strategy == "orthogonal" else set()
    for name, tensor in stock.state_dict().items():
        if name.removesuffix(".weight") not in replaced:
            assert torch.equal(model.state_dict()[name], tensor), name
    assert_healthy(model)
    if strategy is None or strategy in UNCHANGED_AT_START:
        with torch.no_grad():
            expected, actual = stock(images).logits, model.eval()(images).logits
        assert (actual - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("strategy", ["stable_softplus", "geometric_mean"])
def test_constants_start_at_the_norms_of_the_loaded_weights(segformer_folder, strategy):
    model = LRSegformerForSemanticSegmentation.from_pretrained(segformer_folder, lipschitz_strategy=strategy)
    for name, layer in model.constrained_layers().items():
        row_scale = model.row_scale_of(layer)
        matrix = layer.raw_matrix(row_scale).detach().double()
        norm = operator_norm(matrix, "linf")
        if strategy == "geometric_mean":
            norm = (norm * operator_norm(matrix, "l1")).sqrt()
        assert layer.constant().item() == pytest.approx(norm.item(), rel=1e-6), name
        assert torch.equal(layer.effective_weight(row_scale), layer.raw_matrix(row_scale)), name


def test_other_class_count_resizes_the_classifier_only(segformer_folder, make_stock):
    model, info = load(
        LRSegformerForSemanticSegmentation,
        segformer_folder,
        lipschitz_strategy="stable_softplus",
        num_labels=9,
        ignore_mismatched_sizes=True,
    )
    mismatched = {key[0] for key in info["mismatched_keys"]}
    assert mismatched == {"decode_head.classifier.weight", "decode_head.classifier.bias"}
    assert not info["missing_keys"] and not info["unexpected_keys"]
    projections = make_stock().decode_head.linear_projections.state_dict()
    for name, tensor in model.decode_head.linear_projections.state_dict().items():
        if not name.endswith(".c"):
            assert torch.equal(tensor, projections[name]), name
    classifier = model.decode_head.classifier
    assert classifier.weight.shape == (9, 12, 1, 1) and not classifier.bias.any()
    exact = operator_norm(classifier.raw_matrix(), "linf").item()
    assert classifier.constant().item() == pytest.approx(exact, rel=1e-6), "c starts from the new weight"


@pytest.mark.parametrize("strategy", [None, *STRATEGIES])
def test_classification_starts_from_a_backbone_with_its_classifier(mit_folder, make_stock, images, strategy):
    model, info = load(LRSegformerForImageClassification, mit_folder, lipschitz_strategy=strategy)
    assert not any(info.values())
    assert_healthy(model)
    if strategy is None or strategy in UNCHANGED_AT_START:
        with torch.no_grad():
            torch.testing.assert_close(model.eval()(images).logits, make_stock("classification")(images).logits)


def test_classification_has_no_projections_to_constrain(make_model):
    with pytest.raises(InputError, match="'projections'.*'head'"):
        make_model("orthogonal", scope="projections", task="classification")


@pytest.mark.parametrize("strategy", [None, "stable_softplus", "orthogonal"])
def test_real_standin_backbone(real_data, strategy):
    model, info = load(
        LRSegformerForSemanticSegmentation,
        real_data / "standin-mit-b0",
        lipschitz_strategy=strategy,
        num_labels=11,
        ignore_mismatched_sizes=True,
    )
    head = {f"decode_head.{name}" for name in model.decode_head.state_dict() if not name.endswith(".c")}
    assert info["missing_keys"] == head
    assert info["unexpected_keys"] == {"classifier.weight", "classifier.bias"}
    with safe_open(real_data / "standin-mit-b0" / "model.safetensors", "pt") as file:
        query = file.get_tensor("segformer.encoder.block.0.0.attention.self.query.weight")
        norm = file.get_tensor("segformer.encoder.layer_norm.3.weight")
    assert torch.equal(model.segformer.stages[0].blocks[0].attention.q_proj.weight, query)
    assert torch.equal(model.segformer.stages[3].layer_norm.weight, norm)


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_load_model_takes_backbones_and_changes_the_class_count(mit_folder, task):
    model = load_model(task, str(mit_folder), lipschitz_strategy="stable_softplus", num_labels=9)
    assert model(torch.randn(1, 3, 32, 32)).logits.shape[1] == 9


def test_load_model_refuses_another_encoder(mit_folder, tmp_path):
    with pytest.raises(InputError) as caught:
        load_model("segmentation", str(mit_folder), hidden_sizes=(8, 8, 16, 32), lipschitz_strategy="orthogonal")
    assert "segformer." in str(caught.value) and "\n" not in str(caught.value)
    ViTForImageClassification(
        ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    ).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="'vit'"):
        load_model("segmentation", str(tmp_path))


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"lipschitz_strategy": "sgd"}, "lipschitz_strategy"),
        ({"lipschitz_strategy": "orthogonal", "lipschitz_options": {"constant": -1}}, "constant"),
        ({"lipschitz_strategy": "orthogonal", "lipschitz_options": {"speed": 1}}, "speed"),
        ({"lipschitz_strategy": "orthogonal", "lipschitz_scope": "everything"}, "lipschitz_scope"),
    ],
)
def test_bad_options_get_one_line(mit_folder, options, part):
    for call in (lambda: load_model("segmentation", str(mit_folder), **options),
                 lambda: build_model("segmentation", "tiny", **options)):  # fmt: skip
        with pytest.raises(InputError) as caught:
            call()
        assert part in str(caught.value) and "\n" not in str(caught.value)


def test_missing_checkpoint_names_the_offline_ways(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError) as caught:
        load_model("segmentation", str(tmp_path / "nothing-here"))
    assert "--architecture tiny" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[1]", "l1"])
def test_strategy_options_have_to_be_a_json_object(text):
    with pytest.raises(InputError, match="lipschitz_options"):
        parse_options(text)
    assert parse_options(None) is None and parse_options('{"norm": "l1"}') == {"norm": "l1"}


def test_stock_class_reads_our_baseline_file(make_model, images, tmp_path):
    model = make_model(None)
    model.save_pretrained(tmp_path)
    stock, info = load(SegformerForSemanticSegmentation, tmp_path)
    assert not any(info.values())
    for name, tensor in model.state_dict().items():
        assert torch.equal(stock.state_dict()[name], tensor), name


@pytest.mark.parametrize("strategy", ["stable_softplus", "geometric_mean"])
def test_a_resized_classifier_of_our_own_file_starts_its_constant_anew(make_model, tmp_path, strategy):
    saved = make_model(strategy)
    with torch.no_grad():
        saved.decode_head.classifier.c += 5
    saved.save_pretrained(tmp_path)
    model = load_model("segmentation", str(tmp_path), lipschitz_strategy=strategy, num_labels=9)
    classifier = model.decode_head.classifier
    assert torch.equal(classifier.effective_weight(), classifier.raw_matrix())
    assert classifier.constant() < saved.decode_head.classifier.constant() / 2


@pytest.mark.parametrize("model_class", [LRSegformerForSemanticSegmentation, LRSegformerForImageClassification])
def test_a_stock_file_is_no_certified_model(mit_folder, model_class):
    """Nearly every tensor would be missing and start at random."""
    with pytest.raises(InputError, match="load_model"):
        model_class.from_pretrained(mit_folder, lipschitz_strategy="orthogonal", lipschitz_scope="certified")
