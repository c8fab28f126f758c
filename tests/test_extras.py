"""Versions of packages, whether installed or not."""

import torch

from lrsegformer.extras import installed_versions


def test_a_package_without_metadata_costs_no_run_its_report():
    versions = installed_versions(["torch", "no-such-distribution"])
    assert versions == {"torch": torch.__version__, "no-such-distribution": "?"}
