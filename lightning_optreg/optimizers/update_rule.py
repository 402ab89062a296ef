"""The base of this package's update rules: groups, closures, weight decay, and two paths through a step.

A rule states its mathematics twice: for one tensor, as in the paper (the plain path), and for lists of
tensors with torch's multi-tensor operations (the `foreach` path, fewer and larger kernels). Both compute the
same, as the tests check.
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

from lightning_optreg._checks import check_range
from lightning_optreg.optimizers.rates import add_missing, own_settings

__all__ = ["Group", "State", "States", "Tensors", "UpdateRule", "as_real", "zeros"]

_FORMULAS = (
    "update_tensor(group, parameter, gradient, state)",
    "update_tensors(group, parameters, gradients, states)",
)

Group = dict[str, Any]
"""A parameter group: `params` and the settings, by name."""
State = dict[str, Any]
"""What a rule keeps for one parameter."""
Tensors = list[Tensor]
States = list[State]


def zeros(parameter: Tensor, *names: str) -> State:
    """Return a state of zeros of a parameter's shape.

    Args:
        parameter: The parameter, real.
        names: The names of the tensors in the state.

    Example:
        >>> zeros(torch.ones(2), "exp_avg")
        {'exp_avg': tensor([0., 0.])}
    """
    return {name: torch.zeros_like(parameter, memory_format=torch.preserve_format) for name in names}


def as_real(tensor: Tensor) -> Tensor:
    """View complex numbers as pairs of real ones; a real tensor is returned as it is.

    Args:
        tensor: Any dense tensor.

    Example:
        >>> as_real(torch.tensor([1.0 + 2.0j]))
        tensor([[1., 2.]])
    """
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _is_abstract(method: Callable[..., None]) -> bool:
    return bool(getattr(method, "__isabstractmethod__", False))


class UpdateRule(Optimizer):
    """A first-order optimizer, given how one parameter changes.

    A subclass defines `start_state`, `update_tensor` and `update_tensors`. Gradients reach these with the
    sign of a minimisation, with weight decay added, and complex numbers viewed as pairs of real ones, so that
    real and imaginary parts are separate parameters, as in torch's optimizers.

    A learning rate may be a tensor with one element, as with torch's optimizers; each group has a copy of it,
    which schedules write into. `lightning_optreg.optimizers.rates` has functions to compute with either.

    Args:
        params: Parameters, or groups of them with settings of their own.
        defaults: The settings of groups that have none of their own; may hold `weight_decay` (coupled:
            lambda * theta is added to the gradient).
        maximize: Climb instead of descend.
        foreach: Take the path for lists of tensors. None means yes, unless `differentiable`.
        differentiable: Let gradients flow through the step; it then takes the plain path.

    Raises:
        TypeError: If a subclass does not define `update_tensor` or `update_tensors`.
        ValueError: If a setting is out of range; a subclass checks its own in `check_group`.
        RuntimeError: In a step, if a gradient is sparse and the rule needs dense ones.

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
    """Whether the rule updates only what a sparse gradient touches; `update_tensor` then gets it sparse."""
    decouples_weight_decay: bool = False
    """Whether the rule shrinks parameters by `weight_decay` itself, instead of finding it in the gradient."""

    def __init__(
        self,
        params: ParamsT,
        defaults: dict[str, Any],
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
    ) -> None:
        # torch's Optimizer is not an abc.ABC, so Python itself does not refuse abstract methods.
        methods = {formula: getattr(type(self), formula.partition("(")[0]) for formula in _FORMULAS}
        missing = [formula for formula, method in methods.items() if _is_abstract(method)]
        if missing:
            raise TypeError(f"{type(self).__name__}: define {' and '.join(missing)}")
        settings = {**defaults, "maximize": maximize, "foreach": foreach, "differentiable": differentiable}
        super().__init__(params, settings)

    @override
    def add_param_group(self, param_group: Group) -> None:
        """Add a group of parameters, whose settings are checked like those of the first."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        name = type(self).__name__
        if group["foreach"] and group["differentiable"]:
            raise ValueError(f"{name}: foreach must be None or False with differentiable, got True")
        own_settings(name, group)
        checked = {name: group[name] for name in ("lr", "weight_decay") if name in group}
        check_range(type(self).__name__, "[0, inf)", **checked)
        self.check_group(group)

    @override
    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        add_missing(self)

    # ---- what a subclass defines ---------------------------------------------------------------------------

    def check_group(self, group: Group) -> None:
        """Refuse settings of a group that are out of range; `lr` and `weight_decay` are checked already.

        Args:
            group: The group with all its settings.
        """

    def start_state(self, group: Group, parameter: Tensor) -> State:
        """Return a parameter's state before its first step, such as a velocity of zeros.

        Args:
            group: Its group.
            parameter: The parameter, real.
        """
        return {}

    def forget(self) -> None:
        """Start over: drop the state of earlier steps, as if the next step were the first; rates stay.

        A subclass that counts in its groups resets these counts too.
        """
        self.state.clear()

    def begin_step(self, loss: Tensor | float | None) -> None:
        """Do what involves all parameters, before any of them changes.

        Args:
            loss: What the closure returned; None without a closure.
        """

    @abstractmethod
    def update_tensor(self, group: Group, parameter: Tensor, gradient: Tensor, state: State) -> None:
        """Change one parameter, in place, and its state.

        Args:
            group: The settings.
            parameter: The parameter, real.
            gradient: Of its shape; not to be changed in place.
            state: As `start_state` created it, or as the previous step left it.
        """

    @abstractmethod
    def update_tensors(self, group: Group, parameters: Tensors, gradients: Tensors, states: States) -> None:
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
            closure: Computes the loss again, calls `backward` and returns the loss.

        Returns:
            The closure's loss; None without one.

        Raises:
            RuntimeError: If a gradient is sparse and the rule needs dense ones.
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

    def _step_group(self, group: Group) -> None:
        buckets: dict[Any, tuple[Tensors, Tensors, States]] = defaultdict(lambda: ([], [], []))
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
            value, gradient = as_real(parameter), as_real(gradient)
            state = self.state[parameter]
            if not state:
                state.update(self.start_state(group, value))
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
            decay = self._decay_in_gradient(group)
            if decay != 0.0:
                gradients = list(torch._foreach_add(gradients, values, alpha=decay))
            self.update_tensors(group, values, gradients, states)

    def _takes(self, gradient: Tensor, group: Group) -> bool:
        return self.takes_sparse_gradients and group.get("weight_decay", 0.0) == 0.0

    def _decay_in_gradient(self, group: Group) -> float:
        return 0.0 if self.decouples_weight_decay else group.get("weight_decay", 0.0)

    def _descent_direction(self, group: Group, value: Tensor, gradient: Tensor) -> Tensor:
        if group["maximize"]:
            gradient = -gradient
        decay = self._decay_in_gradient(group)
        return gradient if decay == 0.0 else gradient.add(value, alpha=decay)
