"""Adapters of peft: the active module is the layer, and none may lie outside a constraint."""

import copy

import pytest
import torch
from torch import nn

from lrsegformer import STRATEGIES
from lrsegformer.errors import InputError
from tests.selection import one_of_each

peft = pytest.importorskip("peft")

LEARNED = [name for name in STRATEGIES if STRATEGIES[name].learns_constant]
CASES = [(task, None, "head") for task in ("segmentation", "classification")]
CASES += [("segmentation", strategy, scope) for strategy in STRATEGIES for scope in ("head", "projections")]
CASES += [("classification", strategy, "head") for strategy in STRATEGIES]
HEADS = {"segmentation": ["decode_head"], "classification": ["classifier"]}
TARGETS = ["q_proj", "v_proj"]


@pytest.fixture(params=one_of_each(CASES), ids=lambda case: "-".join(map(str, case)))
def model(request, make_model):
    task, strategy, scope = request.param
    return make_model(strategy, scope, task)


def head_of(model: nn.Module) -> list[str]:
    return HEADS["segmentation" if "Semantic" in type(model).__name__ else "classification"]


def wrapped(model: nn.Module, head: list[str] | None, **options) -> nn.Module:
    config = peft.LoraConfig(
        r=2, target_modules=options.pop("target_modules", TARGETS), modules_to_save=head, **options
    )
    return peft.get_peft_model(model, config).eval()


