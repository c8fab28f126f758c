"""A stock checkpoint: the names and shapes of transformers 4, equal logits, and what lies beside it."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForSemanticSegmentation,
    SegformerConfig,
)

from lrsegformer import STRATEGIES
from lrsegformer.cli.export import main
from lrsegformer.export import stock
from lrsegformer.export.checks import compare
from lrsegformer.export.metadata import guaranteed_bound
from tests.selection import one_of_each

AUTO = {"segmentation": AutoModelForSemanticSegmentation, "classification": AutoModelForImageClassification}
CASES = [("segmentation", strategy, scope) for strategy in STRATEGIES for scope in ("head", "projections", "network")]
CASES += [("classification", strategy, scope) for strategy in STRATEGIES for scope in ("head", "network")]
CASES += [("segmentation", None, "head"), ("classification", None, "head")]


def names_of_version_4(config: SegformerConfig, task: str) -> dict[str, tuple[int, ...]]:
    """The state dict of transformers 4.57's SegFormer, names and shapes written out (compared with it in a run)."""
    shapes: dict[str, tuple[int, ...]] = {}

    def layer(name: str, *weight: int, width: int | None = None) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = weight, (width or weight[0],)

    before = config.num_channels
    for stage, width in enumerate(config.hidden_sizes):
        kernel, reduction, hidden = (
            config.patch_sizes[stage],
            config.sr_ratios[stage],
            config.mlp_ratios[stage] * width,
        )
        layer(f"segformer.encoder.patch_embeddings.{stage}.proj", width, before, kernel, kernel)
        layer(f"segformer.encoder.patch_embeddings.{stage}.layer_norm", width)
        layer(f"segformer.encoder.layer_norm.{stage}", width)
        for block in range(config.depths[stage]):
            place = f"segformer.encoder.block.{stage}.{block}"
            for part in ("layer_norm_1", "layer_norm_2"):
                layer(f"{place}.{part}", width)
            for part in ("self.query", "self.key", "self.value", "output.dense"):
                layer(f"{place}.attention.{part}", width, width)
            if reduction > 1:
                layer(f"{place}.attention.self.sr", width, width, reduction, reduction)
                layer(f"{place}.attention.self.layer_norm", width)
            layer(f"{place}.mlp.dense1", hidden, width)
            layer(f"{place}.mlp.dwconv.dwconv", hidden, 1, 3, 3)
            layer(f"{place}.mlp.dense2", width, hidden)
        before = width
    if task == "classification":
        layer("classifier", config.num_labels, before)
        return shapes
    inner = config.decoder_hidden_size
    for index, width in enumerate(config.hidden_sizes):
        layer(f"decode_head.linear_c.{index}.proj", inner, width)
    shapes["decode_head.linear_fuse.weight"] = (inner, inner * len(config.hidden_sizes), 1, 1)
    layer("decode_head.batch_norm", inner)
    for statistic in ("running_mean", "running_var"):
        shapes[f"decode_head.batch_norm.{statistic}"] = (inner,)
    shapes["decode_head.batch_norm.num_batches_tracked"] = ()
    layer("decode_head.classifier", config.num_labels, inner, 1, 1)
    return shapes


