"""
Every place where the package touches internals of transformers' Trainer and of accelerate, each with the upstream
issue that makes it necessary; the rest is in `_compat.py`.

Each has a test in `tests/test_compat.py` or beside what needs it, which fails when the workaround is no longer needed.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lrsegformer._compat import load_checkpoint_strictly
from lrsegformer.errors import InputError
from lrsegformer.writing import disk_failure, put_in_place, remove_folder, write_whole

ARGUMENTS_FILE = "training_args.bin"


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
    - `fully_shard` leaves buffers to each process, whose running statistics then are of its own batches alone; DDP
      shares them before each forward pass of training. Neither does before an evaluation.
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

    def training_step(self, *args, **kwargs) -> torch.Tensor:
        """Forward and backward pass of a batch; see [`~transformers.Trainer.training_step`]."""
        if self.is_fsdp_enabled:
            self.share_buffers()
        loss = super().training_step(*args, **kwargs)
        if self._scalars and self.accelerator.sync_gradients:
            for each in self._scalars:
                if each.grad is not None:
                    each.grad = self.accelerator.reduce(each.grad, reduction="mean")
        return loss

    def evaluation_loop(self, *args, **kwargs) -> Any:
        """Evaluate or predict; see [`~transformers.Trainer.evaluation_loop`]."""
        self.share_buffers()  # Those that are in the model now, which may be averages.
        return super().evaluation_loop(*args, **kwargs)

    @torch.no_grad()
    def share_buffers(self) -> None:
        """Give all processes the buffers of the first one, which are those that are saved."""
        if self.accelerator.num_processes == 1 or not torch.distributed.is_initialized():
            return
        kinds: dict[torch.dtype, list[torch.Tensor]] = {}
        for each in self.accelerator.unwrap_model(self.model).buffers():
            kinds.setdefault(each.dtype, []).append(each)
        for alike in kinds.values():
            flat = torch.cat([each.reshape(-1) for each in alike]).to(self.args.device)
            torch.distributed.broadcast(flat, 0)
            for each, values in zip(alike, flat.split([each.numel() for each in alike]), strict=True):
                each.copy_(values.view_as(each))

    def make_whole(self) -> None:
        """Of a model that FSDP2 has sharded, put a whole copy on each process in its place; training is over then."""
        if not self.is_fsdp_enabled:
            return
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        state = get_model_state_dict(self.model, options=StateDictOptions(full_state_dict=True))
        original = type(self.model).__mro__[2]  # FSDP2 makes a class of FSDPModule and the model's own.
        whole = original(self.model.config)
        whole.load_state_dict(state, strict=True, assign=True)  # in the precision that they were trained in
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

    def save_own_files(self, folder: Path) -> None:
        """What a subclass adds to a checkpoint that is written to `folder`, before it has its name."""

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
        run = Path(self._get_output_dir(trial))
        aside = run / self.UNFINISHED / f"checkpoint-{self.state.global_step}"
        whole = run / aside.name
        self._saves_aside = True
        try:
            super()._save_checkpoint(model, trial)
            self.save_own_files(aside)
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
        self.drop_old_checkpoints(run)

    def drop_old_checkpoints(self, run: Path) -> None:
        """
        Keep as many checkpoints of a run as `save_total_limit` says, the best and the latest among them.

        The Trainer's own removal changes the time of a folder before its name is gone, and by their times it tells
        which is the latest: one whose removal was killed is taken for that.
        """
        from transformers.trainer_utils import sort_checkpoints

        limit = self.args.save_total_limit or 0
        if not self.args.should_save or limit <= 0:
            return
        checkpoints = sort_checkpoints(str(run), use_mtime=True)
        kept = {*checkpoints[-1:], *filter(None, [self.state.best_model_checkpoint])}
        surplus = max(len(checkpoints) - max(limit, len(kept)), 0)
        for checkpoint in [each for each in checkpoints if each not in kept][:surplus]:
            remove_folder(Path(checkpoint), run / self.UNFINISHED)

    def _get_output_dir(self, trial: Any) -> str:
        folder = super()._get_output_dir(trial)
        return os.path.join(folder, self.UNFINISHED) if self._saves_aside else folder

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if not self._saves_aside:  # An upload reads the folder while the run goes on: it must not move.
            super()._push_from_checkpoint(checkpoint_folder)
