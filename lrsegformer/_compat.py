"""
Every place where the package touches internals of transformers, accelerate and peft, each with the upstream issue that
makes it necessary.

Each has a test in `tests/test_compat.py` that fails when the workaround is no longer needed.
"""

import copy
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)
from transformers.models.auto import modeling_auto

from lrsegformer.errors import InputError, NotFiniteError
from lrsegformer.writing import disk_failure, put_in_place, write_whole

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

ARGUMENTS_FILE = "training_args.bin"


def register_key_renaming(class_name: str, stock_class_name: str) -> None:
    """
    Give a subclass the checkpoint key renaming of its stock parent.

    transformers 5 keeps the old key names of SegFormer in files and finds the renaming by the name of the class, so
    that a subclass silently loses the pretrained decode head (huggingface/transformers#46876).
    """
    mapping = get_checkpoint_conversion_mapping(stock_class_name)
    if mapping is not None:
        register_checkpoint_conversion_mapping(class_name, mapping, overwrite=True)


def register_pipeline_names(
    model_type: str, backbone_class: str, segmentation_class: str, classification_class: str
) -> None:
    """
    Name the model classes in the tables that pipelines read.

    `pipeline("image-segmentation")` copies a static table and never looks at `AutoModel.register`, so that a
    registered model works but logs an error that it is not supported (huggingface/transformers#25453 is the nearest
    report).
    """
    modeling_auto.MODEL_MAPPING_NAMES[model_type] = backbone_class
    modeling_auto.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES[model_type] = segmentation_class
    modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES[model_type] = classification_class


def load_checkpoint_strictly(model: "PreTrainedModel", folder: str | Path) -> None:
    """
    Load the weights saved in `folder` into `model`, every tensor, or raise.

    The Trainer of transformers 5.23 loads checkpoints with `load_state_dict(strict=False)` and without the key
    renaming that the file was saved with, so that 116 of 124 tensors of a SegFormer stay as they were (no upstream
    issue found; the renaming is huggingface/transformers#46876). `from_pretrained` renames, so the weights go through
    it.
    """
    # The class by its name, which finds the renaming, but with every key counted: a missing constant is missing, too.
    strict_class = type(type(model).__name__, (type(model),), {"_keys_to_ignore_on_load_missing": None})
    loaded, info = strict_class.from_pretrained(
        folder, config=model.config, dtype=model.dtype, output_loading_info=True, local_files_only=True
    )
    missing, unexpected = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    if missing or unexpected:
        raise InputError(
            f"The checkpoint {folder} does not fit the model: missing {missing or 'nothing'}, "
            f"unexpected {unexpected or 'nothing'}."
        )
    tensors = loaded.state_dict()
    wrong = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if wrong:
        raise NotFiniteError(
            f"The checkpoint {folder} holds values that are not finite (in {wrong[0]}): go on from an earlier one."
        )
    model.load_state_dict(tensors, strict=True)


def remove_autocast(model: "torch.nn.Module") -> None:
    """
    Give a model its own forward back, which `Accelerator.prepare_model` has wrapped in autocast.

    accelerate 1.15's `unwrap_model(keep_fp32_wrapper=False)` looks for the own forward by comparing functions with a
    bound method, does not find it, and takes the decorators of the own forward off as well: hidden states are no
    longer handed out (we found no upstream issue).
    """
    own_forward = model.__dict__.pop("_original_forward", None)
    if own_forward is not None:
        del model.forward
        if model.forward != own_forward:
            model.forward = own_forward


class _Uploads:
    """A Hub client whose uploads of a run's folder leave files out."""

    def __init__(self, api: Any, run: str, left_out: Callable[[], list[str]]):
        self._api, self._run, self._left_out = api, run, left_out

    def __getattr__(self, name: str) -> Any:
        return getattr(self._api, name)

    def upload_folder(self, *, folder_path: str, ignore_patterns: Sequence[str] = (), **options: Any) -> Any:
        # A checkpoint is uploaded by itself, where it was asked for.
        left_out = self._left_out() if folder_path == self._run else [ARGUMENTS_FILE]
        return self._api.upload_folder(
            folder_path=folder_path, ignore_patterns=[*ignore_patterns, *left_out], **options
        )


