"""Optimization and regularization methods of deep learning as PyTorch Lightning parts."""

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
    "runs",
    "schedulers",
    "strategies",
    "studies",
]

__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    # Imported when asked for (PEP 562): torch and Lightning take seconds, and `--help` needs neither.
    if name == "ImageClassifier":
        return import_module("lightning_optreg.classifier").ImageClassifier
    if name in __all__:
        return import_module(f"lightning_optreg.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
