"""The estimate of the attention at the data, against the softmax's own Jacobian."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from lrsegformer.models.encoder.attention_estimate import softmax_jacobian_norm


@given(seed=st.integers(0, 2**31), keys=st.integers(2, 9), sharpness=st.floats(0, 30))
def test_never_below_the_norm_of_the_jacobian(seed, keys, sharpness):
    generator = torch.Generator().manual_seed(seed)
    rows = (sharpness * torch.randn(20, keys, generator=generator, dtype=torch.float64)).softmax(dim=-1)
    jacobians = torch.diag_embed(rows) - rows[:, :, None] * rows[:, None]
    true = torch.linalg.matrix_norm(jacobians, ord=2)
    found = softmax_jacobian_norm(rows)
    assert (true <= found + 1e-12).all() and (found <= 0.5).all()


def test_exact_for_two_keys_and_for_certain_rows():
    rows = torch.tensor([[0.5, 0.5], [0.9, 0.1], [1.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(softmax_jacobian_norm(rows), torch.tensor([0.5, 0.18, 0.0], dtype=torch.float64))


def test_of_a_model_it_names_every_attention_and_leaves_the_model_as_it_was(make_model, images):
    for strategy, scope in ((None, "head"), ("geometric_mean", "network")):
        model = make_model(strategy, scope, attn_implementation="sdpa")
        before = model(images).logits
        found = model.attention_estimate(images)
        assert model.config._attn_implementation == "sdpa" and torch.equal(model(images).logits, before)
        assert found["images"] == 2 and found["guaranteed"] is False
        assert [row["name"] for row in found["layers"]] == [f"stages.{i}.blocks.0.attention" for i in range(4)]
        for row in found["layers"]:
            assert 0 < row["mean_estimate"] <= row["largest_estimate"] <= 0.5
        assert found["largest_estimate"] == max(row["largest_estimate"] for row in found["layers"])
        # No key that says bound: it is none.
        assert not any("bound" in key for key in (*found, *found["layers"][0]))
