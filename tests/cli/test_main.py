"""`lrsegformer`: the table of commands, what it says of bad input, and that it starts without torch."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import lrsegformer
from lrsegformer.cli import finetune, main
from lrsegformer.cli.parser import OneLineParser, program

ROOT = Path(__file__).resolve().parents[2]
HEAVY = (
    "heavy = ('torch', 'transformers', 'shtab', 'lrsegformer.models'); print(sorted(set(heavy) & set(sys.modules)))"
)


@pytest.fixture
def answer(capsys):
    """`answer(*words)`: exit status, output and errors of a command line of `lrsegformer`."""

    def call(*words: str):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main.main(list(words))
        return stop.value.code, *capsys.readouterr()

    return call


@pytest.mark.parametrize("name", main.COMMANDS)
def test_every_command_has_its_functions_and_its_line(name, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/lrsegformer", name])
    command = main.COMMANDS[name]
    parser = command.module().build_parser(*command.arguments)
    assert isinstance(parser, OneLineParser) and callable(command.module().main)
    assert parser.format_help().startswith(f"usage: lrsegformer {name} ")
    assert re.search(rf"^\| `lrsegformer {name}\b.*` \|", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)


def test_a_command_gets_the_words_after_its_name(monkeypatch):
    calls = []
    monkeypatch.setattr(finetune, "main", lambda *arguments: calls.append(arguments))
    main.main(["finetune-cls", "--strategy", "none"])
    monkeypatch.setattr(sys, "argv", ["lrsegformer", "finetune-seg"])
    main.main()
    assert calls == [("classification", ["--strategy", "none"]), ("segmentation", [])]


def test_help_and_version(answer):
    status, shown, errors = answer("--help")
    assert (status, errors) == (0, "")
    for name, command in main.COMMANDS.items():
        assert name in shown and command.summary in " ".join(shown.split())
    assert answer("--version") == (0, f"lrsegformer {lrsegformer.__version__}\n", "")
    assert answer() == (2, "", shown)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["finetun-seg"], ["'finetun-seg'", "did you mean 'finetune-seg'?"]),
        (["finetune_cls", "--strategy", "none"], ["did you mean 'finetune-cls'?"]),
        (["zzz"], ["'zzz'", *main.COMMANDS]),
        (["--versoin"], ["--versoin", "lrsegformer --help"]),
        (["--strategy", "orthogonal"], ["'orthogonal'", "finetune-seg"]),
        (["--print_completion"], ["--print_completion"]),
        (["--print_completion", "fish"], ["'fish'", "'zsh'"]),
        (["certify", "--raddii", "1"], ["--models"]),
    ],
)
def test_wrong_words_are_one_line(answer, words, said):
    status, shown, errors = answer(*words)
    assert (status, shown) == (2, "") and errors.startswith("error: ") and len(errors.splitlines()) == 1
    assert all(word in errors for word in said), errors


def test_completion_knows_commands_options_and_choices(tmp_path, capsys):
    main.main(["--print_completion", "bash"])
    (tmp_path / "completion").write_text(capsys.readouterr().out, encoding="utf-8")
    ask = (
        'source completion; complete_line() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); '
        '_shtab_lrsegformer lrsegformer "${COMP_WORDS[COMP_CWORD]}"; echo "${COMPREPLY[*]}"; }; '
        "complete_line lrsegformer certi; complete_line lrsegformer finetune-cls --lambda; "
        "complete_line lrsegformer run --scope certi; complete_line lrsegformer certify --config compl"
    )
    found = subprocess.run(["bash", "-c", ask], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert found.splitlines() == ["certify", "--lambda_lip", "certified", "completion"]


def test_completion_without_its_package(answer, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    status, shown, errors = answer("--print_completion", "zsh")
    assert (status, shown) == (2, "") and "pip install lrsegformer[completion]" in errors


@pytest.mark.parametrize("start", ["module", "installed command"])
def test_starts_without_torch_and_transformers(start, tmp_path):
    probe = f"import atexit, sys; atexit.register(lambda: exec({HEAVY!r}))\n"
    if start == "module":  # site imports this file before anything else
        (tmp_path / "sitecustomize.py").write_text(probe)
        words = ["-m", "lrsegformer"]
    else:
        (tmp_path / "lrsegformer").write_text(probe + "from lrsegformer.cli.main import main\nmain()\n")
        words = [str(tmp_path / "lrsegformer")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    started = [sys.executable, *words, "--help"]
    process = subprocess.run(started, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith("usage: lrsegformer ") and process.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("argv", "original", "starts"),
    [
        (["-m", "--help"], ["python", "-X", "dev", "-m", "lrsegformer", "--help"], True),
        (["-m", "lrsegformer"], ["python", "-m", "other", "lrsegformer"], False),
        (["/usr/bin/lrsegformer", "run"], ["python", "/usr/bin/lrsegformer", "run"], True),
        (["C:\\lrsegformer.exe" if os.name == "nt" else "bin/lrsegformer.exe"], ["python"], True),
        (["train.py", "lrsegformer"], ["python", "train.py", "lrsegformer"], False),
        ([""], ["python"], False),
        ([], ["python"], False),
    ],
)
def test_only_the_command_puts_off_loading_the_models(argv, original, starts, monkeypatch):
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys, "orig_argv", original)
    assert lrsegformer._starts_a_command_line() is starts
    monkeypatch.setenv("LRSEGFORMER_PARSE_ONLY", "1")
    assert lrsegformer._starts_a_command_line() and "LRSEGFORMER_PARSE_ONLY" not in os.environ


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["/somewhere/bin/lrsegformer", "run", "--task"], ["lrsegformer", "run"]),
        (["/somewhere/lrsegformer/__main__.py", "finetune-seg"], ["lrsegformer", "finetune-seg"]),
        ([str(ROOT / "scripts" / "run.py"), "--task"], ["scripts/run.py"]),
        ([str(ROOT / "run.py"), "--task"], ["run.py"]),
        (["/elsewhere/__main__.py", "--task"], [os.path.relpath("/elsewhere/__main__.py", ROOT)]),
    ],
)
def test_the_words_that_start_the_program(argv, words, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", argv)
    assert program() == words


def test_the_card_shows_the_command(monkeypatch):
    commands = []
    monkeypatch.setattr("lrsegformer.training.run.finetune.finetune", lambda *_, command: commands.append(command))
    monkeypatch.setattr(finetune, "parse_arguments", lambda *_, **__: ())
    for start in (["/venv/bin/lrsegformer", "finetune-seg"], ["/lib/lrsegformer/__main__.py", "finetune-seg"]):
        monkeypatch.setattr(sys, "argv", [*start, "--dataset", "/home/someone/camvid", "--hub_token=secret"])
        finetune.main("segmentation")
    assert commands == ["lrsegformer finetune-seg --dataset camvid --hub_token=..."] * 2


def test_run_at_the_root_is_the_command():
    process = subprocess.run(
        [sys.executable, "run.py", "--task", "segmantation"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert process.returncode == 2 and process.stderr.startswith("error: ") and "'segmantation'" in process.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("configuration", "processes"), [("cpu", 1), ("ddp", 2)])
def test_launched_by_accelerate(configuration, processes, tmp_path):
    options = (
        "--dataset digits --architecture tiny --strategy orthogonal --max_steps 2 --image_size 32 --use_cpu "
        "--max_train_samples 8 --max_eval_samples 2 --total_batch_size 4 --dataloader_num_workers 0 --output_dir run"
    ).split()
    launch = f"-m accelerate.commands.accelerate_cli launch --num_processes {processes} --mixed_precision no".split()
    launch += ["--config_file", str(ROOT / "accelerate_configs" / f"{configuration}.yaml"), "-m", "lrsegformer"]
    process = subprocess.run(
        [sys.executable, *launch, "finetune-seg", *options],
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert process.returncode == 0, process.stderr[-4000:]
    assert f"x {processes} processes" in process.stdout + process.stderr
    assert f"lrsegformer finetune-seg {' '.join(options)}" in (tmp_path / "run" / "README.md").read_text("utf-8")
