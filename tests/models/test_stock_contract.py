"""
The public parameters, flags and methods of the stock classes, one by one, stock beside ours.

Each row asks both models the same; what comes back has the same fields, types, shapes and errors. What deliberately
differs:

- `lipschitz_penalty` among the outputs in training mode and with labels: the penalty.
- A batch of void labels alone has the loss 0, stock's is not a number; bytes are labels, too: masks are bytes.
- `return_dict=False` in the configuration gives a tuple, as in a call; stock 5.23 fails.
- Stock files load into ours with missing constants `c`: they start from the loaded weights.
- `decode_head` (scope head), `classifier`, and the encoder's linear maps and convolutions (scope network) stay float32
  in lower precision: a constraint rounded to bfloat16 bounds nothing.
"""

import copy
import json

import pytest
import torch
from transformers import SegformerForImageClassification, SegformerForSemanticSegmentation

from lrsegformer import STRATEGIES, LRSegformerForImageClassification, LRSegformerForSemanticSegmentation
from tests.selection import one_of_each

# The stock names for it, which transformers 5 still takes, are part of the contract.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")

# To the contract these are what stable_softplus and orthogonal are: a learned and a fixed constant. `make test-all`.
OF_THE_SAME_KIND = ("geometric_mean", "spectral_norm")
TASKS = ("segmentation", "classification")
KINDS = [strategy for strategy in STRATEGIES if strategy not in OF_THE_SAME_KIND]
FAST = [(task, None, "head") for task in TASKS]
FAST += [(TASKS[turn % 2], strategy, "head") for turn, strategy in enumerate(KINDS)]
FAST += [("segmentation", "orthogonal", "projections")]
FAST += [("segmentation", "stable_softplus", "network"), ("classification", "spectral_norm", "network")]
# `(task, strategy, scope)`; the slow ones last.
PLACES = [(task, strategy, scope) for scope in ("head", "network") for task in TASKS for strategy in STRATEGIES]
ALL_CASES = FAST + [case for case in PLACES if case not in FAST]
TRACED = [case for case in ALL_CASES if case[2] != "projections"]
CASES = [pytest.param(case, marks=[pytest.mark.slow] * (case not in FAST)) for case in ALL_CASES]


def in_turn(names) -> list:
    """Every name with every case. `make test` runs each name with both tasks, and of the task's cases one in turn."""
    rows = []
    for turn, name in enumerate(names):
        for task in TASKS:
            cases = [case for case in ALL_CASES if case[0] == task]
            rows += [
                pytest.param(
                    name,
                    case,
                    marks=[pytest.mark.slow] * (place != turn % len(cases)),
                    id="-".join([name, *map(str, case)]),
                )
                for place, case in enumerate(cases)
            ]
    return rows


OURS = {"segmentation": LRSegformerForSemanticSegmentation, "classification": LRSegformerForImageClassification}
STOCK = {"segmentation": SegformerForSemanticSegmentation, "classification": SegformerForImageClassification}


@pytest.fixture(params=CASES, ids=lambda case: "-".join(map(str, case)))
def case(request) -> tuple[str, str | None, str]:
    return request.param


@pytest.fixture
def make_pair(case, make_model, make_stock):
    """A stock model and one of ours of the same configuration."""
    task, strategy, scope = case

    def make(**config) -> tuple:
        return make_stock(task, **config), make_model(strategy, scope, task, **config)

    return make


@pytest.fixture
def pair(make_pair):
    return make_pair()


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.randn(2, 3, 32, 32)


def target(model, labels: int = 5) -> torch.Tensor:
    if hasattr(model, "decode_head"):
        return torch.randint(0, labels, (2, 32, 32))
    return torch.randint(0, labels, (2,))


def shape_of(value):
    """Types and shapes of nested outputs; the penalty is ours alone."""
    if isinstance(value, torch.Tensor):
        return tuple(value.shape), value.dtype
    if isinstance(value, dict):
        return {name: shape_of(each) for name, each in value.items() if name != "lipschitz_penalty"}
    if isinstance(value, tuple | list):
        return type(value), [shape_of(each) for each in value]
    return type(value)


