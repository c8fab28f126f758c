"""Pushes to a stand-in for the Hub, by its real client: what arrives, and what is said where it refuses."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, ModelCard, constants
from safetensors.torch import load as load_safetensors
from transformers import AutoImageProcessor
from transformers.utils import hub as transformers_hub

from lrsegformer import LRSegformerForSemanticSegmentation, LRSegformerTrainer, LRSegformerTrainingArguments
from lrsegformer.errors import InputError
from lrsegformer.hub.digests import file_digests
from lrsegformer.hub.pushing import explained, upload_later
from lrsegformer.hub.sections import keep_results
from tests.conftest import SEGMENTATION_RUN
from tests.hub.stub import TOKEN, running_stub

REPOSITORY = "someone/model"
MODEL, PICTURES = {"config.json", "model.safetensors", "preprocessor_config.json"}, {"curves.png", "samples.png"}
RUN = {*MODEL, *PICTURES, "bounds.png", "README.md", "all_results.json"}


@pytest.fixture
def hub():
    with running_stub() as stub:
        yield stub


@pytest.fixture
def reachable(hub, monkeypatch, tmp_path):
    """The stand-in, for the clients of this process."""
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    template = f"{hub.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(transformers_hub, "_hf_api", HfApi(endpoint=hub.address))
    return hub


@pytest.fixture
def run(segmentation_run, tmp_path):
    """A folder of a run that may be written to."""
    return Path(shutil.copytree(segmentation_run[0], tmp_path / "run"))


@pytest.fixture
def make_trainer_of():
    def make(folder):
        arguments = LRSegformerTrainingArguments(
            output_dir=str(folder), use_cpu=True, eval_strategy="no", hub_model_id="model", hub_token=TOKEN
        )
        return LRSegformerTrainer(
            model=LRSegformerForSemanticSegmentation.from_pretrained(folder),
            args=arguments,
            processing_class=AutoImageProcessor.from_pretrained(folder, backend="pil"),
        )

    return make


def assert_clean(files, *words):
    """Neither the token nor a folder of this machine is in any file."""
    for name, data in files.items():
        found = [word for word in (TOKEN, *map(str, words)) if word.encode() in data]
        assert not found, f"{name} holds {found}"


def assert_as_in(folder, files):
    assert [name for name, data in files.items() if (folder / name).read_bytes() != data] == []


def test_a_trainer_sends_the_run_and_nothing_else(run, reachable, make_trainer_of):
    (run / "certificates").mkdir()
    (run / "certificates" / "results.json").write_text(json.dumps({"command": f"certify --model {run}"}))
    (run / "robustness.json").write_text(json.dumps({"files": {"model.safetensors": "of other weights"}}))
    (run / "LICENSE.txt").write_text("terms")
    before = (run / "model.safetensors").read_bytes()
    make_trainer_of(run).push_to_hub()
    arrived = reachable.arrived(REPOSITORY)
    assert set(arrived) == {*RUN, "LICENSE.txt"}
    assert arrived["model.safetensors"] == before
    assert_as_in(run, arrived)
    assert_clean(arrived, run)
    assert reachable.commits == [(REPOSITORY, "End of training")]


def test_no_token_is_saved(run, make_trainer_of):
    trainer = make_trainer_of(run)
    trainer.save_model()
    data = (run / "training_args.bin").read_bytes()
    assert TOKEN.encode() not in data and TOKEN.encode() not in pickle.dumps(trainer.args)
    assert torch.load(run / "training_args.bin", weights_only=False).learning_rate == trainer.args.learning_rate
    assert trainer.args.hub_token == TOKEN


def test_a_push_of_other_weights_takes_no_section_along(run, reachable, make_trainer_of):
    assert keep_results(run, "robustness", {"rows": []}, "## Robustness\n\nvery", file_digests(run))
    trainer = make_trainer_of(run)
    trainer.push_to_hub()
    assert b"## Robustness" in reachable.arrived(REPOSITORY)["README.md"]
    assert "robustness.json" in reachable.arrived(REPOSITORY)
    with torch.no_grad():
        next(trainer.model.parameters()).add_(1)
    reachable.files.clear()
    trainer.push_to_hub()
    assert b"## Robustness" not in reachable.arrived(REPOSITORY)["README.md"]
    assert set(reachable.arrived(REPOSITORY)) == RUN
    assert (run / "robustness.json").is_file()


def test_a_model_sends_itself(reachable, make_model, tmp_path):
    model = make_model("geometric_mean")
    model.push_to_hub("model", token=TOKEN)
    arrived = reachable.arrived(REPOSITORY)
    assert set(arrived) == {"config.json", "model.safetensors", "README.md"}
    model.save_pretrained(tmp_path)
    assert arrived["model.safetensors"] == (tmp_path / "model.safetensors").read_bytes()
    assert load_safetensors(arrived["model.safetensors"]).keys() >= {"decode_head.classifier.c"}
    assert_clean(arrived, tmp_path)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, ["401", "hf auth login", "--hub_token"]),
        (403, ["403", "--hub_model_id"]),
        (503, ["503", "try again"]),
        (418, ["418"]),
    ],
)
def test_refusals_become_one_line(reachable, status, words):
    reachable.refusals["POST /api/repos/create"] = status
    with pytest.raises(InputError) as refusal, explained("the run is whole in its folder."):
        transformers_hub.hf_api().create_repo("model", token=TOKEN)
    message = str(refusal.value)
    assert message.startswith("--push_to_hub: ") and message.endswith("the run is whole in its folder.")
    assert "\n" not in message and all(word in message for word in words), message


def test_failures_of_transport_become_one_line_and_others_stay(reachable, run):
    closed = HfApi(endpoint="http://127.0.0.1:9", token=TOKEN)
    with pytest.raises(InputError, match="the Hub cannot be used"), explained("nothing was trained."):
        closed.create_repo("model")
    api = HfApi(endpoint=reachable.address, token=TOKEN)
    api.create_repo("model")
    # The client wraps this one in a RuntimeError.
    reachable.refusals["PUT /storage/"] = 403
    with pytest.raises(InputError, match="403"), explained("nothing was trained."):
        api.upload_file(
            path_or_fileobj=run / "model.safetensors", path_in_repo="model.safetensors", repo_id=REPOSITORY
        )
    with pytest.raises(RuntimeError, match="another matter"), explained("nothing was trained."):
        raise RuntimeError("another matter")


def finetune_and_push(run_script, hub, folder, *options):
    return run_script(
        "finetune_seg.py",
        *SEGMENTATION_RUN,
        *("--push_to_hub", "--hub_model_id", REPOSITORY, "--hub_token", TOKEN, "--report_to", "tensorboard"),
        *("--output_dir", str(folder), *options),
        **hub.environment() | {"HF_TOKEN": ""},
    )


@pytest.mark.slow
def test_a_run_as_a_user_pushes_it(run_script, hub, tmp_path):
    folder = tmp_path / "run"
    process = finetune_and_push(run_script, hub, folder, "--hub_strategy", "checkpoint", "--load_best_model_at_end")
    assert process.returncode == 0, process.stderr[-2000:]
    arrived = hub.arrived(REPOSITORY)
    checkpoint = {name for name in arrived if name.startswith("last-checkpoint/")}
    assert set(arrived) - checkpoint == RUN
    # Asked for by the strategy: what a run continues from, without the pickled arguments.
    assert {"last-checkpoint/optimizer.pt", "last-checkpoint/model.safetensors"} <= checkpoint
    assert "last-checkpoint/training_args.bin" not in checkpoint
    assert_as_in(folder, {name: data for name, data in arrived.items() if name not in checkpoint})
    assert_clean({name: data for name, data in arrived.items() if name not in checkpoint}, tmp_path)
    assert_clean(arrived)
    assert ModelCard(arrived["README.md"].decode()).data.pipeline_tag == "image-segmentation"
    assert hub.commits[-1] == (REPOSITORY, "End of training")
    assert "Model save" not in {message for _, message in hub.commits}, "a card of a run goes up once, at its end"
    assert not [name for name in folder.rglob("training_args.bin") if TOKEN.encode() in name.read_bytes()]


@pytest.mark.slow
def test_a_hub_that_refuses_the_repository_stops_the_run_before_it_starts(run_script, hub, tmp_path):
    hub.refusals["POST /api/repos/create"] = 401
    process = finetune_and_push(run_script, hub, tmp_path / "run")
    assert process.returncode == 2
    (line,) = [line for line in process.stderr.splitlines() if line.startswith("error: ")]
    assert "401" in line and "nothing was trained" in line and "Traceback" not in process.stderr
    assert not list((tmp_path / "run").rglob("*.*"))


@pytest.mark.slow
def test_a_hub_that_fails_later_loses_nothing(run_script, hub, tmp_path):
    hub.refusals["POST .*/commit/"] = 503
    folder = tmp_path / "run"
    process = finetune_and_push(run_script, hub, folder)
    assert process.returncode == 2
    (line,) = [line for line in process.stderr.splitlines() if line.startswith("error: ")]
    assert "503" in line and upload_later(REPOSITORY, str(folder)) in line
    assert "Traceback" not in process.stderr
    assert {path.name for path in folder.iterdir()} >= RUN
    assert "mean_iou" in process.stdout
