"""What the update rules of this package share: groups, closures, weight decay, and two paths through a step.

A rule states its mathematics twice: for one tensor, as it stands in the paper (the plain path), and for lists
of tensors with torch's multi-tensor operations (the `foreach` path, fewer and larger kernels). Both compute
the same; the tests hold them to it.
"""

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT
from typing_extensions import override

from lightning_optreg.optimizers.rates import add_missing, own_settings

__all__ = ["UpdateRule"]

_State = dict[str, Any]


class UpdateRule(Optimizer):
    """A first-order optimizer, given how one parameter changes.

    A subclass defines `start_state`, `update_tensor` and `update_tensors`. Gradients reach these with the
    sign of a minimisation, with weight decay added, and complex numbers seen as pairs of real ones, so that
    real and imaginary part are treated as two parameters, as torch's optimizers do.

    A learning rate may be a tensor with one element, as with torch's optimizers; each group has a copy of it,
    which schedules write into. `lightning_optreg.optimizers.rates` has what a rule needs to compute with
    either.

    Args:
        params: Parameters, or groups of them with settings of their own.
        defaults: The settings of groups that have none of their own; may hold `weight_decay` (coupled:
            lambda * theta is added to the gradient).
        maximize: Climb instead of descend.
        foreach: Take the path for lists of tensors. None: yes, unless `differentiable`.
        differentiable: Let gradients flow through the step; it then takes the plain path.

    Raises:
        ValueError: If a setting is out of its range; a subclass checks its own in `check_group`.

    Example:
        >>> from lightning_optreg.optimizers.rates import add_scaled_, rate_of
        >>> class Descent(UpdateRule):
        ...     def __init__(self, params, lr):
        ...         super().__init__(params, {"lr": lr})
        ...     def update_tensor(self, group, parameter, gradient, state):
        ...         parameter.sub_(rate_of(group) * gradient)
        ...     def update_tensors(self, group, parameters, gradients, states):
        ...         add_scaled_(parameters, gradients, -rate_of(group))
        >>> theta = torch.tensor([1.0], requires_grad=True)
        >>> optimizer = Descent([theta], lr=0.5)
        >>> theta.square().sum().backward()
        >>> optimizer.step()
        >>> theta
        tensor([0.], requires_grad=True)
    """

    takes_sparse_gradients: bool = False
    """Whether the rule leaves alone what a sparse gradient does not touch; `update_tensor` gets it so."""

    def __init__(
        self,
        params: ParamsT,
        defaults: dict[str, Any],
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
    ) -> None:
        settings = {**defaults, "maximize": maximize, "foreach": foreach, "differentiable": differentiable}
        super().__init__(params, settings)

    @override
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, whose settings are checked like those of the first."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        name = type(self).__name__
        if group["foreach"] and group["differentiable"]:
            raise ValueError(f"{name}: foreach must be None or False with differentiable, got True")
        own_settings(name, group)
        for setting in ("lr", "weight_decay"):
            if setting in group and not 0.0 <= group[setting] < float("inf"):
                raise ValueError(f"{name}: {setting} must be in [0, inf), got {group[setting]}")
        self.check_group(group)

    @override
    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        add_missing(self)

    # ---- what a subclass defines ---------------------------------------------------------------------------

    def check_group(self, group: dict[str, Any]) -> None:
        """Refuse settings of a group that are out of range; `lr` and `weight_decay` are checked already.

        Args:
            group: The group with all its settings.
        """

    def start_state(self, group: dict[str, Any], parameter: Tensor) -> _State:
        """Make what a parameter's first step finds, such as a velocity of zeros.

        Args:
            group: Its group.
            parameter: The parameter, real.
        """
        return {}

    def forget(self) -> None:
        """Begin anew: drop what earlier steps left, as if the next were the first; rates stay.

        A subclass that counts in its groups begins these counts anew too.
        """
        self.state.clear()

    def begin_step(self, loss: Tensor | float | None) -> None:
        """Do what concerns all parameters, before any of them changes.

        Args:
            loss: What the closure returned; None without a closure.
        """

    @abstractmethod
    def update_tensor(
        self, group: dict[str, Any], parameter: Tensor, gradient: Tensor, state: _State
    ) -> None:
        """Change one parameter, in place, and its state.

        Args:
            group: The settings.
            parameter: The parameter, real.
            gradient: Of its shape; not to be changed in place.
            state: What `start_state` made and earlier steps left.
        """

    @abstractmethod
    def update_tensors(
        self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor], states: list[_State]
    ) -> None:
        """Do the same to a list of parameters of one device and type.

        Args:
            group: The settings.
            parameters: The parameters, real.
            gradients: Of their shapes; not to be changed in place.
            states: Their states.
        """

    # ---- the step ------------------------------------------------------------------------------------------

    @override
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step.

        Args:
            closure: Computes the loss anew, calls `backward` and returns the loss.

        Returns:
            The closure's loss; None without one.

        Raises:
            RuntimeError: If a gradient is sparse and the rule cannot leave the rest alone.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            self.begin_step(loss)
            for group in self.param_groups:
                self._step_group(group)
        return loss

    def _step_group(self, group: dict[str, Any]) -> None:
        buckets: dict[Any, tuple[list[Tensor], list[Tensor], list[_State]]] = defaultdict(
            lambda: ([], [], [])
        )
        one_by_one = group["differentiable"] or group["foreach"] is False
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            gradient: Tensor = parameter.grad
            if gradient.is_sparse and not self._takes(gradient, group):
                raise RuntimeError(
                    f"{type(self).__name__}: sparse gradients are not supported"
                    f"{' together with weight_decay' if self.takes_sparse_gradients else ''}; "
                    "use dense ones (Embedding(sparse=False)) or torch.optim.SparseAdam"
                )
            value = torch.view_as_real(parameter) if parameter.is_complex() else parameter
            state = self.state[parameter]
            if not state:
                state.update(self.start_state(group, value))
            if gradient.is_complex():
                gradient = torch.view_as_real(gradient)
            if one_by_one or gradient.is_sparse:
                self.update_tensor(group, value, self._descent_direction(group, value, gradient), state)
                continue
            values, gradients, states = buckets[value.device, value.dtype]
            values.append(value)
            gradients.append(gradient)
            states.append(state)
        for values, gradients, states in buckets.values():
            if group["maximize"]:
                gradients = list(torch._foreach_neg(gradients))
            decay = group.get("weight_decay", 0.0)
            if decay != 0.0:
                gradients = list(torch._foreach_add(gradients, values, alpha=decay))
            self.update_tensors(group, values, gradients, states)

    def _takes(self, gradient: Tensor, group: dict[str, Any]) -> bool:
        return self.takes_sparse_gradients and group.get("weight_decay", 0.0) == 0.0

    def _descent_direction(self, group: dict[str, Any], value: Tensor, gradient: Tensor) -> Tensor:
        if group["maximize"]:
            gradient = -gradient
        decay = group.get("weight_decay", 0.0)
        return gradient if decay == 0.0 else gradient.add(value, alpha=decay)
