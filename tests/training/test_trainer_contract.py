"""
The contract of `transformers.Trainer`: each clause holds for the stock Trainer with a stock model, and for ours.

What differs on purpose stands at the end, each with its reason.
"""

import inspect
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import (
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from lrsegformer import LRSegformerTrainer, LRSegformerTrainingArguments
from lrsegformer.data.dataset import collate
from lrsegformer.errors import InputError

# The stock names for it, which transformers 5 still takes, are part of the contract.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")

TASKS = ("segmentation", "classification")
# That the clauses are stock's is a matter of the version of transformers: `make test-all`.
KINDS = (pytest.param("stock", marks=pytest.mark.slow), "ours")
STOCK_CLASSES = {
    "segmentation": SegformerForSemanticSegmentation,
    "classification": SegformerForImageClassification,
}
OPTIONS = {
    **{"use_cpu": True, "max_steps": 2, "per_device_train_batch_size": 4, "per_device_eval_batch_size": 1},
    "gradient_accumulation_steps": 1,
    **{"logging_steps": 1, "save_strategy": "no", "eval_strategy": "no", "disable_tqdm": True},
    **{"dataloader_num_workers": 0, "remove_unused_columns": False, "max_grad_norm": 0.0, "warmup_steps": 0},
}


def collate_long(samples):
    batch = collate(samples)
    return {**batch, "labels": batch["labels"].long()}


def without_labels(samples):
    return {"pixel_values": collate(samples)["pixel_values"]}


def accuracy(prediction):
    logits = prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions
    return {"accuracy": float((logits.argmax(1) == prediction.label_ids).mean()) if logits.ndim == 2 else logits.ndim}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(params=TASKS)
def task(request):
    return request.param


@pytest.fixture
def make(kind, task, make_model, digits, tmp_path):
    """`make(**options)`: a trainer of this kind on this task; options of the arguments and of the Trainer alike."""

    def model():
        if kind == "ours":
            return make_model(task, "stable_softplus")
        vanilla = make_model(task, None).to_vanilla()
        stock = STOCK_CLASSES[task](vanilla.config)
        stock.load_state_dict(vanilla.state_dict())
        return stock

    def build(**options):
        of_trainer = set(inspect.signature(Trainer.__init__).parameters)
        named = {name: options.pop(name) for name in list(options) if name in of_trainer}
        trainer_class = Trainer if kind == "stock" else LRSegformerTrainer
        arguments_class = TrainingArguments if kind == "stock" else LRSegformerTrainingArguments
        defaults = {
            "train_dataset": digits(task).train,
            "eval_dataset": digits(task).validation,
            "data_collator": collate_long,
        }
        if "model_init" in named:
            named["model_init"] = lambda trial=None: model()
        else:
            defaults["model"] = model()
        args = arguments_class(**{"output_dir": str(tmp_path / "run"), **OPTIONS, **options})
        return trainer_class(args=args, **{**defaults, **named})

    return build


def test_what_train_returns(make):
    trainer = make()
    step, loss, metrics = trainer.train()
    expected = {
        "train_runtime",
        "train_samples_per_second",
        "train_steps_per_second",
        "total_flos",
        "train_loss",
        "epoch",
    }
    # The callback that prints without a progress bar takes `total_flos` out, of what is returned, too.
    assert step == 2 and metrics.keys() == expected - {"total_flos"} and metrics["train_loss"] == loss
    logs = trainer.state.log_history
    assert {"loss", "grad_norm", "learning_rate", "epoch", "step"} <= logs[0].keys() and len(logs) == 3


def test_what_evaluate_returns(make):
    trainer = make()
    expected = {"eval_loss", "eval_runtime", "eval_samples_per_second", "eval_steps_per_second"}
    assert expected <= trainer.evaluate().keys()
    trainer.train()
    metrics = trainer.evaluate()
    assert metrics["epoch"] == trainer.state.epoch == pytest.approx(2 / 3)
    assert trainer.state.log_history[-1]["epoch"] == metrics["epoch"]
    # What is returned is what is logged, but for the lists of each class.
    numbers = {name: value for name, value in metrics.items() if not isinstance(value, list)}
    assert {**numbers, "step": 2} == trainer.state.log_history[-1]


def test_metric_key_prefix_and_several_data_sets(make, digits, task):
    trainer = make()
    assert "test_loss" in trainer.evaluate(metric_key_prefix="test")
    found = trainer.evaluate({"one": digits(task).validation, "two": digits(task).train})
    assert {"eval_one_loss", "eval_two_loss"} <= found.keys() and found["eval_one_loss"] != found["eval_two_loss"]


def test_data_sets_by_name(make, digits, task):
    trainer = make(eval_dataset={"one": digits(task).validation, "two": digits(task).train})
    assert {"eval_one_loss", "eval_two_loss"} <= trainer.evaluate().keys()
    assert "eval_loss" in trainer.evaluate("two")


@pytest.mark.parametrize("metrics", [None, accuracy])
def test_evaluation_without_labels(make, metrics):
    trainer = make(data_collator=without_labels, compute_metrics=metrics)
    found = trainer.evaluate()
    assert found.keys() - {"eval_model_preparation_time"} == {
        *("eval_runtime", "eval_samples_per_second", "eval_steps_per_second", "epoch")
    }


def test_prediction_with_and_without_labels(make, digits, task):
    output = make().predict(digits(task).validation)
    assert output.predictions.shape[:2] == (3, 11 if task == "segmentation" else 10)
    assert len(output.label_ids) == 3 and "test_loss" in output.metrics
    output = make(data_collator=without_labels).predict(digits(task).validation, metric_key_prefix="mine")
    assert len(output.predictions) == 3 and output.label_ids is None
    assert "mine_runtime" in output.metrics and "mine_loss" not in output.metrics


def test_training_without_labels_says_so(make):
    with pytest.raises(ValueError, match="did not return a loss"):
        make(data_collator=without_labels).train()


def test_ignored_keys(make, digits, task):
    predictions = make().predict(digits(task).validation, ignore_keys=["hidden_states"]).predictions
    assert isinstance(predictions, np.ndarray) and len(predictions) == 3


@pytest.mark.parametrize("options", [{}, {"eval_accumulation_steps": 1}, {"eval_do_concat_batches": True}])
def test_metrics_of_the_user(make, options):
    seen = []
    trainer = make(
        compute_metrics=lambda prediction: seen.append(prediction) or {"size": len(prediction.predictions)},
        preprocess_logits_for_metrics=lambda logits, labels: logits.argmax(1),
        include_for_metrics=["inputs", "loss"],
        **options,
    )
    assert trainer.evaluate()["eval_size"] == 3 and len(seen) == 1
    assert seen[0].predictions.dtype.kind == "i" and seen[0].label_ids.shape[0] == 3
    assert seen[0].inputs.shape == (3, 3, 32, 32) and seen[0].losses.shape == (3,)


def test_metrics_of_the_user_batch_by_batch(make):
    seen = []

    def count(prediction, compute_result):
        seen.append(len(prediction.predictions))
        return {"count": sum(seen)} if compute_result else None

    assert make(compute_metrics=count, batch_eval_metrics=True).evaluate()["eval_count"] == 3 and seen == [1, 1, 1]


def test_losses_alone(make):
    trainer = make(compute_metrics=accuracy, prediction_loss_only=True)
    found = trainer.evaluate()
    assert "eval_loss" in found and "eval_accuracy" not in found


def divided(outputs, labels, num_items_in_batch=None):
    """The sum of the losses of the labels that count over their number, as the Trainer asks for."""
    logits = outputs.logits
    if labels.ndim == 3:
        logits = F.interpolate(logits, labels.shape[-2:], mode="bilinear")
    return 3 * F.cross_entropy(logits, labels, reduction="sum", ignore_index=-100) / num_items_in_batch


@pytest.mark.one_in(2)
@pytest.mark.parametrize("per_device", [4, 1])
def test_loss_of_the_user(make, task, kind, per_device, digits):
    """Three times the model's own, over whole batches, whatever their split; none of the digits' pixels is void."""
    accumulation = {"per_device_train_batch_size": per_device, "gradient_accumulation_steps": 4 // per_device}
    losses = {}
    for name, function in (("user", divided), ("own", None)):
        trainer = make(compute_loss_func=function, max_steps=1, seed=3, **accumulation)
        for module in trainer.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
            if isinstance(module, torch.nn.BatchNorm2d):
                module.train = lambda mode=True, module=module: torch.nn.Module.train(module, False)
        if kind == "ours":
            trainer.args.lambda_lip = 0.0
        trainer.train()
        losses[name] = trainer.state.log_history[0]["loss"]
        # One image a batch: means over batches are means over images.
        losses[f"{name} in evaluation"] = trainer.evaluate()["eval_loss"]
    own_is_right = kind != "stock" or per_device == 4  # transformers#47688
    if own_is_right:
        assert losses["user"] == pytest.approx(3 * losses["own"], rel=1e-4)
    assert losses["user in evaluation"] == pytest.approx(3 * losses["own in evaluation"], rel=1e-2)


def test_model_init_and_a_second_run(make):
    trainer = make(model_init=True)
    losses = []
    for _ in range(2):
        trainer.train()
        losses.append([log["loss"] for log in trainer.state.log_history if "loss" in log])
    assert losses[0] == losses[1], "each run starts from a fresh model"
    assert "eval_loss" in trainer.evaluate()


def test_optimizers(make):
    trainer = make()
    optimizer = torch.optim.SGD(trainer.model.parameters(), lr=0.5)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    trainer.optimizer, trainer.lr_scheduler = optimizer, schedule
    trainer.train()
    assert trainer.state.log_history[0]["learning_rate"] == 0.5
    trainer = make(optimizer_cls_and_kwargs=(torch.optim.SGD, {"lr": 0.25, "momentum": 0.5}))
    created = trainer.create_optimizer()
    assert isinstance(created, torch.optim.SGD)
    assert created.param_groups[0]["lr"] == 0.25 and created.param_groups[0]["momentum"] == 0.5
    assert sum(len(group["params"]) for group in created.param_groups) == len(list(trainer.model.parameters()))


class Events(TrainerCallback):
    def __init__(self):
        self.names = []

    def __getattribute__(self, name):
        if name.startswith("on_"):
            return lambda *args, **kwargs: self.names.append(name)
        return super().__getattribute__(name)


def test_events_of_callbacks(make):
    events = Events()
    make(
        callbacks=[events],
        **{
            "eval_strategy": "steps",
            "eval_steps": 1,
            "save_strategy": "steps",
            "save_steps": 2,
            "eval_on_start": True,
        },
        **{"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2, "logging_first_step": True},
    ).train()
    evaluation = [*["on_prediction_step"] * 3, "on_log", "on_evaluate"]
    step = ["on_step_begin", "on_substep_end", "on_pre_optimizer_step", "on_optimizer_step", "on_step_end", "on_log"]
    expected = ["on_init_end", "on_train_begin", *evaluation, "on_epoch_begin"]
    expected += [*step, *evaluation, *step, *evaluation, "on_save", "on_epoch_end", "on_log", "on_train_end"]
    assert events.names == expected


def test_best_model_is_loaded(make, tmp_path):
    trainer = make(
        **{"load_best_model_at_end": True, "metric_for_best_model": "loss", "greater_is_better": True},
        **{"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "max_steps": 3},
        **{"learning_rate": 1e-3, "save_only_model": True},
    )
    trainer.train()
    losses = [log["eval_loss"] for log in trainer.state.log_history if "eval_loss" in log]
    assert trainer.state.best_metric == max(losses)
    assert trainer.state.best_global_step == 1 + losses.index(max(losses))
    assert not list((tmp_path / "run").rglob("optimizer.pt")), "save_only_model"
    assert trainer.state.best_model_checkpoint.endswith(f"checkpoint-{trainer.state.best_global_step}")


def test_save_strategy_best(make, tmp_path):
    trainer = make(
        **{"save_strategy": "best", "metric_for_best_model": "loss", "eval_strategy": "steps", "eval_steps": 1},
        **{"max_steps": 3, "load_best_model_at_end": True},
    )
    trainer.train()
    assert (tmp_path / "run" / f"checkpoint-{trainer.state.best_global_step}" / "model.safetensors").is_file()


def test_resuming_continues_the_log(make, tmp_path):
    options = {"save_strategy": "steps", "save_steps": 1, "max_steps": 3}
    make(**options).train()
    trainer = make(**options)
    trainer.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert [log["step"] for log in trainer.state.log_history if "loss" in log] == [1, 2, 3]


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    "options",
    [
        {"gradient_checkpointing": True, "include_num_input_tokens_seen": "all", "lr_scheduler_type": "cosine"},
        {
            "num_train_epochs": 1,
            "max_steps": -1,
            "logging_strategy": "epoch",
            "save_strategy": "epoch",
            "optim": "sgd",
        },
        {"bf16": True, "eval_strategy": "epoch", "dataloader_drop_last": True, "data_seed": 3},
        {"auto_find_batch_size": True, "eval_delay": 2, "eval_strategy": "steps", "torch_empty_cache_steps": 1},
        {"average_tokens_across_devices": False, "lr_scheduler_type": "constant_with_warmup", "bf16_full_eval": True},
    ],
    ids=lambda options: " ".join(options),
)
def test_options_of_the_arguments(make, options):
    output = make(**options).train()
    assert output.global_step >= 2 and np.isfinite(output.training_loss)


def test_files_of_a_saved_model(make, tmp_path):
    trainer = make()
    trainer.train()
    trainer.save_model()
    trainer.save_state()
    trainer.log_metrics("eval", metrics := trainer.evaluate())
    trainer.save_metrics("eval", metrics)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"model.safetensors", "config.json", "training_args.bin", "trainer_state.json", "all_results.json"} <= names
    assert json.loads((tmp_path / "run" / "all_results.json").read_text())["eval_loss"] == metrics["eval_loss"]


def test_every_argument_of_the_constructor_is_taken_by_its_place(make_model, make_arguments, digits):
    names = list(inspect.signature(Trainer.__init__).parameters)[1:]
    defaults = {name: parameter.default for name, parameter in inspect.signature(Trainer.__init__).parameters.items()}
    given = {
        **{"model": make_model(), "args": make_arguments(), "data_collator": collate_long},
        **{"train_dataset": digits("segmentation").train, "eval_dataset": digits("segmentation").validation},
    }
    trainer = LRSegformerTrainer(*[given.get(name, defaults[name]) for name in names])
    assert trainer.train_dataset is given["train_dataset"] and trainer.data_collator is collate_long
    assert {"eval_mean_iou", "eval_loss"} <= trainer.evaluate().keys()


# ---- what differs on purpose ----


def test_scores_are_computed_without_compute_metrics(make_trainer):
    """A user sees what the model is good for; stock returns the loss alone."""
    assert "eval_mean_iou" in make_trainer().evaluate()


def test_logits_are_not_preprocessed_for_our_own_scores(make_trainer):
    """They become counts, which is less than any preprocessing leaves; the user's predictions are preprocessed."""
    trainer = make_trainer()
    trainer.preprocess_logits_for_metrics = lambda logits, labels: logits * 0
    found = trainer.evaluate()
    trainer.preprocess_logits_for_metrics = None
    assert found["eval_mean_iou"] == trainer.evaluate()["eval_mean_iou"]


def test_items_of_the_users_loss_are_the_labels_that_count(make_trainer, digits):
    """Void pixels are no items; stock counts them, as it knows no ignore label but -100."""
    seen = []

    def loss(outputs, labels, num_items_in_batch=None):
        seen.append((int(num_items_in_batch), int((labels != 255).sum())))
        return outputs.logits.mean()

    trainer = make_trainer(max_steps=1)
    trainer.compute_loss_func = loss
    trainer.train()
    assert all(items == valid for items, valid in seen) and seen


def test_stock_arguments_are_refused(make_model, tmp_path):
    """They lack the penalty's weight and the recipe."""
    with pytest.raises(InputError, match="LRSegformerTrainingArguments"):
        LRSegformerTrainer(make_model(), TrainingArguments(output_dir=str(tmp_path), use_cpu=True))
