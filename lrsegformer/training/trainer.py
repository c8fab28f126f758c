"""The Trainer: penalty, exact scaling of the loss, optimizer groups, bounded-memory scores."""

from collections.abc import Iterator
from inspect import signature
from typing import Any

import torch
from accelerate.utils import find_batch_size, slice_tensors
from torch.utils.data import DataLoader
from transformers import IntervalStrategy, Trainer
from transformers.utils import logging

from lrsegformer._compat import remove_autocast
from lrsegformer._compat_trainer import ShardedTrainingMixin, StrictCheckpointMixin
from lrsegformer.data.dataset import refuse_mute_workers
from lrsegformer.errors import InputError, NotFiniteError
from lrsegformer.hub.pushing import RunUploadMixin
from lrsegformer.losses import total_weight, valid_pixels
from lrsegformer.models.task import task_of
from lrsegformer.training.adversarial.batches import AdversarialBatchesMixin
from lrsegformer.training.averaging import AveragedWeightsMixin
from lrsegformer.training.data_workers import end_workers, settle_workers
from lrsegformer.training.finite import FiniteChecks, FiniteWeights, overflow_finder
from lrsegformer.training.jacobian_sampling import jacobian_sampling
from lrsegformer.training.loss_options import settle_model
from lrsegformer.training.loss_parts import LossParts
from lrsegformer.training.optimizer import recipe_groups
from lrsegformer.training.progress import EpochOfData
from lrsegformer.training.run.continuation import Continuation, checkpoint_of
from lrsegformer.training.scoring import RunningLoss, RunningScores, padded_rows
from lrsegformer.training.training_arguments import LRSegformerTrainingArguments

logger = logging.get_logger(__name__)


