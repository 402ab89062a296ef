"""Lookahead: slow weights that follow any other optimizer's, which begins again at them every few steps.

Zhang, Lucas, Hinton and Ba 2019, "Lookahead optimizer: k steps forward, 1 step back" (arXiv:1907.08610).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer
from torch.optim.optimizer import ParamsT
from typing_extensions import override

from lightning_optreg._checks import check_range

__all__ = ["Lookahead"]

_SLOW = "slow_param"  # phi among a parameter's state
_STEP = "lookahead_step"  # steps made, in each group: a state_dict has no other place for it


class Lookahead(Optimizer):
    """Another optimizer that, after each k steps, goes back a part of its way to where the slow weights are.

    The other optimizer A makes k steps from theta = phi, the slow weights, and then

        phi = phi + alpha (theta - phi),   theta = phi

    A keeps its momentum and other averages over this, which the paper calls "maintain". Its groups and their
    settings are those of this optimizer, so schedules, gradient clipping and a `GradScaler` work on it as on
    A; a step that a scaler skips does not count. Where the number of steps is a multiple of k, as after an
    epoch of such a length, the network has the slow weights; elsewhere `use_slow_weights` sets them.

    Args:
        params: Parameters, or groups of them, given to A.
        optimizer: Makes A from them, such as `functools.partial(torch.optim.Adam, lr=0.001)`. None: SGD,
            learning rate 0.1, momentum 0.9.
        k: Steps of A from one step of phi to the next, at least 1. Default: 5.
        alpha: Part of the way that phi goes, in (0, 1]; with 1 it is A alone. Default: 0.5.
        alpha_end: If given, alpha moves there: after t of T = `decay_steps` steps it is
            alpha + (alpha_end - alpha) (t/T)^3, in (0, 1]. Jordan 2024, "94% on CIFAR-10 in 3.29 seconds on a
            single GPU" (arXiv:2404.00498) has alpha 1 and alpha_end 1 - 0.95^5. Default: None.
        decay_steps: T, at least 1; needed with `alpha_end`, and only then. Default: None.

    Raises:
        ValueError: If a value is out of range.
        TypeError: If `optimizer` does not make an optimizer.

    Example:
        >>> theta = torch.tensor([1.0], requires_grad=True)
        >>> optimizer = Lookahead([theta], partial(SGD, lr=0.25), k=2)
        >>> for _ in range(2):
        ...     optimizer.zero_grad()
        ...     theta.square().sum().backward()  # SGD halves theta
        ...     optimizer.step()
        >>> theta
        tensor([0.6250], requires_grad=True)
    """

    def __init__(
        self,
        params: ParamsT,
        optimizer: Callable[[ParamsT], Optimizer] | None = None,
        k: int = 5,
        alpha: float = 0.5,
        alpha_end: float | None = None,
        decay_steps: int | None = None,
    ) -> None:
        check_range("Lookahead", ">= 1", k=k)
        check_range("Lookahead", "(0, 1]", alpha=alpha)
        if (alpha_end is None) != (decay_steps is None):
            missing, given = (
                ("alpha_end", "decay_steps") if alpha_end is None else ("decay_steps", "alpha_end")
            )
            raise ValueError(f"Lookahead: {missing} must be given with {given}, got None")
        if alpha_end is not None:
            check_range("Lookahead", "(0, 1]", alpha_end=alpha_end)
            check_range("Lookahead", ">= 1", decay_steps=decay_steps)
        self.k, self.alpha, self.alpha_end, self.decay_steps = k, alpha, alpha_end, decay_steps
        make = partial(SGD, lr=0.1, momentum=0.9) if optimizer is None else optimizer
        made = make(params) if callable(make) else make
        if not callable(make) or not isinstance(made, Optimizer):
            raise TypeError(
                "Lookahead: optimizer must make an optimizer from parameters, as partial(SGD, lr=0.1) does, "
                f"got {type(made).__name__}"
            )
        self.inner = made
        """The other optimizer A, which works on this one's groups and states."""
        made.defaults[_STEP] = 0
        super().__init__(made.param_groups, made.defaults)
        self.state, self.param_groups = made.state, made.param_groups

    @override
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters; it is synchronised with the others."""
        if self.param_groups is not self.inner.param_groups:  # those of A are taken over, by __init__
            super().add_param_group(param_group)
            return
        self.inner.add_param_group(param_group)
        self.param_groups[-1][_STEP] = self.param_groups[0][_STEP]

    @override
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step of A, and after every k of them one of the slow weights.

        Args:
            closure: Computes the loss again, calls `backward` and returns the loss.

        Returns:
            The closure's loss; None without one.
        """
        self._link()
        differentiable = bool(self.defaults.get("differentiable"))
        with torch.set_grad_enabled(differentiable):
            slow = self._begin()
        # A finds its own states only: many begin theirs where there is none yet, and some drop all at times.
        try:
            loss = self.inner.step(closure)
        finally:
            for parameter, value in slow.items():
                self.state[parameter][_SLOW] = value
        steps = self.param_groups[0][_STEP] + 1
        for group in self.param_groups:
            group[_STEP] = steps
        if steps % self.k == 0 and slow:
            with torch.set_grad_enabled(differentiable):
                _meet(list(slow.values()), list(slow), self.alpha_after(steps), one_by_one=differentiable)
        return loss

    def alpha_after(self, steps: int) -> float:
        """Return alpha after a number of steps.

        Args:
            steps: Steps of A, from 1.

        Example:
            >>> optimizer = Lookahead([torch.zeros(1)], alpha=1.0, alpha_end=0.2, decay_steps=10)
            >>> [round(optimizer.alpha_after(t), 3) for t in (0, 5, 10, 15)]
            [1.0, 0.9, 0.2, 0.2]
        """
        if self.alpha_end is None or self.decay_steps is None:
            return self.alpha
        return self.alpha + (self.alpha_end - self.alpha) * min(steps / self.decay_steps, 1.0) ** 3

    @torch.no_grad()
    def use_slow_weights(self) -> None:
        """Set the parameters to the slow weights, as at the end of training: theta = phi."""
        for parameter, state in self.state.items():
            if _SLOW in state:
                parameter.copy_(state[_SLOW])

    def _link(self) -> None:
        # A copy of this optimizer may have been given other parameters, as by servers of parts of them.
        self.inner.state, self.inner.param_groups = self.state, self.param_groups

    def _begin(self) -> dict[Tensor, Tensor]:
        """Take the slow weights out of the states; where there are none yet, they begin at the parameters."""
        slow = {}
        for group in self.param_groups:
            for parameter in group["params"]:
                known = self.state[parameter].pop(_SLOW, None) if parameter in self.state else None
                if known is None and (parameter.requires_grad or parameter.grad is not None):
                    known = parameter.clone()
                if known is not None:
                    slow[parameter] = known
        return slow

    # ---- copies and checkpoints ----------------------------------------------------------------------------

    @override
    def __getstate__(self) -> dict[str, Any]:
        own = ("inner", "k", "alpha", "alpha_end", "decay_steps")
        return {**super().__getstate__(), **{name: getattr(self, name) for name in own}}

    @override
    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "inner" in state:  # a copy
            return
        # Loaded: A checks and completes what is its own.
        slow = {
            key: each.pop(_SLOW)
            for key, each in self.state.items()
            if isinstance(each, dict) and _SLOW in each
        }
        self.inner.__setstate__({"state": self.state, "param_groups": self.param_groups})
        for group in self.param_groups:
            group.setdefault(_STEP, 0)
        for parameter, value in slow.items():
            self.state[parameter][_SLOW] = value


def _meet(slow: list[Tensor], fast: list[Tensor], alpha: float, *, one_by_one: bool) -> None:
    if one_by_one:  # torch 2.14 has no derivative of _foreach_copy_
        for phi, theta in zip(slow, fast, strict=True):
            theta.copy_(phi.lerp_(theta, alpha))
        return
    torch._foreach_lerp_(slow, fast, alpha)
    torch._foreach_copy_(fast, slow)
