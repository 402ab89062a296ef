"""The base of all attacks on a trained network, with Foolbox under it."""

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from lightning_optreg._checks import check_choice, check_range, required
from lightning_optreg.attacks.attacked_network import AttackedNetwork, attacked
from lightning_optreg.attacks.pixel_space import PixelSpace
from lightning_optreg.attacks.steps import Norm
from lightning_optreg.layers.averages import Average
from lightning_optreg.randomness.kept_generators import seeded_generators

__all__ = ["Attack", "FoolboxAttack"]


class Attack(ABC):
    """Base of attacks: small changes of images, by which a trained network classifies them wrongly.

    The network is attacked in evaluation mode, through its normalisation, and stays as it is: no gradient is
    left in it, and no generator advances. Layers that are noisy in evaluation stay noisy.

    Args:
        eps: Largest size of a change in the attack's norm, for pixels on [0, 1], at least 0.
        samples: Passes whose mean gives a gradient, at least 1: more than 1 for a network with noise, see
            `AttackedNetwork`.
        average: What is averaged over them, see `average_outputs`.

    Raises:
        ValueError: If a value is out of its range.
        ModuleNotFoundError: If the package that it needs is not installed.
    """

    norm: Norm = "linf"
    """Norm of a change."""

    package: str | None = None
    """An optional package that it needs."""

    extra = "robustness"
    """The extra of this package that installs it."""

    def __init__(self, eps: float, samples: int, average: Average) -> None:
        name = type(self).__name__
        if self.package is not None:
            required(self.package, name, self.extra)  # now, not after the data are read
        check_range(name, "[0, 1]" if self.norm == "linf" else "[0, inf)", eps=eps)
        check_range(name, ">= 1", samples=samples)
        check_choice(name, ("probabilities", "outputs"), average=average)
        self.eps, self.samples, self.average = eps, samples, average

    @property
    def label(self) -> str:
        """What it is called in tables; the class's name by default."""
        return type(self).__name__

    @abstractmethod
    def search(self, network: AttackedNetwork, labels: Tensor) -> Tensor:
        """Return changed pixels (N, C, H, W), given those of the network."""

    def __call__(
        self,
        network: nn.Module,
        inputs: Tensor,
        labels: Tensor,
        space: PixelSpace | None = None,
        *,
        seed: int = 0,
    ) -> Tensor:
        """Change a batch of images.

        Args:
            network: Maps inputs (N, C, H, W) to scores (N, K), on the device of the inputs.
            inputs: Images as the network gets them.
            labels: True classes, integers (N,).
            space: Between inputs and pixels. None: inputs are pixels on [0, 1].
            seed: Of the attack's and the network's random numbers, at least 0.

        Returns:
            Changed inputs (N, C, H, W): at most `eps` away, with pixels in [0, 1].

        Raises:
            ValueError: If inputs, labels or pixels are not as described.
            TypeError: If the network does not return scores.
        """
        self._check(inputs, labels)
        space = PixelSpace() if space is None else space
        with seeded_generators(seed, inputs.device, network=network), attacked(network):
            inputs, labels = inputs.clone(), labels.clone()  # not tensors of inference mode
            wrong = space.unlike_pixels(inputs)
            if wrong is not None:
                raise ValueError(
                    f"{type(self).__name__}: pixels must be on [0, 1], {wrong}; give the mean and standard "
                    "deviation that they were normalised with"
                )
            target = AttackedNetwork(network, inputs, space, self.samples, self.average)
            return target.inputs_of(self.search(target, labels)).detach()

    def _check(self, inputs: Tensor, labels: Tensor) -> None:
        name = type(self).__name__
        if inputs.ndim != 4 or not inputs.is_floating_point():
            raise ValueError(
                f"{name}: images must be floating-point (N, C, H, W), got {inputs.dtype} of shape "
                f"{tuple(inputs.shape)}"
            )
        if labels.shape != inputs.shape[:1] or labels.is_floating_point() or labels.is_complex():
            raise ValueError(
                f"{name}: labels must be classes, integers ({len(inputs)},), got {labels.dtype} of shape "
                f"{tuple(labels.shape)}"
            )


class FoolboxAttack(Attack):
    """Base of the attacks that Foolbox makes (Rauber, Zimmermann, Bethge, Brendel 2020, JOSS 5(53))."""

    package = "foolbox"

    @abstractmethod
    def make(self, attacks: Any) -> Any:
        """Return the attack, given the module `foolbox.attacks`."""

    def search(self, network: AttackedNetwork, labels: Tensor) -> Tensor:
        """Return the pixels that Foolbox found."""
        foolbox = required("foolbox", type(self).__name__, self.extra)
        model = foolbox.PyTorchModel(network, bounds=(0.0, 1.0), device=network.pixels.device)
        wrong = foolbox.criteria.Misclassification(labels.long())
        _, pixels, _ = self.make(foolbox.attacks)(model, network.pixels, wrong, epsilons=self.eps)
        found: Tensor = pixels
        return found