CALLS = {
    "nothing": {},
    "hidden states": {"output_hidden_states": True},
    "no hidden states": {"output_hidden_states": False},
    "hidden states unset": {"output_hidden_states": None},
    "one stage": {"output_hidden_states": 2},
    "the first stage by its number": {"output_hidden_states": 0},
    "stages": {"output_hidden_states": [0, 2]},
    "stages from the end": {"output_hidden_states": [-1, 1]},
    "a stage out of range": {"output_hidden_states": [1, 9]},
    "no stage": {"output_hidden_states": []},
    "attentions": {"output_attentions": True},
    "attentions and hidden states": {"output_attentions": True, "output_hidden_states": True},
    "a tuple": {"return_dict": False},
    "a tuple with hidden states": {"return_dict": False, "output_hidden_states": True},
    "return_dict unset": {"return_dict": None},
}


@pytest.mark.one_in(3)
@pytest.mark.parametrize(("call", "case"), in_turn(CALLS), indirect=["case"])
def test_outputs_of_a_call(make_pair, pixels, call):
    stock, ours = make_pair(attn_implementation="eager")
    with torch.no_grad():
        expected, found = stock(pixels, **CALLS[call]), ours(pixels, **CALLS[call])
    assert shape_of(found) == shape_of(expected)
    if isinstance(found, dict):
        assert list(found) == list(expected)


@pytest.mark.each_value
@pytest.mark.parametrize("field", ["output_hidden_states", "output_attentions"])
def test_fields_of_the_configuration_are_defaults_of_a_call(make_pair, pixels, field):
    stock, ours = make_pair(attn_implementation="eager")
    for model in (stock, ours):
        setattr(model.config, field, True)
    assert shape_of(ours(pixels)) == shape_of(stock(pixels))


def test_a_tuple_by_the_configuration(pair, pixels):
    stock, ours = pair
    ours.config.return_dict = False
    assert shape_of(ours(pixels)) == shape_of(stock(pixels, return_dict=False))
    assert ours(pixels, return_dict=True).logits.shape == ours(pixels)[0].shape


def test_loss_by_position_and_by_keyword(pair, pixels):
    for model in pair:
        labels = target(model)
        by_position, by_keyword = model(pixels, labels), model(pixel_values=pixels, labels=labels)
        assert torch.equal(by_position.loss, by_keyword.loss) and by_position.loss.shape == ()
        assert torch.equal(model(pixels, labels, return_dict=False)[0], by_position.loss)
    assert shape_of(pair[1](pixels, target(pair[1]))) == shape_of(pair[0](pixels, target(pair[0])))


@pytest.mark.each_value
@pytest.mark.parametrize("num_labels", [1, 2])
def test_few_labels(make_pair, pixels, num_labels):
    stock, ours = make_pair(num_labels=num_labels)
    for model in (stock, ours):
        labels = (
            target(model, 2)
            if hasattr(model, "decode_head")
            else torch.rand(2)
            if num_labels == 1
            else target(model, 2)
        )
        output = model(pixels, labels=labels)
        assert output.loss.isfinite() and output.logits.shape[1] == num_labels
    assert shape_of(ours(pixels)) == shape_of(stock(pixels))


@pytest.mark.parametrize("problem", ["regression", "multi_label_classification", "single_label_classification"])
def test_problem_types_of_classification(make_model, make_stock, pixels, problem):
    stock, ours = (
        make_stock("classification", problem_type=problem),
        make_model(None, "head", "classification", problem_type=problem),
    )
    ours.load_state_dict(stock.state_dict())
    labels = {"regression": torch.randn(2, 5), "multi_label_classification": torch.eye(5)[:2]}.get(
        problem, target(ours)
    )
    assert torch.equal(ours(pixels, labels=labels).loss, stock(pixels, labels=labels).loss)
    for strategy in STRATEGIES:
        model = make_model(strategy, "head", "classification", problem_type=problem)
        assert model(pixels, labels=labels).loss.isfinite()