@pytest.mark.one_in(3)
@pytest.mark.parametrize("case", one_of_each(CASES), ids=lambda case: "-".join(map(str, case)))
def test_names_shapes_and_logits_of_every_strategy_and_scope(make_source, tmp_path, case):
    task, strategy, scope = case
    source = make_source(strategy, scope, task)
    agreements = stock.write_stock(source, tmp_path)
    assert [agreement.shape for agreement in agreements] == [(1, 3, 64, 64), (2, 3, 65, 101), (3, 3, 80, 64)]
    assert all(agreement.other_classes == 0 and agreement.difference < 1e-5 for agreement in agreements)
    found = {name: tuple(tensor.shape) for name, tensor in load_file(tmp_path / stock.WEIGHTS).items()}
    assert found == names_of_version_4(source.model.config, task)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == "segformer" and not any("lipschitz" in key or "certif" in key for key in config)
    assert config["id2label"]["0"] == "road, wet"


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_bound_that_is_stated_holds_for_the_weights_of_the_file(make_source, tmp_path, strategy):
    """Norms of the plain matrices of the stock file, in float64, its BatchNorm's scale multiplied in."""
    source = make_source(strategy)
    stock.write_stock(source, tmp_path)
    tensors = {name: tensor.double() for name, tensor in load_file(tmp_path / stock.WEIGHTS).items()}
    variance = tensors["decode_head.batch_norm.running_var"] + source.model.decode_head.batch_norm.eps
    scale = tensors["decode_head.batch_norm.weight"] / variance.sqrt()
    fuse = (tensors["decode_head.linear_fuse.weight"].flatten(1) * scale[:, None]).chunk(4, dim=1)[::-1]
    maps = [block @ tensors[f"decode_head.linear_c.{index}.proj.weight"] for index, block in enumerate(fuse)]
    classifier = tensors["decode_head.classifier.weight"].flatten(1)
    if strategy == "stable_softplus":  # linf: the largest sum of a row, over all scales
        found = torch.cat(maps, dim=1).abs().sum(dim=1).max() * classifier.abs().sum(dim=1).max()
    else:
        found = torch.linalg.matrix_norm(torch.cat(maps, dim=1), 2) * torch.linalg.matrix_norm(classifier, 2)
    stated = guaranteed_bound(source.model)
    assert stated["of"] == "head" and found <= stated["value"] <= 1.001 * found


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_the_folder_of_a_command_stands_alone(save, tmp_path, task):
    folder = save("orthogonal", "head", task)
    main([folder, "--format", "stock", "--output_dir", str(tmp_path / "out")])
    exported = tmp_path / "out" / "stock"
    assert sorted(path.name for path in exported.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["stock"]
    assert (exported / "preprocessor_config.json").read_text() == Path(folder, "preprocessor_config.json").read_text()
    model = AUTO[task].from_pretrained(exported).eval()
    assert type(model).__module__.startswith("transformers.")
    processor = AutoImageProcessor.from_pretrained(exported, backend="pil")
    assert list(processor.image_mean) == [0.4, 0.5, 0.6]
    text = (exported / "README.md").read_text()
    assert "strategy orthogonal, scope head" in text and "Übergang" in text and "classes equal" in text
    assert str(tmp_path) not in text and folder not in text


def test_a_stock_model_is_exported_as_it_is(save_stock, tmp_path):
    folder = save_stock()
    main([folder, "--format", "stock", "--output_dir", str(tmp_path / "out")])
    before, after = load_file(Path(folder) / stock.WEIGHTS), load_file(tmp_path / "out" / "stock" / stock.WEIGHTS)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    text = (tmp_path / "out" / "stock" / "README.md").read_text()
    assert "without a constraint" in text and "No Lipschitz constant of this model is proven." in text


def test_new_names_in_a_file_are_noticed(make_source, tmp_path, monkeypatch):
    monkeypatch.setattr(stock, "_NEW_NAMES", ("segformer.encoder.",))
    with pytest.raises(stock.InputError, match="under new names .segformer.encoder.*constraints.txt"):
        stock.write_stock(make_source(), tmp_path)


def test_an_export_that_computes_something_else_is_refused(make_source):
    source = make_source()
    for spoilt in (1e-3, float("nan")):
        with pytest.raises(stock.InputError, match="does not compute what the model does.*nothing was written"):
            compare(source, lambda pixels, spoilt=spoilt: source.logits(pixels) + spoilt, "the file")
    with pytest.raises(stock.InputError, match="gives logits of"):
        compare(source, lambda pixels: source.logits(pixels)[..., 1:], "the file")
