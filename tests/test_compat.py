"""
Each workaround of `_compat.py` and `_compat_trainer.py` twice: that it works, and that stock classes still need it.

A test named `test_upstream_...` that fails after an upgrade is good news: the workaround beside it can go.
"""

import functools
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from PIL import Image
from transformers import (
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessorPil,
    Trainer,
    TrainingArguments,
    pipeline,
)
from transformers import trainer as trainer_module
from transformers.models.auto import modeling_auto

from lrsegformer import LRSegformerConfig, LRSegformerForImageClassification, LRSegformerForSemanticSegmentation
from lrsegformer._compat import (
    active_module,
    active_modules,
    is_adapted,
    load_checkpoint_strictly,
    plain_tensors,
    register_key_renaming,
    remove_autocast,
)
from lrsegformer._compat_trainer import CleanUploadMixin, StrictCheckpointMixin
from lrsegformer.layers.base import LipschitzConstraint

SIZES = {
    "depths": (1, 1, 1, 1),
    "hidden_sizes": (8, 8, 16, 16),
    "num_attention_heads": (1, 1, 2, 2),
    "decoder_hidden_size": 12,
    "num_labels": 3,
}


class BareSegformer(SegformerForSemanticSegmentation):
    """A subclass outside transformers, with nothing registered for its name."""


class RegisteredSegformer(SegformerForSemanticSegmentation):
    """A subclass that gets its parent's renaming in a test."""


class StrictTrainer(StrictCheckpointMixin, Trainer):
    """The stock Trainer with the loading of ours."""


def stock_model(seed: int = 0) -> SegformerForSemanticSegmentation:
    torch.manual_seed(seed)
    return SegformerForSemanticSegmentation(SegformerConfig(**SIZES))


