"""Commands end with the process that started them, and their logs say why they ended."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Event

import pytest

from lrsegformer.matrix import keeper
from lrsegformer.matrix.processes import CommandProcess, launch_words

# A process that has begun a session of its own, as the workers of several devices do, and says its number.
GRANDCHILD = "import subprocess, sys, time; print(subprocess.Popen(['sleep', '60'], start_new_session=True).pid)"


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", code]


def run(code: str, tmp_path: Path, stop: Event | None = None):
    return CommandProcess(python(code), tmp_path / "log", str(tmp_path)).wait(stop or Event())


def test_success_and_the_log(tmp_path):
    assert run("print('first')", tmp_path) == (True, False, None)
    assert run("print('second')", tmp_path).succeeded
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line for line in lines if "$" not in line] == ["first", "second"]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import sys; print('error: no such folder x', file=sys.stderr); sys.exit(2)", ["no such folder x"]),
        ("raise RuntimeError('a bug')", ["RuntimeError: a bug", "log"]),
        ("import sys; sys.exit(3)", ["exit status 3", "log"]),
        # What accelerate adds to the exception of the run.
        ("print('ValueError: theirs'); raise __import__('subprocess').CalledProcessError(1, 'x')", ["theirs"]),
    ],
)
def test_a_failure_is_one_line(tmp_path, code, words):
    end = run(code, tmp_path)
    assert not end.succeeded and not end.interrupted
    assert all(word in end.error for word in words) and "\n" not in end.error, end.error


@pytest.mark.parametrize(
    "code",
    [
        "import os; os.kill(os.getpid(), 9)",
        # The process that accelerate started, and what it says of it.
        "import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', 'import os; os.kill(os.getpid(), 9)'], "
        "check=True)",
    ],
)
def test_a_kill_is_an_interruption(tmp_path, code):
    end = run(code, tmp_path)
    assert end.interrupted and "SIGKILL" in end.error


def test_nothing_is_left_behind(tmp_path):
    assert run(GRANDCHILD, tmp_path).succeeded
    assert (tmp_path / "log").read_text().splitlines()[-1].isdecimal() and not keeper.marked(str(tmp_path))


def test_stopping_lets_the_command_finish_what_it_does(tmp_path):
    code = (
        "import time\ntry:\n    print('here', flush=True); time.sleep(60)\n"
        "except KeyboardInterrupt:\n    time.sleep(0.5); print('stopped: kept'); raise SystemExit(130)"
    )
    stop = Event()
    process = CommandProcess(python(code), tmp_path / "log", str(tmp_path))
    end = process.wait(stop, lambda: stop.set() if "here" in (tmp_path / "log").read_text() else None)
    assert end.interrupted and "stopped: kept" in (tmp_path / "log").read_text()


def test_what_does_not_stop_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr("lrsegformer.matrix.processes.STOPPING_SECONDS", 0.5)
    stop = Event()
    code = (
        "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    )
    process = CommandProcess(python(code), tmp_path / "log", str(tmp_path))
    began = time.monotonic()
    end = process.wait(stop, lambda: stop.set() if "\ndeaf" in (tmp_path / "log").read_text() else None)
    assert end.interrupted and time.monotonic() - began < 50


def test_a_stop_is_no_failure_where_the_command_has_only_begun(tmp_path):
    stop = Event()
    process = CommandProcess(
        python("print('begun', flush=True); import time; time.sleep(60)"), tmp_path / "log", str(tmp_path)
    )
    end = process.wait(stop, lambda: stop.set() if "\nbegun" in (tmp_path / "log").read_text() else None)
    assert "KeyboardInterrupt" in (tmp_path / "log").read_text()
    assert end == (False, True, "stopped; the same command goes on from there")


def test_commands_end_with_a_killed_matrix(tmp_path):
    """Whatever sessions they have begun; a later command of the same cell would not find them."""
    log, mark = tmp_path / "log", str(tmp_path)
    code = f"{GRANDCHILD}; import sys; sys.stdout.flush(); time.sleep(60)"
    starter = (
        "import sys, pathlib, threading; from lrsegformer.matrix.processes import CommandProcess; "
        f"CommandProcess({python(code)!r}, pathlib.Path({str(log)!r}), {mark!r}).wait(threading.Event())"
    )
    with subprocess.Popen(
        [sys.executable, "-c", starter], env={**os.environ, "LRSEGFORMER_PARSE_ONLY": "1"}
    ) as matrix:
        wait_until(lambda: log.exists() and log.read_text().splitlines()[-1].isdecimal())
        assert len(keeper.marked(mark)) == 3
        matrix.send_signal(signal.SIGKILL)
        matrix.wait()
    wait_until(lambda: not keeper.marked(mark))


def test_what_an_earlier_matrix_left_is_ended_first(tmp_path):
    with subprocess.Popen(["sleep", "60"], env={**os.environ, keeper.MARK: str(tmp_path)}) as left:
        try:
            assert run("print('done')", tmp_path).succeeded
            assert left.wait(5) == -signal.SIGKILL
        finally:
            with contextlib.suppress(ProcessLookupError):
                left.kill()


def test_the_launcher_and_its_file():
    words = launch_words("finetune-seg", ["--a", "1"], "some.yaml")
    assert words[1:5] == ["-m", "accelerate.commands.launch", "--config_file", "some.yaml"]
    assert words[5:] == ["-m", "lrsegformer", "finetune-seg", "--a", "1"]
    assert "--config_file" not in launch_words("certify", [], None)


def wait_until(condition, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_a_process_of_multiprocessing_ends_with_its_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import multiprocessing, os, time\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "from lrsegformer.matrix.processes import end_with_parent\n"
        "if __name__ == '__main__':\n"
        "    spawn = multiprocessing.get_context('spawn')\n"
        "    pool = ProcessPoolExecutor(1, mp_context=spawn, initializer=end_with_parent)\n"
        "    print(pool.submit(os.getpid).result(), flush=True)\n"
        "    time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    assert Path(f"/proc/{child}").exists()
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{child}").exists()
