"""The configuration: what it accepts, what it refuses in one line, and whose files it reads."""

import json

import pytest
import torch
from transformers import AutoConfig, SegformerConfig, ViTConfig

from lrsegformer import STRATEGIES, InputError, LRSegformerConfig, LRSegformerForSemanticSegmentation
from lrsegformer.choices import PENALTY_REDUCTIONS, SCOPES


@pytest.mark.parametrize(
    ("option", "choices"),
    [("lipschitz_strategy", STRATEGIES), ("lipschitz_scope", SCOPES), ("penalty_reduction", PENALTY_REDUCTIONS)],
)
def test_unknown_choice_gets_one_line_that_names_the_known_ones(option, choices):
    with pytest.raises(ValueError) as caught:
        LRSegformerConfig(**{option: "unheard_of"})
    error = next(error for error in (caught.value, caught.value.__cause__) if isinstance(error, InputError))
    assert "\n" not in str(error)
    assert option in str(error) and "'unheard_of'" in str(error)
    assert all(choice in str(error) for choice in choices)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("lipschitz_strateg", "lipschitz_strategy"),
        ("strategy", "lipschitz_strategy"),
        ("scope", "lipschitz_scope"),
        ("penalty_off", "penalty_of"),
        ("certified_atention", "certified_attention"),
    ],
)
def test_a_misspelt_option_is_not_taken_for_an_attribute(name, near):
    with pytest.raises(InputError, match=f"no option '{name}': did you mean '{near}'"):
        LRSegformerConfig(**{name: "orthogonal"})
    assert LRSegformerConfig(note_of_mine=1).note_of_mine == 1, "as in every configuration of transformers"


def test_choice_given_to_from_pretrained_is_checked_too(tmp_path):
    """transformers sets such keywords after the checks of the configuration."""
    LRSegformerConfig().save_pretrained(tmp_path)
    for option in ("lipschitz_strategy", "lipschitz_scope", "penalty_reduction"):
        with pytest.raises(ValueError, match="unheard_of"):
            LRSegformerConfig.from_pretrained(tmp_path, **{option: "unheard_of"})
    config, unused = LRSegformerConfig.from_pretrained(
        tmp_path, lipschitz_strategy="orthogonal", no_field=1, return_unused_kwargs=True
    )
    assert config.lipschitz_strategy == "orthogonal" and unused == {"no_field": 1}


def test_defaults_are_the_baseline_and_scope_head():
    config = LRSegformerConfig()
    assert config.lipschitz_strategy is None and config.lipschitz_options is None
    assert (config.lipschitz_scope, config.penalty_reduction) == ("head", "geometric_mean")
    assert "lipschitz_penalty" in config.keys_to_ignore_at_inference


def test_round_trip_keeps_every_field(tmp_path):
    ours = {
        "lipschitz_strategy": "stable_softplus",
        "lipschitz_scope": "projections",
        "penalty_reduction": "sum",
        "lipschitz_options": {"norm": "l1"},
    }
    config = LRSegformerConfig(**ours, num_labels=7, decoder_hidden_size=12)
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "lrsegformer"
    for read in (LRSegformerConfig, AutoConfig):
        again = read.from_pretrained(tmp_path)
        assert type(again) is LRSegformerConfig
        assert again.to_diff_dict() == config.to_diff_dict()
        assert {name: getattr(again, name) for name in ours} == ours


def test_stock_configuration_is_read_as_ours(tmp_path, caplog):
    stock = SegformerConfig(depths=(1, 1, 1, 1), num_labels=3, id2label={0: "sky", 1: "road", 2: "car"})
    stock.save_pretrained(tmp_path)
    config = LRSegformerConfig.from_pretrained(tmp_path, lipschitz_strategy="orthogonal")
    assert config.model_type == "lrsegformer" and config.lipschitz_strategy == "orthogonal"
    assert config.id2label == {0: "sky", 1: "road", 2: "car"} and list(config.depths) == [1, 1, 1, 1]
    assert "model of type" not in caplog.text


def test_checkpoint_of_another_model_is_refused_in_one_line(tmp_path):
    ViTConfig().save_pretrained(tmp_path)
    for read in (LRSegformerConfig, LRSegformerForSemanticSegmentation):
        with pytest.raises(InputError) as caught:
            read.from_pretrained(tmp_path)
        message = str(caught.value)
        assert str(tmp_path) in message and "'vit'" in message and "nvidia/mit-b0" in message and "\n" not in message


