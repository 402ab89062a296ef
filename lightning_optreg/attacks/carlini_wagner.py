"""The attack of Carlini and Wagner: the smallest change, in the l2 norm, that a network is wrong on."""

from typing import Any

from lightning_optreg._checks import check_range
from lightning_optreg.attacks.attack import FoolboxAttack
from lightning_optreg.attacks.steps import Norm
from lightning_optreg.layers.averages import Average

__all__ = ["CarliniWagner"]


class CarliniWagner(FoolboxAttack):
    """Minimise |p' - p|^2 + c max(f_y(p') - max f_k(p') + kappa, 0), the maximum over classes k != y.

    Adam minimises it over arctanh(2p' - 1), and c is searched for each image by bisection. An attack succeeds
    if the change that it finds is at most `eps` long; longer ones are shortened to `eps`. Carlini, Wagner
    2017, "Towards evaluating the robustness of neural networks" (arXiv:1608.04644). The code of Wang et al.
    2019 (github.com/BaoWangMath/EnResNet) makes 50 steps of Adam on the pixels with c = 10, and multiplies
    the change that it finds by 0.031, so its accuracies are not comparable with these.

    Args:
        eps: Largest l2 norm of an image's change, for pixels on [0, 1], at least 0. Default: 0.5, as is usual
            for CIFAR-10.
        steps: Steps of Adam for each c, at least 1. The authors make 10,000. Default: 50.
        search_steps: Number of values of c, at least 1. Default: 5.
        step_size: Learning rate of Adam, > 0. Default: 0.05.
        c: The first c, > 0. Default: 1.
        confidence: kappa, at least 0. Default: 0.
        samples: Passes whose mean gives a gradient, at least 1. Default: 1.
        average: `probabilities` or `outputs`, what is averaged over them. Default: probabilities.

    Raises:
        ValueError: If a value is out of its range.

    Example:
        >>> import torch
        >>> from lightning_optreg.nets import SoftmaxRegression
        >>> images, labels = torch.rand(2, 1, 28, 28), torch.tensor([3, 7])
        >>> adversarial = CarliniWagner(eps=1.0, steps=5)(SoftmaxRegression(), images, labels)
        >>> bool((adversarial - images).flatten(1).norm(dim=1).max() < 1.001)
        True
    """

    norm: Norm = "l2"

    def __init__(
        self,
        eps: float = 0.5,
        steps: int = 50,
        search_steps: int = 5,
        step_size: float = 0.05,
        c: float = 1.0,
        confidence: float = 0.0,
        samples: int = 1,
        average: Average = "probabilities",
    ) -> None:
        super().__init__(eps, samples, average)
        check_range("CarliniWagner", ">= 1", steps=steps, search_steps=search_steps)
        check_range("CarliniWagner", "(0, inf)", step_size=step_size, c=c)
        check_range("CarliniWagner", "[0, inf)", confidence=confidence)
        self.steps, self.search_steps, self.step_size = steps, search_steps, step_size
        self.c, self.confidence = c, confidence

    @property
    def label(self) -> str:
        """`C&W`, or `EOT-C&W` with several samples."""
        return "EOT-C&W" if self.samples > 1 else "C&W"

    def make(self, attacks: Any) -> Any:
        """Return the attack, given the module `foolbox.attacks`."""
        return attacks.L2CarliniWagnerAttack(
            binary_search_steps=self.search_steps,
            steps=self.steps,
            stepsize=self.step_size,
            confidence=self.confidence,
            initial_const=self.c,
        )
