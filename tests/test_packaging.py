"""What is installed and what is handed out: package data, metadata, and the archives built from a copy of the tree."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from configparser import ConfigParser
from fnmatch import fnmatch
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import yaml

import lrsegformer
from lrsegformer.cli.main import main

ROOT = Path(__file__).resolve().parents[1]
SETUP = ConfigParser()
SETUP.read(ROOT / "setup.cfg", encoding="utf-8")
NOT_HANDED_OUT = ("__pycache__", ".*", "build", "*.egg-info", "runs", "reports")


def data_files() -> set[str]:
    """What lies in the package and is no Python file, by its path inside it."""
    package = ROOT / "lrsegformer"
    files = (path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(package).as_posix() for path in files if path.suffix != ".py"}


def test_every_data_file_is_package_data():
    patterns = [word.strip() for word in SETUP["options.package_data"]["lrsegformer"].split(",")]
    assert {file for file in data_files() if not any(fnmatch(file, pattern) for pattern in patterns)} == set()
    assert all(any(fnmatch(file, pattern) for file in data_files()) for pattern in patterns)
    assert "py.typed" in data_files()


def test_the_installed_command_is_the_main_one():
    (command,) = entry_points(group="console_scripts", name="lrsegformer")
    assert command.load() is main


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0" and citation["title"].startswith("LRSegformer")
    assert citation["version"] == lrsegformer.__version__
    assert citation["license"] == SETUP["metadata"]["license"]
    assert citation["message"] and all("name" in author for author in citation["authors"])
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\n## {lrsegformer.__version__}" in changes


@pytest.mark.slow
def test_wheel_and_source_archive(tmp_path):
    tree, built = tmp_path / "tree", tmp_path / "dist"
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(*NOT_HANDED_OUT))
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(built), str(tree)]
    process = subprocess.run(build, capture_output=True, text=True, timeout=600)
    assert process.returncode == 0, process.stdout[-4000:] + process.stderr[-4000:]

    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        installed = set(archive.namelist())
        (folder,) = {name.split("/")[0] for name in installed if ".dist-info/" in name}
        metadata = archive.read(f"{folder}/METADATA").decode()
        commands = archive.read(f"{folder}/entry_points.txt").decode()
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "lrsegformer").rglob("*.py")}
    assert {name for name in installed if not name.startswith(folder)} == modules | {
        f"lrsegformer/{file}" for file in data_files()
    }
    assert f"{folder}/licenses/LICENSE" in installed and "lrsegformer.cli.main:main" in commands
    assert f"Version: {lrsegformer.__version__}\n" in metadata and "Requires-Python: >=3.10\n" in metadata

    (source,) = built.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert modules | {f"lrsegformer/{file}" for file in data_files()} <= names
    top = "LICENSE README.md CHANGELOG.md CITATION.cff Makefile constraints.txt setup.cfg pyproject.toml run.py"
    assert {*top.split(), "scripts/finetune_seg.py", "accelerate_configs/ddp.yaml", "docs/quickstart.yaml"} <= names
    assert {"tests/conftest.py", "tests/cli/test_main.py"} <= names
