"""What users do to models: compile, export, other layouts, precisions and attention, activation checkpointing."""

import pytest
import torch

from lrsegformer import STRATEGIES, LRSegformerForSemanticSegmentation
from lrsegformer.losses import segmentation_loss
from tests.selection import one_of_each

TRAINED = [None, "stable_softplus", "orthogonal", "jacobian_norm"]
# Tracing takes seconds a stage.
TWO_STAGES = {
    "num_encoder_blocks": 2,
    "depths": (1, 1),
    "sr_ratios": (8, 4),
    "hidden_sizes": (8, 16),
    "patch_sizes": (7, 3),
    "strides": (4, 2),
    "num_attention_heads": (1, 2),
    "mlp_ratios": (4, 4),
}


def step(model, call, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, dict]:
    """Loss with the penalty, logits and gradients of a training step in which `call` is called for the model."""
    output = call(images, labels=labels)
    loss = output.loss if output.lipschitz_penalty is None else output.loss + output.lipschitz_penalty
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return loss.detach(), output.logits.detach(), gradients


def assert_same_step(actual: tuple, expected: tuple, tolerance: float = 1e-5) -> None:
    """Loss, logits, and every gradient, in relation to the largest entry of the tensor."""
    torch.testing.assert_close(actual[0], expected[0], rtol=tolerance, atol=0)
    assert (actual[1] - expected[1]).abs().max() <= tolerance * expected[1].abs().max()
    assert set(actual[2]) == set(expected[2])
    # Gradients that are truly zero (a key's bias) are the rounding of larger ones that cancel.
    rounding = 1e-6 * max(each.abs().max() for each in expected[2].values() if each is not None)
    for name, gradient in expected[2].items():
        assert (actual[2][name] is None) == (gradient is None), name
        if gradient is not None:
            difference = (actual[2][name] - gradient).abs().max()
            assert difference <= tolerance * gradient.abs().max() + rounding, name


