"""L1, L2 and elastic-net penalties for any module, added to the gradient without autograd.

A penalty R(W) gives the loss L = L_data + lambda R(W). Its gradient has a closed form, so autograd need not
record it: it is added once per step to the gradient before the optimizer uses it. The proximal form applies
the penalty's proximal map after the step instead (Parikh and Boyd 2014, "Proximal algorithms", Foundations
and Trends in Optimization 1(3), section 4.2): soft thresholding of |w|, which gives exact zeros.
Elastic net: Zou and Hastie 2005, "Regularization and variable selection via the elastic net".
"""

from collections.abc import Sequence
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from lightning_optreg._checks import check_range
from lightning_optreg.callbacks._let_go import LetsGo
from lightning_optreg.callbacks._of_a_kind import OfAKind
from lightning_optreg.callbacks.weights._chosen_parameters import (
    ChosenParameters,
    check_choice,
)
from lightning_optreg.callbacks.weights._step_hooks import StepHooks
from lightning_optreg.optimizers.rates import rate_of
from lightning_optreg.trainer.noise_left import compares_losses
from lightning_optreg.trainer.queries import is_logging_step
from lightning_optreg.trainer.refusals import (
    refuse_fused_under_scaler,
    refuse_split_network,
    refuse_steps_elsewhere,
)

__all__ = ["ElasticNet", "L1Penalty", "L2Penalty", "add_penalty_gradient", "penalty", "proximal_map"]


def penalty(weights: Sequence[Tensor], l1: float, l2: float) -> Tensor:
    """Return sum(l2 |w|^2 + l1 |w|) over all elements, in at least float32.

    Args:
        weights: At least one tensor.
        l1: Coefficient of |w|.
        l2: Coefficient of |w|^2.

    Example:
        >>> penalty([torch.tensor([3.0, -4.0])], l1=1.0, l2=0.5)
        tensor(19.5000)
    """
    total = torch.zeros((), device=weights[0].device)
    for weight in weights:
        size = weight.detach().abs()
        size = size.float() if size.dtype in (torch.float16, torch.bfloat16) else size
        total = total + (l1 * size.sum() + l2 * size.square().sum()).to(total.device)
    return total


def add_penalty_gradient(
    gradients: Sequence[Tensor], weights: Sequence[Tensor], l1: float, l2: float
) -> None:
    """Add the penalty's gradient in place: g = g + 2 l2 w + l1 sign(w), with sign(0) = 0.

    Args:
        gradients: Dense tensors.
        weights: Tensors of the same shapes; for complex w the sign is w / |w|.
        l1: Coefficient of |w|.
        l2: Coefficient of |w|^2.

    Example:
        >>> g, w = torch.zeros(3), torch.tensor([2.0, 0.0, -1.0])
        >>> add_penalty_gradient([g], [w], l1=0.1, l2=0.5)
        >>> g
        tensor([ 2.1000,  0.0000, -1.1000])
    """
    with torch.no_grad():
        if l2 > 0.0:
            torch._foreach_add_(list(gradients), list(weights), alpha=2.0 * l2)
        if l1 > 0.0:
            torch._foreach_add_(list(gradients), [weight.sgn() for weight in weights], alpha=l1)


def proximal_map(weight: Tensor, l1: float | Tensor, l2: float | Tensor) -> None:
    """Replace w, in place, by the minimiser v of sum(l2 |v|^2 + l1 |v|) + |v - w|^2 / 2.

    That is w = sign(w) max(|w| - l1, 0) / (1 + 2 l2).

    Args:
        weight: Any tensor.
        l1: Coefficient of |w| times the learning rate; a number or a tensor () on the weight's device.
        l2: Coefficient of |w|^2 times the learning rate, likewise.

    Example:
        >>> w = torch.tensor([2.0, 0.3, -1.0])
        >>> proximal_map(w, l1=0.5, l2=0.0)
        >>> w
        tensor([ 1.5000,  0.0000, -0.5000])
    """
    with torch.no_grad():
        # The value of a tensor is not read: that would wait for the device.
        if isinstance(l1, Tensor) or l1 > 0.0:
            weight.copy_(weight.sgn() * (weight.abs() - l1).clamp_min_(0.0))
        if isinstance(l2, Tensor) or l2 > 0.0:
            weight.div_(1.0 + 2.0 * l2)


