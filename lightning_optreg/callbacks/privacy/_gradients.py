"""The private gradient of a step: clipped example by example, summed, with noise, all by Opacus.

Opacus's optimizer is used for this only: it computes the gradient, and the run's own optimizer makes the
step. So schedules, checkpoints and whatever else holds the optimizer are as in any run.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, Literal

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_optreg.callbacks.privacy._apart import refuse_mixing
from lightning_optreg.callbacks.privacy._observer import Observer
from lightning_optreg.callbacks.privacy._opacus import opacus

__all__ = ["PrivateGradients", "Settings"]

_NO_CLIPPING = 1e15  # instead of infinity, whose product with a noise of 0 is not a number


@dataclass(frozen=True)
class Settings:
    """How a gradient is made private; see `DifferentialPrivacy`.

    Attributes:
        noise: Noise multiplier.
        max_grad_norm: Largest norm of an example's gradient, of all weights, or one for each parameter.
        per_layer: Whether each parameter's gradient is clipped by itself.
        mode: `hooks` or `functorch`.
        loss_reduction: `mean` or `sum`.
        batch: Expected number of examples of this process in a step.
        distributed: Whether other processes add theirs.
    """

    noise: float
    max_grad_norm: float | Sequence[float]
    per_layer: bool
    mode: Literal["hooks", "functorch"]
    loss_reduction: Literal["mean", "sum"]
    batch: float
    distributed: bool

    def norms(self, count: int, owner: str) -> Any:
        """Return what Opacus's optimizer takes, for so many parameters."""
        if isinstance(self.max_grad_norm, Sequence):
            if len(self.max_grad_norm) != count:
                raise MisconfigurationException(
                    f"{owner}: max_grad_norm has {len(self.max_grad_norm)} norms, but {count} parameters are "
                    "trained; give one for each, in the optimizer's order, or a single one for all"
                )
            return [min(norm, _NO_CLIPPING) for norm in self.max_grad_norm]
        norm = min(self.max_grad_norm, _NO_CLIPPING)
        return [norm / math.sqrt(count)] * count if self.per_layer else norm