class CleanUploadMixin:
    """
    For Trainer subclasses: what goes to the Hub leaves out the names that [`files_left_out`] gives.

    The Trainer of transformers 5.23 uploads its whole folder and has no option for it: reports and logs in folders of
    their own, and files that name the folders of this machine, `training_args.bin` among them, which is a pickle and
    holds the token that `--hub_token` was given besides (no upstream issue found).
    """

    def files_left_out(self) -> list[str]:
        """Patterns of files in the run's folder that are not uploaded, beyond those that the Trainer leaves out."""
        return [ARGUMENTS_FILE]

    def push_to_hub(self, *args, **kwargs) -> Any:
        """Upload the run's folder; see [`~transformers.Trainer.push_to_hub`]."""
        with self._clean_uploads():
            return super().push_to_hub(*args, **kwargs)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        with self._clean_uploads():
            super()._push_from_checkpoint(checkpoint_folder)

    @contextmanager
    def _clean_uploads(self) -> Iterator[None]:
        from transformers import trainer as trainer_module  # not for those who train nothing

        make = trainer_module.hf_api
        trainer_module.hf_api = lambda: _Uploads(make(), self.args.output_dir, self.files_left_out)
        try:
            yield
        finally:
            trainer_module.hf_api = make


class ShardedTrainingMixin:
    """
    For Trainer subclasses: FSDP2 trains models with scalar parameters and without an input embedding.

    - accelerate 1.15 asks every model for its input embedding, to shard it by itself, and transformers 5.23 raises
      `NotImplementedError` for SegFormer, which has none, stock or ours (no upstream issue found).
    - `fully_shard` of torch 2.13 refuses parameters without dimensions, as the learned constants are (it asks for a
      shape of 1, which files of such models do not have). They stay whole on each process, and their gradients are
      averaged here.
    - What a sharded model is asked, every process has to ask; one process scores, saves and draws by a whole copy.
    """

    _scalars: nn.ParameterList | None = None

    def _wrap_model(self, model: nn.Module, *args, **kwargs) -> nn.Module:
        if self.is_fsdp_enabled and self._scalars is None:
            own = self.accelerator.unwrap_model(model)
            own.get_input_embeddings = _no_embedding
            self._scalars = nn.ParameterList(each for each in own.parameters() if each.ndim == 0)
            for each in self._scalars:  # Nothing else moves what is not sharded.
                each.data = each.data.to(self.args.device)
            self.accelerator.state.fsdp_plugin.ignored_modules = [self._scalars]
        return super()._wrap_model(model, *args, **kwargs)

    def training_step(self, *args, **kwargs) -> "torch.Tensor":
        """Forward and backward pass of a batch; see [`~transformers.Trainer.training_step`]."""
        loss = super().training_step(*args, **kwargs)
        if self._scalars and self.accelerator.sync_gradients:
            for each in self._scalars:
                if each.grad is not None:
                    each.grad = self.accelerator.reduce(each.grad, reduction="mean")
        return loss

    def make_whole(self) -> None:
        """Of a model that FSDP2 has sharded, put a whole copy on each process in its place; training is over then."""
        if not self.is_fsdp_enabled:
            return
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        state = get_model_state_dict(self.model, options=StateDictOptions(full_state_dict=True))
        original = type(self.model).__mro__[2]  # FSDP2 makes a class of FSDPModule and the model's own.
        whole = original(self.model.config)
        whole.load_state_dict(state, strict=True)
        self.model = self.model_wrapped = whole.to(self.args.device)


def _no_embedding() -> None:
    """What a model that is sharded answers when it is asked for its input embedding."""


class StrictCheckpointMixin:
    """
    For Trainer subclasses: resuming and restoring the best model load every tensor ([`load_checkpoint_strictly`]).

    Sharded (FSDP, DeepSpeed) and adapter (PEFT) checkpoints go the Trainer's own way: they are not renamed.
    """

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self._loads_plain_weights(resume_from_checkpoint):
            load_checkpoint_strictly(self.accelerator.unwrap_model(self.model), resume_from_checkpoint)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        folder = self.state.best_model_checkpoint
        if self._loads_plain_weights(folder):
            load_checkpoint_strictly(self.accelerator.unwrap_model(self.model), folder)
        else:
            super()._load_best_model()

    def _loads_plain_weights(self, folder: str | Path) -> bool:
        weight_files = ("model.safetensors", "model.safetensors.index.json")
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        return not sharded and any((Path(folder) / name).is_file() for name in weight_files)


