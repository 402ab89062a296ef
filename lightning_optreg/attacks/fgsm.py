"""The fast gradient sign method: one step in the direction of the gradient's sign."""

from typing import Any

from lightning_optreg.attacks.attack import FoolboxAttack
from lightning_optreg.layers.averages import Average

__all__ = ["FGSM"]


class FGSM(FoolboxAttack):
    """Make one step along the sign of the gradient: p' = p + eps sign(grad_p L(f(p), y)).

    Goodfellow, Shlens, Szegedy 2015, "Explaining and harnessing adversarial examples" (arXiv:1412.6572).

    Args:
        eps: Largest change of a pixel on [0, 1], in [0, 1]. Default: 8/255, as is usual for CIFAR-10.
        samples: Passes whose mean gives the gradient, at least 1: more than 1 for a network that is noisy in
            evaluation. Default: 1.
        average: `probabilities` or `outputs`, what is averaged over them. Default: probabilities.

    Raises:
        ValueError: If a value is out of its range.

    Example:
        >>> import torch
        >>> from lightning_optreg.nets import LeNet5
        >>> images, labels = torch.rand(2, 1, 28, 28), torch.tensor([3, 7])
        >>> adversarial = FGSM(eps=0.1)(LeNet5(), images, labels)
        >>> print(f"{(adversarial - images).abs().max():.2f}")
        0.10
    """

    def __init__(self, eps: float = 8 / 255, samples: int = 1, average: Average = "probabilities") -> None:
        super().__init__(eps, samples, average)

    def make(self, attacks: Any) -> Any:
        """Return the attack, given the module `foolbox.attacks`."""
        return attacks.LinfFastGradientAttack(random_start=False)
