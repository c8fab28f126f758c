"""ONNX files: any number of images of any size by onnxruntime, the head folded, what they say of themselves."""

import json

import numpy as np
import pytest
import torch

from lrsegformer import STRATEGIES
from lrsegformer.cli.export import main
from lrsegformer.export import graph
from lrsegformer.export.metadata import guaranteed_bound, metadata_of
from lrsegformer.export.onnx_file import FILE, OPSET, write_onnx
from tests.tiny_models import TWO_STAGES

from .conftest import MEAN, NAMES, STD

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

TASKS = ("segmentation", "classification")
CASES = [(strategy, scope, task, {}) for strategy in STRATEGIES for scope in ("head", "network") for task in TASKS]
CASES += [(strategy, "projections", "segmentation", {}) for strategy in STRATEGIES]
CASES += [(None, "head", task, {}) for task in TASKS]
CASES += [("orthogonal", "certified", task, {}) for task in TASKS]
CASES += [("geometric_mean", "certified", "segmentation", {"certified_position_grid": [3, 4]})]
CASES += [("spectral_norm", "certified", "segmentation", {"certified_attention": "softmax"})]


def initializers(path) -> dict[str, np.ndarray]:
    return {each.name: onnx.numpy_helper.to_array(each) for each in onnx.load(str(path)).graph.initializer}


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "scope", "task", "options"), CASES)
def test_onnxruntime_gives_logits_and_classes(make_source, tmp_path, strategy, scope, task, options):
    source = make_source(strategy, scope, task, **TWO_STAGES, **options)
    agreements = write_onnx(source, graph.trace(source), metadata_of(source), tmp_path, None)
    assert [agreement.shape[0] for agreement in agreements] == [1, 2, 3]
    assert len({agreement.shape[2:] for agreement in agreements}) == 3
    assert all(agreement.other_classes == 0 for agreement in agreements)


@pytest.mark.slow
def test_what_a_file_says_of_itself(save, make_model, tmp_path):
    out = tmp_path / "out"
    main([save("orthogonal", **TWO_STAGES), "--format", "onnx", "pt2", "--output_dir", str(out)])
    assert sorted(path.name for path in out.iterdir()) == ["onnx", "pt2"]
    assert sorted(path.name for path in (out / "onnx").iterdir()) == [
        "README.md",
        FILE,
        "preprocessor_config.json",
    ]
    file = onnx.load(str(out / "onnx" / FILE))
    values = {each.key: each.value for each in file.metadata_props}
    assert json.loads(values["class_names"]) == list(NAMES) and values["strategy"] == "orthogonal"
    assert json.loads(values["image_mean"]) == MEAN and json.loads(values["image_std"]) == STD
    assert {each.domain: each.version for each in file.opset_import}[""] == OPSET
    (pixels,) = file.graph.input
    batch, channels, height, width = pixels.type.tensor_type.shape.dim
    assert channels.dim_value == 3 and batch.dim_param and height.dim_param and width.dim_param
    assert "opset 18" in (out / "onnx" / "README.md").read_text()
    assert "Any number of images, and any height and width" in (out / "pt2" / "README.md").read_text()


@pytest.mark.slow
def test_the_bound_that_is_stated_holds_for_the_matrices_of_the_file(make_source, tmp_path):
    """The head is folded: one matrix a scale, and the classifier, are the only matrices of their shapes."""
    source = make_source("orthogonal", **TWO_STAGES)
    write_onnx(source, graph.trace(source), metadata_of(source), tmp_path, None)
    weights = [torch.tensor(each).double().squeeze() for each in initializers(tmp_path / FILE).values()]
    maps = source.model.decode_head.eval_maps()
    found = []
    for expected in (*maps.matrices, maps.classifier):
        (same,) = [each for each in weights if each.shape == expected.shape and torch.equal(each.float(), expected)]
        found.append(same)
    norm = torch.linalg.matrix_norm(torch.cat(found[:-1], dim=1), 2) * torch.linalg.matrix_norm(found[-1], 2)
    stated = guaranteed_bound(source.model)["value"]
    assert norm <= stated <= 1.001 * norm
