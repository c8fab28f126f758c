"""Other packages: the optional ones, imported where they are used and nowhere else, and the versions of any."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

from lrsegformer.errors import InputError

# What pip calls a package whose module has another name, and the extra that brings one that `robustness` does not.
_INSTALL_NAMES = {"imagecorruptions": "imagecorruptions-imaug", "adv_lib": "adv-lib"}
_EXTRAS = {
    "adv_lib": "alma",
    "av": "video",
    "onnx": "export",
    "onnxruntime": "export",
    "onnxscript": "export",
    "peft": "peft",
    "shtab": "completion",
}


def require(package: str) -> ModuleType:
    """
    Import an optional package.

    Args:
        package (`str`): the module's name, such as `"foolbox"`.

    Returns:
        `ModuleType`: the module.

    Raises:
        [`~lrsegformer.errors.InputError`]: it is not installed, or is and cannot be imported.
    """
    name, extra = install_name(package), _EXTRAS.get(package.partition(".")[0], "robustness")
    remedy = f"pip install lrsegformer[{extra}]"
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name == package.partition(".")[0]:
            raise InputError(f"this needs the package {name}: {remedy}") from None
        reason = error
    except (ImportError, RuntimeError, OSError) as error:  # RuntimeError is torchvision's, where it does not fit torch
        reason = error
    first_line = str(reason).strip().partition("\n")[0]
    raise InputError(
        f"the package {name} is installed but cannot be imported ({first_line}): mend the environment, such as by "
        f"{remedy}, or leave out what needs it"
    ) from reason


def install_name(package: str) -> str:
    """What pip calls the package of a module."""
    top = package.partition(".")[0]
    return _INSTALL_NAMES.get(top, top)


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """
    The versions of packages, by what pip calls them; `"?"` of one that is imported from a folder without being
    installed, which is no reason for a run to lose what it says of itself.
    """
    versions = {}
    for name in packages:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "?"
    return versions
