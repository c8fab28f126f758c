"""What a command line says and how it exits where a run cannot go on: alone, and as one of several processes."""

import os
import signal
import subprocess
import sys
import time

import pytest

from lrsegformer.cli import failures, finetune
from lrsegformer.cli.failures import Remedies, run_or_explain
from lrsegformer.errors import InputError

REMEDIES = Remedies(out_of_memory="take less.", stopped="go on.")
HEAD = """
import os, sys, time
os.environ["LRSEGFORMER_PARSE_ONLY"] = "1"
from lrsegformer.errors import InputError
from lrsegformer.cli import failures
rank = int(os.environ.get("RANK", "0"))
REMEDIES = failures.Remedies(out_of_memory="take less.", stopped="go on.")
"""


@pytest.fixture
def outcome(capsys, monkeypatch):
    """`outcome(error, rank, remedies)`: status, lines on stderr and seconds waited of a run that ends in `error`."""
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)

    def end(error, rank, remedies):
        def run():
            raise error

        if rank is None:
            monkeypatch.delenv("RANK", raising=False)
        else:
            monkeypatch.setenv("RANK", rank)
        waits.clear()
        with pytest.raises(SystemExit) as stop:
            run_or_explain(run, remedies)
        return stop.value.code, capsys.readouterr().err.splitlines(), sum(waits)

    return end


@pytest.mark.parametrize("rank", [None, "0"])
def test_first_process_speaks_at_once(outcome, rank):
    assert outcome(InputError("a, b; c"), rank, REMEDIES) == (2, ["error: a, b; c"], 0)
    assert outcome(MemoryError(), rank, REMEDIES) == (2, ["error: out of memory: take less."], 0)
    assert outcome(KeyboardInterrupt(), rank, REMEDIES) == (130, ["stopped: go on."], 0)


def test_another_process_leaves_the_first_one_time_to_speak(outcome):
    assert outcome(InputError("a, b; c"), "3", REMEDIES) == (2, ["error: a, b; c"], failures.PATIENCE_SECONDS)
    code, lines, waited = outcome(MemoryError(), "3", REMEDIES)
    assert (code, len(lines)) == (2, 1) and waited > 5
    # Ctrl-C reaches every process.
    assert outcome(KeyboardInterrupt(), "3", REMEDIES) == (130, [], 0)


@pytest.mark.parametrize("error", [InputError("a, b; c"), RuntimeError("connection lost")])
def test_interrupt_of_a_process_that_waits(monkeypatch, capsys, error):
    def run():
        raise error

    def interrupted(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupted)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit) as stop:
        run_or_explain(run, REMEDIES)
    assert stop.value.code == 130 and not capsys.readouterr().err


def test_remedies_of_fine_tuning(outcome):
    (line,) = outcome(MemoryError(), None, finetune.REMEDIES)[1]
    assert "--per_device_train_batch_size" in line and "--activation_checkpointing" in line
    (line,) = outcome(KeyboardInterrupt(), None, finetune.REMEDIES)[1]
    assert line.startswith("stopped: ") and "--resume_from_checkpoint" in line and "last checkpoint" in line


@pytest.mark.parametrize(("processes", "waited"), [(None, 0), ("1", 0), ("2", failures.PATIENCE_SECONDS)])
def test_bugs_are_not_hidden(monkeypatch, processes, waited):
    def run():
        raise RuntimeError("a bug, or the connection to a process that is gone")

    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    if processes is None:
        monkeypatch.delenv("WORLD_SIZE", raising=False)
    else:
        monkeypatch.setenv("WORLD_SIZE", processes)
    with pytest.raises(RuntimeError, match="a bug"):
        run_or_explain(run, REMEDIES)
    assert sum(waits) == waited


@pytest.fixture
def program(tmp_path):
    """`program(body)`: the file of a program that runs these lines, with `rank` known."""

    def write(body):
        file = tmp_path / "program.py"
        file.write_text(HEAD + body)
        return str(file)

    return write


def test_interrupt_from_a_terminal(program):
    # Tests that run in the background hand on that Ctrl-C is ignored.
    body = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    body += (
        'def run():\n    print("running", flush=True)\n    time.sleep(60)\nfailures.run_or_explain(run, REMEDIES)\n'
    )
    clean = {name: value for name, value in os.environ.items() if name != "RANK"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, program(body)], env=clean, **pipes) as process:
        assert process.stdout.readline() == "running\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert len(errors.splitlines()) == 1 and errors.startswith("stopped: "), errors


# What the two processes do. Of a mistake of both, the first process is the later one to find it; a process that loses
# its connection to one that has ended gets a RuntimeError.
BODIES = {
    "both": """
def run():
    time.sleep(1 - rank)
    raise InputError("mistake")
""",
    "first": """
def run():
    raise RuntimeError("connection lost") if rank == 1 else InputError("mistake")
""",
    "second": """
failures.PATIENCE_SECONDS = 0.5 if rank == 1 else 10
def run():
    raise RuntimeError("connection lost") if rank == 0 else InputError("mistake")
""",
}


# torchrun as a function: its imports weigh more than the three launches.
LAUNCHES = """
import sys
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main
for file in sys.argv[1:]:
    print("launch of", file, file=sys.stderr, flush=True)
    try:
        main(["--standalone", "--nproc_per_node", "2", file])
    except ChildFailedError:
        print("failed", file=sys.stderr, flush=True)
"""


def test_processes_of_a_launcher_say_a_mistake_once(tmp_path):
    files = {who: tmp_path / f"{who}.py" for who in BODIES}
    for who, file in files.items():
        file.write_text(HEAD + BODIES[who] + "failures.run_or_explain(run, REMEDIES)\n")
    launch = [sys.executable, "-c", LAUNCHES, *map(str, files.values())]
    process = subprocess.run(launch, capture_output=True, text=True, timeout=240)
    said = process.stderr.split("launch of ")[1:]
    assert len(said) == len(files), process.stderr
    for who, text in zip(files, said, strict=True):
        lines = text.splitlines()
        assert "failed" in lines, (who, text)
        assert [line for line in lines if line.startswith("error:")] == ["error: mistake"], (who, text)
        assert "connection lost" not in text, (who, text)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device", "out/x.json"), "the disk is full (out/x.json): make room"),
        (OSError(30, "Read-only file system"), "the disk is read-only: make room"),
        (
            ValueError("Error while serializing: I/O error: No space left on device (os error 28)"),
            "the disk is full: ",
        ),
        (RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"), "the disk is full, or "),
    ],
)
def test_a_full_disk_is_one_line_whoever_says_it(outcome, error, said):
    status, lines, _ = outcome(error, None, REMEDIES)
    assert status == 2 and len(lines) == 1 and lines[0].startswith(f"error: {said}")


def test_errors_of_other_kinds_are_not_taken_for_it():
    for error in (OSError(2, "No such file or directory", "x"), RuntimeError("a bug"), ValueError("a bug")):
        with pytest.raises(type(error)):
            run_or_explain(lambda error=error: (_ for _ in ()).throw(error), REMEDIES)


def test_the_line_of_an_error_is_not_glued_to_a_bar_of_progress(capsys):
    from tqdm.auto import tqdm

    def run():
        for number in tqdm(range(5), desc="training"):
            if number == 2:
                raise InputError("a mask; mend it")

    with pytest.raises(SystemExit):
        run_or_explain(run, REMEDIES)
    errors = capsys.readouterr().err
    assert "training" in errors and errors.endswith("\nerror: a mask; mend it\n")