@pytest.mark.parametrize("requested", ["spectral_norm", None])
def test_strategy_of_a_constrained_checkpoint_cannot_be_replaced(tmp_path, requested):
    """`c` of one strategy read by another gives a wrong function, and even negative 'bounds'."""
    LRSegformerConfig(lipschitz_strategy="stable_softplus").save_pretrained(tmp_path)
    with pytest.raises(InputError, match="'stable_softplus'.*to_vanilla"):
        LRSegformerConfig.from_pretrained(tmp_path, lipschitz_strategy=requested)
    assert LRSegformerConfig.from_pretrained(tmp_path, lipschitz_strategy="stable_softplus", num_labels=9)


def test_baseline_checkpoint_takes_any_strategy(tmp_path):
    LRSegformerConfig().save_pretrained(tmp_path)
    config = LRSegformerConfig.from_pretrained(tmp_path, lipschitz_strategy="orthogonal")
    assert config.lipschitz_strategy == "orthogonal"


def test_a_constrained_file_is_read_under_its_own_constraint(make_model, tmp_path):
    make_model("stable_softplus").save_pretrained(tmp_path)
    for option, value in (("lipschitz_scope", "projections"), ("lipschitz_options", {"norm": "l1"})):
        with pytest.raises(InputError, match=f"saved with {option}.*to_vanilla"):
            LRSegformerConfig.from_pretrained(tmp_path, **{option: value})
    assert LRSegformerConfig.from_pretrained(tmp_path).lipschitz_scope == "head"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"semantic_loss_class_weights": [1.0, 2.0], "num_labels": 3}, ("2 entries", "3 classes")),
        ({"semantic_loss_class_weights": [1.0, -2.0], "num_labels": 2}, ("below 0",)),
        ({"semantic_loss_label_smoothing": 1.0}, ("1.0", "[0, 1)")),
        ({"semantic_loss_label_smoothing": -0.1}, ("-0.1", "[0, 1)")),
    ],
)
def test_options_of_the_loss_are_checked(options, words):
    with pytest.raises(ValueError) as caught:
        LRSegformerConfig(**options)
    error = next(error for error in (caught.value, caught.value.__cause__) if isinstance(error, InputError))
    assert "\n" not in str(error) and all(word in str(error) for word in (next(iter(options)), *words))


def test_options_of_the_loss_reach_the_loss(make_model, images, labels):
    weights = [0.5, 1.0, 2.0, 4.0, 0.0]
    model = make_model(None, semantic_loss_class_weights=weights, semantic_loss_label_smoothing=0.2)
    output = model(images, labels=labels)
    logits = torch.nn.functional.interpolate(output.logits, labels.shape[-2:], mode="bilinear", align_corners=False)
    expected = torch.nn.functional.cross_entropy(
        logits, labels, weight=torch.tensor(weights), ignore_index=255, label_smoothing=0.2
    )
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert not any(name.startswith("semantic_loss_c") for name in vars(model.to_vanilla().config))


@pytest.mark.parametrize("task", ["segmentation", "classification"])
@pytest.mark.parametrize(
    "classes",
    [{"num_labels": 3}, {"id2label": {0: "a", 1: "b", 2: "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}],
    ids=["number", "names"],
)
def test_weights_of_the_classes_that_a_checkpoint_is_given(make_model, make_stock, task, classes, tmp_path):
    """Another number of classes than in the file, and weights for these: a backbone of 1000 classes is the usual."""
    make_stock(task, num_labels=7).save_pretrained(tmp_path / "stock")
    model_class = type(make_model(task=task))
    options = {"ignore_mismatched_sizes": True, **classes}
    loaded = model_class.from_pretrained(tmp_path / "stock", semantic_loss_class_weights=[1, 2, 3], **options)
    assert loaded.config.num_labels == 3 and loaded.config.semantic_loss_class_weights == [1, 2, 3]
    assert loaded.config.id2label == classes.get("id2label", {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"})
    # What was saved for the classes of before says nothing about others.
    make_model(task=task, semantic_loss_class_weights=[1.0] * 5).save_pretrained(tmp_path / "ours")
    with pytest.raises(ValueError) as caught:
        model_class.from_pretrained(tmp_path / "ours", **options)
    assert "5 entries for 3 classes" in f"{caught.value} {caught.value.__cause__}"
    again = model_class.from_pretrained(tmp_path / "ours", semantic_loss_class_weights=None, **options)
    assert again.config.semantic_loss_class_weights is None and again.config.num_labels == 3
