"""Models of scope certified: what they share with every model, and what they refuse."""

import copy
import pickle

import pytest
import torch
from torch.nn.functional import cross_entropy, interpolate

from lrsegformer import STRATEGIES, LRSegformerConfig
from lrsegformer.choices import CERTIFIED_ATTENTIONS
from lrsegformer.errors import InputError

TASKS = ("segmentation", "classification")
IN_L2 = [name for name in STRATEGIES if name != "stable_softplus"]
SIZE = (40, 71)


@pytest.fixture
def images():
    return torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(3))


def labels_for(task):
    generator = torch.Generator().manual_seed(4)
    return torch.randint(0, 5, (2, *SIZE) if task == "segmentation" else (2,), generator=generator)


@pytest.mark.one_in(4)
@pytest.mark.parametrize("attention", CERTIFIED_ATTENTIONS)
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("strategy", IN_L2)
def test_every_parameter_learns(make_model, images, strategy, task, attention):
    # Wide enough that some fold of each step lies where the images are.
    sizes = {"hidden_sizes": (32, 32, 32, 32), "decoder_hidden_size": 32}
    options = {"certified_attention": attention, "certified_training_radius": 0.1, **sizes}
    model = make_model(strategy, "certified", task, **options)
    outputs = model.train()(pixel_values=images, labels=labels_for(task))
    penalty = outputs.lipschitz_penalty
    (outputs.loss + (0 if penalty is None else penalty)).backward()
    assert torch.isfinite(outputs.loss)
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients.values())
    # What nothing depends on is a learned constant whose matrix is below it already.
    idle = [name for name, gradient in gradients.items() if not gradient.any() and not name.endswith(".c")]
    assert idle == []
    expected = (2, 5, 10, 18) if task == "segmentation" else (2, 5)
    assert outputs.logits.shape == expected


@pytest.mark.parametrize("task", TASKS)
def test_stable_softplus_is_refused_in_one_line(make_model, task):
    with pytest.raises(InputError, match="stable_softplus bounds its layers in linf.*choose orthogonal"):
        make_model("stable_softplus", "certified", task)


@pytest.mark.parametrize("task", TASKS)
def test_without_a_strategy_the_scope_means_nothing(make_model, task):
    model = make_model(None, "certified", task)
    assert not model.is_certified()
    with pytest.raises(InputError, match="only a model of scope 'certified'"):
        model.network_constants(*SIZE)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("strategy", IN_L2)
def test_saved_models_come_back_bit_equal(make_model, images, tmp_path, strategy, task):
    model = make_model(strategy, "certified", task, certified_position_grid=[2, 3])
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).eval()
    before, after = model.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    with torch.no_grad():
        assert torch.equal(model(images).logits, loaded(images).logits)
    assert torch.equal(pickle.loads(pickle.dumps(model))(images).logits, model(images).logits)


@pytest.mark.parametrize("task", TASKS)
def test_merged_models_give_the_same_logits(make_model, images, task):
    model = make_model("orthogonal", "certified", task)
    with torch.no_grad():
        before = model(images).logits
        constants = model.network_constants(*SIZE).l2_to_per_pixel
        assert torch.equal(model.merge()(images).logits, before)
        assert model.network_constants(*SIZE).l2_to_per_pixel == constants


def test_the_loss_asks_for_a_lead(make_model, images):
    """Against cross entropy of the upsampled logits, each plus its row of margins."""
    model = make_model("spectral_norm", "certified", certified_training_radius=0.3).train()
    labels = labels_for("segmentation").masked_fill(torch.rand(2, *SIZE) < 0.2, 255)
    outputs = model(images, labels=labels)
    rows = model.classifier_rows()
    apart = (rows[:, None] - rows[None]).norm(dim=2)
    logits = interpolate(outputs.logits.double(), SIZE, mode="bilinear", align_corners=False)
    lead = 0.3 * model.network_bound().double() * apart[labels.clamp_max(4)].permute(0, 3, 1, 2)
    expected = cross_entropy(logits + lead, labels, ignore_index=255)
    assert outputs.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    # In eval mode the loss is the plain one: that of the logits as they are.
    plain = cross_entropy(logits, labels, ignore_index=255)
    assert model.eval()(images, labels=labels).loss.item() == pytest.approx(plain.item(), rel=1e-4)


@pytest.mark.parametrize("strategy", IN_L2)
def test_the_cheap_bound_is_no_smaller_than_the_constants(make_model, strategy):
    model = make_model(strategy, "certified")
    exact = model.network_constants(64, 64).l2_to_per_pixel.item()
    assert exact <= model.network_bound().item() * (1 + 1e-5)