def sums_file(process: int) -> str:
    """The file of a checkpoint that holds a process's sums of what the next line of the log will say."""
    return f"running_sums_{process}.json"


class WholeCheckpointMixin:
    """
    For Trainer subclasses: a checkpoint has its name only once all of it is on the disk, and a run goes on from it as
    if it had not been stopped.

    The Trainer of transformers 5.23 writes into `checkpoint-N` itself, so that a kill leaves half of one under the
    name of a whole one. What it does not save are the sums of losses since the last line of the log, which is then
    wrong, and what was due after the step of the checkpoint; from the checkpoint of the last step in the middle of an
    epoch it trains one step too many (no upstream issue found).
    """

    UNFINISHED = "unfinished"
    # Whether the steps of an epoch are over, but not what is done at its end; whose Trainer calls it, sets it.
    epoch_is_open = False
    _saves_aside = False
    _began = 0.0
    _last_step: tuple[float | None, float | None] = (None, None)

    def own_sums(self) -> dict[str, Any]:
        """What a subclass sums itself up for the next line of the log, as JSON takes it."""
        return {}

    def load_own_sums(self, sums: dict[str, Any]) -> None:
        """Go on from what [`own_sums`] gave."""

    def go_on(self, folder: str | Path | None, control: Any) -> None:
        """
        To be called when training begins: take the sums of the checkpoint `folder` up, do what was still due after
        its step, and stop where its run had come to its end. Nothing but a clock is set where `folder` is `None`.
        """
        self._began = time.time()
        file = None if folder is None else Path(folder) / sums_file(self.args.process_index)
        if file is None or not file.is_file():
            control.should_training_stop = self.state.global_step >= self.state.max_steps
            return
        sums = json.loads(file.read_text(encoding="utf-8"))
        self._began -= sums["seconds"]
        if sums["world_size"] == self.args.world_size:
            self._tr_loss += sums["loss"]
            self._total_loss_scalar = sums["loss_of_run"]
            self._globalstep_last_logged = sums["last_logged_step"]
            # The figures at the end are of the whole run.
            self._initial_global_step = 0
            self.load_own_sums(sums["own"])
        grad_norm, rate = sums["last_step"]
        due = self.state.stateful_callbacks.get("TrainerControl", {}).get("args", {})
        step_is_due = due.get("should_evaluate", False)
        if step_is_due:
            control.should_evaluate, control.should_save = True, due.get("should_save", False)
            self._log_and_save(grad_norm, rate)
        if sums["epoch_end_is_due"]:
            self.control = self.callback_handler.on_epoch_end(self.args, self.state, control)
            self._log_and_save(grad_norm, rate)
        control.should_training_stop |= sums["ended_early"] or self.state.global_step >= self.state.max_steps

    def save_now(self) -> None:
        """Save a checkpoint between two steps, whatever is due there; the run that goes on from it does that first."""
        self._save_checkpoint(self.model, None)

    def _log_and_save(self, grad_norm: float | None, rate: float | None) -> None:
        epoch = int(self.state.epoch or 0)
        others = (self.model, None, epoch, None, self._began)
        self._maybe_log_save_evaluate(self._tr_loss, grad_norm, *others, learning_rate=rate)

    def _maybe_log_save_evaluate(self, tr_loss, grad_norm, *others, learning_rate=None):
        self._last_step = (grad_norm, learning_rate)
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, *others, learning_rate=learning_rate)

    def _run_epoch(self, **named: Any) -> None:
        if not self.control.should_training_stop:
            super()._run_epoch(**named)

    def _finalize_training(self, trial: Any, num_train_samples: int, start_time: float) -> Any:
        return super()._finalize_training(trial, num_train_samples, self._began or start_time)

    def _running_sums(self) -> dict[str, Any]:
        grad_norm, rate = self._last_step
        ended = self.state.global_step >= self.state.max_steps
        return {
            "world_size": self.args.world_size,
            "loss": self._tr_loss.item(),
            "loss_of_run": self._total_loss_scalar,
            "last_logged_step": self._globalstep_last_logged,
            "seconds": time.time() - self._began,
            "last_step": [None if grad_norm is None else float(grad_norm), rate],
            "epoch_end_is_due": self.epoch_is_open and (ended or float(self.state.epoch or 0).is_integer()),
            "ended_early": self.control.should_training_stop and not ended,
            "own": self.own_sums(),
        }

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        from transformers.trainer_utils import rotate_checkpoints

        run = Path(self._get_output_dir(trial))
        aside = run / self.UNFINISHED / f"checkpoint-{self.state.global_step}"
        whole = run / aside.name
        self._saves_aside = True
        try:
            super()._save_checkpoint(model, trial)
            write_whole(aside / sums_file(self.args.process_index), json.dumps(self._running_sums()))
            self.accelerator.wait_for_everyone()
            if self.state.best_model_checkpoint == str(aside):
                self.state.best_model_checkpoint = str(whole)
            if self.args.should_save:
                self.state.save_to_json(str(aside / "trainer_state.json"))
                put_in_place(aside, whole)
            self.accelerator.wait_for_everyone()
        except Exception as error:
            reason = disk_failure(error) or (error.strerror if isinstance(error, OSError) else None)
            if reason is None:
                raise
            shutil.rmtree(run / self.UNFINISHED, ignore_errors=True)
            raise InputError(
                f"--output_dir {run}: the checkpoint of step {self.state.global_step} cannot be written ({reason}); "
                "make room, and the same command with --resume_from_checkpoint goes on from the last one, which is "
                "kept."
            ) from error
        finally:
            self._saves_aside = False
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(whole))
        if self.args.should_save:
            rotate_checkpoints(str(run), self.args.save_total_limit, self.state.best_model_checkpoint, use_mtime=True)

    def _get_output_dir(self, trial: Any) -> str:
        folder = super()._get_output_dir(trial)
        return os.path.join(folder, self.UNFINISHED) if self._saves_aside else folder

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if not self._saves_aside:  # An upload reads the folder while the run goes on: it must not move.
            super()._push_from_checkpoint(checkpoint_folder)


