"""Optimization and regularization methods of deep learning as PyTorch Lightning parts."""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_optreg import (
        analysis,
        attacks,
        callbacks,
        classifier,
        data,
        export,
        figures,
        functional,
        layers,
        loggers,
        losses,
        nets,
        optimizers,
        parallel,
        randomness,
        runs,
        schedulers,
        strategies,
        studies,
    )
    from lightning_optreg.classifier import ImageClassifier

__all__ = [
    "ImageClassifier",
    "__version__",
    "analysis",
    "attacks",
    "callbacks",
    "classifier",
    "data",
    "export",
    "figures",
    "functional",
    "layers",
    "loggers",
    "losses",
    "nets",
    "optimizers",
    "parallel",
    "randomness",
    "register_names",
    "runs",
    "schedulers",
    "strategies",
    "studies",
]

__version__ = "0.2.0"


# The packages of the parts that a configuration may name.
_NAMED = (
    "callbacks",
    "classifier",
    "data",
    "layers",
    "loggers",
    "losses",
    "nets",
    "optimizers",
    "schedulers",
    "strategies",
)


def register_names() -> None:
    """Import all parts, so that a LightningCLI of your own takes their short names.

    LightningCLI finds a class by its short name once its module is imported. `import lightning_optreg` does
    this by itself if Lightning is imported before; otherwise it imports nothing, as Lightning takes seconds
    and many parts need only torch.

    Example:
        >>> import sys, lightning_optreg
        >>> lightning_optreg.register_names()
        >>> "lightning_optreg.callbacks" in sys.modules
        True
    """
    for name in _NAMED:
        import_module(f"lightning_optreg.{name}")


def __getattr__(name: str) -> Any:
    # Imported when asked for (PEP 562): torch and Lightning take seconds, and `--help` needs neither.
    if name == "ImageClassifier":
        return import_module("lightning_optreg.classifier").ImageClassifier
    if name in __all__:
        return import_module(f"lightning_optreg.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if "lightning.pytorch" in sys.modules:
    register_names()
