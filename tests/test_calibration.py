"""The calibration error against its definition, prediction by prediction."""

import pytest
import torch
from torch import Tensor
from torchmetrics.classification import MulticlassCalibrationError

from lightning_optreg import ImageClassifier
from lightning_optreg.calibration import CalibrationError
from lightning_optreg.nets import SoftmaxRegression


def textbook(probabilities: Tensor, labels: Tensor, bins: int) -> float:
    """A loop over the bins ((k - 1) / B, k / B]."""
    confidence, predicted = probabilities.max(dim=1)
    right = (predicted == labels).double()
    total = 0.0
    for k in range(bins):
        inside = (confidence > k / bins) & (confidence <= (k + 1) / bins)
        if inside.any():
            count = int(inside.sum())
            total += count * abs(float(confidence[inside].double().mean()) - float(right[inside].mean()))
    return total / len(labels)


def predictions(n: int = 500, sharpness: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(n, 4, generator=generator) * sharpness
    return scores.softmax(1), torch.randint(4, (n,), generator=generator)


@pytest.mark.parametrize("bins", [1, 2, 10, 15])
@pytest.mark.parametrize("sharpness", [0.5, 3.0, 100.0])  # the last has many confidences of exactly 1
def test_is_the_textbooks(bins: int, sharpness: float) -> None:
    probabilities, labels = predictions(sharpness=sharpness)
    assert bool((probabilities.amax(1) == 1.0).any()) == (sharpness == 100.0)
    error = CalibrationError(bins)
    for part in (slice(0, 7), slice(7, 300), slice(300, None)):
        error.update(probabilities[part], labels[part])
    assert float(error.compute()) == pytest.approx(textbook(probabilities, labels, bins), rel=1e-5, abs=1e-6)


def test_a_confidence_of_exactly_1_is_averaged_with_those_below() -> None:
    probabilities = torch.tensor([[0.96, 0.04], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    labels = torch.tensor([0, 0, 1, 1])
    error = CalibrationError()
    error.update(probabilities, labels)
    assert float(error.compute()) == pytest.approx(abs(3.96 / 4 - 3 / 4))


def test_without_such_confidences_it_is_torchmetrics() -> None:
    probabilities, labels = predictions()
    error, theirs = CalibrationError(), MulticlassCalibrationError(4, n_bins=15, norm="l1")
    error.update(probabilities, labels)
    theirs.update(probabilities, labels)
    assert float(error.compute()) == pytest.approx(float(theirs.compute()), rel=1e-5)


def test_the_classifier_reports_it() -> None:
    metric = ImageClassifier(SoftmaxRegression()).test_metrics["calibration_error"]
    assert isinstance(metric, CalibrationError)
    assert metric.bins == 15


def test_wrong_bins() -> None:
    with pytest.raises(ValueError, match=r"^CalibrationError: bins must be >= 1, got 0$"):
        CalibrationError(0)
