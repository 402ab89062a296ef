"""Things done to the training of any network, as Lightning callbacks."""

from lightning_optreg.callbacks.exact_resume import ExactResume
from lightning_optreg.callbacks.histograms import Histograms

__all__ = ["ExactResume", "Histograms"]
