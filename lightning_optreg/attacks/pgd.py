"""Projected gradient descent, and the iterated fast gradient sign method, which has no random start."""

from typing import Any, Literal

from lightning_optreg._checks import check_choice, check_range
from lightning_optreg.attacks.attack import FoolboxAttack
from lightning_optreg.attacks.steps import Norm
from lightning_optreg.layers.averages import Average

__all__ = ["IFGSM", "PGD", "usual_step_size"]


def usual_step_size(eps: float, steps: int) -> float:
    """Return 2.5 eps / steps, with which the steps can cross the ball.

    Madry et al. 2018 (arXiv:1706.06083) use it, and it is 1/255 for 20 steps within 8/255.
    """
    return 2.5 * eps / steps


class PGD(FoolboxAttack):
    """Climb the loss within the ball |p' - p| <= eps around an image, from a random point of it.

    Each step follows the gradient's sign (norm "linf") or its direction ("l2"), and projects on the ball
    and on pixels in [0, 1]. Of several restarts, one that succeeds is taken. With `samples` above 1 it is
    EOT-PGD, for networks that are noisy in evaluation. Madry, Makelov, Schmidt, Tsipras, Vladu 2018,
    "Towards deep learning models resistant to adversarial attacks" (arXiv:1706.06083); Athalye, Carlini,
    Wagner 2018, "Obfuscated gradients give a false sense of security" (arXiv:1802.00420).

    Args:
        eps: Radius of the ball in the norm, for pixels on [0, 1]: in [0, 1] for linf, at least 0 for l2.
            Default: 8/255, as is usual for CIFAR-10 with linf.
        steps: Number of steps, at least 1. Default: 20.
        step_size: Length of a step in the norm, > 0. None: 2.5 eps / steps. Default: None.
        norm: `linf` or `l2`. Default: linf.
        restarts: Number of random starts, at least 1. Default: 1.
        samples: Passes whose mean gives a gradient, at least 1. Default: 1.
        average: `probabilities` or `outputs`, what is averaged over them. Default: probabilities.

    Raises:
        ValueError: If a value is out of its range.

    Example:
        >>> import torch
        >>> from lightning_optreg.nets import LeNet5
        >>> images, labels = torch.rand(2, 1, 28, 28), torch.tensor([3, 7])
        >>> adversarial = PGD(eps=0.1, steps=5)(LeNet5(), images, labels)
        >>> bool((adversarial - images).abs().max() < 0.1001)
        True
    """

    random_start = True

    def __init__(
        self,
        eps: float = 8 / 255,
        steps: int = 20,
        step_size: float | None = None,
        norm: Literal["linf", "l2"] = "linf",
        restarts: int = 1,
        samples: int = 1,
        average: Average = "probabilities",
    ) -> None:
        name = type(self).__name__
        check_choice(name, ("linf", "l2"), norm=norm)
        self.norm: Norm = norm
        super().__init__(eps, samples, average)
        check_range(name, ">= 1", steps=steps, restarts=restarts)
        if step_size is not None:
            check_range(name, "(0, inf)", step_size=step_size)
        self.steps, self.restarts = steps, restarts
        self.step_size = usual_step_size(eps, steps) if step_size is None else step_size

    @property
    def label(self) -> str:
        """Its name with what makes it stronger: `EOT-PGD-20`, `PGD-l2-20x5` with 5 restarts."""
        parts = ["EOT"] * (self.samples > 1) + [type(self).__name__] + ["l2"] * (self.norm == "l2")
        return f"{'-'.join(parts)}-{self.steps}{f'x{self.restarts}' if self.restarts > 1 else ''}"

    def make(self, attacks: Any) -> Any:
        """Return the attack, given the module `foolbox.attacks`."""
        kind = attacks.LinfPGD if self.norm == "linf" else attacks.L2PGD
        attack = kind(steps=self.steps, abs_stepsize=self.step_size, random_start=self.random_start)
        return attack if self.restarts == 1 else attack.repeat(self.restarts)


class IFGSM(PGD):
    """Iterate the fast gradient sign method from the image itself: PGD without a random start.

    Kurakin, Goodfellow, Bengio 2017, "Adversarial examples in the physical world" (arXiv:1607.02533). With 20
    steps it is the IFGSM^20 of Wang et al. 2019 (arXiv:1811.10745).

    Args:
        eps: Largest change of a pixel on [0, 1], in [0, 1]. Default: 8/255.
        steps: Number of steps, at least 1. Default: 20.
        step_size: Largest change of a pixel in a step, > 0. None: 2.5 eps / steps, 1/255 for the defaults.
            Default: None.
        samples: Passes whose mean gives a gradient, at least 1. Default: 1.
        average: `probabilities` or `outputs`, what is averaged over them. Default: probabilities.

    Raises:
        ValueError: If a value is out of its range.

    Example:
        >>> IFGSM(eps=0.1).label
        'IFGSM-20'
    """

    random_start = False

    def __init__(
        self,
        eps: float = 8 / 255,
        steps: int = 20,
        step_size: float | None = None,
        samples: int = 1,
        average: Average = "probabilities",
    ) -> None:
        super().__init__(eps, steps, step_size, samples=samples, average=average)
