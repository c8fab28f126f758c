"""Scope "network": every map of the stock encoder constrained, pretrained weights kept, and nothing more promised."""

import copy
import pickle

import pytest
import torch
from torch import nn
from transformers import AutoModel

from lrsegformer import STRATEGIES, LRSegformerForSemanticSegmentation
from lrsegformer.certification import format_report
from lrsegformer.errors import InputError
from lrsegformer.layers import LipschitzConstraint
from lrsegformer.models import LRSegformerModel
from lrsegformer.models.loading import MODEL_CLASSES
from tests.selection import one_of_each

TASKS = ("segmentation", "classification")
LEARNED = [name for name in STRATEGIES if STRATEGIES[name].learns_constant]
# With which a stock model's logits are what they were.
KEEPING = {"stable_softplus": {}, "geometric_mean": {}, "jacobian_norm": {}, "spectral_norm": {"constant": "initial"}}


CASES = [(task, strategy, "network") for task in TASKS for strategy in STRATEGIES]


@pytest.fixture(params=one_of_each(CASES), ids="-".join)
def model(request, make_model):
    task, strategy, scope = request.param
    return make_model(strategy, scope, task)


def target_of(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    shape = (len(images), *images.shape[2:]) if hasattr(model, "decode_head") else (len(images),)
    return torch.zeros(shape, dtype=torch.int64)


def test_every_linear_map_and_convolution_is_constrained_and_norms_stay(model):
    kinds = {name: type(module) for name, module in model.named_modules() if not list(module.children())}
    maps = [name for name, kind in kinds.items() if issubclass(kind, nn.Linear | nn.Conv2d)]
    assert maps and set(maps) == set(model.constrained_layers())
    assert sum(issubclass(kind, nn.LayerNorm) for kind in kinds.values()) == 4 + 4 + 3 + 2 * 4
    report = model.lipschitz_report()
    assert [row["name"] for row in report["layers"]] == list(model.constrained_layers())
    assert all(row["operator_norms"][row["norm"]] <= row["bound"] for row in report["layers"])
    assert report["network"]["bound"] is None and not report["network"]["guaranteed"]
    assert "LayerNorm" in report["network"]["note"] and report["head"]["guaranteed"]
    text = format_report(report)
    assert "Bound of the network: none." in text and max(map(len, text.splitlines())) <= 100


def test_no_l2_norm_of_an_overlapping_convolution_is_called_exact(make_model):
    rows = {row["name"]: row for row in make_model("geometric_mean", "network").lipschitz_report()["layers"]}
    embedding = rows["segformer.stages.0.patch_embeddings.proj"]
    assert embedding["exact"] is None and embedding["bounded_norms"] == ["l2"] and 0 < embedding["share"] <= 1
    reduction = rows["segformer.stages.0.blocks.0.attention.sequence_reduction.sequence_reduction"]
    assert reduction["exact"] == reduction["operator_norms"]["l2"] and reduction["bounded_norms"] == []


@pytest.mark.one_in(3)
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("strategy", KEEPING)
def test_a_stock_model_starts_with_its_own_logits(make_stock, images, tmp_path, task, strategy):
    stock = make_stock(task)
    stock.save_pretrained(tmp_path)
    ours, info = MODEL_CLASSES[task].from_pretrained(
        tmp_path,
        lipschitz_strategy=strategy,
        lipschitz_scope="network",
        lipschitz_options=KEEPING[strategy] or None,
        output_loading_info=True,
    )
    assert not any(info.values())
    expected = stock(images).logits
    assert (ours.eval()(images).logits - expected).abs().max() <= 1e-4 * expected.abs().max()
    for name, tensor in stock.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor), name
    assert {name for name in ours.state_dict() if not name.endswith(".c")} == set(stock.state_dict())


@pytest.mark.parametrize("strategy", LEARNED)
@pytest.mark.parametrize("narrow", ["head", "projections"])
def test_a_file_of_a_narrower_scope_is_widened_and_the_other_way_refused(
    make_model, images, tmp_path, strategy, narrow
):
    before = make_model(strategy, narrow)
    before.save_pretrained(tmp_path / "narrow")
    after = type(before).from_pretrained(tmp_path / "narrow", lipschitz_scope="network")
    assert all(torch.equal(after.state_dict()[name], tensor) for name, tensor in before.state_dict().items())
    torch.testing.assert_close(after(images).logits, before(images).logits, rtol=1e-4, atol=1e-5)
    after.save_pretrained(tmp_path / "wide")
    with pytest.raises(InputError, match="saved with lipschitz_scope 'network'"):
        type(before).from_pretrained(tmp_path / "wide", lipschitz_scope=narrow)


def test_the_encoder_alone_is_saved_and_loaded(model, images, tmp_path):
    model.segformer.save_pretrained(tmp_path)
    again, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert type(again) is LRSegformerModel and not any(info.values())
    state = model.segformer.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in again.state_dict().items())
    expected = model.segformer(images).last_hidden_state
    torch.testing.assert_close(again.eval()(images).last_hidden_state, expected, rtol=1e-4, atol=1e-5)


