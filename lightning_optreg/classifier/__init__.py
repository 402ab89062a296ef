"""The LightningModule for any network that maps images to scores, and the measures it logs."""

from lightning_optreg.classifier.brier_score import brier_score
from lightning_optreg.classifier.image_classifier import ImageClassifier

__all__ = ["ImageClassifier", "brier_score"]
