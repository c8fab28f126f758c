"""An exponential moving average of the weights: what a run evaluates and saves, while it trains the raw ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from transformers import TrainerCallback

from lrsegformer._compat_trainer import WholeCheckpointMixin
from lrsegformer.errors import InputError

# Of a checkpoint, whose model is the average: the weights from which training goes on.
RAW_WEIGHTS_FILE = "raw_weights.safetensors"
_SETTLED = (torch.float32, torch.float64)


def decay_at(step: int, decay: float) -> float:
    """
    The decay of the average at the end of a step, counted from 1: smaller at first, so that the weights that a run
    starts from are soon forgotten (after 20 steps their share is below one in a million).
    """
    return min(decay, (1 + step) / (10 + step))


def averaged_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """
    What is averaged, by name: the parameters that are trained, and the running statistics of BatchNorm, which belong
    to the weights they were taken with and follow them to first order.

    Raises:
        [`~lrsegformer.errors.InputError`]: one is of a precision in which the small steps of an average are lost.
    """
    tensors = {name: each.detach() for name, each in model.named_parameters() if each.requires_grad}
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats:
            prefix = f"{name}." if name else ""
            tensors[f"{prefix}running_mean"] = module.running_mean
            tensors[f"{prefix}running_var"] = module.running_var
    for name, each in tensors.items():
        if each.dtype not in _SETTLED:
            kind = str(each.dtype).removeprefix("torch.")
            raise InputError(
                f"--average_weights: {name} is trained in {kind}, whose rounding swallows the steps of an average; "
                "load the model in float32 (--bf16 computes in bfloat16 and keeps such weights)."
            )
    return tensors


def check_averaging(checkpoint: str | Path, decay: float | None) -> None:
    """
    Refuse to go on from a checkpoint whose weights were not averaged as this run's are.

    Raises:
        [`~lrsegformer.errors.InputError`]: one has an average and the other none, or their decays differ.
    """
    file = Path(checkpoint) / RAW_WEIGHTS_FILE
    remedy = "give the options of its run (its run.yaml has them)."
    if not file.is_file():
        if decay is not None:
            raise InputError(
                f"--average_weights {decay:g}: the checkpoint {checkpoint} has no {RAW_WEIGHTS_FILE}, as its run "
                f"averaged no weights: {remedy}"
            )
        return
    if decay is None:
        raise InputError(
            f"the checkpoint {checkpoint} is of a run with --average_weights, and this run averages none: {remedy}"
        )
    with _opened(file) as tensors:
        before = (tensors.metadata() or {}).get("decay")
    if before != repr(decay):
        raise InputError(f"--average_weights {decay:g}: the run of the checkpoint {checkpoint} has {before}: {remedy}")


def average_in_words(decay: float | None) -> str | None:
    """How a run's weights were averaged; `None` where they are the raw ones."""
    return None if decay is None else f"exponential moving average with decay {decay:g}"


class WeightAverage(TrainerCallback):
    """
    The average of a run: begun where training begins, moved at the end of each step, put into the model at the end.

    Every process does the same with the same numbers, so that several need not speak to each other.

    Args:
        trainer: whose weights are averaged.
        decay (`float`): the share of the average that a step keeps, after the first ones ([`decay_at`]).
    """

    def __init__(self, trainer: Any, decay: float):
        self._trainer, self._decay = trainer, decay
        self._raw: dict[str, torch.Tensor] = {}
        self._average: dict[str, torch.Tensor] = {}
        self._is_in_place = False
        self.checkpoint: str | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        self._raw = averaged_tensors(self._trainer.accelerator.unwrap_model(self._trainer.model))
        self._average = {name: each.clone() for name, each in self._raw.items()}
        if self.checkpoint is not None:
            self._load_raw(Path(self.checkpoint))

    def on_step_end(self, args, state, control, **kwargs):
        move = get_ema_multi_avg_fn(decay_at(state.global_step, self._decay))
        move(list(self._average.values()), list(self._raw.values()), None)

    def on_train_end(self, args, state, control, **kwargs):
        # The best checkpoint's model, where it has been loaded, is an average already.
        if not (args.load_best_model_at_end and state.best_model_checkpoint):
            _copy(self._average, self._raw)
        self._raw, self._average = {}, {}

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model holds the average for a while; outside of training it does already."""
        if self._is_in_place or not self._average:
            yield
            return
        kept = {name: each.clone() for name, each in self._raw.items()}
        self._is_in_place = True
        _copy(self._average, self._raw)
        try:
            yield
        finally:
            _copy(kept, self._raw)
            self._is_in_place = False

    def save_raw(self, folder: Path) -> None:
        """Write [`RAW_WEIGHTS_FILE`] into a checkpoint."""
        tensors = {name: each.contiguous() for name, each in self._raw.items()}
        save_file(tensors, folder / RAW_WEIGHTS_FILE, metadata={"decay": repr(self._decay)})

    def _load_raw(self, checkpoint: Path) -> None:
        with _opened(checkpoint / RAW_WEIGHTS_FILE) as tensors:
            differs = set(tensors.keys()).symmetric_difference(self._raw)
            if differs:
                raise InputError(
                    f"{checkpoint / RAW_WEIGHTS_FILE} has other tensors than are trained here, {min(differs)} among "
                    "them: give the options of its run, or another checkpoint."
                )
            _copy({name: tensors.get_tensor(name) for name in self._raw}, self._raw)


class AveragedWeightsMixin(WholeCheckpointMixin):
    """
    For Trainer subclasses whose arguments have `average_weights`: with it, evaluation and prediction are of the
    average ([`WeightAverage`]), which the model holds once training is over, and checkpoints keep the raw weights
    besides. What else is to be of the average, the files of the model above all, a subclass does inside of
    [`with_average`].
    """

    _weight_average: WeightAverage | None = None

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.args.average_weights is None:
            return
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise InputError("--average_weights needs a whole model on each device: leave out FSDP and DeepSpeed.")
        self._weight_average = WeightAverage(self, self.args.average_weights)
        self.add_callback(self._weight_average)

    def train(self, resume_from_checkpoint: str | None = None, *args, **kwargs) -> Any:
        """Train, or go on from a checkpoint of a run that averaged in the same way."""
        if resume_from_checkpoint:
            check_averaging(resume_from_checkpoint, self.args.average_weights)
        if self._weight_average is not None:
            self._weight_average.checkpoint = resume_from_checkpoint or None
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def with_average(self) -> Any:
        """A context in which the model holds what is evaluated and saved of it."""
        return nullcontext() if self._weight_average is None else self._weight_average.in_place()

    def evaluation_loop(self, *args, **kwargs) -> Any:
        """Evaluate or predict; see [`~transformers.Trainer.evaluation_loop`]."""
        with self.with_average():
            return super().evaluation_loop(*args, **kwargs)

    def save_own_files(self, folder: Path) -> None:
        """See [`~lrsegformer._compat_trainer.WholeCheckpointMixin`]."""
        super().save_own_files(folder)
        if self._weight_average is not None and self.args.should_save and not self.args.save_only_model:
            self._weight_average.save_raw(folder)


def _copy(source: dict[str, torch.Tensor], target: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in target.items():
            tensor.copy_(source[name])


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        with safe_open(file, framework="pt") as tensors:
            yield tensors
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file} cannot be read ({error}): give another checkpoint.") from None
