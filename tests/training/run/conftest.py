"""What tests of whole runs share."""

from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def program(request, tmp_path_factory) -> Path:
    """The file of a module's PROGRAM, which its tests run in processes of their own."""
    file = tmp_path_factory.mktemp("program") / "program.py"
    file.write_text(request.module.PROGRAM, encoding="utf-8")
    return file
