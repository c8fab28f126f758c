"""Folders that cannot hold a model: every command that loads one says which file is wrong, and writes nothing."""

import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from lrsegformer.cli import main as command
from lrsegformer.models.loading import load_model
from tests.cli.bad_input import DIGITS, Case, refuse, stripes

BENCH = "--dataset digits --image_size 64 --max_eval_samples 2 --output_dir out"
FROM_MODEL = DIGITS.replace("--architecture tiny", "--model_name_or_path model --strategy stable_softplus")
COMMANDS = {
    "finetune-seg": f"finetune-seg {FROM_MODEL} --output_dir out",
    "robustness": f"robustness --models model --attacks pgd --eps 1 {BENCH}",
    "certify": f"certify --models model {BENCH}",
    "evaluate": f"evaluate model {BENCH}",
    "predict": "predict model image.png --output_dir out",
    "export": "export model --format stock --output_dir out",
}


def cut(part):
    return lambda path: path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])


def text(content):
    return lambda path: path.write_text(content)


def without(path):
    path.unlink()


def with_field(name, value):
    def change(path):
        path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))

    return change


def with_value(tensor, value, dtype=None):
    """The last entry of a tensor, of the last where no name is given."""

    def change(path):
        tensors = load_file(path)
        name = tensor or list(tensors)[-1]
        tensors[name] = tensors[name].to(dtype) if dtype else tensors[name]
        tensors[name].view(-1)[-1] = value
        save_file(tensors, path, metadata={"format": "pt"})

    return change


def filled(tensor, value):
    def change(path):
        tensors = load_file(path)
        tensors[tensor].fill_(value)
        save_file(tensors, path, metadata={"format": "pt"})

    return change


def without_constants(path):
    save_file({name: tensor for name, tensor in load_file(path).items() if not name.endswith(".c")}, path)


WEIGHTS, CONFIG, PROCESSOR = "model.safetensors", "config.json", "preprocessor_config.json"
FAULTS = {
    "empty weights": (WEIGHTS, cut(0)),
    "weights without their end": (WEIGHTS, cut(0.7)),
    "weights without their header": (WEIGHTS, cut(0.001)),
    "weights that are text": (WEIGHTS, text("<html>not found</html>")),
    "a weight NaN": (WEIGHTS, with_value(None, math.nan)),
    "a constant infinite": (WEIGHTS, with_value("decode_head.linear_fuse.c", -math.inf)),
    "a bias of bfloat16 infinite": (WEIGHTS, with_value("decode_head.classifier.bias", math.inf, torch.bfloat16)),
    "a statistic NaN": (WEIGHTS, with_value("decode_head.batch_norm.running_mean", math.nan)),
    "no configuration": (CONFIG, without),
    "configuration a list": (CONFIG, text("[1, 2]")),
    "configuration null": (CONFIG, text("null")),
    "configuration cut short": (CONFIG, cut(0.5)),
    "configuration empty": (CONFIG, cut(0)),
    "negative depths": (CONFIG, with_field("depths", [-1, 1, 1, 1])),
    "a million blocks": (CONFIG, with_field("depths", [1, 1, 1, 10**6])),
    "more blocks than tensors": (CONFIG, with_field("depths", [1, 1, 1, 900])),
    "a stage wider than its weights": (CONFIG, with_field("hidden_sizes", [8, 8, 16, 12_001])),
    "a head wider than its weights": (CONFIG, with_field("decoder_hidden_size", 8_001)),
    "a Mix-FFN wider than its weights": (CONFIG, with_field("mlp_ratios", [4, 4, 4, 201])),
    "kernels larger than their weights": (CONFIG, with_field("patch_sizes", [7, 3, 3, 251])),
    "a reduction larger than its weights": (CONFIG, with_field("sr_ratios", [8, 4, 2, 251])),
    "a reduction whose weights are left over": (CONFIG, with_field("sr_ratios", [1, 4, 2, 1])),
    "strides no map is left of": (CONFIG, with_field("strides", [8, 4, 4, 4])),
    "strides of no convolution": (CONFIG, with_field("strides", [10**30, 2, 2, 2])),
    "classes by the billion": (CONFIG, with_field("num_labels", 2**31)),
    "classes with a gap": (CONFIG, with_field("id2label", {"0": "a", "1": "b", "3": "c"})),
    "a class twice": (CONFIG, with_field("id2label", {"0": "a", "00": "b"})),
    "a class without a name": (CONFIG, with_field("id2label", {"0": "a", "1": None})),
    "an activation nobody knows": (CONFIG, with_field("hidden_act", "sometimes")),
    "an activation that is a list": (CONFIG, with_field("hidden_act", ["gelu"])),
    "weights drawn from less than nothing": (CONFIG, with_field("initializer_range", -0.02)),
    "a dropout above 1": (CONFIG, with_field("classifier_dropout_prob", 1.5)),
    "depths a word": (CONFIG, with_field("depths", "deep")),
    "three stages of sizes": (CONFIG, with_field("hidden_sizes", [8, 8, 16])),
    "heads of half": (CONFIG, with_field("num_attention_heads", [0.5, 1, 2, 2])),
    "no channels": (CONFIG, with_field("num_channels", 0)),
    "decoder width a list": (CONFIG, with_field("decoder_hidden_size", [12])),
    "an architecture of null": (CONFIG, with_field("architectures", [None])),
    "architectures a word": (CONFIG, with_field("architectures", "LRSegformer")),
    "classes a list": (CONFIG, with_field("id2label", ["a", "b"])),
    "an epsilon that is a word": (CONFIG, with_field("layer_norm_eps", "small")),
    "a dropout that is NaN": (CONFIG, with_field("hidden_dropout_prob", math.nan)),
    "processor no JSON": (PROCESSOR, text("size: 64")),
    "processor a list": (PROCESSOR, text("[]")),
    "mean not a number": (PROCESSOR, with_field("image_mean", [float("nan"), 0.4, 0.4])),
    "two means": (PROCESSOR, with_field("image_mean", [0.4, 0.4])),
    "no deviation": (PROCESSOR, with_field("image_std", None)),
    "a side to pad to that is a word": (PROCESSOR, with_field("pad_size", "wide")),
    "deviation zero": (PROCESSOR, with_field("image_std", [0.0, 0.2, 0.2])),
    "deviation words": (PROCESSOR, with_field("image_std", ["a", "b", "c"])),
    "a size that is true": (PROCESSOR, with_field("size", True)),
    "a size too small": (PROCESSOR, with_field("size", {"shortest_edge": 28, "longest_edge": 2048})),
    "a size of no image": (PROCESSOR, with_field("size", {"height": 10**30, "width": 64})),
    "a size without sides": (PROCESSOR, with_field("size", {})),
    "a switch that is a word": (PROCESSOR, with_field("do_normalize", "no")),
    "a factor of 0": (PROCESSOR, with_field("rescale_factor", 0)),
}


