"""Evaluation: exact scores at the labels' own size, in memory that does not grow."""

import math

import numpy as np
import pytest
import torch

from lrsegformer import LRSegformerTrainer
from lrsegformer.data.dataset import collate

CLASSES = 11


class Photographs(torch.utils.data.Dataset):
    """Images of 32 x 64 with annotations of another size each; some pixels are void, some classes absent."""

    sizes = ((48, 80), (31, 97), (64, 64))

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        labels = torch.randint(0, 6, self.sizes[index], generator=generator, dtype=torch.uint8)
        labels[: 5 * index + 1] = 255
        return {"pixel_values": torch.randn(3, 32, 64, generator=generator), "labels": labels}


def scores_by_hand(model, dataset):
    """mIoU, mean accuracy and overall accuracy from loops over the classes, float64."""
    truths, answers = [], []
    for item in dataset:
        with torch.no_grad():
            logits = model(pixel_values=item["pixel_values"][None]).logits
        logits = torch.nn.functional.interpolate(logits, size=item["labels"].shape, mode="bilinear")
        valid = item["labels"] != 255
        truths.append(item["labels"][valid].numpy())
        answers.append(logits.argmax(dim=1)[0][valid].numpy())
    truth, answer = np.concatenate(truths), np.concatenate(answers)
    ious, accuracies = [], []
    for label in range(CLASSES):
        both, either = ((truth == label) & (answer == label)).sum(), ((truth == label) | (answer == label)).sum()
        if either:
            ious.append(both / either)
        if (truth == label).any():
            accuracies.append(both / (truth == label).sum())
    return {
        "eval_mean_iou": np.mean(ious),
        "eval_mean_accuracy": np.mean(accuracies),
        "eval_overall_accuracy": (truth == answer).mean(),
    }


def varied(model):
    """Larger weights, so that an untrained model answers with more than one class."""
    with torch.no_grad():
        model.decode_head.classifier.weight.normal_(0, 1.0)
    model.decode_head.classifier.start_from_weight()
    return model


def test_segmentation_is_scored_at_the_size_of_the_annotation(make_trainer, make_model):
    model = varied(make_model())
    trainer = make_trainer(model=model, eval_dataset=Photographs(), per_device_eval_batch_size=1)
    scores = trainer.evaluate()
    expected = scores_by_hand(model.eval(), Photographs())
    assert {name: scores[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    assert len(scores["eval_per_category_iou"]) == CLASSES == len(scores["eval_per_category_accuracy"])
    for name in ("accuracy", "precision", "recall", "f1", "matthews_correlation", "loss", "loss_task"):
        assert math.isfinite(scores[f"eval_{name}"])
    assert trainer.evaluate()["eval_mean_iou"] == scores["eval_mean_iou"], "a second evaluation starts anew"
    other = trainer.evaluate(metric_key_prefix="test")
    assert other["test_mean_iou"] == scores["eval_mean_iou"] and "test_loss_task" in other


def test_classification_is_scored_over_the_whole_set(make_trainer, digits):
    trainer = make_trainer("classification", per_device_eval_batch_size=2)
    scores = trainer.evaluate()
    dataset = digits("classification").validation
    with torch.no_grad():
        answers = [trainer.model(item["pixel_values"][None]).logits.argmax().item() for item in dataset]
    right = [answer == item["labels"] for answer, item in zip(answers, dataset, strict=True)]
    assert scores["eval_accuracy"] == sum(right) / len(right)


def perfect(model, task):
    """The model, answering with the labels."""
    forward = type(model).forward

    def answer(pixel_values, labels=None, **kwargs):
        output = forward(model, pixel_values, labels=labels, **kwargs)
        shown = torch.where(labels.long() == 255, 0, labels.long())
        one_hot = torch.nn.functional.one_hot(shown, model.config.num_labels).float()
        output.logits = one_hot if task == "classification" else one_hot.permute(0, 3, 1, 2)
        return output

    model.forward = answer
    return model


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_a_perfect_model_scores_exactly_one(make_trainer, make_model, task):
    dataset = Photographs() if task == "segmentation" else None
    trainer = make_trainer(task, model=perfect(make_model(task), task), eval_dataset=dataset)
    trainer.args.per_device_eval_batch_size = 1
    scores = trainer.evaluate()
    names = ("accuracy", "precision", "recall", "f1", "matthews_correlation")
    names += ("mean_iou", "mean_accuracy", "overall_accuracy") if task == "segmentation" else ()
    assert {name: scores[f"eval_{name}"] for name in names} == dict.fromkeys(names, 1.0)


class Watching(LRSegformerTrainer):
    """Notes the sizes of what each prediction step hands on."""

    def prediction_step(self, *args, **kwargs):
        result = super().prediction_step(*args, **kwargs)
        self.kept.append([tensor.numel() for tensor in result])
        return result


def test_evaluation_keeps_no_logits(make_trainer):
    trainer = make_trainer(trainer_class=Watching, eval_dataset=Photographs())
    trainer.kept = []
    trainer.evaluate()
    assert trainer.kept == [[1, CLASSES**2, 1]] * 3


def test_evaluation_during_training(make_trainer):
    trainer = make_trainer(eval_strategy="steps", eval_steps=1)
    trainer.train()
    logs = [log for log in trainer.state.log_history if "eval_loss" in log]
    assert [log["step"] for log in logs] == [1, 2]
    assert all("eval_mean_iou" in log and "eval_loss_task" in log for log in logs)
    # Trackers take numbers only.
    assert not any(isinstance(value, list) for log in logs for value in log.values())


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_predict_gives_logits_and_the_same_scores(make_trainer, digits, task):
    trainer = make_trainer(task)
    scores = trainer.evaluate()
    output = trainer.predict(digits(task).validation)
    logits = (3, CLASSES, 8, 8) if task == "segmentation" else (3, 10)
    assert output.predictions.shape == logits
    assert output.metrics["test_accuracy"] == scores["eval_accuracy"]


def test_own_metric_replaces_the_scores(make_model, make_arguments, digits):
    trainer = LRSegformerTrainer(
        model=make_model(),
        args=make_arguments(),
        eval_dataset=digits("segmentation").validation,
        data_collator=collate,
        compute_metrics=lambda prediction: {"side": prediction.predictions.shape[-1]},
    )
    scores = trainer.evaluate()
    assert scores["eval_side"] == 8 and "eval_mean_iou" not in scores