def our_model(strategy: str | None, seed: int = 0, scope: str = "head") -> LRSegformerForSemanticSegmentation:
    torch.manual_seed(seed)
    model = LRSegformerForSemanticSegmentation(
        LRSegformerConfig(**SIZES, lipschitz_strategy=strategy, lipschitz_scope=scope)
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            if "running" in name:
                buffer.uniform_(0.5, 2)
    return model


def different_tensors(first: torch.nn.Module, second: torch.nn.Module) -> list[str]:
    expected = second.state_dict()
    return [name for name, tensor in first.state_dict().items() if not torch.equal(tensor, expected[name])]


@pytest.fixture
def stock_folder(tmp_path) -> Path:
    stock_model().save_pretrained(tmp_path / "stock")
    return tmp_path / "stock"


# Key renaming of subclasses (huggingface/transformers#46876)


def test_registered_subclass_loads_the_whole_checkpoint(stock_folder, tmp_path):
    register_key_renaming("RegisteredSegformer", "SegformerForSemanticSegmentation")
    register_key_renaming("RegisteredSegformer", "SegformerForSemanticSegmentation")
    model, info = RegisteredSegformer.from_pretrained(stock_folder, output_loading_info=True)
    assert not any(info.values())
    assert not different_tensors(model, stock_model())
    model.save_pretrained(tmp_path / "again")
    again, info = SegformerForSemanticSegmentation.from_pretrained(tmp_path / "again", output_loading_info=True)
    assert not any(info.values()) and not different_tensors(again, model)


def test_upstream_subclass_still_loses_the_decode_head(stock_folder):
    model, info = BareSegformer.from_pretrained(stock_folder, output_loading_info=True)
    assert len(info["missing_keys"]) == len(info["unexpected_keys"]) == 8
    assert all("linear_projections" in key for key in info["missing_keys"])
    assert "decode_head.linear_projections.0.proj.weight" in different_tensors(model, stock_model())


def test_renaming_of_an_unknown_parent_is_skipped():
    register_key_renaming("RegisteredSegformer", "NoSuchParentClass")


# Names in the tables of pipelines


@pytest.fixture
def our_folder(tmp_path) -> Path:
    our_model("stable_softplus").save_pretrained(tmp_path / "ours")
    SegformerImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(tmp_path / "ours")
    return tmp_path / "ours"


def test_pipeline_knows_our_model(our_folder, error_lines):
    segment = pipeline("image-segmentation", model=str(our_folder), device="cpu")
    assert segment(Image.new("RGB", (40, 30)))
    assert not error_lines


def test_upstream_pipeline_still_ignores_registered_models(our_folder, error_lines, monkeypatch):
    monkeypatch.delitem(modeling_auto.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES, "lrsegformer")
    pipeline("image-segmentation", model=str(our_folder), device="cpu")
    assert any("not supported" in line for line in error_lines)


# Restoring checkpoints in the Trainer


def trainer_for(trainer_class: type[Trainer], model: torch.nn.Module, folder: Path) -> Trainer:
    arguments = TrainingArguments(output_dir=str(folder / "run"), report_to="none", use_cpu=True)
    return trainer_class(model=model, args=arguments)


@pytest.mark.one_in(4)
@pytest.mark.parametrize("method", ["resume", "best"])
@pytest.mark.parametrize("shard_size", ["5GB", "20KB"])
@pytest.mark.parametrize("strategy", [None, "stable_softplus", "orthogonal"])
def test_strict_trainer_restores_every_tensor(tmp_path, strategy, shard_size, method):
    saved, fresh = our_model(strategy, seed=1), our_model(strategy, seed=2)
    assert len(different_tensors(fresh, saved)) > 100
    saved.save_pretrained(tmp_path / "checkpoint", max_shard_size=shard_size)
    trainer = trainer_for(StrictTrainer, fresh, tmp_path)
    identities = [id(parameter) for parameter in fresh.parameters()]
    if method == "resume":
        trainer._load_from_checkpoint(str(tmp_path / "checkpoint"))
    else:
        trainer.state.best_model_checkpoint = str(tmp_path / "checkpoint")
        trainer._load_best_model()
    assert not different_tensors(fresh, saved)
    assert [id(parameter) for parameter in fresh.parameters()] == identities, "the optimizer keeps its parameters"


@pytest.mark.parametrize("method", ["resume", "best"])
def test_upstream_trainer_still_loses_the_weights(tmp_path, method):
    saved, fresh = stock_model(seed=1), stock_model(seed=2)
    saved.save_pretrained(tmp_path / "checkpoint")
    trainer = trainer_for(Trainer, fresh, tmp_path)
    before = len(different_tensors(fresh, saved))
    if method == "resume":
        trainer._load_from_checkpoint(str(tmp_path / "checkpoint"))
    else:
        trainer.state.best_model_checkpoint = str(tmp_path / "checkpoint")
        trainer._load_best_model()
    assert len(different_tensors(fresh, saved)) > 0.8 * before > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_strict_loading_works_for_classification_and_low_precision(tmp_path, dtype):
    models = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        config = LRSegformerConfig(**SIZES, lipschitz_strategy="orthogonal")
        LRSegformerForImageClassification(config).save_pretrained(tmp_path / str(seed))
        models.append(LRSegformerForImageClassification.from_pretrained(tmp_path / str(seed), dtype=dtype))
    saved, fresh = models
    saved.save_pretrained(tmp_path / "checkpoint")
    load_checkpoint_strictly(fresh, tmp_path / "checkpoint")
    assert not different_tensors(fresh, saved)
    assert {tensor.dtype for tensor in fresh.state_dict().values()} == {torch.float32, dtype}


def test_strict_loading_names_what_is_missing(tmp_path):
    """A constant that the file lacks is missing like any other tensor, though starting from a stock file allows it."""
    our_model(None).save_pretrained(tmp_path / "baseline")
    model = our_model("stable_softplus", seed=2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match="missing.*decode_head.linear_fuse.c.*unexpected nothing"):
        load_checkpoint_strictly(model, tmp_path / "baseline")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_strict_loading_names_what_is_unexpected(tmp_path):
    our_model("stable_softplus").save_pretrained(tmp_path / "ours")
    with pytest.raises(ValueError, match="missing nothing.*unexpected.*decode_head.classifier.c"):
        load_checkpoint_strictly(our_model(None), tmp_path / "ours")


def test_checkpoint_without_plain_weights_goes_the_stock_way(tmp_path):
    (tmp_path / "empty").mkdir()
    trainer = trainer_for(StrictTrainer, our_model("orthogonal"), tmp_path)
    with pytest.raises(ValueError, match="Can't find a valid checkpoint"):
        trainer._load_from_checkpoint(str(tmp_path / "empty"))


def doubled(forward):
    """A decorator of a model's forward, as those that hand out hidden states are."""

    @functools.wraps(forward)
    def wrapped(self, pixels):
        return 2 * forward(self, pixels)

    return wrapped


class DecoratedModel(torch.nn.Linear):
    """A model whose own forward is decorated."""

    @doubled
    def forward(self, pixels):
        return super().forward(pixels)


@pytest.fixture
def bf16_accelerator():
    AcceleratorState._reset_state()
    yield Accelerator(cpu=True, mixed_precision="bf16")
    AcceleratorState._reset_state()


def test_a_model_gets_its_own_forward_back(bf16_accelerator):
    model, pixels = DecoratedModel(16, 4), torch.rand(2, 16)
    expected = model(pixels)
    assert not torch.equal(bf16_accelerator.prepare_model(model)(pixels), expected)
    for _ in range(2):
        remove_autocast(model)
        assert torch.equal(model(pixels), expected)
    assert "forward" not in model.__dict__


def test_upstream_takes_off_the_decorators_too(bf16_accelerator):
    model, pixels = DecoratedModel(16, 4), torch.rand(2, 16)
    expected = model(pixels)
    bf16_accelerator.unwrap_model(bf16_accelerator.prepare_model(model), keep_fp32_wrapper=False)
    assert not torch.allclose(model(pixels), expected, rtol=0.1)


# Modules that peft has wrapped


@pytest.fixture
def adapted():
    """The original, its copy of the adapter, and a layer with a low-rank adapter."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["classifier"])
    model = LRSegformerForImageClassification(LRSegformerConfig(**SIZES, lipschitz_strategy="stable_softplus"))
    return peft.get_peft_model(model, config)


@pytest.fixture
def uploads(monkeypatch):
    """What the Trainer asks the Hub's client to upload: the folder, and the patterns of what it leaves out."""
    asked = []

    class Api:
        def create_repo(self, *names, **options):
            return SimpleNamespace(repo_id="someone/model")

        def upload_folder(self, *, folder_path, ignore_patterns=None, **options):
            asked.append((folder_path, ignore_patterns or []))

    monkeypatch.setattr(trainer_module, "hf_api", Api)
    return asked


def push(trainer_class, folder):
    arguments = TrainingArguments(
        output_dir=str(folder), use_cpu=True, hub_token="hf_secret", hub_strategy="checkpoint"
    )
    trainer = trainer_class(model=stock_model(), args=arguments)
    trainer.push_to_hub()
    (folder / "checkpoint-1").mkdir()
    trainer._push_from_checkpoint(str(folder / "checkpoint-1"))


class UploadingTrainer(CleanUploadMixin, Trainer):
    """The stock Trainer with the uploads of ours."""

    def files_left_out(self):
        return [*super().files_left_out(), "run.yaml"]


def test_uploads_leave_out_what_is_named(uploads, tmp_path):
    made = trainer_module.hf_api
    push(UploadingTrainer, tmp_path)
    folders, patterns = zip(*uploads, strict=True)
    assert folders == (str(tmp_path), str(tmp_path), str(tmp_path / "checkpoint-1"))
    assert [set(one) for one in patterns] == [
        {"_*", "checkpoint-*", "training_args.bin", "run.yaml"},
        {"_*", "checkpoint-*", "training_args.bin", "run.yaml"},
        {"training_args.bin"},
    ]
    assert trainer_module.hf_api is made


def test_upstream_trainer_still_uploads_its_arguments_with_the_token(uploads, tmp_path):
    push(Trainer, tmp_path)
    assert not any("training_args.bin" in patterns for _, patterns in uploads)
    assert b"hf_secret" in (tmp_path / "training_args.bin").read_bytes()


def test_active_modules_are_one_a_wrapper_under_the_old_names(adapted):
    model = adapted.base_model.model
    names = dict(active_modules(model))
    copies = model.classifier.modules_to_save
    assert names["classifier"] is active_module(model.classifier) is copies["default"]
    assert not any("modules_to_save" in name or "lora" in name or "base_layer" in name for name in names)
    query = "segformer.stages.0.blocks.0.attention.q_proj"
    assert is_adapted(names[query]) and not is_adapted(names[query.replace("q_proj", "k_proj")])
    with adapted.disable_adapter():
        names = dict(active_modules(model))
        assert names["classifier"] is model.classifier.original_module
        assert names[query] is model.get_submodule(query).base_layer
    stock = LRSegformerForImageClassification(model.config).state_dict()
    assert {name: each.shape for name, each in plain_tensors(model).items()} == {n: t.shape for n, t in stock.items()}


def test_upstream_peft_still_keeps_original_and_copy_among_the_modules(adapted):
    layers = [name for name, module in adapted.named_modules() if isinstance(module, LipschitzConstraint)]
    assert len(layers) == 2 and any(name.endswith("original_module") for name in layers)
    wrapper = adapted.base_model.model.classifier
    assert not hasattr(wrapper, "get_active_module") and not hasattr(wrapper, "active_module")


def test_upstream_segformer_still_knows_of_no_input_embedding():
    with pytest.raises(NotImplementedError, match="get_input_embeddings"):
        stock_model().get_input_embeddings()


def test_upstream_sharding_still_refuses_scalars():
    """Sharding itself, by two processes: tests/invariants/test_batch_splits.py."""
    from torch.distributed.fsdp._fully_shard._fsdp_init import _verify_managed_param

    _verify_managed_param("weight", torch.nn.Parameter(torch.zeros(1)))
    with pytest.raises(ValueError, match="scalar parameters"):
        _verify_managed_param("c", torch.nn.Parameter(torch.zeros(())))
