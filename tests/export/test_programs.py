"""Programs of torch.export: any number of images of any size, the classes, and the same logits."""

import json

import pytest
import torch
from torch.export import ExportedProgram

from lrsegformer import STRATEGIES
from lrsegformer.export import graph
from lrsegformer.export.metadata import metadata_of
from lrsegformer.export.pt2_file import FILE, METADATA, write_pt2
from tests.tiny_models import TWO_STAGES

from .conftest import MEAN, NAMES, STD

# Which sizes are left open is a matter of the tracing, not of the strategy: one case in `make test`.
FEW = [("stable_softplus", "head", "segmentation")]
MANY = [
    (strategy, scope, task)
    for strategy in STRATEGIES
    for scope in ("head", "network")
    for task in ("segmentation", "classification")
]
MANY += [(strategy, "projections", "segmentation") for strategy in STRATEGIES]
MANY += [(None, "head", "segmentation"), (None, "head", "classification")]
CASES = [pytest.param(*case, marks=() if case in FEW else pytest.mark.slow) for case in MANY]


def decompositions(program: ExportedProgram) -> list[str]:
    names = [str(node.target) for node in program.graph.nodes]
    return [name for name in names if any(word in name for word in ("linalg", "copysign", "softplus", "svd"))]


@pytest.mark.parametrize(("strategy", "scope", "task"), CASES)
def test_a_program_takes_images_of_any_number_and_size(make_source, tmp_path, strategy, scope, task):
    source = make_source(strategy, scope, task, **TWO_STAGES)
    program = graph.trace(source)
    assert not decompositions(program)
    metadata = metadata_of(source)
    agreements = write_pt2(source, program, metadata, tmp_path, None)
    assert [agreement.shape for agreement in agreements] == [(1, 3, 64, 64), (2, 3, 65, 101), (3, 3, 80, 64)]
    assert all(agreement.other_classes == 0 and agreement.difference < 1e-5 for agreement in agreements)
    files = {METADATA: ""}
    torch.export.load(str(tmp_path / FILE), extra_files=files)
    assert json.loads(files[METADATA]) == json.loads(json.dumps(metadata))
    assert metadata["class_names"] == list(NAMES) and metadata["image_mean"] == MEAN and metadata["image_std"] == STD
    bounded = strategy is not None and scope != "projections"
    assert (metadata["bound"] is not None) == bounded


CERTIFIED = [("segmentation", {"certified_position_grid": [3, 4]}), ("classification", {})]
CERTIFIED += [("segmentation", {"certified_attention": "softmax"})]


@pytest.mark.slow
@pytest.mark.parametrize(("task", "options"), CERTIFIED, ids=["grid", "classification", "softmax"])
def test_a_certified_network_takes_multiples_of_its_stride(make_source, tmp_path, task, options):
    source = make_source("orthogonal", "certified", task, **TWO_STAGES, **options)
    assert source.multiple == 8
    program = graph.trace(source)
    metadata = metadata_of(source)
    agreements = write_pt2(source, program, metadata, tmp_path, None)
    assert [agreement.shape[2:] for agreement in agreements] == [(64, 64), (72, 104), (80, 64)]
    assert all(agreement.other_classes == 0 for agreement in agreements)
    assert metadata["bound"]["of"] == "network" and metadata["bound"]["image_size"] == [512, 512]
    bound = source.model.lipschitz_report()["network"]["bound"]
    assert metadata["bound"]["value"] == bound > 0
    with pytest.raises((AssertionError, RuntimeError)):
        program.module()(torch.randn(1, 3, 72, 100))


@pytest.mark.slow
def test_a_fixed_size_need_not_be_a_multiple(make_source, tmp_path):
    source = make_source("orthogonal", "certified", **TWO_STAGES)
    program = graph.trace(source, (72, 101))
    agreements = write_pt2(source, program, metadata_of(source), tmp_path, (72, 101))
    assert [agreement.shape for agreement in agreements] == [(batch, 3, 72, 101) for batch in (1, 2, 3)]
    with pytest.raises((AssertionError, RuntimeError)):
        program.module()(torch.randn(1, 3, 72, 100))