class LRSegformerTrainer(
    AdversarialBatchesMixin,
    AveragedWeightsMixin,
    RunUploadMixin,
    ShardedTrainingMixin,
    StrictCheckpointMixin,
    Trainer,
):
    """
    [`~transformers.Trainer`] for SegFormer, ours or stock, on both tasks.

    - `loss = loss_task + loss_lipschitz`, the second `lambda_lip` times the model's `lipschitz_penalty`; the log has
      all three, and the bounds that the constraint gives: `lipschitz/<layer>` of the head's layers, `lipschitz/head`,
      `lipschitz/network`, `lipschitz/encoder_largest` and `lipschitz/encoder_geometric_mean`.
    - The task loss is the mean over the valid pixels (segmentation) or samples (classification) of the whole batch of
      an optimizer step, over accumulation steps and processes. Loss and gradients do not depend on how that batch is
      split.
    - A penalty on the network's Jacobian is measured on a share of the images ([`JacobianSampling`]).
    - With `adversarial_steps`, training batches are perturbed first ([`AdversarialTraining`]); the log has its cost,
      and with `adversarial_loss="trades"` a third part of the loss, `loss_consistency`.
    - With `average_weights`, what is evaluated, saved and left in the model is an average ([`AveragedWeightsMixin`]).
    - Resuming and `load_best_model_at_end` restore every tensor or raise.
    - A push to the Hub sends model, processor, card, scores and pictures, and no name of a folder of this machine.
    - A loss, penalty, gradient, weight or logit that is not finite stops the run before a save ([`FiniteChecks`]).
    - The head and the constants `c` have learning rates of their own; norms and the constants do not decay.
    - Without an `eval_dataset` nothing is evaluated, unless the arguments ask for more than the recipe does.
    - Without `compute_metrics`, evaluation computes the scores of [`~lrsegformer.evaluation.ConfusionMatrix`] at the
      size of the labels, in constant memory.

    Args:
        model: [`LRSegformerForSemanticSegmentation`], [`LRSegformerForImageClassification`], or a stock SegFormer.
        args ([`LRSegformerTrainingArguments`]): recipe and weight of the penalty.
        kwargs: as of [`~transformers.Trainer`]. With a `compute_loss_func` the model gets no labels, and the loss of
            an evaluation is that function's alone.

    Raises:
        [`~lrsegformer.errors.InputError`]: for any other model; for `label_smoothing_factor` with a stock model for
            segmentation; for a constrained model under ZeRO stage 3; for adversarial training of a sharded model, or
            of images whose normalisation is not known; for worker processes that could not hand over batches.
    """

    # compute_loss normalises over the whole accumulated batch.
    loss_is_scaled_for_ga = True
    args: LRSegformerTrainingArguments

    def __init__(self, model: Any = None, args: LRSegformerTrainingArguments | None = None, *others, **named):
        args = LRSegformerTrainingArguments() if args is None else args
        if not isinstance(args, LRSegformerTrainingArguments):
            raise InputError(
                f"args is a {type(args).__name__}: give LRSegformerTrainingArguments, which has the same options and "
                "those of the penalty."
            )
        refuse_mute_workers(args.dataloader_num_workers)
        given = signature(Trainer.__init__).bind(self, model, args, *others, **named).arguments
        if given.get("eval_dataset") is None and args.evaluates_by_recipe():
            args.eval_strategy = IntervalStrategy.NO
        super().__init__(model, args, *others, **named)
        self._scores = None
        if self.compute_metrics is None:
            self._scores = self.compute_metrics = RunningScores.for_model(self.model)
            args.batch_eval_metrics = True
        # A stock model takes **kwargs, which the Trainer reads as "normalises its loss itself" (transformers#47688).
        self.model_accepts_loss_kwargs = False
        self._segments = task_of(self.model) == "segmentation"
        settle_model(self.accelerator.unwrap_model(self.model), args)
        if self._segments:
            self.label_smoother = None
        elif self.label_smoother is not None and getattr(self.model.config, "semantic_loss_class_weights", None):
            raise InputError(
                "--class_weights with --label_smoothing_factor: classification has one of them, leave the other out."
            )
        self._adversary = self._adversarial_training()
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        unwrapped = self.accelerator.unwrap_model(self.model)
        self._jacobian_sampling = jacobian_sampling(unwrapped, args.jacobian_share, self._gathered, sharded)
        self._scoring = False
        self._ignore_index = getattr(self.model.config, "semantic_loss_ignore_index", 255)
        self._finite = FiniteChecks(args, at_once=args.device.type == "cpu")
        self._parts = LossParts()
        self._losses: RunningLoss | None = None
        self.add_callback(EpochOfData())
        self._continuation = Continuation(self)
        self.add_callback(FiniteWeights(lambda: self._finite, lambda: self._continuation.checkpoint))
        self.add_callback(self._continuation)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args, **kwargs):
        """
        Train, or continue, by `True` from the newest whole checkpoint (`InputError` where there is none); see
        [`~transformers.Trainer.train`].
        """
        self._parts.reset()
        self._continuation.checkpoint = checkpoint_of(self.args, resume_from_checkpoint)
        try:
            with self._continuation.without_evaluation_at_start():
                return super().train(self._continuation.checkpoint, *args, **kwargs)
        finally:
            for loader in (self.callback_handler.train_dataloader, *getattr(self, "_eval_dataloaders", {}).values()):
                end_workers(loader)

    def own_sums(self) -> dict[str, Any]:
        """Of the next line of the log; see [`~lrsegformer._compat_trainer.WholeCheckpointMixin`]."""
        return {"parts": self._parts.state(), "attack": self._adversary.state() if self._adversary else None}

    def load_own_sums(self, sums: dict[str, Any]) -> None:
        self._parts.load(sums["parts"])
        if self._adversary and sums["attack"]:
            self._adversary.load(sums["attack"])

    def call_model_init(self, trial: Any = None) -> torch.nn.Module:
        """A fresh model for a run, or for a trial of a search; see [`~transformers.Trainer.call_model_init`]."""
        model = super().call_model_init(trial)
        settle_model(model, self.args)
        return model

    def get_train_dataloader(self) -> DataLoader:
        """The training batches; see [`~transformers.Trainer.get_train_dataloader`]."""
        return settle_workers(super().get_train_dataloader())

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """The validation batches; see [`~transformers.Trainer.get_eval_dataloader`]."""
        return settle_workers(super().get_eval_dataloader(eval_dataset))

    # ---- loss ----

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, torch.Tensor | None]:
        """The batches of one optimizer step, and what they hold over all processes: (valid labels, samples)."""
        batch_samples, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._parts.steps += 1
        if self._jacobian_sampling is not None:
            batch_samples = self._jacobian_sampling.add_to(batch_samples, self.state.global_step, device)
        counts = [self._count(batch["labels"]) for batch in batch_samples if "labels" in batch]
        if not counts:
            return batch_samples, None
        return batch_samples, self.accelerator.reduce(torch.stack(counts).sum(dim=0).to(device), reduction="sum")

    def _gathered(self, values: torch.Tensor, filling: int) -> torch.Tensor:
        return self.accelerator.gather(self.accelerator.pad_across_processes(values, pad_index=filling))

    def training_step(self, model: torch.nn.Module, *args, **kwargs) -> torch.Tensor:
        """Forward and backward pass of a batch; see [`~transformers.Trainer.training_step`]."""
        loss = super().training_step(model, *args, **kwargs)
        # Scaled float16 gradients overflow as a matter of course: that step is left out and the scale lowered.
        if self.accelerator.sync_gradients and self.accelerator.scaler is None:
            self._finite.see_gradients(self.state.global_step + 1, self.accelerator.unwrap_model(model))
        return loss

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """
        Task loss plus `lambda_lip` times the penalty.

        In training both are multiplied by this forward pass's share of the optimizer step's batch, so that the sum
        over accumulation steps, averaged over processes, is the loss of the whole batch.
        """
        if "labels" in inputs:  # Stock models take no bytes, which masks are.
            whole = not inputs["labels"].is_floating_point()
            inputs = {**inputs, "labels": inputs["labels"].long() if whole else inputs["labels"]}
        inputs, outputs, consistency = self.adversarial_outputs(model, inputs)
        task_loss = self.task_loss(outputs, inputs, num_items_in_batch)
        penalty = outputs.get("lipschitz_penalty")
        penalty = task_loss.new_zeros(()) if penalty is None else penalty
        if model.training:
            valid_share, sample_share = self._shares(inputs, num_items_in_batch)
            if consistency is not None:
                consistency = consistency * (valid_share * self.args.trades_beta)
            if self.compute_loss_func is not None:
                valid_share = self.accelerator.num_processes  # It has divided by the items of the whole batch itself.
            task_loss, weighted = task_loss * valid_share, penalty * (sample_share * self.args.lambda_lip)
            self._parts.add(task_loss, weighted, consistency)
        else:
            weighted = penalty * self.args.lambda_lip
            if self._losses is not None and "labels" in inputs:
                self._losses.add(task_loss, self._count(inputs["labels"])[0], weighted)
        step = self.state.global_step + model.training
        find = overflow_finder(self.accelerator, model, inputs)
        self._finite.see_losses(step, model.training, outputs["logits"], task_loss, weighted, consistency, find)
        loss = task_loss + weighted if consistency is None else task_loss + weighted + consistency
        return (loss, outputs) if return_outputs else loss

    def task_loss(
        self, outputs: Any, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | None = None
    ) -> torch.Tensor:
        """
        The loss without the penalty, the mean over what counts in this batch; smoothed where that is asked for.

        A `compute_loss_func` takes its place: called with the outputs, the labels, and as `num_items_in_batch` the
        number of labels that count (pixels or samples) in the optimizer step's whole batch, or in this one where it is
        all there is, by which it has to divide.
        """
        labels = inputs.get("labels")
        if self.compute_loss_func is not None:
            totals = num_items_in_batch
            if totals is None and labels is not None:
                totals = self._count(labels)
            # From the stock evaluation the number comes alone.
            items = totals[0] if torch.is_tensor(totals) and totals.ndim else totals
            return self.compute_loss_func(outputs, labels, num_items_in_batch=items)
        if outputs.get("loss") is None:
            raise ValueError(
                f"The model did not return a loss from the inputs {', '.join(inputs)}: the data collator has to give "
                "`labels`."
            )
        return outputs["loss"] if self.label_smoother is None else self.label_smoother(outputs, labels)

    def _outputs(self, model: torch.nn.Module, inputs: dict[str, Any]) -> Any:
        if self.compute_loss_func is not None:  # The model need not compute a loss of its own.
            inputs = {name: value for name, value in inputs.items() if name != "labels"}
        return model(**{"return_dict": True, **inputs})

    def _count(self, labels: torch.Tensor) -> torch.Tensor:
        """What a batch's task loss is divided by (valid pixels, weighted by class, or samples), and its samples."""
        samples = torch.tensor(labels.shape[0], dtype=torch.float64, device=labels.device)
        weights = self._class_weights()
        if not self._segments:
            return torch.stack([samples if weights is None else total_weight(labels, labels >= 0, weights), samples])
        valid = valid_pixels(labels, self._ignore_index)
        return torch.stack([total_weight(labels, valid, weights), samples])

    def _class_weights(self) -> list[float] | None:
        config = self.accelerator.unwrap_model(self.model).config
        return getattr(config, "semantic_loss_class_weights", None) if self.compute_loss_func is None else None

    def _shares(self, inputs: dict[str, Any], totals: torch.Tensor | None) -> tuple[torch.Tensor | float, ...]:
        """This forward pass's share of the valid labels and of the samples, times the number of processes."""
        if totals is None:
            return 1.0, 1.0
        counts = self._count(inputs["labels"])
        self._parts.see_valid(counts[0])
        shares = counts / totals.clamp_min(torch.finfo(torch.float32).tiny) * self.accelerator.num_processes
        return shares[0].float(), shares[1].float()

    # ---- log ----

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """
        Add `loss_task`, `loss_lipschitz` and the layers' bounds to a training log, with one gather a log line.

        Lists (the scores of each class) stay in what [`evaluate`] returns: trackers take numbers alone.
        """
        self._finite.check()
        if self.accelerator.scaler is not None:
            self._finite.check_loss_scale(self.state.global_step, self.accelerator.scaler.get_scale())
        if "loss" in logs:
            logs.update(self._training_parts())
        lists = {name: logs.pop(name) for name in list(logs) if isinstance(logs[name], list)}
        super().log(logs, start_time)  # In place: the epoch that it adds is part of what train and evaluate return.
        logs.update(lists)

    def log_metrics(self, split: str, metrics: dict[str, Any]) -> None:
        """Print the scores, but for the lists of each class; see [`~transformers.Trainer.log_metrics`]."""
        super().log_metrics(split, {name: value for name, value in metrics.items() if not isinstance(value, list)})

    def _training_parts(self) -> dict[str, float]:
        attack = {} if self._adversary is None else self._adversary.cost(max(self._parts.steps, 1))
        task, penalty, consistency, any_void = self._parts.means(self.accelerator.gather, self.args.device)
        self._parts.reset()
        if any_void:
            logger.warning("Every label was the ignore label in at least one batch; its loss counts as 0.")
        parts = {"loss_task": task, "loss_lipschitz": penalty}
        if self._adversary is not None and self._adversary.is_consistency:
            parts["loss_consistency"] = consistency
        return {**parts, **attack, **self._layer_bounds()}

    def _layer_bounds(self) -> dict[str, float]:
        model = self.accelerator.unwrap_model(self.model)
        if self.is_fsdp_enabled or self.is_deepspeed_enabled or not hasattr(model, "bounds_to_log"):
            return {}
        with self.with_average():
            return {f"lipschitz/{name}": bound for name, bound in model.bounds_to_log().items()}

    # ---- evaluation ----

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        """Scores of the whole data set, from one confusion matrix; see [`~transformers.Trainer.evaluate`]."""
        preprocess = self.preprocess_logits_for_metrics
        if self._scores is not None:  # Counts leave the device, not logits.
            self._scoring, self.preprocess_logits_for_metrics = True, None
        try:
            return super().evaluate(*args, **kwargs)
        finally:
            self._scoring, self.preprocess_logits_for_metrics = False, preprocess

    def evaluate_as_saved(self) -> dict[str, float]:
        """
        [`evaluate`] in the precision of the weights: without autocast, which training has with `bf16` or `fp16`, and
        without a cast of the model. Who loads the saved model gets these scores. Training cannot go on after it.
        """
        self.make_whole()
        remove_autocast(self.accelerator.unwrap_model(self.model))
        self.args.bf16_full_eval = self.args.fp16_full_eval = False
        return self.evaluate()

    def evaluation_loop(self, dataloader: DataLoader, *args, metric_key_prefix: str = "eval", **kwargs):
        if self._scores is not None:
            self._scores.reset()
        self._losses = losses = RunningLoss(self.accelerator)
        try:
            output = super().evaluation_loop(dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs)
        except NotFiniteError:
            self._finite.check()  # It knows the step and the remedies.
            raise
        finally:
            self._losses = None
            if not self.is_in_train:
                end_workers(dataloader)
        self._finite.check()
        if f"{metric_key_prefix}_loss" in output.metrics:  # Of transformers: the mean of the batches' means.
            task, penalty = losses.parts()
            parts = {"loss": task + penalty, "loss_task": task, "loss_lipschitz": penalty}
            output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in parts.items()})
        return output

    def prediction_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor | None, Any, Any]:
        """
        During [`evaluate`], logits and labels become counts a sample, which is all that leaves the device. Samples
        that fill up the last batch of several processes are left out.
        """
        rows = find_batch_size(inputs)
        if self._losses is not None and rows:
            inputs = slice_tensors(inputs, slice(0, self._losses.begin_batch(rows)))
        if not self._scoring or prediction_loss_only or inputs.get("labels") is None:
            if ignore_keys is None:
                ignore_keys = getattr(self.model.config, "keys_to_ignore_at_inference", None) or []
            ignore_keys = [*ignore_keys, "lipschitz_penalty"]
            loss, *others = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys=ignore_keys)
        else:
            inputs = self._prepare_inputs(inputs)
            with torch.no_grad(), self.compute_loss_context_manager():
                loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
            loss, others = loss.detach(), self._scores.of_batch(outputs["logits"], inputs["labels"])
        return loss, *(None if each is None else padded_rows(each, rows) for each in others)

    # ---- files ----

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model, unless it holds what is not finite; see [`~transformers.Trainer.save_model`]."""
        with self.with_average():
            self._finite.check_weights(self.state.global_step, self.accelerator.unwrap_model(self.model))
            super().save_model(output_dir, _internal_call)

    # ---- optimizer ----

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """The optimizer of `args`, over the groups of SegFormer's recipe ([`recipe_groups`])."""
        if self.optimizer is None:
            model = self.model if model is None else model
            optimizer_class, options = self.optimizer_cls_and_kwargs or self.get_optimizer_cls_and_kwargs(
                self.args, model
            )
            if not issubclass(optimizer_class, torch.optim.Optimizer) or "params" in options or "model" in options:
                return super().create_optimizer(model)  # Makes groups of its own kind.
            self.optimizer = optimizer_class(recipe_groups(model, self.args, options), **options)
        return self.optimizer
