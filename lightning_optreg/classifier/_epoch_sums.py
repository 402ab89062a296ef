"""Loss and accuracy over a training epoch, added up at little cost and kept in checkpoints."""

import torch
from lightning.pytorch import Trainer
from torch import Tensor

__all__ = ["EpochSums"]


class EpochSums:
    """Sums over the training epoch, of this process: losses, right predictions and the number of images.

    20 us a step: a torchmetrics update and two calls of `self.log` cost 25 times as much. They are not
    buffers of the module: DDP overwrites those with the first process's before every step.

    Example:
        >>> sums = EpochSums()
        >>> scores, labels = torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 0])
        >>> sums.add(0, scores, labels, loss=torch.tensor(0.5))
        True
        >>> sums.add(0, scores, labels, loss=torch.tensor(0.4))  # the same batch again
        False
        >>> sums.here(torch.device("cpu"))
        tensor([1., 1., 2.])
    """

    def __init__(self) -> None:
        self._loaded: Tensor | None = None  # (processes, 3), of a checkpoint
        self.begin(torch.device("cpu"))

    def begin(self, device: torch.device) -> None:
        """Begin an epoch; not called when a resumed run continues one."""
        # Two tensors, as adding to elements of one takes twice as many operations.
        self._loss, self._right = torch.zeros((), device=device), torch.zeros((), device=device)
        self._images = 0
        self._counted = -1  # the last batch that they include

    def go_on(self, trainer: Trainer, device: torch.device) -> None:
        """Begin training, with the sums so far of a resumed epoch."""
        if self._loaded is not None:
            ranks = self._loaded.reshape(-1, 3)
            if len(ranks) == trainer.world_size:
                sums = ranks[trainer.global_rank]
            else:  # the first one takes the sums of all
                sums = ranks.sum(0) * (trainer.global_rank == 0)
            self._loss, self._right, self._images = sums[0].clone(), sums[1].clone(), int(sums[2])
            self._loaded = None
        self._loss, self._right, self._counted = self._loss.to(device), self._right.to(device), -1

    def add(self, batch_idx: int, scores: Tensor, y: Tensor, loss: Tensor) -> bool:
        """Add a batch, unless it was added before: optimizers such as LBFGS evaluate it several times.

        Args:
            batch_idx: Its number in the epoch.
            scores: (N, K).
            y: Classes (N,), or probabilities (N, K).
            loss: Mean loss.

        Returns:
            Whether it was added; an empty batch is not.
        """
        if batch_idx <= self._counted:
            return False
        self._counted = batch_idx
        if len(y) == 0:  # a Poisson sample may be empty, and has no mean loss
            return False
        classes = y if y.ndim == 1 else y.argmax(dim=1)  # the larger part of a mixture
        self._loss.add_(loss.detach(), alpha=len(y))
        self._right.add_((scores.argmax(dim=1) == classes).sum())
        self._images += len(y)
        return True

    def here(self, device: torch.device) -> Tensor:
        """Return the three sums, (3,)."""
        # A new tensor, since DDP reduces it in place; on the device, as NCCL needs it.
        return torch.stack((self._loss, self._right, self._loss.new_tensor(self._images))).to(device)

    def clear(self) -> None:
        """Reset the sums at the end of an epoch."""
        self._loss, self._right = torch.zeros_like(self._loss), torch.zeros_like(self._right)
        self._images = 0

    def load(self, ranks: Tensor | None) -> None:
        """Keep each process's sums from a checkpoint until it is known which process this is."""
        self._loaded = ranks
