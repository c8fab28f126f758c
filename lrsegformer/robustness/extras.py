"""The optional packages of the bench, imported where they are used and nowhere else."""

from __future__ import annotations

import importlib
from types import ModuleType

from lrsegformer.errors import InputError

# What pip calls a package whose module has another name.
_INSTALL_NAMES = {"imagecorruptions": "imagecorruptions-imaug"}


def require(package: str) -> ModuleType:
    """
    Import an optional package of the extra `robustness`.

    Args:
        package (`str`): the module's name, such as `"foolbox"`.

    Returns:
        `ModuleType`: the module.

    Raises:
        [`~lrsegformer.errors.InputError`]: it is not installed. A package that is installed but fails to import
            something else raises its own error.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        # Some other module that the package misses is a broken installation, which its own message describes best.
        if error.name != package.partition(".")[0]:
            raise
        name = _INSTALL_NAMES.get(package, package)
        raise InputError(
            f"this part of the robustness bench needs the package {name}: pip install lrsegformer[robustness]"
        ) from None