class _Penalty(OfAKind, LetsGo):
    """Base of the three penalties: sum(l2 |w|^2 + l1 |w|) over the chosen parameters."""

    _log_name: str

    def __init__(
        self, l1: float, l2: float, names: Sequence[str], types: Sequence[str], proximal: bool
    ) -> None:
        check_choice(type(self).__name__, names, types)
        if not isinstance(proximal, bool):
            raise TypeError(f"{type(self).__name__}: proximal must be true or false, got {proximal!r}")
        self.l1, self.l2, self.proximal = l1, l2, proximal
        self.names, self.types = list(names), list(types)
        self._chosen: ChosenParameters | None = None
        self._hooks = StepHooks(self._shrink)

    @property
    def _active(self) -> bool:
        return self.l1 > 0.0 or self.l2 > 0.0

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the parameters, and refuse unsupported optimizers."""
        name = type(self).__name__
        self._chosen = None
        if not self._active:
            return
        refuse_split_network(
            trainer, name, "so no process knows the penalty; use the optimizer's weight_decay"
        )
        for optimizer in trainer.optimizers:
            if compares_losses(optimizer):
                raise MisconfigurationException(
                    f"{name}: {type(optimizer).__name__} compares losses, which lack the penalty; add it to "
                    "the loss in training_step, or use the optimizer's weight_decay"
                )
        if not self.proximal:
            refuse_fused_under_scaler(trainer, name, "penalty")
        else:
            refuse_steps_elsewhere(
                trainer, name, "so weights that are shrunk here do not reach them; set proximal=False"
            )
        self._chosen = ChosenParameters(name, pl_module, self.names, self.types)

    @override
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Add the gradient, or make the proximal map follow the step."""
        if self._chosen is None:
            return
        if self.proximal:
            self._hooks.attach(optimizer)
            return
        gradients, weights = [], []
        for _, parameter, _ in self._chosen.of(optimizer):
            if parameter.grad is None:
                continue
            if parameter.grad.is_sparse:
                raise MisconfigurationException(
                    f"{type(self).__name__}: gradients must be dense, got a sparse one; use "
                    "Embedding(sparse=False), other names, or proximal=True"
                )
            gradients.append(parameter.grad)
            weights.append(parameter)
        if gradients:
            add_penalty_gradient(gradients, weights, self.l1, self.l2)

    def _shrink(self, optimizer: Optimizer) -> None:
        chosen = (
            set() if self._chosen is None else {id(each.parameter) for each in self._chosen.of(optimizer)}
        )
        for group in optimizer.param_groups:
            rate = rate_of(group)
            for parameter in group["params"]:
                if parameter.grad is not None and id(parameter) in chosen:
                    l1 = rate * self.l1 if self.l1 > 0.0 else 0.0
                    l2 = rate * self.l2 if self.l2 > 0.0 else 0.0
                    proximal_map(parameter, l1, l2)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the penalty and the share of zeros every `log_every_n_steps` steps."""
        if self._chosen is None or not is_logging_step(trainer):
            return
        weights = [each.parameter for each in self._chosen.now()]
        if not weights:
            return
        nonzero = sum(torch.count_nonzero(weight).to(weights[0].device) for weight in weights)
        share = 1.0 - nonzero / sum(weight.numel() for weight in weights)
        pl_module.log(
            f"{self._log_path(self._log_name)}/penalty", penalty(weights, self.l1, self.l2), batch_size=1
        )
        pl_module.log(f"{self._log_path(self._log_name)}/zeros", share, batch_size=1)

    @override
    def let_go(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the optimizers as they were."""
        self._hooks.close()
        self._chosen = None


