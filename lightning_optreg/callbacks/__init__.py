"""Things done to the training of any network, as Lightning callbacks."""

from lightning_optreg.callbacks.exact_resume import ExactResume
from lightning_optreg.callbacks.histograms import Histograms
from lightning_optreg.callbacks.throughput import Throughput

__all__ = ["ExactResume", "Histograms", "Throughput"]