# Layers are compiled one by one in tests/layers; here it is the heads' own passes: the plain, and that of the penalty.
@pytest.mark.parametrize(
    "strategy",
    [
        "stable_softplus",
        *(pytest.param(name, marks=pytest.mark.slow) for name in (None, "orthogonal", "jacobian_norm")),
    ],
)
def test_training_step_compiles_without_a_graph_break(make_model, images, labels, strategy):
    torch.compiler.reset()
    model, plain = (make_model(strategy, **TWO_STAGES).train() for _ in range(2))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert_same_step(step(model, compiled, images, labels), step(plain, plain, images, labels))
    for (name, buffer), (_, expected) in zip(model.named_buffers(), plain.named_buffers(), strict=True):
        torch.testing.assert_close(buffer, expected, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("merged", [pytest.param(False, marks=pytest.mark.slow), True])
def test_inference_compiles_without_a_graph_break(make_model, images, merged):
    torch.compiler.reset()
    # With two stages Dynamo does not fall over the number of maps that are summed; with four it can.
    model = make_model("orthogonal")
    expected = model(images).logits
    if merged:
        model.merge()
        # Of the stock encoder there is nothing else to trace.
        features = model.segformer(images, output_hidden_states=True).hidden_states
        head = torch.compile(model.decode_head, fullgraph=True, backend="aot_eager")
        with torch.no_grad():
            torch.testing.assert_close(head(features), expected.detach(), rtol=1e-5, atol=1e-5)
        return
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(images).logits, expected.detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("strategy", TRAINED)
def test_channels_last_changes_nothing(make_model, images, labels, strategy, training):
    model, plain = make_model(strategy).train(training), make_model(strategy).train(training)
    model.to(memory_format=torch.channels_last)
    channels_last = images.contiguous(memory_format=torch.channels_last)
    assert_same_step(step(model, model, channels_last, labels), step(plain, plain, images, labels))


@pytest.mark.one_in(3)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("strategy", [None, *STRATEGIES])
def test_bfloat16_autocast_is_close_and_sums_in_float32(make_model, images, labels, strategy, training):
    model, plain = make_model(strategy).train(training), make_model(strategy).train(training)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(images, labels=labels)
    loss = output.loss if output.lipschitz_penalty is None else output.loss + output.lipschitz_penalty
    loss.backward()
    expected, logits, gradients = step(plain, plain, images, labels)
    assert output.logits.dtype == torch.bfloat16 and output.loss.dtype == torch.float32
    # The loss is that of these very logits: rounding ends where the loss begins.
    assert output.loss.item() == pytest.approx(segmentation_loss(output.logits, labels).item(), rel=1e-6)
    assert (output.logits.float() - logits).abs().max() <= 0.03 * logits.abs().max()
    assert loss.item() == pytest.approx(expected.item(), rel=0.02)
    ours = torch.cat([p.grad.flatten() for p in model.decode_head.parameters() if p.grad is not None])
    others = [gradients[f"decode_head.{name}"] for name, p in model.decode_head.named_parameters()]
    others = torch.cat([each.flatten() for each in others if each is not None])
    assert torch.cosine_similarity(ours, others, dim=0) > 0.99


def test_attention_by_matrices_equals_sdpa(make_model, images, labels):
    steps = []
    for implementation in ("eager", "sdpa"):
        model = make_model("stable_softplus", attn_implementation=implementation).train()
        assert model.segformer.config._attn_implementation == implementation
        steps.append(step(model, model, images, labels))
    assert_same_step(*steps)


def kept_for_backward(model: LRSegformerForSemanticSegmentation, images: torch.Tensor) -> int:
    """Bytes of distinct storages that autograd saves in a pass through the encoder, the model's own not counted."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    storages = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            # The storage is held, so that its address is not given out again.
            storages[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.segformer(images, output_hidden_states=True)
    return sum(storage.nbytes() for storage in storages.values())


@pytest.mark.parametrize("strategy", TRAINED)
def test_activation_checkpointing_changes_nothing(make_model, images, labels, strategy):
    model, plain = make_model(strategy).train(), make_model(strategy).train()
    model.activation_checkpointing_enable()
    actual, expected = step(model, model, images, labels), step(plain, plain, images, labels)
    assert torch.equal(actual[0], expected[0]) and torch.equal(actual[1], expected[1])
    assert_same_step(actual, expected)


def test_activation_checkpointing_halves_the_memory_of_the_encoder(make_model, images):
    model = make_model(None, depths=(2, 2, 2, 2)).train()
    without = kept_for_backward(model, images)
    model.activation_checkpointing_enable()
    assert 0 < kept_for_backward(model, images) <= without / 2


@pytest.mark.parametrize("strategy", [pytest.param(None, marks=pytest.mark.slow), "stable_softplus"])
def test_exported_program_has_equal_logits_for_any_batch(make_model, images, strategy):
    model = make_model(strategy, **TWO_STAGES)
    batch = torch.export.Dim("batch", min=2, max=16)
    program = torch.export.export(model, (images,), dynamic_shapes={"pixel_values": {0: batch}})
    assert torch.equal(program.module()(images).logits, model(images).logits)
    more = torch.randn(5, *images.shape[1:])
    torch.testing.assert_close(program.module()(more).logits, model(more).logits, rtol=1e-5, atol=1e-6)


PLACES = (("segmentation", "head"), ("segmentation", "projections"), ("classification", "head"))
DIFFERENTIATED = [(task, strategy, scope) for task, scope in PLACES for strategy in (None, *STRATEGIES)]


def forward_over_reverse(function, pixels: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    return torch.func.jvp(torch.func.grad(function), (pixels,), (direction,))[1]


@pytest.mark.one_in(3)
@pytest.mark.parametrize("case", one_of_each(DIFFERENTIATED), ids=lambda case: "-".join(map(str, case)))
def test_pixels_are_differentiated_by_torch_func_as_by_autograd(make_model, case):
    """What tools that measure Lipschitz constants do: Jacobians, their products, a gradient each sample, curvature."""
    task, strategy, scope = case
    model = make_model(strategy, scope, task, attn_implementation="eager").double()
    pixels = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    direction = torch.randn_like(pixels)

    def logits(pixels: torch.Tensor) -> torch.Tensor:
        return model(pixels).logits

    def score(image: torch.Tensor) -> torch.Tensor:
        return logits(image[None]).square().sum()

    def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
        assert expected.any() and (actual - expected).abs().max() <= 1e-9 * expected.abs().max()

    leaf = pixels.clone().requires_grad_()
    outputs = logits(leaf)
    cotangent = torch.randn_like(outputs)
    (backward,) = torch.autograd.grad(outputs, leaf, cotangent)
    value, along = torch.func.jvp(logits, (pixels,), (direction,))
    close(value, outputs)
    assert (along * cotangent).sum().item() == pytest.approx((backward * direction).sum().item(), rel=1e-9)
    close(torch.func.vjp(logits, pixels)[1](cotangent)[0], backward)
    of_samples = torch.func.vmap(torch.func.grad(score))(pixels)
    leaf = pixels.clone().requires_grad_()
    (expected,) = torch.autograd.grad(logits(leaf).square().sum(), leaf, create_graph=True)
    close(of_samples, expected)
    (curvature,) = torch.autograd.grad(expected, leaf, direction)
    close(torch.func.vmap(lambda *image: forward_over_reverse(score, *image))(pixels, direction), curvature)
    rows = torch.func.jacrev(lambda image: logits(image[None]).flatten()[:2])(pixels[0])
    one = torch.autograd.grad(logits(leaf).flatten(1)[0, 1], leaf)[0]
    close(rows[1], one[0])