def test_a_last_stage_left_flat(make_pair, pixels):
    stock, ours = make_pair(reshape_last_stage=False)
    if hasattr(ours, "decode_head"):
        # Stock takes the square root of the channels for the side, and fits only where they agree; ours leaves nothing
        # flat.
        assert ours.config.reshape_last_stage
        assert ours(pixels).logits.shape == (2, 5, 8, 8)
    else:
        assert shape_of(ours(pixels, output_hidden_states=True)) == shape_of(stock(pixels, output_hidden_states=True))


def test_missing_pixels_are_the_same_error(pair):
    errors = []
    for model in pair:
        with pytest.raises((TypeError, AttributeError, ValueError)) as raised:
            model()
        errors.append(type(raised.value))
    assert errors[0] is errors[1]


def names_on_disk(folder) -> set[str]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return set(json.loads(index.read_text())["weight_map"])
    from safetensors import safe_open

    with safe_open(str(next(folder.glob("model*.safetensors"))), "pt") as file:
        return set(file.keys())


SAVES = {
    "plain": ({}, {}),
    "sharded": ({"max_shard_size": "20KB"}, {}),
    "variant": ({"variant": "fp32"}, {"variant": "fp32"}),
    "subfolder": ({}, {"subfolder": "inner"}),
    "on a device": ({}, {"device_map": "cpu"}),
    "low memory": ({}, {"low_cpu_mem_usage": True}),
    "safetensors alone": ({}, {"use_safetensors": True}),
    "dtype": ({}, {"dtype": torch.float32}),
    "dtype by its old name": ({}, {"torch_dtype": torch.float32}),
    "dtype of the file": ({}, {"dtype": "auto"}),
    "attention": ({}, {"attn_implementation": "eager"}),
    "local": ({}, {"local_files_only": True, "revision": "main"}),
}


@pytest.mark.one_in(3)
@pytest.mark.parametrize(("way", "case"), in_turn(SAVES), indirect=["case"])
def test_saving_and_loading(pair, pixels, tmp_path, way):
    saving, loading = SAVES[way]
    names = []
    for model in pair:
        folder = tmp_path / type(model).__name__
        inner = folder / "inner" if "subfolder" in loading else folder
        model.save_pretrained(inner, **saving)
        names.append(names_on_disk(inner))
        again, info = type(model).from_pretrained(folder, output_loading_info=True, **loading)
        assert not any(info.values()) and not again.training
        state = model.state_dict()
        assert all(torch.equal(tensor, state[name]) for name, tensor in again.state_dict().items())
    # Files have the stock names, plus the constants.
    assert {name for name in names[1] if not name.endswith(".c")} == names[0]


@pytest.mark.one_in(3)
def test_a_given_state_dict_is_what_is_saved(pair, tmp_path):
    for model in pair:
        state = {name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()}
        model.save_pretrained(tmp_path / type(model).__name__, state_dict=state)
        again = type(model).from_pretrained(tmp_path / type(model).__name__)
        assert not any(tensor.any() for name, tensor in again.state_dict().items() if "classifier" in name)


@pytest.mark.one_in(3)
def test_another_number_of_labels(pair, pixels, tmp_path):
    for model in pair:
        folder = tmp_path / type(model).__name__
        model.save_pretrained(folder)
        with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
            type(model).from_pretrained(folder, num_labels=7)
        again = type(model).from_pretrained(folder, num_labels=7, ignore_mismatched_sizes=True)
        assert again(pixels).logits.shape[1] == again.config.num_labels == 7


def test_stock_files_load_into_ours_and_the_baseline_into_stock(case, make_stock, make_model, pixels, tmp_path):
    task, strategy, scope = case
    stock = make_stock(task)
    stock.save_pretrained(tmp_path / "stock")
    ours, info = OURS[task].from_pretrained(
        tmp_path / "stock", lipschitz_strategy=strategy, lipschitz_scope=scope, output_loading_info=True
    )
    assert not info["unexpected_keys"] and all(name.endswith(".c") for name in info["missing_keys"])
    if strategy is None:
        torch.testing.assert_close(ours(pixels).logits, stock(pixels).logits, rtol=1e-4, atol=1e-5)
        ours.save_pretrained(tmp_path / "ours")
        again, info = STOCK[task].from_pretrained(tmp_path / "ours", output_loading_info=True)
        assert not any(info.values())
        assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in stock.state_dict().items())


