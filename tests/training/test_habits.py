"""What users of transformers' Trainer do in their first hour gives what they expect from there, or says why not."""

import pytest
import torch
from torch.utils.data import Dataset
from transformers import IntervalStrategy, Trainer

import lrsegformer
from lrsegformer import LRSegformerTrainer, LRSegformerTrainingArguments
from lrsegformer.errors import InputError
from lrsegformer.models.loading import build_model
from lrsegformer.training.run.plan import log_short_runs


class Images(Dataset):
    """Random images of 32 x 32 of three classes, with labels of a shape and what else an item may have."""

    def __init__(self, classes: int = 3, label_shape: tuple[int, ...] = (32, 32), **others):
        self.classes, self.label_shape, self.others = classes, label_shape, others

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict:
        generator = torch.Generator().manual_seed(index)
        labels = torch.randint(0, self.classes, self.label_shape, generator=generator)
        return {"pixel_values": torch.randn(3, 32, 32, generator=generator), "labels": labels, **self.others}


@pytest.fixture
def arguments(tmp_path):
    """Arguments as a user of `TrainingArguments` writes them, for a run of one step."""

    def make(**options) -> LRSegformerTrainingArguments:
        quiet = {"use_cpu": True, "disable_tqdm": True, "dataloader_num_workers": 0, "save_strategy": "no"}
        common = {"output_dir": str(tmp_path), "max_steps": 1, "per_device_train_batch_size": 2}
        return LRSegformerTrainingArguments(**{**quiet, **common, **options})

    return make


@pytest.fixture
def model():
    return build_model("segmentation", "tiny", lipschitz_strategy="orthogonal", num_labels=3)


def test_a_step_takes_the_batch_that_was_asked_for(arguments, model):
    sizes = []
    model.register_forward_pre_hook(lambda _, __, inputs: sizes.append(len(inputs["pixel_values"])), with_kwargs=True)
    LRSegformerTrainer(model, arguments(), train_dataset=Images()).train()
    assert sizes == [2], "one forward pass for one step of the optimizer"


@pytest.mark.parametrize("place", ["by name", "by position"])
def test_evaluation_by_default_where_there_is_data_for_it(arguments, model, place):
    trainer = LRSegformerTrainer(model, arguments(), train_dataset=Images())
    trainer.train()
    assert trainer.args.eval_strategy == IntervalStrategy.NO
    if place == "by name":
        trainer = LRSegformerTrainer(model, arguments(), train_dataset=Images(), eval_dataset=Images())
    else:
        trainer = LRSegformerTrainer(model, arguments(), None, Images(), Images())
    assert trainer.args.eval_strategy == IntervalStrategy.STEPS


@pytest.mark.parametrize(
    "options",
    [{"eval_strategy": "epoch"}, {"eval_steps": 3}, {"load_best_model_at_end": True, "save_strategy": "steps"}],
    ids=lambda options: next(iter(options)),
)
def test_evaluation_that_was_asked_for_needs_data(arguments, model, options):
    with pytest.raises(ValueError, match="eval_dataset"):
        LRSegformerTrainer(model, arguments(**options), train_dataset=Images())


def test_predict_gives_logits_labels_and_the_scores_of_evaluate(arguments, model):
    trainer = LRSegformerTrainer(model, arguments(), eval_dataset=Images())
    predicted = trainer.predict(Images())
    assert predicted.predictions.shape == (4, 3, 8, 8) and predicted.label_ids.shape == (4, 32, 32)
    scores = trainer.evaluate()
    assert predicted.metrics["test_mean_iou"] == scores["eval_mean_iou"]
    assert predicted.metrics["test_loss"] == pytest.approx(scores["eval_loss"])


def test_compute_metrics_gets_what_it_gets_from_the_stock_trainer(arguments, model):
    seen = []

    def shapes(prediction) -> dict:
        seen.append((prediction.predictions.shape, prediction.label_ids.shape))
        return {"share": 0.5}

    for trainer in (LRSegformerTrainer, Trainer):
        scores = trainer(model, arguments(), train_dataset=Images(), eval_dataset=Images(), compute_metrics=shapes)
        assert scores.evaluate()["eval_share"] == 0.5
    assert seen == [((4, 3, 8, 8), (4, 32, 32))] * 2


def test_columns_that_the_model_does_not_take_are_left_out(arguments, model):
    output = LRSegformerTrainer(model, arguments(), train_dataset=Images(file_name="a.png")).train()
    assert output.global_step == 1


@pytest.mark.parametrize(
    ("task", "data", "words"),
    [
        ("segmentation", Images(label_shape=(1, 32, 32)), ("(2, 1, 32, 32)", "(batch, height, width)")),
        ("segmentation", Images(label_shape=()), ("(2,)", "(batch, height, width)")),
        ("segmentation", Images(classes=200), ("the model has 3 classes", "0 to 2")),
        ("classification", Images(classes=200, label_shape=()), ("the model has 3 classes", "0 to 2")),
    ],
    ids=["channel", "no-mask", "classes", "classes-of-images"],
)
def test_labels_that_do_not_fit_are_said_in_one_line(arguments, task, data, words):
    model = build_model(task, "tiny", lipschitz_strategy="orthogonal", num_labels=3)
    trainer = LRSegformerTrainer(model, arguments(), train_dataset=data)
    with pytest.raises(InputError) as error:
        trainer.train()
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)


def test_short_runs_leave_a_log(make_trainer):
    for steps, asked, expected in ((2, 50, 1), (300, 50, 30), (900, 50, 50), (300, 7, 7)):
        trainer = make_trainer(max_steps=steps, logging_steps=asked)
        log_short_runs(trainer)
        assert trainer.args.logging_steps == expected
    trainer = make_trainer(max_steps=-1, num_train_epochs=20.0, logging_steps=50)  # 12 images in batches of 4
    log_short_runs(trainer)
    assert trainer.args.logging_steps == 6


def test_a_shell_completes_the_public_names():
    assert set(lrsegformer.__all__) <= set(dir(lrsegformer))