def broken(world, file, change, name="ours"):
    def make(path):
        shutil.copytree(world / name, path)
        change(path / file)

    return make


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", COMMANDS)
def test_broken_models(name, fault, tmp_path, world, monkeypatch, capsys):
    file, change = FAULTS[fault]
    files = {"model": broken(world, file, change), "image.png": stripes()}
    of_values = file == WEIGHTS and ("NaN" in fault or "infinite" in fault)
    not_finite = ("not finite (in ",) if of_values else ()
    case = Case(fault, COMMANDS[name], ("model", file, *not_finite), files)
    line = refuse(case, tmp_path, world, monkeypatch, capsys)
    assert "\n" not in line and ("give the folder" in line or "save the model again" in line)


OTHERS = {
    "a stock last stage left flat": (
        "stock",
        CONFIG,
        with_field("reshape_last_stage", False),
        "reshape_last_stage is f",
    ),
    "a stock model's tensors left over": ("stock", CONFIG, with_field("sr_ratios", [1, 4, 2, 1]), "tensors that the"),
    "constants left over": ("ours", CONFIG, with_field("lipschitz_strategy", None), "tensors that the model of its c"),
    "no constants": ("ours", WEIGHTS, without_constants, "lacks 6 tensors of the model (decode_head."),
    "certified without constants": ("certified", WEIGHTS, without_constants, ".c, ...)"),
    "a stage as wide as another": (
        *("ours", CONFIG, with_field("hidden_sizes", [8, 16, 16, 16])),
        "of other sizes than the model of its config.json (decode_head.linear_projections.1.proj.weight is (12, 8)",
    ),
    "weights that overflow": (
        "ours",
        WEIGHTS,
        filled("segformer.encoder.layer_norm.3.weight", 3e38),
        "logits overflow",
    ),
    "certified strides beside its weights": ("certified", CONFIG, with_field("strides", [4, 2, 2, 4]), "strides is"),
    "certified steps beside its weights": (
        "certified",
        CONFIG,
        with_field("mlp_ratios", [4, 4, 4, 200]),
        "depths are",
    ),
}


