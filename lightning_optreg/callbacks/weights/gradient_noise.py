"""Gaussian noise on the gradients, which decays during training.

Neelakantan et al. 2015, "Adding gradient noise improves learning for very deep networks" (arXiv:1511.06807).
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from lightning_optreg._checks import check_range, check_seed
from lightning_optreg.callbacks._let_go import LetsGo
from lightning_optreg.callbacks._seeded import SeededCallback
from lightning_optreg.randomness.draws import mix
from lightning_optreg.trainer.noise_left import compares_losses
from lightning_optreg.trainer.queries import is_logging_step
from lightning_optreg.trainer.refusals import refuse_fused_under_scaler, refuse_split_network

__all__ = ["GradientNoise", "add_noise", "noise_std"]


def noise_std(step: int, eta: float, gamma: float = 0.55) -> float:
    """Return the noise's standard deviation at a step: the root of the variance eta / (1 + t)^gamma.

    Args:
        step: Number of optimizer steps before, t.
        eta: Variance at the first step, at least 0.
        gamma: Exponent of the decay, at least 0.

    Example:
        >>> [round(noise_std(t, eta=0.01), 4) for t in (0, 9, 999)]
        [0.1, 0.0531, 0.015]
    """
    return math.sqrt(eta / (1.0 + step) ** gamma)


def add_noise(gradients: Iterable[Tensor], std: float, generator: torch.Generator) -> None:
    """Add N(0, std^2) to each element, in place; for complex numbers, half the variance to each part.

    Args:
        gradients: Dense tensors.
        std: Standard deviation, at least 0.
        generator: A generator on the tensors' device.

    Example:
        >>> gradient = torch.ones(2)
        >>> add_noise([gradient], 0.0, torch.Generator())
        >>> gradient
        tensor([1., 1.])
    """
    for gradient in gradients:
        noise = torch.randn(gradient.shape, generator=generator, dtype=gradient.dtype, device=gradient.device)
        gradient.add_(noise, alpha=std)


class GradientNoise(SeededCallback, LetsGo):
    """Add noise to the gradients before every optimizer step: g = g + N(0, sigma_t^2).

    sigma_t^2 = eta / (1 + t)^gamma is the variance, not the standard deviation, and t the number of optimizer
    steps done. The noise is added after gradient clipping, with AMP to unscaled gradients, and with
    accumulation once per step. It is a function of the seed and the step, from a separate generator: a
    resumed run draws the same as an uninterrupted one, and all processes of DDP draw the same. With manual
    optimization it is added right before the step, so after any clipping in the module. Logs
    `optreg/gradient_noise/std`.

    Args:
        eta: Variance at the first step, at least 0; the paper chooses from 0.01, 0.3 and 1. With 0 nothing
            happens. Default: 0.01.
        gamma: Exponent of the decay, at least 0. Default: 0.55.
        seed: Seed of the noise. None: the number given to `seed_everything`, else 0.

    Raises:
        ValueError: If a value is out of its range.
        TypeError: If seed is not an integer.
        MisconfigurationException: Before the first step, with an optimizer that compares losses (L-BFGS,
            BFGS, Newton), with a callback that turns noise off (`NoiseFree`, `FullBatch`), with a fused
            optimizer and a gradient scaler (16-mixed), or with a strategy that splits the network; in the
            first step, if a gradient is sparse.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[GradientNoise(eta=0.3)], accelerator="cpu", logger=False)
    """

    def __init__(self, eta: float = 0.01, gamma: float = 0.55, seed: int | None = None) -> None:
        check_range("GradientNoise", "[0, inf)", eta=eta, gamma=gamma)
        check_seed("GradientNoise", seed)
        super().__init__(seed)
        self.eta, self.gamma, self.seed = eta, gamma, seed
        self._clip: Any = None

    @property
    @override
    def is_noise(self) -> bool:
        """Whether eta is above 0."""
        return self.eta > 0.0

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Agree on a seed, and wrap the module's clipping, so that the noise comes after it."""
        super().on_fit_start(trainer, pl_module)
        if self.eta == 0.0:
            return
        refuse_split_network(trainer, "GradientNoise", "so parts would get the same noise")
        for optimizer in trainer.optimizers:
            if compares_losses(optimizer):
                raise MisconfigurationException(
                    f"GradientNoise: {type(optimizer).__name__} needs gradients without noise; remove one of "
                    "the two"
                )
        refuse_fused_under_scaler(trainer, "GradientNoise", "noise")
        if not pl_module.automatic_optimization:
            return
        clip = pl_module.configure_gradient_clipping

        def clip_and_add_noise(optimizer: Optimizer, *args: Any, **kwargs: Any) -> None:
            clip(optimizer, *args, **kwargs)
            self._add(trainer, optimizer)

        # On the instance, until the end of the fit: callbacks have no hook after the clipping.
        pl_module.configure_gradient_clipping = clip_and_add_noise  # type: ignore[method-assign]
        self._clip = clip

    @override
    def let_go(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the module's own clipping."""
        if self._clip is not None:
            vars(pl_module).pop("configure_gradient_clipping", None)  # another of these may have been first
            self._clip = None

    @override
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Add the noise with manual optimization."""
        if self.eta > 0.0 and not pl_module.automatic_optimization:
            self._add(trainer, optimizer)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the standard deviation every `log_every_n_steps` steps."""
        if self.eta > 0.0 and is_logging_step(trainer):
            pl_module.log(
                f"{self._log_path('gradient_noise')}/std", self._std(trainer.global_step - 1), batch_size=1
            )

    def _std(self, step: int) -> float:
        return noise_std(max(step, 0), self.eta, self.gamma)

    def _add(self, trainer: Trainer, optimizer: Optimizer) -> None:
        by_device: dict[torch.device, list[Tensor]] = {}
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if parameter.grad.is_sparse:
                    raise MisconfigurationException(
                        "GradientNoise: gradients must be dense, got a sparse one; set sparse=False "
                        "in Embedding"
                    )
                by_device.setdefault(parameter.device, []).append(parameter.grad)
        index = trainer.optimizers.index(optimizer) if optimizer in trainer.optimizers else 0
        for device, gradients in by_device.items():
            generator = torch.Generator(device).manual_seed(
                mix(self.seed_of_draws, trainer.global_step, index)
            )
            add_noise(gradients, self._std(trainer.global_step), generator)
