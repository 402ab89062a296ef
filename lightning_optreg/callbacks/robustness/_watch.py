"""See whether a step calls the network that is attacked with the images of its batch."""

from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

__all__ = ["Watch"]


class Watch:
    """Watch the calls of a network in one step.

    Args:
        network: The network that is attacked.
        images: What an attack calls it with.
    """

    def __init__(self, network: nn.Module, images: Tensor) -> None:
        self._images = images.detach().clone()  # a step may change its batch
        self._called_with_them = False
        hook = torch.compiler.disable(self._look)  # type: ignore[no-untyped-call]  # untyped in torch 2.14
        # Before the hooks of callbacks that replace a network's input.
        self._handle = network.register_forward_pre_hook(hook, with_kwargs=True, prepend=True)

    def _look(self, network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for value in (*args, *kwargs.values()):
            if isinstance(value, Tensor) and value.shape == self._images.shape:
                # A step may convert them to another dtype.
                same = torch.allclose(value.float(), self._images.float(), 1e-2, 1e-2, equal_nan=True)
                self._called_with_them |= same

    def stop(self) -> None:
        """Watch no longer."""
        self._handle.remove()

    def finish(self, owner: str, step: str, network: nn.Module) -> None:
        """Watch no longer, and warn if the network was not called with the images.

        Args:
            owner: Name of the calling class.
            step: Name of the step.
            network: The network.
        """
        self.stop()
        if not self._called_with_them:
            rank_zero_warn(
                f"{owner}: the {step} step does not call {type(network).__name__} with the batch's images, "
                "but with changed ones, or not at all; so the network that is attacked is not the one that "
                "it uses. Pass net=<name of the module that it calls with them>, net='self' for the "
                "LightningModule"
            )
