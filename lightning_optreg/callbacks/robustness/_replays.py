"""Each batch several times in a row, with a change of its images that follows the gradient ("free" training).

Shafahi et al. 2019, "Adversarial training for free!" (arXiv:1904.12843): the backward pass of a training step
also gives the gradient with respect to the images, so the next step on the same images, changed a little
further, costs nothing but itself.
"""

import copy
from typing import Any

import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from torch import Tensor

from lightning_optreg.attacks.pixel_space import PixelSpace
from lightning_optreg.attacks.steps import Norm, ascend, project

__all__ = ["Replays"]


class Replays:
    """The batch that is shown again, and the change of its pixels.

    Args:
        replays: Steps on each batch, at least 1.
        eps: Largest size of a change, for pixels on [0, 1].
        step_size: Size of the step that each backward pass adds to the change.
        norm: Of both.
    """

    def __init__(self, replays: int, eps: float, step_size: float, norm: Norm) -> None:
        self.replays, self.eps, self.step_size, self.norm = replays, eps, step_size, norm
        self.reset()

    def reset(self) -> None:
        """Begin with a new batch, unchanged."""
        self._count = 0  # steps made on the batch
        self._batch: Any = None  # a list or a dictionary, with all of its parts
        self._change: Tensor | None = None  # kept from batch to batch, as many rows as the largest had
        self._shown: Tensor | None = None  # the change in the present step
        self._leaf: Tensor | None = None  # the same as a change of the inputs, whose gradient is followed
        self._space = PixelSpace()

    def fill(self, batch: Any, place: int | str, space: PixelSpace) -> None:
        """Put into the loader's batch what the step gets: the batch that is repeated, with changed images.

        Args:
            batch: A list or a dictionary; every so often it is the one that is repeated next.
            place: Where its images (N, C, H, W) are.
            space: Between inputs and pixels.
        """
        if self._batch is None or self._count >= self.replays:
            self._batch, self._count = copy.deepcopy(batch), 0
        self._count += 1
        kept = copy.deepcopy(self._batch)  # a step may change it
        if isinstance(batch, dict):
            batch.clear()
            batch.update(kept)
        else:
            batch[:] = kept
        images = self._batch[place]
        down, up = space.room(images)
        self._shown = torch.maximum(torch.minimum(self._rows(down), up), down)
        self._space, self._leaf = space, space.scaled(self._shown).requires_grad_()
        # A sum keeps no tensors, so an optimizer's closure may go backward through it again and again.
        batch[place] = (images + self._leaf).to(images.dtype)

    def _rows(self, like: Tensor) -> Tensor:
        """Return the rows of the change that a batch needs, new ones at 0."""
        change = self._change
        if change is None or change.shape[1:] != like.shape[1:]:
            change = torch.zeros_like(like)
        elif len(change) < len(like):
            change = torch.cat([change.to(like), torch.zeros_like(like[len(change) :])])
        self._change = change.to(like)
        return self._change[: len(like)]

    @property
    def size(self) -> Tensor | None:
        """The change of the present step, (N, C, H, W)."""
        return self._shown

    def follow(self) -> None:
        """Follow the gradient that a backward pass has left."""
        if self._leaf is None or self._leaf.grad is None or self._change is None or self._shown is None:
            return
        gradient = self._space.scaled(self._leaf.grad)
        rows = ascend(self._shown, gradient, self.step_size, self.norm)
        self._change = torch.cat([project(rows, self.eps, self.norm), self._change[len(rows) :]])
        self._leaf = None

    def state(self) -> dict[str, Any]:
        """Return what the next step needs, on the CPU."""
        batch, change = move_data_to_device((self._batch, self._change), torch.device("cpu"))
        return {"count": self._count, "batch": batch, "change": change}

    def load(self, state: dict[str, Any], device: torch.device) -> None:
        """Go on from a state."""
        self.reset()
        self._count = state["count"]
        self._batch, self._change = move_data_to_device((state["batch"], state["change"]), device)
