"""The start of a certified model from a stock checkpoint."""

import pytest
import torch

from lrsegformer.errors import InputError
from lrsegformer.models.loading import load_model

CLASSES = {"id2label": {i: str(i) for i in range(5)}, "label2id": {str(i): i for i in range(5)}}


def certified(folder, task="segmentation", **options):
    return load_model(
        task, str(folder), lipschitz_strategy="orthogonal", lipschitz_scope="certified", **CLASSES, **options
    )


@pytest.mark.parametrize("task", ["segmentation", "classification"])
@pytest.mark.parametrize("attention", ["energy", "softmax"])
def test_a_stock_encoder_is_projected(make_stock, tmp_path, task, attention):
    make_stock(task).save_pretrained(tmp_path)
    stock = make_stock(task)
    model = certified(tmp_path, task, certified_attention=attention)
    block, source = model.segformer.stages[2].blocks[0], stock.segformer.stages[2].blocks[0]
    query = block.attention.matrix if attention == "energy" else block.attention.query
    left, _, right = torch.linalg.svd(source.attention.q_proj.weight.detach().double())
    torch.testing.assert_close(query.exact_matrix(), left @ right, rtol=1e-4, atol=1e-4)
    steps = block.mlp.steps
    for step, matrix, kernel in zip(
        steps, *(each.weight.chunk(len(steps)) for each in (source.mlp.fc1, source.mlp.dwconv.dwconv)), strict=True
    ):
        longest = matrix.norm(dim=1).sort(descending=True).indices[: len(step.bias)]
        assert torch.equal(step.dwconv.weight, kernel[longest])
    for index, stage in enumerate(model.segformer.stages):
        weight = stock.segformer.stages[index].patch_embeddings.proj.weight.detach()
        size = stage.patch_embeddings.block
        first = (weight.shape[-1] - size) // 2
        middle = weight[..., first : first + size, first : first + size]
        if index == 0:
            middle = middle / torch.tensor([0.229, 0.224, 0.225])[:, None, None]
        left, _, right = torch.linalg.svd(middle.flatten(1).double(), full_matrices=False)
        found = stage.patch_embeddings.matrix.exact_matrix()
        torch.testing.assert_close(found, left @ right, rtol=1e-4, atol=1e-4)
    assert model.network_constants(64, 64).l2_to_per_pixel.item() <= 1 + 1e-4


def test_larger_blocks_than_kernels(make_stock, tmp_path):
    make_stock().save_pretrained(tmp_path)
    model = certified(tmp_path, strides=(8, 2, 2, 2))
    assert model.segformer.stages[0].patch_embeddings.block == 8
    assert model(torch.randn(1, 3, 64, 64)).logits.shape == (1, 5, 8, 8)


def test_a_certified_checkpoint_is_loaded_as_it_is(make_model, tmp_path):
    model = make_model("orthogonal", "certified")
    model.save_pretrained(tmp_path)
    loaded = certified(tmp_path)
    before, after = model.state_dict(), loaded.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_constrained_head_is_refused(make_model, tmp_path):
    make_model("orthogonal").save_pretrained(tmp_path)
    with pytest.raises(InputError, match="has a constrained head|was saved with"):
        certified(tmp_path)
