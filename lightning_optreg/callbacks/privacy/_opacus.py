"""Opacus, which is imported when it is used."""

import importlib
import logging
from types import ModuleType

from lightning_optreg._checks import required

__all__ = ["opacus"]


def opacus(part: str, owner: str) -> ModuleType:
    """Import a part of Opacus, and leave the logging of the program as it is.

    Args:
        part: Its name, such as `optimizers`.
        owner: Name of the class that needs it, for the error.

    Raises:
        ModuleNotFoundError: If it is not installed; says how to install it.

    Example:
        >>> opacus("accountants", "DifferentialPrivacy").create_accountant(mechanism="rdp").mechanism()
        'rdp'
    """
    # Opacus 1.6 calls logging.basicConfig when it is imported.
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        required("opacus", owner, "privacy")
        return importlib.import_module(f"opacus.{part}")
    finally:
        for handler in [handler for handler in root.handlers if handler not in handlers]:
            root.removeHandler(handler)
        root.setLevel(level)