@pytest.mark.parametrize("fault", OTHERS)
@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "finetune-seg"])
def test_models_that_training_could_start_from(name, fault, tmp_path, world, monkeypatch, capsys):
    """What is run as it is has to be whole."""
    base, file, change, words = OTHERS[fault]
    files = {"model": broken(world, file, change, base), "image.png": stripes()}
    refuse(Case(fault, COMMANDS[name], ("model", words), files), tmp_path, world, monkeypatch, capsys)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dtype", 0.5),
        ("num_hidden_layers", "four"),
        ("attn_implementation", 3),
        ("base_model_tp_plan", 0.5),
        ("certified_temperature", "warm"),
        ("output_hidden_states", "all"),
        ("num_attention_heads", [300, 1, 2, 2]),
    ],
)
def test_what_only_a_library_looks_at(field, value, tmp_path, world, monkeypatch, capsys):
    """It has its own words for it, which are passed on in a line of ours."""
    files = {"model": broken(world, CONFIG, with_field(field, value))}
    line = refuse(Case(field, COMMANDS["finetune-seg"], ("model",), files), tmp_path, world, monkeypatch, capsys)
    assert line.endswith("again.") and not line.endswith(": ()")


@pytest.mark.parametrize("name", ["predict", "export"])
def test_a_stock_model_has_no_constraint_whatever_its_file_says(name, tmp_path, world, monkeypatch):
    ours = {"lipschitz_strategy": "orthogonal", "lipschitz_scope": 255, "certified_temperature": None}
    monkeypatch.chdir(tmp_path)
    stripes().save("image.png")
    for folder, fields in (("a", {}), ("b", ours)):
        shutil.copytree(world / "stock", folder)
        for field, value in fields.items():
            with_field(field, value)(tmp_path / folder / CONFIG)
        command.main(
            COMMANDS[name]
            .replace(" model ", f" {folder} ")
            .replace("--output_dir out", f"--output_dir out-{folder}")
            .split()
        )
    kept = [path for ending in ("png", "safetensors") for path in (tmp_path / "out-a").rglob(f"*.{ending}")]
    assert kept
    for path in kept:
        assert path.read_bytes() == (tmp_path / "out-b" / path.relative_to(tmp_path / "out-a")).read_bytes()
    assert load_model("segmentation", str(tmp_path / "b")).config.lipschitz_strategy is None


@pytest.mark.parametrize("name", COMMANDS)
def test_other_models_and_none(name, tmp_path, world, monkeypatch, capsys):
    files = {"model": lambda path: path.mkdir(), "image.png": stripes()}
    refuse(Case("an empty folder", COMMANDS[name], ("model", CONFIG), files), tmp_path, world, monkeypatch, capsys)


def test_a_pickle_with_a_weight_that_is_nan(tmp_path, world, monkeypatch, capsys):
    """Which transformers opens, without code in it: judged once it is loaded."""

    def make(path):
        shutil.copytree(world / "ours", path)
        with_value("decode_head.linear_fuse.c", math.nan)(path / WEIGHTS)
        torch.save(load_file(path / WEIGHTS), path / "pytorch_model.bin")
        (path / WEIGHTS).unlink()

    for name in ("finetune-seg", "predict"):
        case = Case(name, COMMANDS[name], ("model", "not finite (in decode_head.linear_fuse.c)"), {"model": make})
        case.files["image.png"] = stripes()
        refuse(case, tmp_path / name, world, monkeypatch, capsys)


def test_a_gradient_that_is_not_finite_is_of_a_model_and_a_condition(tmp_path, world, monkeypatch, capsys):
    """Its logits are finite, so that what was scored before the attack is kept."""
    query = "segformer.encoder.block.0.0.attention.self.query.weight"
    monkeypatch.chdir(tmp_path)
    broken(world, WEIGHTS, filled(query, 3e38))(tmp_path / "model")
    with pytest.raises(SystemExit) as stop:
        command.main(COMMANDS["robustness"].split())
    (line,) = [line for line in capsys.readouterr().err.split("\n") if line.startswith("error: ")]
    assert stop.value.code == 2 and line.startswith("error: model, gradients: the gradient of the attack")
    assert len((tmp_path / "out" / "cells.jsonl").read_text().splitlines()) == 1