ATTRIBUTES = [
    "base_model_prefix", "main_input_name", "input_modalities", "supports_gradient_checkpointing", "framework",
    "_no_split_modules", "_supports_sdpa", "_supports_flash_attn", "_supports_attention_backend",
    "_can_compile_fullgraph", "dtype", "device", "is_gradient_checkpointing", "can_generate",
]  # fmt: skip


def test_attributes(pair):
    missing = object()
    for name in ATTRIBUTES:
        expected, found = (getattr(model, name, missing) for model in pair)
        if callable(expected):
            expected, found = expected(), found()
        assert found == expected, name


def test_methods(pair):
    stock, ours = pair
    assert isinstance(ours.base_model, type(stock.base_model))
    for model in pair:
        with pytest.raises(NotImplementedError, match="get_input_embeddings"):
            model.get_input_embeddings()
    constants = sum(parameter.numel() for name, parameter in ours.named_parameters() if name.endswith(".c"))
    assert ours.num_parameters() - constants == stock.num_parameters()
    ours.tie_weights()
    assert ours.train().training and not ours.eval().training
    assert [*ours.state_dict()] == [*copy.deepcopy(ours).state_dict()]


@pytest.mark.each_value
@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing_changes_no_gradient(pair, pixels, reentrant):
    for model in pair:
        model.train()
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
        labels, gradients = target(model), []
        for checkpointed in (False, True):
            if checkpointed:
                model.gradient_checkpointing_enable({"use_reentrant": reentrant})
                assert model.is_gradient_checkpointing
            model.zero_grad()
            model(pixels.clone().requires_grad_(), labels=labels).loss.backward()
            gradients.append({name: each.grad for name, each in model.named_parameters() if each.grad is not None})
        model.gradient_checkpointing_disable()
        assert not model.is_gradient_checkpointing
        for name, gradient in gradients[0].items():
            torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.one_in(2)
@pytest.mark.each_value
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_precisions(pair, pixels, tmp_path, dtype):
    for model in pair:
        cast = copy.deepcopy(model).to(dtype)
        assert cast.dtype == dtype and cast(pixels.to(dtype)).logits.dtype == dtype
        model.save_pretrained(tmp_path / type(model).__name__)
        loaded = type(model).from_pretrained(tmp_path / type(model).__name__, dtype=dtype)
        assert loaded.dtype == dtype and loaded(pixels.to(dtype)).logits.dtype == dtype


class Logits(torch.nn.Module):
    """torch.jit takes no output of transformers."""

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.model = model

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.model(pixels).logits


# Tracing is slow.
@pytest.mark.one_in(3)
@pytest.mark.parametrize("case", one_of_each(TRACED), indirect=True, ids=lambda case: "-".join(map(str, case)))
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_traced_by_torch_jit(make_pair, pixels):
    two_stages = {"num_encoder_blocks": 2, "depths": (1, 1), "sr_ratios": (8, 4), "hidden_sizes": (8, 16)}
    two_stages |= {"patch_sizes": (7, 3), "strides": (4, 2), "num_attention_heads": (1, 2), "mlp_ratios": (4, 4)}
    pair = make_pair(**two_stages)
    other_batch = torch.cat([pixels.flip(0), pixels[:1]])
    for model in map(Logits, pair):
        with torch.no_grad():
            traced = torch.jit.trace(model, pixels, check_trace=False)
            for images in (pixels, other_batch):
                torch.testing.assert_close(traced(images), model(images))


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_a_baseline_from_scratch_is_the_stock_model_of_that_seed(make_model, make_stock, task):
    stock_config, config = make_stock(task).config, make_model(None, "head", task).config
    torch.manual_seed(0)
    expected = STOCK[task](stock_config).state_dict()
    torch.manual_seed(0)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in OURS[task](config).state_dict().items())


def test_initialisation_depends_on_the_seed_alone(pair):
    for model in pair:
        states = []
        for seed in (3, 3, 4):
            torch.manual_seed(seed)
            states.append(type(model)(model.config).state_dict())
        same = [torch.equal(tensor, states[1][name]) for name, tensor in states[0].items()]
        assert all(same) and not all(torch.equal(tensor, states[2][name]) for name, tensor in states[0].items())
