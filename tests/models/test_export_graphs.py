"""Exported graphs: plain matrices instead of the constraint, for ONNX too, without `merge()` first."""

import warnings

import pytest
import torch
from torch import nn

from lrsegformer import STRATEGIES
from tests.tiny_models import TWO_STAGES

CASES = [(None, "head", "segmentation"), (None, "head", "classification")]
CASES += [(strategy, scope, "segmentation") for strategy in STRATEGIES for scope in ("head", "projections")]
CASES += [(strategy, "head", "classification") for strategy in STRATEGIES]
CASES += [("spectral_norm", "network", "segmentation"), ("orthogonal", "network", "classification")]
# Which module is exported, and how often, is a matter of the exporting, not of the strategy: one case in `make test`,
# the others in `make test-all`. The model itself is exported with each strategy; in `make test-all` with each scope.
FEW = [("stable_softplus", "projections", "segmentation"), ("orthogonal", "head", "segmentation")]
FEW += [("spectral_norm", "head", "classification")]
EACH = FEW + [(strategy, "head", "segmentation") for strategy in {None, *STRATEGIES} - {case[0] for case in FEW}]
EACH += [("spectral_norm", "network", "segmentation")]
CASES_OF_ONE = [pytest.param(case, marks=() if case == FEW[1] else pytest.mark.slow) for case in CASES]
CASES_OF_EACH = [pytest.param(case, marks=() if case in EACH else pytest.mark.slow) for case in CASES]


class Classes(nn.Module):
    """What people export: a model inside a module of their own."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values).logits.softmax(dim=1)


@pytest.fixture(params=CASES_OF_EACH, ids=lambda case: "-".join(map(str, case)))
def model(request, make_model):
    strategy, scope, task = request.param
    return make_model(strategy, scope, task, **TWO_STAGES)


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.randn(2, 3, 32, 32)


def decompositions(program: torch.export.ExportedProgram) -> list[str]:
    names = [str(node.target) for node in program.graph.nodes]
    return [name for name in names if any(word in name for word in ("linalg", "copysign", "softplus", "svd"))]


@pytest.mark.one_in(3)
def test_an_exported_program_holds_plain_matrices_and_gives_the_logits(model, pixels):
    assert_exported(model, model, pixels)


@pytest.mark.parametrize("model", CASES_OF_ONE, indirect=True, ids=str)
def test_a_model_inside_another_module_is_exported_alike(model, pixels):
    assert_exported(Classes(model), model, pixels)


def assert_exported(module: nn.Module, model: nn.Module, pixels: torch.Tensor) -> None:
    """The program of `module` holds plain matrices and computes the same; the model goes by its weights again."""
    with torch.no_grad():
        expected = module(pixels)
        program = torch.export.export(module, (pixels,))
        found = program.module()(pixels)
    if module is model:
        assert list(found) == list(expected) == ["logits"]
        found, expected = found.logits, expected.logits
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert not decompositions(program)
    # Nothing stays behind: the model goes by its weights again.
    for name, parameter in model.named_parameters():
        if name.endswith("classifier.bias"):
            nn.init.ones_(parameter)
    after = module(pixels)
    assert not torch.allclose(after.logits if module is model else after, expected)


@pytest.mark.parametrize("model", CASES_OF_ONE, indirect=True, ids=str)
def test_a_second_export_has_the_weights_of_its_time(model, pixels):
    torch.export.export(model, (pixels,))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5).add_(0.01)
    expected = model(pixels).logits
    torch.testing.assert_close(torch.export.export(model, (pixels,)).module()(pixels).logits, expected)


@pytest.mark.slow
@pytest.mark.parametrize("wrapped", [False, True], ids=["model", "wrapped"])
def test_onnx_gives_the_logits_without_merging_first(model, pixels, tmp_path, wrapped):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    module, path = Classes(model) if wrapped else model, str(tmp_path / "model.onnx")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (pixels,), path, dynamo=True, verbose=False)
        expected = module(pixels) if wrapped else module(pixels).logits
    session = runtime.InferenceSession(path)
    (found,) = session.run(None, {session.get_inputs()[0].name: pixels.numpy()})
    torch.testing.assert_close(torch.tensor(found), expected, rtol=1e-4, atol=1e-5)