class PrivateGradients:
    """Observes the layers of a module, and makes the gradients of a step private.

    Args:
        settings: How.
        pl_module: The module, in training.
        optimizer: Its optimizer.
        account: Called with Opacus's optimizer for each gradient that is made private.
        owner: Name of the calling class, for the errors.
    """

    def __init__(
        self,
        settings: Settings,
        pl_module: LightningModule,
        optimizer: Optimizer,
        account: Callable[[Any], None],
        owner: str,
    ) -> None:
        self._owner, self._module, self._optimizer = owner, pl_module, optimizer
        self._settings = settings
        self._trained = _trained(pl_module)
        self._observer = Observer(pl_module, settings.loss_reduction, settings.mode, owner)
        self.dp = opacus("optimizers", owner).get_optimizer_class(
            clipping="per_layer" if settings.per_layer else "flat",
            distributed=settings.distributed,
            grad_sample_mode="hooks",  # the same for functorch, which it does not know here
        )(
            optimizer=optimizer,
            noise_multiplier=settings.noise,
            max_grad_norm=settings.norms(len(self._parameters), owner),
            expected_batch_size=settings.batch,
            loss_reduction=settings.loss_reduction,
        )
        self.dp.attach_step_hook(account)
        self._rows: int | None = None  # examples in the batch of this process
        self._apart = False  # whether it was checked that examples don't meet
        self._compared = False  # whether the gradients of a step were compared
        self._wrap_step()
        self.begin_batch(None)

    def _wrap_step(self) -> None:
        step = self._module.training_step

        @wraps(step)
        def observed(*args: Any, **kwargs: Any) -> Any:
            self._observer.enabled = self._rows != 0
            return step(*args, **kwargs)

        # On the instance, until the end of the fit: callbacks have no hook right before the step, and others
        # may compute gradients of their own before it.
        self._module.training_step = observed  # type: ignore[method-assign]

    @property
    def _parameters(self) -> list[nn.Parameter]:
        return [p for group in self._optimizer.param_groups for p in group["params"] if p.requires_grad]

    def fits(self, pl_module: LightningModule, optimizer: Optimizer) -> bool:
        """Return whether the same parameters are trained as before, by the same optimizer."""
        return optimizer is self._optimizer and self._trained == _trained(pl_module)

    def begin_batch(self, rows: int | None) -> None:
        """Forget what an earlier step has left, and wait for the next.

        Args:
            rows: Examples in the batch of this process; None: not known.
        """
        self._rows = rows
        self._observer.outputs = None if self._apart else []
        self._observer.enabled = False
        self.clear()

    def check_loss(self, loss: Tensor) -> None:
        """Refuse a loss in which examples meet, in the first batch of several; see `refuse_mixing`.

        Args:
            loss: Of the batch, before its backward pass.
        """
        outputs = [each for each in self._observer.outputs or () if len(each) == self._rows]
        self._observer.outputs = None
        if self._apart or self._rows is None or self._rows < 2 or not outputs:
            return
        self._observer.enabled = False
        refuse_mixing(loss, outputs, self._owner)
        self._observer.enabled = True
        self._apart = True

    def clear(self) -> None:
        """Forget the gradients of examples."""
        self._observer.forget()
        for parameter in self._parameters:
            parameter.summed_grad = None  # type: ignore[attr-defined]  # Opacus's

    def make(self, generator: torch.Generator) -> None:
        """Replace the gradients by private ones, after comparing their sum in the first step.

        Args:
            generator: Of the noise, on the device of the gradients.

        Raises:
            MisconfigurationException: If they are not those of the batch's examples.
        """
        parameters = self._parameters
        samples = self._samples(parameters)
        self._compared = self._compared or self._compare(parameters, samples)
        for parameter, sample in zip(parameters, samples, strict=True):
            parameter.grad_sample = sample  # type: ignore[attr-defined]  # Opacus's
        self.dp.generator = generator
        self.dp.pre_step()
        if self._settings.distributed:
            self.dp.reduce_gradients()
        self._observer.enabled = False
        self.clear()

    def _samples(self, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
        """Return the gradients of the batch's examples, zeros for parameters that no example has used."""
        found = [getattr(parameter, "grad_sample", None) for parameter in parameters]
        counts = {len(sample) for sample in found if sample is not None}
        count = max(counts, default=0) if self._rows is None else self._rows
        if counts - {count}:
            other = max(counts - {count})
            self._refuse(
                f"a layer is called with {other} rows for the {count} examples of a batch, so it is "
                "not known which rows belong to one example; call it with one row for each"
            )
        samples = []
        for parameter, sample in zip(parameters, found, strict=True):
            if sample is None:
                if not self._compared and self._rows != 0 and parameter.grad is not None:
                    self._refuse(
                        f"{self._name(parameter)} has a gradient, but its layer was not called, so the "
                        "gradients of single examples are not known; call the layer, not a function with "
                        "its weights"
                    )
                sample = parameter.new_zeros(()).expand(count, *parameter.shape)
            # With mixed precision, norms in bfloat16 would let an example change the sum by too much.
            samples.append(sample.to(parameter.dtype))
        return samples

    def _compare(self, parameters: Sequence[nn.Parameter], samples: Sequence[Tensor]) -> bool:
        """Refuse a loss with a gradient that is not the sum of what the examples' layers got.

        Returns:
            Whether they were compared, which can't be if the batch of a process is empty.
        """
        mean = self._settings.loss_reduction == "mean"
        empty = any(len(sample) == 0 for sample in samples)
        sums = [sample.sum(0).flatten().double() / (max(1, len(sample)) if mean else 1) for sample in samples]
        total = torch.cat([*sums, sums[0].new_full((1,), float(empty))])
        if self._settings.distributed:  # DDP's gradient is the mean of those of the processes
            torch.distributed.all_reduce(total)
            total /= torch.distributed.get_world_size()
        if total[-1] > 0:
            return False
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        gradient = torch.cat([each.flatten().double() for each in gradients])
        error, size = (total[:-1] - gradient).norm(), gradient.norm()
        # Rounding in bfloat16 is far below this, and a term that is left out usually far above.
        if size.isfinite() and not error <= 0.05 * size:
            self._refuse(
                "the gradient is not the sum of those of the examples: relative difference "
                f"{float(error / size):.2g}; leave terms without examples, such as penalties of "
                "weights, out of the loss (L2Penalty adds them afterwards), and whatever differs from call "
                "to call out of layers with weights"
            )
        return True

    def _name(self, parameter: nn.Parameter) -> str:
        return next((n for n, p in self._module.named_parameters() if p is parameter), "a parameter")

    def _refuse(self, reason: str) -> None:
        raise MisconfigurationException(f"{self._owner}: {reason}")

    def close(self) -> None:
        """Leave the module as it was."""
        vars(self._module).pop("training_step", None)
        self.begin_batch(None)
        for parameter in self._parameters:
            if hasattr(parameter, "summed_grad"):
                del parameter.summed_grad
        self._observer.close()


def _trained(pl_module: LightningModule) -> list[int]:
    return [id(parameter) for parameter in pl_module.parameters() if parameter.requires_grad]