@torch.no_grad()
def moved(model: nn.Module, seed: int = 0) -> nn.Module:
    """Every trainable tensor away from where it was, as training leaves it."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.add_(-0.2 if name.endswith(".c") else 0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def test_names_and_layers_are_those_without_the_wrapper(model):
    names, report = list(model.constrained_layers()), model.lipschitz_report()
    adapted = wrapped(model, head_of(model))
    layers = adapted.constrained_layers()
    assert list(layers) == names
    assert all(parameter.requires_grad for layer in layers.values() for parameter in layer.parameters())
    assert adapted.lipschitz_report() == report
    assert adapted.head_bound() == report["head"]["bound"]


@pytest.mark.one_in(3)
def test_report_penalty_and_export_are_those_of_the_active_copy(model, images):
    """Beside a model whose head is the trained one, with nothing wrapped."""
    adapted = moved(wrapped(model, head_of(model)))
    expected = copy.deepcopy(adapted).merge_and_unload().eval()
    assert adapted.lipschitz_report() == expected.lipschitz_report()
    outputs, plain = adapted.train()(images), expected.train()(images)
    assert ("lipschitz_penalty" in outputs) == ("lipschitz_penalty" in plain)
    if "lipschitz_penalty" in outputs and model.config.lipschitz_strategy in LEARNED:
        assert outputs.lipschitz_penalty == plain.lipschitz_penalty
    adapted, expected = moved(adapted, 1).eval(), None
    vanilla = adapted.to_vanilla()
    assert not any("lora" in name or "modules_to_save" in name for name in vanilla.state_dict())
    torch.testing.assert_close(vanilla(images).logits, adapted(images).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("strategy", LEARNED)
def test_a_halved_constant_halves_its_factor_of_the_penalty(make_model, images, strategy):
    """The frozen original does not count: its share made 0.707 of one half."""
    adapted = wrapped(make_model(strategy, task="classification", stirred=False), ["classifier"]).train()
    before = adapted(images).lipschitz_penalty
    (layer,) = adapted.constrained_layers().values()
    with torch.no_grad():
        half = layer.constant() / 2
        layer.c.copy_(half.log() if strategy == "geometric_mean" else half.expm1().log())
    assert (adapted(images).lipschitz_penalty / before).item() == pytest.approx(0.5, rel=1e-5)
    adapted(images).lipschitz_penalty.backward()
    assert layer.c.grad.item() > 0
    assert adapted.base_model.model.classifier.original_module.c.grad is None


@pytest.mark.one_in(3)
def test_disabled_and_switched_adapters_are_followed(model, images):
    """By forward, report and a merged model, whichever adapter is active when."""
    original, report = copy.deepcopy(model), model.lipschitz_report()
    adapted = moved(wrapped(model, head_of(model)))
    adapted.add_adapter("second", peft.LoraConfig(r=2, target_modules=TARGETS, modules_to_save=head_of(model)))
    adapted.eval()
    seen = {}
    for merged in (False, True):
        for name in ("default", "second", "default"):
            adapted.set_adapter(name)
            if name not in seen:
                moved(adapted, seed=len(name)) if name == "second" else None
                seen[name] = adapted(images).logits, adapted.lipschitz_report()
            if merged:
                adapted.base_model.model.merge()
            assert torch.equal(adapted(images).logits, seen[name][0])
            assert adapted.lipschitz_report() == seen[name][1]
            with adapted.disable_adapter():
                assert torch.equal(adapted(images).logits, original(images).logits)
                assert adapted.lipschitz_report() == report
            assert torch.equal(adapted(images).logits, seen[name][0])
    assert not torch.equal(seen["default"][0], seen["second"][0])


@pytest.mark.one_in(3)
def test_an_adapter_is_saved_and_loaded(model, images, tmp_path):
    base = copy.deepcopy(model)
    adapted = moved(wrapped(model, head_of(model)))
    adapted.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    assert torch.equal(again(images).logits, adapted(images).logits)
    assert again.lipschitz_report() == adapted.lipschitz_report()
    merged = again.merge_and_unload().eval()
    torch.testing.assert_close(merged(images).logits, adapted(images).logits, rtol=1e-4, atol=1e-5)
    merged.save_pretrained(tmp_path / "merged")
    loaded = type(merged).from_pretrained(tmp_path / "merged")
    # Tensors from a file may lie at other addresses than fresh ones, and products then round otherwise.
    before, after = merged.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    torch.testing.assert_close(loaded(images).logits, merged(images).logits, rtol=1e-5, atol=1e-6)


@pytest.mark.each_value
@pytest.mark.parametrize("part", ["classifier", "linear_fuse", "batch_norm", "proj"])
@pytest.mark.parametrize("strategy", [None, "geometric_mean", "orthogonal"])
def test_parts_of_the_decode_head_may_be_saved_alone(make_model, images, labels, strategy, part):
    model = make_model(strategy)
    expected = model(images).logits
    targets = r"segformer\..*\.(q_proj|v_proj)"
    # `proj` alone would also name the projections of the patches.
    saved = [f"linear_projections.{index}.proj" for index in range(4)] if part == "proj" else [part]
    adapted = wrapped(model, saved, target_modules=targets)
    assert torch.equal(adapted(images).logits, expected)
    adapted.train()(images, labels=labels).loss.backward()
    for name, parameter in adapted.named_parameters():
        if "modules_to_save" in name and not name.endswith((".c", "proj.bias", "linear_fuse.weight")):
            assert parameter.grad is not None, name
    moved(adapted).eval()
    assert not torch.equal(adapted(images).logits, expected)
    merged = copy.deepcopy(adapted).merge_and_unload().eval()
    torch.testing.assert_close(merged(images).logits, adapted(images).logits, rtol=1e-4, atol=1e-5)
    assert merged.lipschitz_report() == adapted.lipschitz_report()


ON_THE_HEAD = {
    "segmentation": [
        "all-linear",
        ["linear_projections.0.proj"],
        ["linear_fuse"],
        ["q_proj", "decode_head.classifier"],
    ],
    "classification": [["classifier"], ["q_proj", "classifier"]],
}


@pytest.mark.each_value
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("task", "targets"), [(task, each) for task, all_ in ON_THE_HEAD.items() for each in all_])
def test_an_adapter_outside_a_constraint_is_refused(make_model, images, task, targets, strategy):
    model = make_model(strategy, task=task)
    if targets != "all-linear" and targets[-1].endswith("fuse") or targets[-1] == "decode_head.classifier":
        # peft makes the adapter of a convolution from the convolution's own class.
        with pytest.raises(InputError, match="outside its constraint.*modules_to_save"):
            wrapped(model, None, target_modules=targets)
        return
    adapted = wrapped(model, None, target_modules=targets)
    for attempt in (lambda: adapted(images), adapted.constrained_layers, adapted.lipschitz_report, adapted.to_vanilla):
        with pytest.raises(InputError, match="outside its constraint.*modules_to_save") as refused:
            attempt()
        assert "\n" not in str(refused.value)
    # The layer alone is the layer again.
    with adapted.disable_adapter():
        assert adapted(images).logits.isfinite().all() and adapted.lipschitz_report()["layers"]


@pytest.mark.each_value
@pytest.mark.parametrize("strategy", [None, *STRATEGIES])
@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_all_linear_with_the_advice_of_the_refusal_works(make_model, images, task, strategy):
    model = make_model(strategy, task=task)
    excluded = r".*decode_head.*" if task == "segmentation" else ["classifier"]
    adapted = wrapped(model, HEADS[task], target_modules="all-linear", exclude_modules=excluded)
    assert adapted(images).logits.isfinite().all()
    assert adapted.lipschitz_report()["layers"] or strategy is None


def test_an_adapter_on_a_plain_classifier_works_as_in_the_stock_model(make_model, make_stock, images):
    """Without a constraint there is nothing to void."""
    ours = make_model(None, task="classification")
    stock = make_stock("classification")
    stock.load_state_dict(ours.state_dict())
    torch.manual_seed(0)
    adapted = moved(wrapped(ours, None, target_modules=["classifier"]))
    torch.manual_seed(0)
    expected = moved(wrapped(stock, None, target_modules=["classifier"]))
    torch.testing.assert_close(adapted(images).logits, expected(images).logits)