def active_module(module: nn.Module) -> nn.Module:
    """
    The module that a call of `module` goes to: itself, or where peft has wrapped it, the one of the active adapter.

    peft keeps the original beside the copy of each adapter, and walking the modules finds them all. A layer with an
    active adapter of low rank is returned as the wrapper that it is: no module of its own computes what it does
    ([`is_adapted`]). peft has no public way to ask (we found no upstream issue).
    """
    while _is_of_peft(module):
        if hasattr(module, "original_module"):  # modules_to_save
            saved, active = module.modules_to_save, module.active_adapters
            passes = module.disable_adapters or not active or any(name not in saved for name in active)
            module = module.original_module if passes else saved[active[0]]
        elif hasattr(module, "base_layer") and not is_adapted(module):
            module = module.base_layer
        else:
            break
    return module


def is_adapted(module: nn.Module) -> bool:
    """Whether `module` is a layer of peft that adds something to its base layer; once merged into it, it does not."""
    if not (_is_of_peft(module) and hasattr(module, "base_layer")):
        return False
    present = set(module.active_adapters) & module._get_available_adapters()
    return bool(present) and not (module.disable_adapters or module.merged)


def active_modules(module: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """As `named_modules`, but of each module that peft has wrapped the active one alone, under the name it had."""
    module = active_module(module)
    yield name, module
    if not is_adapted(module):
        for child_name, child in module.named_children():
            yield from active_modules(child, f"{name}.{child_name}" if name else child_name)


def plain_tensors(module: nn.Module) -> dict[str, Any]:
    """The state dict that `module` would have without peft's wrappers, adapters of the encoder merged into copies."""
    tensors = {}
    for name, each in active_modules(module):
        prefix = f"{name}." if name else ""
        if is_adapted(each):
            merged = copy.deepcopy(each)
            merged.merge()
            tensors |= {prefix + key: value for key, value in merged.get_base_layer().state_dict().items()}
        else:
            own = {**each._parameters, **each._buffers}
            kept = {key: value for key, value in own.items() if key not in each._non_persistent_buffers_set}
            tensors |= {prefix + key: value.detach() for key, value in kept.items() if value is not None}
    return tensors


def _is_of_peft(module: nn.Module) -> bool:
    return type(module).__module__.partition(".")[0] == "peft"
