"""Histograms of gradients and parameters over the training, in Weights & Biases or TensorBoard.

The distribution of each tensor's entries shows vanishing and exploding gradients, layers that stopped
learning and badly scaled initial weights. `wandb.watch` counts backward passes and validation batches, misses
parameters of modules whose `forward` Lightning doesn't call, and counts from 0 again in a resumed run; here
the trainer's step is used.
"""

from typing import Literal

import numpy as np
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.logger import DummyLogger
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from lightning_optreg._checks import check_range
from lightning_optreg.trainer.refusals import refuse_split_network
from lightning_optreg.trainer.roles import OnlyRecords

__all__ = ["Histograms"]


class Histograms(OnlyRecords, Callback):
    """Log histograms of each parameter's gradient, of the parameters themselves, or of both.

    They are computed just before an optimizer step: gradients are complete (accumulated, averaged over
    processes, unscaled) and not yet clipped. Entries that are not finite are left out, as are the implicit
    zeros of a sparse gradient (as of `Embedding(sparse=True)`). They are logged as `gradients/<parameter>`
    and `parameters/<parameter>`.

    Args:
        of: `gradients`, `parameters` or `all`.
        every_n_steps: Number of optimizer steps between histograms, at least 1. Default: 100.
        bins: Bins of a W&B histogram, at least 1, over the range of its values. TensorBoard chooses its own.
            Default: 64.

    Raises:
        ValueError: If a value is out of its range.
        MisconfigurationException: At the start of a fit, if no logger accepts histograms, or the strategy
            splits the network.

    Example:
        >>> Histograms(of="all", every_n_steps=500).of
        'all'
    """

    def __init__(
        self,
        of: Literal["gradients", "parameters", "all"] = "gradients",
        *,
        every_n_steps: int = 100,
        bins: int = 64,
    ) -> None:
        if of not in ("gradients", "parameters", "all"):
            raise ValueError(f"Histograms: of must be gradients, parameters or all, got {of!r}")
        check_range("Histograms", ">= 1", every_n_steps=every_n_steps, bins=bins)
        self.of = of
        self.every_n_steps = every_n_steps
        self.bins = bins

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a fit whose loggers would drop the histograms."""
        if stage == "fit":
            refuse_split_network(trainer, "Histograms", "so no process has all tensors")
        # A fast_dev_run has one DummyLogger.
        takers = (WandbLogger, TensorBoardLogger, DummyLogger)
        if stage == "fit" and not any(isinstance(logger, takers) for logger in trainer.loggers):
            raise MisconfigurationException(
                "Histograms: no logger of this trainer accepts histograms; "
                "add RunWandbLogger or TensorBoardLogger to trainer.logger"
            )

    @override
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Log this optimizer's tensors in every n-th step."""
        step = trainer.global_step
        if (step + 1) % self.every_n_steps or not trainer.is_global_zero:
            return
        optimized = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        tensors: dict[str, Tensor] = {}
        for name, parameter in pl_module.named_parameters():
            if id(parameter) not in optimized:
                continue
            if self.of != "gradients":
                tensors[f"parameters/{name}"] = parameter.detach()
            if self.of != "parameters" and parameter.grad is not None:
                tensors[f"gradients/{name}"] = parameter.grad
        values = {name: finite for name, tensor in tensors.items() if len(finite := _finite_values(tensor))}
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                import wandb  # optional; installed if this logger exists

                counts = {name: np.histogram(entries, self.bins) for name, entries in values.items()}
                shown = {name: wandb.Histogram(np_histogram=count) for name, count in counts.items()}
                logger.log_metrics(shown, step)  # type: ignore[arg-type]  # declared for floats, takes any
            elif isinstance(logger, TensorBoardLogger):
                for name, entries in values.items():
                    logger.experiment.add_histogram(name, entries, step)


def _finite_values(tensor: Tensor) -> NDArray[np.float32]:
    dense = tensor.coalesce().values() if tensor.is_sparse else tensor
    values: NDArray[np.float32] = dense.float().flatten().cpu().numpy()
    return values[np.isfinite(values)]
