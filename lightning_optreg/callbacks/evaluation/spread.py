"""How much the passes of a network differ, and with it how sure its average is."""

from torch import Tensor

from lightning_optreg.layers.averages import Average

__all__ = ["describe_spread", "spread"]


def spread(probabilities: Tensor) -> dict[str, Tensor]:
    """Return how much samples of predictions differ: H[E p], E H[p] and their difference, in nats.

    The entropy of the mean prediction is the total uncertainty. The mean entropy of the samples is what would
    remain if z were known, and their difference, the mutual information of y and z, is due to the noise
    (Houlsby et al. 2011, arXiv:1112.5745).

    Args:
        probabilities: (S, N, K), of S samples.

    Returns:
        `predictive_entropy`, `expected_entropy` and `mutual_information`, each (N,), in [0, log K].

    Example:
        >>> import torch
        >>> certain = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])  # two samples that contradict each other
        >>> {name: round(value.item(), 4) for name, value in spread(certain).items()}
        {'predictive_entropy': 0.6931, 'expected_entropy': 0.0, 'mutual_information': 0.6931}
    """
    predictive = _entropy(probabilities.mean(0))
    expected = _entropy(probabilities).mean(0)
    return {
        "predictive_entropy": predictive,
        "expected_entropy": expected,
        "mutual_information": (predictive - expected).clamp_min(0.0),  # may be negative by rounding
    }


def _entropy(probabilities: Tensor) -> Tensor:
    return -probabilities.xlogy(probabilities).sum(-1)


def describe_spread(outputs: Tensor, average: Average) -> dict[str, Tensor]:
    """Return how much passes differ: means over the images of `spread`, or of the standard deviation.

    Args:
        outputs: (S, N, K) scores of S passes; with `average="outputs"` (S, ...).
        average: How they are averaged.

    Example:
        >>> import torch
        >>> describe_spread(torch.tensor([[[1.0]], [[3.0]]]), "outputs")
        {'std': tensor(1.)}
    """
    outputs = outputs.detach().float()
    if average == "outputs":
        return {"std": outputs.std(0, correction=0).mean()}
    return {name: value.mean() for name, value in spread(outputs.softmax(-1)).items()}
