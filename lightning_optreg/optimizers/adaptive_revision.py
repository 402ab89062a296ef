"""AdaptiveRevision: AdaGrad for gradients that come late, which corrects the steps made in between.

McMahan and Streeter 2014, "Delay-Tolerant Algorithms for Asynchronous Distributed Online Learning", NIPS.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import override

from lightning_optreg.optimizers._blocks import in_blocks
from lightning_optreg.optimizers._touched_rows import update_touched
from lightning_optreg.optimizers.rates import add_quotients_, rate_of
from lightning_optreg.optimizers.update_rule import Group, State, States, Tensors, UpdateRule, as_real, zeros

__all__ = ["AdaptiveRevision"]


class AdaptiveRevision(UpdateRule):
    """AdaGrad whose earlier steps are revised, once a late gradient shows that they were too long.

    It keeps gbar, the sum of all gradients applied, and for each coordinate z and its largest value z', which
    begin at 1. A gradient g that was computed at parameters read when gbar was gbar_old is applied by

    - gbck = gbar - gbar_old: what was applied in between
    - z = z + g (g + 2 gbck); eta_old = alpha / sqrt(z'); z' = max(z', z); eta = alpha / sqrt(z')
    - theta = theta - eta g + (eta_old - eta) gbck; gbar = gbar + g

    In ordinary training gbck is 0 and this is
    `torch.optim.Adagrad(lr=alpha, initial_accumulator_value=1, eps=0)`. A server of asynchronous workers
    takes a `snapshot` when a worker reads the parameters, and passes it to the `step` that applies that
    worker's gradient. The paper reports gains at delays of 1000 steps and more; where delays do Adagrad no
    harm, the revision only makes it slower.

    Args:
        params: Parameters, or groups of them.
        lr: alpha, at least 0; with a schedule, the step's own alpha is used for eta_old too. Default: 0.1.
        weight_decay: Factor lambda of the L2 term lambda/2 |theta|^2, at least 0 (coupled, with the
            parameters at the time of the step). Default: 0.
        maximize: Climb instead of descend.
        foreach: Use multi-tensor operations. None means yes, unless `differentiable`.
        differentiable: Let gradients flow through the step.

    Raises:
        ValueError: If a value is out of range.
        RuntimeError: In a step, if a gradient is sparse and there is weight decay.

    Example:
        Two workers read at the same time; the second's gradient comes one step late.

        >>> theta = torch.tensor([0.0], requires_grad=True)
        >>> optimizer = AdaptiveRevision([theta], lr=1.0)
        >>> read = optimizer.snapshot()
        >>> theta.grad = torch.tensor([1.0])
        >>> optimizer.step(gbar_old=read)  # z = 2
        >>> optimizer.step(gbar_old=read)  # z = 2 + 1 (1 + 2): both are now steps of 1 / sqrt(5)
        >>> bool(torch.isclose(theta, torch.tensor(-2 / 5**0.5)))
        True
    """

    takes_sparse_gradients = True

    _read: dict[int, Tensor] | None = None

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.1,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
    ) -> None:
        defaults = {"lr": lr, "weight_decay": weight_decay}
        super().__init__(params, defaults, maximize=maximize, foreach=foreach, differentiable=differentiable)

    def snapshot(self) -> list[Tensor]:
        """Copy gbar, the sum of the gradients applied so far; take it when a worker reads the parameters.

        Returns:
            One tensor for each parameter in the order of the groups; complex ones as pairs of real numbers.
        """
        return [
            self.state[p]["gbar"].detach().clone()
            if self.state.get(p)
            else torch.zeros_like(as_real(p.detach()))
            for p in self._parameters()
        ]

    @override
    def step(
        self, closure: Callable[[], Any] | None = None, *, gbar_old: Sequence[Tensor] | None = None
    ) -> Any:
        """Make one step.

        Args:
            closure: Computes the loss again, calls `backward` and returns the loss.
            gbar_old: The `snapshot` taken when the worker read the parameters for these gradients. None: now.

        Returns:
            The closure's loss; None without one.

        Raises:
            ValueError: If `gbar_old` is not a snapshot of this optimizer's parameters.
            RuntimeError: If a gradient is sparse and there is weight decay.
        """
        self._read = None
        if gbar_old is not None:
            parameters = self._parameters()
            if [g.shape for g in gbar_old] != [as_real(p).shape for p in parameters]:
                raise ValueError("AdaptiveRevision: gbar_old must be a snapshot() of the same parameters")
            self._read = {id(self.state[p]): g for p, g in zip(parameters, gbar_old, strict=True)}
        try:
            return super().step(closure)
        finally:
            self._read = None

    def _parameters(self) -> list[Tensor]:
        return [parameter for group in self.param_groups for parameter in group["params"]]

    @override
    def start_state(self, group: Group, parameter: Tensor) -> State:
        """Begin gbar at 0, z and z' at 1."""
        start = zeros(parameter, "gbar")
        return {**start, **{name: torch.ones_like(start["gbar"]) for name in ("z", "z_max")}}

    @override
    def update_tensor(self, group: Group, parameter: Tensor, gradient: Tensor, state: State) -> None:
        """Set theta = theta - eta g + (eta_old - eta) gbck; gbar = gbar + g."""
        alpha = rate_of(group)

        def update(
            g: Tensor, theta: Tensor, gbar: Tensor, z: Tensor, z_max: Tensor, old: Tensor | None = None
        ) -> None:
            gbck = gbar - (gbar if old is None else old)
            eta_old = alpha / z_max.sqrt()
            z.add_(g * (g + 2 * gbck))
            z_max.copy_(torch.where(z > z_max, z, z_max))
            eta = alpha / z_max.sqrt()
            theta.add_(-eta * g + (eta_old - eta) * gbck)
            gbar.add_(g)

        tensors = [parameter, state["gbar"], state["z"], state["z_max"]]
        if self._read is not None:
            tensors.append(self._read[id(state)])
        if gradient.is_sparse:
            update_touched(gradient, tensors, update)
        else:
            update(gradient, *tensors)

    @override
    def update_tensors(self, group: Group, parameters: Tensors, gradients: Tensors, states: States) -> None:
        alpha = rate_of(group)
        kept = ([state[name] for state in states] for name in ("gbar", "z", "z_max"))
        if self._read is None:
            for theta, g, gbar, z, z_max in in_blocks(parameters, gradients, *kept):
                torch._foreach_addcmul_(z, g, g)
                torch._foreach_maximum_(z_max, z)
                add_quotients_(theta, g, torch._foreach_sqrt(z_max), -alpha)
                torch._foreach_add_(gbar, g)
            return
        read = [self._read[id(state)] for state in states]
        for theta, g, gbar, z, z_max, old in in_blocks(parameters, gradients, *kept, read):
            between = torch._foreach_sub(gbar, old)
            add_quotients_(theta, between, torch._foreach_sqrt(z_max), alpha)
            torch._foreach_addcmul_(z, g, g)
            torch._foreach_addcmul_(z, g, between, value=2)
            torch._foreach_maximum_(z_max, z)
            torch._foreach_add_(between, g)
            add_quotients_(theta, between, torch._foreach_sqrt(z_max), -alpha)
            torch._foreach_add_(gbar, g)