@pytest.mark.parametrize("task", TASKS)
def test_normalisation_is_counted_exactly(make_model, images, task):
    """Pixels divided by other deviations, which the configuration names, give the same logits and constants."""
    std = (0.5, 0.25, 0.125)
    usual = make_model("orthogonal", "certified", task)
    other = make_model("orthogonal", "certified", task, certified_image_std=std)
    pixels = images * torch.tensor(usual.config.pixel_std())[:, None, None]
    with torch.no_grad():
        expected = usual(images).logits
        found = other(pixels / torch.tensor(std)[:, None, None]).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert other.network_constants(*SIZE).l2_to_per_pixel == usual.network_constants(*SIZE).l2_to_per_pixel


@pytest.mark.parametrize("task", TASKS)
def test_report(make_model, task):
    model = make_model("orthogonal", "certified", task)
    network = model.lipschitz_report(image_size=SIZE)["network"]
    constants = model.network_constants(*SIZE)
    sigma = torch.linalg.svdvals(model.classifier_rows())[0].item()
    assert network["guaranteed"]
    assert network["bound"] == network["norms"]["l2_to_per_pixel_l2"]
    assert network["bound"] == pytest.approx(constants.l2_to_per_pixel.item() * sigma, rel=2e-5)
    assert network["norms"]["per_pixel_l2"] == pytest.approx(constants.per_pixel_to_per_pixel.item() * sigma, rel=2e-5)


@pytest.mark.parametrize("task", TASKS)
def test_there_is_no_stock_model_of_it(make_model, task):
    with pytest.raises(InputError, match="no stock model"):
        make_model("orthogonal", "certified", task).to_vanilla()


@pytest.mark.parametrize("attention", CERTIFIED_ATTENTIONS)
def test_bfloat16_autocast_trains(make_model, images, attention):
    model = make_model("orthogonal", "certified", certified_attention=attention).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(images, labels=labels_for("segmentation"))
    outputs.loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    exact = model(images).logits
    assert (outputs.logits.float() - exact).abs().max() < 0.05 * exact.abs().max()


def test_checkpointed_gradients_are_equal(make_model, images):
    model = make_model("orthogonal", "certified").train()
    labels = labels_for("segmentation")

    def gradients():
        model.zero_grad()
        model(images, labels=labels).loss.backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    plain = gradients()
    model.activation_checkpointing_enable()
    for one, other in zip(gradients(), plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"certified_attention": "dot"}, "Unknown certified_attention 'dot'"),
        ({"certified_temperature": 0.0}, "certified_temperature"),
        ({"certified_training_radius": -1.0}, "certified_training_radius"),
        ({"certified_position_grid": [3]}, "certified_position_grid"),
        ({"certified_image_std": [0.2]}, "certified_image_std"),
    ],
)
def test_wrong_fields_are_refused(fields, message):
    with pytest.raises(Exception, match=message):
        LRSegformerConfig(lipschitz_strategy="orthogonal", lipschitz_scope="certified", **fields)


def test_positions_change_logits_and_no_constant(make_model, images):
    model = make_model("orthogonal", "certified", certified_position_grid=[4, 4])
    with torch.no_grad():
        before, constant = model(images).logits, model.network_constants(*SIZE).l2_to_per_pixel
        model.decode_head.positions[:, :2].add_(1.0)
        after = model(images).logits
    assert model.network_constants(*SIZE).l2_to_per_pixel == constant
    # The upper half of the grid was changed: logits of the last rows keep their values.
    assert (after - before)[:, :, :2].abs().min() > 0
    assert torch.equal(after[:, :, -2:], before[:, :, -2:])


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_exported_graphs_agree(make_model, images, task):
    model = make_model("orthogonal", "certified", task)
    with torch.no_grad():
        exported = torch.export.export(model, (images,)).module()
        torch.testing.assert_close(exported(images).logits, model(images).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("task", TASKS)
def test_copies_and_transforms_agree(make_model, images, task):
    model = make_model("orthogonal", "certified", task)
    with torch.no_grad():
        expected = model(images).logits
        assert torch.equal(copy.deepcopy(model)(images).logits, expected)
        by_one = torch.func.vmap(lambda image: model(image[None]).logits[0])(images)
        torch.testing.assert_close(by_one, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("strategy", ["orthogonal", "geometric_mean"])
def test_what_is_logged_is_what_the_report_says(make_model, task, strategy):
    model = make_model(strategy, "certified", task)
    logged, report = model.bounds_to_log(), model.lipschitz_report()
    assert logged.keys() == {"head", "network"}
    assert logged["head"] == pytest.approx(report["head"]["bound"])
    # The layers' own bounds never lie below their norms, which the report's constants are of.
    assert logged["network"] >= report["network"]["bound"] * (1 - 1e-5)
    if strategy == "orthogonal":
        assert logged["network"] == pytest.approx(report["network"]["bound"], rel=1e-3)