class L1Penalty(_Penalty):
    """Add lambda sum |w| to the loss of any module: unimportant weights become zero.

    The gradient lambda sign(w) is added once per step, before gradient clipping, so that clipping sees the
    gradient of the whole loss; with AMP to unscaled gradients, and once for all accumulated batches. The loss
    that the module logs does not include the penalty. With manual optimization it is added right before the
    step, so after any clipping in the module. Parameters without a gradient in a step are unchanged, and so
    are frozen layers until they are unfrozen.

    A gradient step crosses zero without staying there. With `proximal` the gradient is not changed, and after
    each step w = sign(w) max(|w| - lr lambda, 0), with the learning rate of the parameter's group, which
    gives exact zeros. (For Adam this is the plain threshold, not the one in the metric of its second
    moments.)

    Logs `optreg/l1_penalty/penalty` and `optreg/l1_penalty/zeros`, the share of exact zeros.

    Args:
        lambd: lambda, at least 0. Default: 1e-5. With 0 nothing happens.
        names: Patterns of parameters' full names ("net.layer1.*"). Empty: all except biases and those of
            normalisation layers.
        types: Names of layers' classes ("Linear", "Conv2d"). Empty: all.
        proximal: Shrink after the step instead of adding to the gradient.

    Raises:
        ValueError: If lambd is out of its range.
        TypeError: If names or types are not lists of strings, or proximal is not a bool.
        MisconfigurationException: Before the first step, if no parameter is chosen, with an optimizer that
            compares losses (L-BFGS, BFGS, Newton), with a fused optimizer and a gradient scaler, if the
            strategy splits the network, or with proximal if it makes steps on servers; in a step, if a
            gradient is sparse.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> sparse = L1Penalty(1e-4, types=["Linear"], proximal=True)
        >>> trainer = Trainer(callbacks=[sparse], accelerator="cpu", logger=False)
    """

    _log_name = "l1_penalty"

    def __init__(
        self,
        lambd: float = 1e-5,
        names: Sequence[str] = (),
        types: Sequence[str] = (),
        proximal: bool = False,
    ) -> None:
        check_range("L1Penalty", "[0, inf)", lambd=lambd)
        super().__init__(lambd, 0.0, names, types, proximal)
        self.lambd = lambd


class L2Penalty(_Penalty):
    """Add lambda sum w^2 to the loss of any module.

    Its gradient is 2 lambda w, so for SGD it is the same as `weight_decay` of 2 lambda in the optimizer. For
    Adam it corresponds to `Adam`, not to `AdamW`: the penalty is divided by the root of the second moments
    like the rest of the gradient, so weights with large gradients shrink less. Everything else is as for
    `L1Penalty`. With `proximal`, w = w / (1 + 2 lr lambda) after each step. Logs
    `optreg/l2_penalty/penalty` and `optreg/l2_penalty/zeros`.

    Args:
        lambd: lambda, at least 0. Default: 5e-5. With 0 nothing happens.
        names: Patterns of parameters' full names ("net.layer1.*"). Empty: all except biases and those of
            normalisation layers.
        types: Names of layers' classes ("Linear", "Conv2d"). Empty: all.
        proximal: Shrink after the step instead of adding to the gradient.

    Raises:
        ValueError: If lambd is out of its range.
        TypeError: As for `L1Penalty`.
        MisconfigurationException: As for `L1Penalty`.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[L2Penalty(5e-4)], accelerator="cpu", logger=False)
    """

    _log_name = "l2_penalty"

    def __init__(
        self,
        lambd: float = 5e-5,
        names: Sequence[str] = (),
        types: Sequence[str] = (),
        proximal: bool = False,
    ) -> None:
        check_range("L2Penalty", "[0, inf)", lambd=lambd)
        super().__init__(0.0, lambd, names, types, proximal)
        self.lambd = lambd


class ElasticNet(_Penalty):
    """Add lambda sum(beta w^2 + |w|) to the loss of any module.

    Its gradient is lambda (2 beta w + sign(w)). Everything else is as for `L1Penalty`. With `proximal`,
    w = sign(w) max(|w| - lr lambda, 0) / (1 + 2 lr lambda beta) after each step. Logs
    `optreg/elastic_net/penalty` and `optreg/elastic_net/zeros`.

    Args:
        lambd: lambda, at least 0. Default: 1e-5. With 0 nothing happens.
        beta: Weight of the squares relative to the absolute values, at least 0. Default: 1.
        names: Patterns of parameters' full names ("net.layer1.*"). Empty: all except biases and those of
            normalisation layers.
        types: Names of layers' classes ("Linear", "Conv2d"). Empty: all.
        proximal: Shrink after the step instead of adding to the gradient.

    Raises:
        ValueError: If lambd or beta is out of its range.
        TypeError: As for `L1Penalty`.
        MisconfigurationException: As for `L1Penalty`.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[ElasticNet(1e-4, beta=2.0)], accelerator="cpu", logger=False)
    """

    _log_name = "elastic_net"

    def __init__(
        self,
        lambd: float = 1e-5,
        beta: float = 1.0,
        names: Sequence[str] = (),
        types: Sequence[str] = (),
        proximal: bool = False,
    ) -> None:
        check_range("ElasticNet", "[0, inf)", lambd=lambd)
        check_range("ElasticNet", "[0, inf)", beta=beta)
        super().__init__(lambd, lambd * beta, names, types, proximal)
        self.lambd, self.beta = lambd, beta
