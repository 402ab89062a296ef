"""A network as an attack sees it: from pixels to scores, averaged over its noise."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightning_optreg.attacks.pixel_space import PixelSpace
from lightning_optreg.layers.averages import Average, average_outputs
from lightning_optreg.layers.modes import evaluating

__all__ = ["AttackedNetwork", "attacked", "first_output", "scores_of"]


class AttackedNetwork(nn.Module):
    """Maps pixels (N, C, H, W) on [0, 1] to scores (N, K): the expectation over the network's noise.

    A noisy network gives each call another gradient. An attack that follows single ones is weak, and the
    network then looks more robust than it is; this one follows the mean (expectation over transformation).
    Athalye, Carlini, Wagner 2018, "Obfuscated gradients give a false sense of security" (arXiv:1802.00420).

    Args:
        network: Maps inputs to scores.
        inputs: The batch (N, C, H, W) that is attacked, as the network gets it. Where a pixel is not changed
            the network gets exactly this.
        space: Between inputs and pixels.
        samples: Number of passes, at least 1; for a network without noise one is enough. Default: 1.
        average: What is averaged over the passes, see `average_outputs`. Default: probabilities.

    Raises:
        TypeError: In `forward`, if the network returns something else than scores (N, K) of K >= 2 classes.

    Example:
        >>> import torch
        >>> from lightning_optreg.nets import LeNet5
        >>> images = torch.rand(2, 1, 28, 28)
        >>> net = AttackedNetwork(LeNet5(), images, PixelSpace())
        >>> net(net.pixels).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        network: nn.Module,
        inputs: Tensor,
        space: PixelSpace,
        samples: int = 1,
        average: Average = "probabilities",
    ) -> None:
        super().__init__()
        self.network, self.inputs, self.space = network, inputs, space
        self.samples, self.average = samples, average
        self.pixels = space.pixels(inputs).clamp(0.0, 1.0)
        self.training = False  # Foolbox asks; the network has its own mode

    def forward(self, pixels: Tensor) -> Tensor:
        """Return mean scores (N, K)."""
        inputs = self.inputs_of(pixels)
        scores = torch.stack([scores_of(self.network, inputs) for _ in range(self.samples)])
        return scores[0] if self.samples == 1 else average_outputs(scores, self.average)

    def inputs_of(self, pixels: Tensor) -> Tensor:
        """Return what the network gets for pixels (N, C, H, W)."""
        return self.space.moved(self.inputs, pixels - self.pixels)


def first_output(output: Any) -> Any:
    """Return what a network returned, of a tuple the first part: the rest are those of auxiliary heads."""
    return output[0] if isinstance(output, tuple) and output else output


def scores_of(network: nn.Module, inputs: Tensor) -> Tensor:
    """Return a network's scores (N, K) in float32, or raise TypeError; of a tuple the first part."""
    scores = first_output(network(inputs))
    if not (isinstance(scores, Tensor) and scores.ndim == 2 and scores.shape[1] >= 2):
        found = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise TypeError(
            f"an attack needs a network whose output is scores (N, K) of K >= 2 classes, got {found}"
        )
    return scores.float()


@contextmanager
def attacked(network: nn.Module) -> Iterator[None]:
    """Put a network in evaluation mode, allow gradients with respect to its input, and none of parameters.

    At the end everything is as before; no gradient is left in a parameter.

    Args:
        network: Any module.

    Example:
        >>> net = nn.Linear(2, 2)
        >>> with attacked(net):
        ...     net.training, net.weight.requires_grad
        (False, False)
        >>> net.training, net.weight.requires_grad
        (True, True)
    """
    learned = [parameter for parameter in network.parameters() if parameter.requires_grad]
    try:
        for parameter in learned:
            parameter.requires_grad_(False)
        # A Trainer evaluates in inference mode, whose tensors take no part in a backward pass.
        with evaluating(network), torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for parameter in learned:
            parameter.requires_grad_(True)
