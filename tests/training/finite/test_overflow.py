"""The layer in which numbers stop being finite while all weights are finite is named."""

import pytest
import torch
from torch import nn

from lrsegformer.errors import NotFiniteError
from lrsegformer.training.finite import first_overflow, overflow

LAYERS = {
    "segmentation": ("segformer.stages.1.blocks.0.mlp.fc2", "decode_head"),
    "classification": ("segformer.stages.0.patch_embeddings.proj", "segformer.stages.3.blocks.0.mlp.fc1"),
}
CASES = [(task, layer) for task, layers in LAYERS.items() for layer in layers]


def blow_up(model: nn.Module, layer: str) -> None:
    """The head multiplies by weights of its layers in one go, and is named as a whole."""
    module = model.get_submodule(layer if layer != "decode_head" else "decode_head.classifier")
    with torch.no_grad():
        module.bias.fill_(torch.finfo(torch.float32).max)
        module.weight.mul_(1e38)


@pytest.mark.parametrize(("task", "layer"), CASES)
@pytest.mark.parametrize("way", ["train", "evaluate", "attack"])
def test_the_line_names_it(make_trainer, task, layer, way):
    options = {"adversarial_steps": 1, "adversarial_eps": 4.0} if way == "attack" else {}
    trainer = make_trainer(task, None, **options)
    blow_up(trainer.model, layer)
    with pytest.raises(NotFiniteError) as stopped:
        trainer.evaluate() if way == "evaluate" else trainer.train()
    step = "evaluation after step 0" if way == "evaluate" else "step 1"
    assert str(stopped.value).startswith(f"{step}: the logits are not finite, first the outputs of {layer}: lower ")


def test_inner_modules_come_before_the_ones_they_are_in():
    class Overflow(nn.Module):
        def forward(self, x):
            return {"scaled": (x * 1e38 * 1e38,), "count": torch.ones(2, dtype=torch.int64)}

    model = nn.Sequential(nn.Sequential(nn.Identity(), Overflow()))
    assert first_overflow(model, {"input": torch.ones(2)}) == "0.1"
    assert first_overflow(model, {"input": torch.zeros(2)}) is None
    assert not any(module._forward_hooks for module in model.modules())


def test_nothing_is_looked_at_while_all_is_well(make_trainer, monkeypatch):
    monkeypatch.setattr(overflow, "first_overflow", lambda *arguments: pytest.fail("it was looked for"))
    trainer = make_trainer(max_steps=1)
    trainer.train()
    trainer.evaluate()
