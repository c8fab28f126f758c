"""Pickling and copying: what spawned workers, `torch.save(model)` and ensembles of copies need."""

import copy
import io
import pickle

import pytest
import torch

from lrsegformer import STRATEGIES
from tests.selection import one_of_each

CASES = [("segmentation", None, "head"), ("classification", None, "head")]
CASES += [("segmentation", strategy, scope) for strategy in STRATEGIES for scope in ("head", "projections")]
CASES += [("classification", strategy, "head") for strategy in STRATEGIES]


def through_torch_save(model: torch.nn.Module) -> torch.nn.Module:
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "torch.save": through_torch_save,
}


def used(model: torch.nn.Module, images: torch.Tensor, use: str) -> torch.nn.Module:
    """The model after what leaves traces in it."""
    if use == "inference":
        with torch.no_grad():
            model(images, output_hidden_states=True)
    elif use == "training step":
        model.train()(images).logits.sum().backward()
        model.eval()
    return model


@pytest.mark.one_in(3)
@pytest.mark.each_value
@pytest.mark.parametrize("use", ["fresh", "inference", "training step"])
@pytest.mark.parametrize("case", one_of_each(CASES), ids=lambda case: "-".join(map(str, case)))
def test_a_copy_is_the_model(make_model, images, case, use):
    task, strategy, scope = case
    model = used(make_model(strategy, scope, task), images, use)
    clones = {way: make_copy(model) for way, make_copy in COPIES.items()}
    state, report = model.state_dict(), model.lipschitz_report()
    expected = model(images, output_hidden_states=True)
    for way, clone in clones.items():
        assert type(clone) is type(model) and clone.config.to_dict() == model.config.to_dict(), way
        copied = clone.state_dict()
        assert list(state) == list(copied) and all(torch.equal(state[name], copied[name]) for name in state), way
        assert not {each.data_ptr() for each in model.parameters()} & {each.data_ptr() for each in clone.parameters()}
        actual = clone(images, output_hidden_states=True)
        assert torch.equal(actual.logits, expected.logits) and len(actual.hidden_states) == 4, way
        assert clone.lipschitz_report() == report, way
        # The copy stands alone: a step on it leaves the original as it was.
        torch.nn.init.zeros_(next(clone.parameters()))
        assert torch.equal(model(images).logits, expected.logits), way
