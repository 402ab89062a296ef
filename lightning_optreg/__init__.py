"""Optimization and regularization methods of deep learning as PyTorch Lightning parts."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_optreg.classifier import ImageClassifier

__all__ = ["ImageClassifier", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Lightning takes seconds to import; a command that needs none of it should not wait for it.
    if name == "ImageClassifier":
        from lightning_optreg.classifier import ImageClassifier

        return ImageClassifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