def test_stock_export_merged_and_copied_models_have_equal_logits(model, images):
    with torch.no_grad():
        expected = model(images).logits
        vanilla = model.to_vanilla()
        assert not any(isinstance(module, LipschitzConstraint) for module in vanilla.modules())
        # Spectral norms of 1 make logits small beside what they are the difference of.
        tolerance = 1e-5 * expected.abs().max() + 1e-6
        for other in (vanilla, copy.deepcopy(model), pickle.loads(pickle.dumps(model)), copy.deepcopy(model).merge()):
            assert (other(images).logits - expected).abs().max() <= tolerance
        merged = copy.deepcopy(model).merge()
        for parameter in merged.segformer.parameters():
            parameter.mul_(1.3)
        assert (merged(images).logits - expected).abs().max() > tolerance, "norms are not part of the snapshot"
        by_new_weights = merged.train().eval()(images).logits
        assert torch.equal(copy.deepcopy(merged)(images).logits, by_new_weights)


def test_half_precision_keeps_constraints_in_float32(model, images, tmp_path):
    model.save_pretrained(tmp_path)
    halved = type(model).from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert halved.dtype == torch.bfloat16 == halved.segformer.dtype
    for name, module in halved.named_modules():
        for parameter in module.parameters(recurse=False):
            constrained = isinstance(module, LipschitzConstraint) or name.startswith(("decode_head", "classifier"))
            assert parameter.dtype == (torch.float32 if constrained else torch.bfloat16), name
    with torch.no_grad():
        expected = model(images).logits
        outputs = halved(images.bfloat16())
        assert outputs.logits.dtype == torch.bfloat16 and outputs.logits.isfinite().all()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(images).logits
        assert (logits.float() - expected).abs().max() <= 0.1 * expected.abs().max()
    report = halved.lipschitz_report()
    assert report["dtype"] == "bfloat16"
    assert all(row["operator_norms"][row["norm"]] <= row["bound"] for row in report["layers"])
    assert halved.to_vanilla().dtype == torch.bfloat16


def test_training_moves_every_tensor_and_keeps_every_bound(model, images):
    model.train()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        outputs = model(images, labels=target_of(model, images))
        penalty = 0 if outputs.lipschitz_penalty is None else outputs.lipschitz_penalty
        (outputs.loss + penalty).backward()
        optimizer.step()
    unpenalised = ("patch_embeddings.proj.c", "sequence_reduction.sequence_reduction.c")
    for name, parameter in model.named_parameters():
        assert not torch.equal(parameter, before[name]) or name.endswith(unpenalised), name
    for row in model.lipschitz_report()["layers"]:
        assert row["operator_norms"][row["norm"]] <= row["bound"], row["name"]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("strategy", LEARNED)
def test_penalty_counts_what_no_norm_undoes(make_model, images, task, strategy):
    """Not the layers before a LayerNorm; and moving scale between factors of a product leaves it as it is."""
    model = make_model(strategy, "network", task, stirred=False).train()
    penalised = {id(layer) for group in model.penalty_factors() for layer in group}
    left_out = {name for name, layer in model.constrained_layers().items() if id(layer) not in penalised}
    assert left_out and all(name.endswith(("patch_embeddings.proj", "sequence_reduction")) for name in left_out)
    before = model(images).lipschitz_penalty
    attention = model.segformer.stages[1].blocks[0].attention
    pairs = [(attention.q_proj, attention.k_proj), (attention.v_proj, attention.o_proj)]
    for grown, shrunk in pairs:
        with torch.no_grad():
            for layer, factor in ((grown, 2.0), (shrunk, 0.5)):
                layer.weight.mul_(factor)
                layer.start_from_weight()
    after = model(images).lipschitz_penalty
    torch.testing.assert_close(after, before, rtol=1e-5, atol=0)
    after.backward()
    reached = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert reached == {f"{name}.c" for name in model.constrained_layers() if name not in left_out}


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ["patch_embeddings.proj"]], ids="-".join)
def test_an_adapter_on_a_constrained_encoder_is_refused(make_model, images, targets):
    peft = pytest.importorskip("peft")
    model = make_model("stable_softplus", "network")
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=targets))
    for call in (lambda: adapted(images), model.lipschitz_report):
        with pytest.raises(InputError, match="train the encoder whole.*scope 'head'"):
            call()


@pytest.mark.slow
def test_training_step_compiles_without_a_graph_break(make_model, images, labels):
    torch.compiler.reset()
    two = {"num_encoder_blocks": 2, "depths": (1, 1), "sr_ratios": (2, 1), "hidden_sizes": (8, 16)}
    two |= {"patch_sizes": (7, 3), "strides": (4, 2), "num_attention_heads": (1, 2), "mlp_ratios": (1, 1)}
    model = make_model("spectral_norm", "network", **two).train()
    expected = model(images, labels=labels)
    gradient = torch.autograd.grad(expected.loss, model.segformer.stages[0].patch_embeddings.proj.weight)[0]
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")(images, labels=labels)
    torch.testing.assert_close(compiled.loss, expected.loss, rtol=1e-4, atol=1e-5)
    found = torch.autograd.grad(compiled.loss, model.segformer.stages[0].patch_embeddings.proj.weight)[0]
    assert (found - gradient).abs().max() <= 1e-3 * gradient.abs().max()


def test_a_scratch_model_depends_on_its_seed_alone(make_model):
    first, same, other = (make_model("orthogonal", "network", stirred=False, seed=seed) for seed in (0, 0, 1))
    for (name, tensor), again, different in zip(
        first.named_parameters(), same.parameters(), other.parameters(), strict=True
    ):
        assert torch.equal(tensor, again)
        assert not torch.equal(tensor, different) or not name.endswith("proj.weight")
    assert isinstance(first, LRSegformerForSemanticSegmentation)
