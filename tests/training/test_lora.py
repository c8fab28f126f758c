"""`--lora_r`: what is trained, what is saved, who loads it, and that the scores are those of the files."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    AutoModelForSemanticSegmentation,
    SegformerConfig,
    SegformerForImageClassification,
    set_seed,
)
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from lrsegformer.choices import ARCHITECTURES
from lrsegformer.cli.certify import main as certify
from lrsegformer.cli.evaluate import main as evaluate
from lrsegformer.cli.export import main as export
from lrsegformer.cli.finetune import main, parse_arguments
from lrsegformer.cli.predict import main as predict
from lrsegformer.cli.robustness import main as robustness
from lrsegformer.data import load_data
from lrsegformer.data.dataset import collate
from lrsegformer.models.encoder.adapters import add_adapters, trained_share
from lrsegformer.models.loading import load_model
from lrsegformer.training import LRSegformerTrainer

pytestmark = pytest.mark.usefixtures("blank_pictures")

peft = pytest.importorskip("peft")

AUTO = {"segmentation": AutoModelForSemanticSegmentation, "classification": AutoModelForImageClassification}
DATA = "--dataset digits --image_size 32 --max_eval_samples 3".split()
RUN = (
    "--dataset digits --image_size 32 --use_cpu --max_train_samples 8 --max_eval_samples 3 --total_batch_size 4 "
    "--learning_rate 1e-2 --warmup_steps 0 --logging_steps 1 --dataloader_num_workers 0 --disable_tqdm True --lora_r 2"
).split()


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    """A pretrained encoder as the Hub has them: a stock classifier with classes of its own."""
    set_seed(3)
    folder = tmp_path_factory.mktemp("hub") / "mit-tiny"
    SegformerForImageClassification(SegformerConfig(**ARCHITECTURES["tiny"], num_labels=7)).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module", params=["segmentation", pytest.param("classification", marks=pytest.mark.slow)])
def run(request, base, tmp_path_factory) -> tuple[str, Path]:
    """Task and folder of a run of four steps, saved after each, its best model restored."""
    folder = tmp_path_factory.mktemp(request.param) / "run"
    best = "--load_best_model_at_end --metric_for_best_model eval_loss --eval_strategy steps --eval_steps 1".split()
    saving = "--save_strategy steps --save_steps 1 --save_total_limit 10".split()
    options = [*RUN, "--strategy", "stable_softplus", "--max_steps", "4", "--model_name_or_path", base]
    main(request.param, [*options, *best, *saving, "--output_dir", str(folder)])
    return request.param, folder


def test_the_folder_holds_the_merged_model_and_the_adapter(run, base):
    task, folder = run
    saved = load_file(folder / "model.safetensors")
    assert not any("lora" in name or "base_layer" in name or "modules_to_save" in name for name in saved)
    adapter = load_file(folder / "adapter" / "adapter_model.safetensors")
    head = {"segmentation": "decode_head", "classification": "classifier"}[task]
    assert all(".lora_" in name or f".{head}." in name for name in adapter)
    assert sum(".lora_A." in name for name in adapter) == 8, "query and value of four blocks"
    assert any(name.endswith(f"{head}.classifier.c" if task == "segmentation" else f"{head}.c") for name in adapter)
    # What was not adapted is bit for bit what the base has.
    before = load_file(Path(base) / "model.safetensors")
    adapted = ("query.weight", "value.weight")
    kept = [name for name in before if name.startswith("segformer.") and not name.endswith(adapted)]
    assert kept and all(torch.equal(saved[name], before[name]) for name in kept)
    moved = [name for name in before if name.endswith(adapted)]
    assert len(moved) == 8 and not any(torch.equal(saved[name], before[name]) for name in moved)


def test_the_merge_is_that_of_peft_bit_for_bit(run, base):
    task, folder = run
    config = AutoConfig.from_pretrained(folder)
    start = AUTO[task].from_pretrained(base, config=config, ignore_mismatched_sizes=True)
    adapted = peft.PeftModel.from_pretrained(start, folder / "adapter").eval()
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        before = adapted(pixels).logits
    merged = adapted.merge_and_unload().state_dict()
    loaded = AUTO[task].from_pretrained(folder).eval()
    assert merged.keys() == loaded.state_dict().keys()
    assert all(torch.equal(merged[name], tensor) for name, tensor in loaded.state_dict().items())
    with torch.no_grad():
        torch.testing.assert_close(loaded(pixels).logits, before, rtol=1e-5, atol=1e-5)


def test_the_scores_are_those_of_the_saved_files(run, tmp_path):
    task, folder = run
    results = json.loads((folder / "all_results.json").read_text())
    _, data, arguments = parse_arguments(task, [*RUN[:-2], "--output_dir", str(tmp_path), "--eval_strategy", "no"])
    splits = load_data(data, task, arguments.seed, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    model = AUTO[task].from_pretrained(folder)
    trainer = LRSegformerTrainer(model, arguments, eval_dataset=splits.validation, data_collator=collate)
    again = trainer.evaluate_as_saved()
    names = [name for name in results if name.startswith("eval_") and isinstance(results[name], float)]
    names = [name for name in names if not name.endswith(("runtime", "per_second"))]
    assert len(names) > 5
    assert {name: again[name] for name in names} == pytest.approx({name: results[name] for name in names}, abs=1e-6)


def test_the_best_checkpoint_is_what_was_saved(run, base):
    task, folder = run
    state = json.loads((folder / "trainer_state.json").read_text())
    best = Path(state["best_model_checkpoint"])
    kept = load_file(best / "adapter_model.safetensors")
    saved = load_file(folder / "adapter" / "adapter_model.safetensors")
    assert kept.keys() == saved.keys() and all(torch.equal(kept[name], saved[name]) for name in kept)


def test_card_and_run_configuration_say_it(run):
    _, folder = run
    values = yaml.safe_load((folder / "run.yaml").read_text())
    assert values["lora_r"] == 2 and "lora_alpha" not in values
    card = (folder / "README.md").read_text()
    assert "LoRA of rank 2, alpha 4, dropout 0, on q_proj, v_proj" in card and "`adapter/`" in card
    assert 'from_pretrained("mit-tiny", config=config' in (folder / "adapter" / "README.md").read_text()


@pytest.mark.slow
def test_a_resumed_run_ends_where_the_whole_one_does(run, base, tmp_path):
    task, folder = run
    options = [*RUN, "--strategy", "stable_softplus", "--max_steps", "4", "--model_name_or_path", base]
    options += ["--eval_strategy", "no", "--save_strategy", "no", "--output_dir", str(tmp_path / "whole")]
    main(task, options)
    resumed = [*options[:-1], str(tmp_path / "resumed"), "--resume_from_checkpoint", str(folder / "checkpoint-2")]
    main(task, resumed)
    whole, again = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "resumed"))
    for name, tensor in whole.items():
        torch.testing.assert_close(again[name], tensor, rtol=1e-5, atol=1e-6, msg=name)


def test_averaged_adapters_go_on_and_are_merged(base, tmp_path):
    options = [*RUN, "--strategy", "stable_softplus", "--max_steps", "3", "--model_name_or_path", base]
    options += (
        "--average_weights 0.9 --eval_strategy no --save_strategy steps --save_steps 1 --save_total_limit 10".split()
    )
    main("classification", [*options, "--output_dir", str(tmp_path / "whole")])
    checkpoint = ["--resume_from_checkpoint", str(tmp_path / "whole" / "checkpoint-2")]
    main("classification", [*options, "--output_dir", str(tmp_path / "resumed"), *checkpoint])
    for name in ("model.safetensors", "adapter/adapter_model.safetensors", "checkpoint-3/raw_weights.safetensors"):
        whole, again = (load_file(tmp_path / run / name) for run in ("whole", "resumed"))
        assert [key for key in whole if not torch.equal(whole[key], again[key])] == []
    saved = load_file(tmp_path / "whole" / "checkpoint-3" / "adapter_model.safetensors")
    adapter = load_file(tmp_path / "whole" / "adapter" / "adapter_model.safetensors")
    assert saved.keys() == adapter.keys() and all(torch.equal(saved[key], adapter[key]) for key in saved)
    raw = {key.replace(".default", ""): each for key, each in whole.items()}
    moved = [key for key in saved if ".lora_" in key and not torch.equal(saved[key], raw[key])]
    assert len(moved) == 16, "the adapters that are saved are averages"


def test_every_command_takes_the_run_and_refuses_the_adapter_alone(run, tmp_path, capsys):
    task, folder = run
    certify(["--model", str(folder), *DATA, "--radii", "0.1", "--output_dir", str(tmp_path / "certificates")])
    assert (tmp_path / "certificates" / "results.md").is_file()
    Image.new("RGB", (50, 40), "white").save(tmp_path / "image.png")
    predict([str(folder), str(tmp_path / "image.png"), "--output_dir", str(tmp_path / "predictions")])
    evaluate([str(folder), "--output_dir", str(tmp_path / "evaluation")])
    assert (tmp_path / "evaluation" / "evaluation.json").is_file() and any((tmp_path / "predictions").iterdir())
    for name in (folder / "adapter", folder / "checkpoint-2"):
        for command, option in ((certify, ["--models"]), (robustness, ["--models"]), (evaluate, []), (export, [])):
            extra = ["--format", "stock"] if command is export else DATA
            with pytest.raises(SystemExit) as stop:
                command([*option, str(name), *extra, "--output_dir", str(tmp_path / "none")])
            assert stop.value.code == 2
            assert "without its model: give the folder of the finished run" in capsys.readouterr().err
        with pytest.raises(SystemExit):
            main(task, [*RUN[:-2], "--model_name_or_path", str(name), "--output_dir", str(tmp_path / "none")])
        assert "without its model" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_targets_and_shares(base):
    model = load_model("segmentation", base, lipschitz_strategy="orthogonal", num_labels=7)
    adapted = add_adapters(model, "segmentation", 4, None, 0.1, ["all-linear"])
    wrapped = [name for name, module in adapted.named_modules() if name.endswith("lora_A.default")]
    assert len(wrapped) == 4 * 6 and not any("decode_head" in name for name in wrapped)
    trained, of = trained_share(adapted)
    head = sum(each.numel() for each in model.decode_head.original_module.parameters())
    adapters = sum(each.numel() for name, each in adapted.named_parameters() if ".lora_" in name)
    assert trained == head + adapters and of == sum(each.numel() for each in model.segformer.parameters()) + head


BAD = [
    (["--lora_r", "0"], "--lora_r 0", "1 or more"),
    (["--lora_r", "2", "--lora_alpha", "0"], "--lora_alpha 0", "1 or more"),
    (["--lora_r", "2", "--lora_dropout", "1"], "--lora_dropout 1", "below 1"),
    (["--lora_alpha", "4"], "--lora_alpha", "need --lora_r"),
    (["--lora_dropout", "0.1"], "--lora_dropout", "need --lora_r"),
    (["--lora_target_modules", "fc1"], "--lora_target_modules", "need --lora_r"),
    (["--lora_r", "2", "--architecture", "tiny"], "--architecture tiny", "random"),
    (["--lora_r", "2", "--strategy", "orthogonal", "--scope", "network"], "--scope network", "outside its constraint"),
    (["--lora_r", "2", "--strategy", "orthogonal", "--scope", "certified"], "--scope certified", "outside"),
    (["--lora_r", "2", "--lora_target_modules", "classifier"], "'classifier'", "q_proj, v_proj"),
    (["--lora_r", "2", "--lora_target_modules", "proj"], "'proj'", "no linear layer of the encoder"),
    (["--lora_r", "two"], "--lora_r", "'two'"),
]


@pytest.mark.parametrize(("options", "what", "remedy"), BAD)
def test_bad_input_gets_one_line(base, tmp_path, capsys, options, what, remedy):
    start = [] if "--architecture" in options else ["--model_name_or_path", base]
    with pytest.raises(SystemExit) as stop:
        main("segmentation", [*RUN[:-2], *start, *options, "--output_dir", str(tmp_path / "run")])
    errors = capsys.readouterr().err
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert stop.value.code == 2 and what in line and remedy in line and "Traceback" not in errors, errors
    assert not (tmp_path / "run").exists()
