"""A model that cannot run is refused when it is loaded; one that can is left as it was."""

import pytest
import torch

from lrsegformer.errors import InputError
from lrsegformer.models.saved.trial import refuse_what_cannot_run


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("scope", ["head", "certified"])
def test_a_model_that_runs_is_left_as_it_was(make_model, scope, training):
    model = make_model("orthogonal", scope).train(training)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    drawn = torch.get_rng_state()
    refuse_what_cannot_run(model, "The checkpoint here")
    assert model.training is training and all(module.training is training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_one_that_does_not_is_refused(make_stock):
    model = make_stock(strides=(16, 4, 4, 4))
    with pytest.raises(InputError, match=r"The checkpoint here cannot take an image of 58x29 \(.*config\.json"):
        refuse_what_cannot_run(model, "The checkpoint here")
    assert not model.training


def test_what_a_model_says_itself_stays(make_model):
    """Such as that of a layer with an adapter outside its constraint."""
    model = make_model("orthogonal")
    model.forward = lambda **inputs: (_ for _ in ()).throw(InputError("said by itself."))
    with pytest.raises(InputError, match="^said by itself"):
        refuse_what_cannot_run(model, "The checkpoint here")
